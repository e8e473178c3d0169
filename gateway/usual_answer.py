"""What the usual answer of a chat endpoint says of itself, decoded by type: a whole one, or an event of a stream.

A short cut beside gateway.answer, never another reading: whatever is not plainly usual gives None and is left to that,
and a test compares the two on any bytes. Broken UTF-8 in what is passed over hides nothing there either.
"""

from typing import Any, Final

import msgspec

from shared.usage_rules.usual import UsualUsage


class _Usual(msgspec.Struct, gc=False, kw_only=True):
    model: str | None = None
    service_tier: str | None = None
    # Where one of these says something, it is an error, or wraps what it is about, or is no chat's.
    error: None = None
    type: None = None
    message: None = None
    response: None = None
    output: None = None
    tool_usage: None = None


class UsualAnswer(_Usual, gc=False, kw_only=True):
    usage: UsualUsage


class UsualEvent(_Usual, gc=False, kw_only=True):
    choices: list[dict[str, Any]] | None = None
    usage: UsualUsage | None = None
    # These say how an answer ended, or what it used, where the fields above do not.
    x_groq: None = None
    delta: None = None
    stop_reason: None = None
    status: None = None


_answer: Final = msgspec.json.Decoder(UsualAnswer).decode
_event: Final = msgspec.json.Decoder(UsualEvent).decode


def usual_answer(body: bytes) -> UsualAnswer | None:
    """A whole answer of a family in shared.usage_rules.usual.FAMILIES. Its usage may yet not add up."""
    try:
        return _answer(body)
    except (ValueError, RecursionError):
        return None


def usual_event(data: bytes) -> UsualEvent | None:
    """The data of one event of such a family."""
    try:
        return _event(data)
    except (ValueError, RecursionError):
        return None
