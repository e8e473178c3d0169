"""What an audit finds."""

import msgspec


class Violation(msgspec.Struct, frozen=True):
    """A broken invariant."""

    rule: str
    subject: str
    """Which account, event, grant, table or shard."""
    detail: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.subject}: {self.detail}"
