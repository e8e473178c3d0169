"""Whatever is charged, credited and expires, in whatever order: the balance, the grants and the draws agree."""

from collections import defaultdict
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from meter.accounts import Account, Credit, Rows, Transfer, charge, credit, expire
from meter.draws import NEVER_US, OpenGrant, debt_paid, draw, drawing_order
from shared.units import MC_MAX

ACCOUNT = UUID(int=1)

amounts = st.integers(1, 50) | st.integers(1, MC_MAX // 1000)
operations = st.lists(
    st.tuples(st.just("charge"), st.integers(0, 60) | amounts)
    | st.tuples(st.just("credit"), amounts, st.sampled_from([1, 100]), st.sampled_from([5, 9, NEVER_US]))
    | st.tuples(st.just("expire"), st.integers(0, 3)),
    max_size=40,
)


def run(todo: list[tuple[object, ...]]) -> tuple[Account, Rows]:
    """An account after the operations, one transfer each, and its rows."""
    account = Account(account_id=ACCOUNT, balance_mc=0, seq=0, recorded_at_us=0, grants=[])
    rows = Rows()
    for number, (what, *arguments) in enumerate(todo, 1):
        transfer = Transfer(transfer_id=UUID(int=number), kind="usage", contra="usage", occurred_at_us=number)
        match what, arguments:
            case "charge", [int(amount)]:
                charge(account, rows, transfer, amount, number)
            case "credit", [int(amount), int(priority), int(expires_at_us)]:
                given_ = Credit(
                    grant_id=UUID(int=1_000 + number),
                    kind="grant",
                    amount_mc=amount,
                    priority=priority,
                    expires_at_us=expires_at_us,
                )
                credit(account, rows, transfer, given_, number)
            case "expire", [int(which)]:
                if which < len(account.grants):
                    expire(account, rows, transfer, account.grants[which], number)
    return account, rows


@given(operations)
def test_grants_sum_to_the_balance(todo: list[tuple[object, ...]]) -> None:
    """I12: after every operation the open grants sum to the balance, or to nothing while it is negative."""
    for length in range(len(todo) + 1):
        account, _ = run(todo[:length])
        assert sum(grant.remaining_mc for grant in account.grants) == max(account.balance_mc, 0)
        assert all(grant.remaining_mc > 0 for grant in account.grants)


@given(operations)
def test_every_grant_is_its_draws_and_its_rest(todo: list[tuple[object, ...]]) -> None:
    """I12: a grant's amount is what was drawn from it and what it has left, and no draw is empty."""
    account, rows = run(todo)
    drawn: dict[UUID, int] = defaultdict(int)
    for _, _, grant_id, part in rows.draws:
        assert part > 0
        drawn[grant_id] += part
    left = {grant.grant_id: grant.remaining_mc for grant in account.grants}
    for row in rows.grants:
        grant_id, amount = row[1], row[4]
        assert amount == drawn[grant_id] + left.get(grant_id, 0)


@given(operations)
def test_history_has_no_gap_and_conserves(todo: list[tuple[object, ...]]) -> None:
    """I1, I2: seq is 1..n, each balance follows from the one before by the amount, the last one is the account's."""
    account, rows = run(todo)
    balance = 0
    for seq, row in enumerate(rows.transfers, 1):
        balance += row[5]
        assert (row[2], row[6]) == (seq, balance)
    assert (account.seq, account.balance_mc) == (len(rows.transfers), balance)
    assert balance == sum(row[5] for row in rows.transfers)


@given(operations)
def test_what_a_charge_does_not_draw_is_debt(todo: list[tuple[object, ...]]) -> None:
    """I12: a charge draws all that was there and no more; a credit draws on itself exactly what was owed."""
    _, rows = run(todo)
    drawn: dict[UUID, int] = defaultdict(int)
    for _, transfer_id, _, part in rows.draws:
        drawn[transfer_id] += part
    for row in rows.transfers:
        transfer_id, amount, after = row[1], row[5], row[6]
        before = after - amount
        expected = min(max(before, 0), -amount) if amount <= 0 else min(max(-before, 0), amount)
        assert drawn[transfer_id] == expected


@given(operations, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_balance_does_not_depend_on_the_order(todo: list[tuple[object, ...]], random: object) -> None:
    """Charges and credits in any order give the same balance; only which grant paid what may differ."""
    todo = [one for one in todo if one[0] != "expire"]
    shuffled = list(todo)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert run(todo)[0].balance_mc == run(shuffled)[0].balance_mc


grants = st.lists(
    st.builds(
        OpenGrant,
        grant_id=st.uuids(),
        remaining_mc=st.integers(1, 100),
        priority=st.integers(0, 2),
        expires_at_us=st.sampled_from([1, 2, NEVER_US]),
        seq=st.integers(1, 1_000),
    ),
    unique_by=lambda grant: grant.seq,
    max_size=8,
)


@given(grants, st.integers(0, 900))
def test_draws_go_by_priority_then_expiry_then_age(open_grants: list[OpenGrant], amount: int) -> None:
    """No grant is touched while one before it in the order has something left."""
    open_grants.sort(key=drawing_order)
    order = list(open_grants)
    there = sum(grant.remaining_mc for grant in order)
    parts = draw(open_grants, amount)
    assert sum(part for _, part in parts) == min(amount, there)
    assert [grant for grant, _ in parts] == order[: len(parts)]
    assert all(grant.remaining_mc == 0 for grant, _ in parts[:-1])
    assert open_grants == [grant for grant in order if grant.remaining_mc]


@given(st.integers(-MC_MAX, MC_MAX), st.integers(1, MC_MAX))
def test_a_credit_pays_debt_first(balance: int, amount: int) -> None:
    """What a credit pays is the debt, as far as it reaches, and nothing where there is none."""
    paid = debt_paid(balance, amount)
    assert 0 <= paid <= amount
    assert paid == 0 or balance < 0
    assert paid == amount or balance + paid >= 0
