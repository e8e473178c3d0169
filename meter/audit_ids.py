"""Ids that follow from what they stand for, computed again (shared.ids): whoever changes the one without the other, or
exchanges two, is found out. Reads in pages."""

from collections.abc import Iterator
from typing import Any, Final

from meter.violation import Violation
from shared import ids

ACCOUNT_IDS: Final = "account_ids"
ALLOWANCES: Final = "allowances"
ID_RULES: Final = (ACCOUNT_IDS, ALLOWANCES)

_PAGE_ROWS: Final = 2_000
_ALLOWANCE_MEMO: Final = "allowance of plan "
_DIRECTORIES: Final = "SELECT directory_id, name FROM sundial.directories"
_ACCOUNTS: Final = "SELECT account_id, directory_id, external_id, shard FROM sundial.accounts"
_ALLOWANCES: Final = """
    SELECT t.account_id, t.seq, t.amount_mc, t.link_id, t.memo, g.grant_id,
           count(*) OVER (PARTITION BY t.account_id) AS allowances
      FROM sundial.transfers t
      JOIN sundial.grants g ON g.account_id = t.account_id AND g.transfer_id = t.transfer_id AND g.kind = 'allowance'
"""


async def audit_ids(connection: Any, *, found_max: int) -> list[Violation]:
    """Directories and accounts whose ids are not theirs, and allowances that are none. Raises asyncpg's errors."""
    found: list[Violation] = []
    for statement, wrong in ((_DIRECTORIES, _directory), (_ACCOUNTS, _account), (_ALLOWANCES, _allowance)):
        async for row in connection.cursor(statement, prefetch=_PAGE_ROWS):
            found.extend(wrong(row))
            if len(found) >= found_max:
                return found
    return found


def _directory(row: Any) -> Iterator[Violation]:
    if ids.directory_id(row["name"]) != row["directory_id"]:
        yield Violation(ACCOUNT_IDS, f"directory {row['directory_id']}", f"its id is not that of {row['name']!r}")


def _account(row: Any) -> Iterator[Violation]:
    subject = f"account {row['account_id']}"
    if ids.account_id(row["directory_id"], row["external_id"]) != row["account_id"]:
        yield Violation(ACCOUNT_IDS, subject, f"its id is not that of {row['external_id']!r} in its directory")
    if ids.shard_of(row["account_id"]) != row["shard"]:
        yield Violation(ACCOUNT_IDS, subject, f"its shard is not {row['shard']}")


def _allowance(row: Any) -> Iterator[Violation]:
    """One for each account at most, when its user is announced, whose id follows from account and plan."""
    subject = f"account {row['account_id']}"
    plan = row["memo"].removeprefix(_ALLOWANCE_MEMO)
    expected = ids.allowance_id(row["account_id"], plan, "first")
    if plan == row["memo"] or (row["grant_id"], row["link_id"]) != (expected, expected):
        yield Violation(ALLOWANCES, subject, f"seq {row['seq']} of {row['amount_mc']} mc is no plan's allowance")
    if row["allowances"] > 1:
        yield Violation(ALLOWANCES, subject, f"seq {row['seq']} is one of {row['allowances']} allowances")
