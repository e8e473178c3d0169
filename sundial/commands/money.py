"""`sundial grant` and `sundial adjust`: order money to move. The meter moves it."""

from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import click

from shared.units import format_credits
from sundial.options import CREDITS, NEGATIVE_NUMBERS, database_settings, directory_option, output_options, run

MEMO_LENGTH_MAX = 500
DAY_MAX = date(9998, 12, 31)
"""The last day whose end is a time in every zone: there is none beyond the year 9999."""


def end_of_day(day: datetime, zone: ZoneInfo) -> datetime:
    """The last moment of a calendar day in `zone`: its next midnight. Raises BadParameter beyond DAY_MAX."""
    if day.date() > DAY_MAX:
        raise click.BadParameter(f"the last day that can be said is {DAY_MAX}", param_hint="--expires")
    return datetime.combine(day.date() + timedelta(days=1), time.min, tzinfo=zone).astimezone(UTC)


def _memo(_context: click.Context, parameter: click.Parameter, value: str) -> str:
    if len(value) > MEMO_LENGTH_MAX or "\0" in value:
        raise click.BadParameter(f"a memo has at most {MEMO_LENGTH_MAX} characters", param=parameter)
    return value


def _reason(context: click.Context, parameter: click.Parameter, value: str) -> str:
    if not value.strip():
        raise click.BadParameter("say why", param=parameter)
    return _memo(context, parameter, value)


def _order(account: str, directory: str | None, as_json: bool, wait: bool, **asked: Any) -> None:
    from sundial import accounts, orders, output
    from sundial.database import confirmed, connect
    from sundial.problems import NegativeError

    async def work() -> tuple[dict[str, Any], orders.Answer]:
        async with connect(database_settings().database_url) as db:
            row = await accounts.find(db, account, directory)
            order = orders.Order(order_id=orders.fresh_id(), account_id=row["account_id"], shard=row["shard"], **asked)
            doubt = f"whether order {order.order_id} is queued is not known; see `sundial account show` before another"
            async with confirmed(db, doubt):
                await orders.place(db, order)
            answer = await orders.answer(db, order.order_id, orders.WAIT_S if wait else 0)
            return {
                "order_id": order.order_id,
                "account_id": row["account_id"],
                "external_id": row["external_id"],
                "kind": order.kind,
                "amount": order.amount_mc,
                "memo": order.memo,
                "expires_at": order.expires_at,
                "outcome": answer.outcome,
                "detail": answer.detail,
                "ledger_balance": answer.balance_mc,
            }, answer

    done, answer = run(work())
    language = database_settings().language
    what = f"{done['kind']} of {format_credits(done['amount'], language)} credits for {done['external_id']}"
    if as_json:
        output.print_json(done)
    elif answer.outcome == "posted":
        balance = format_credits(answer.balance_mc or 0, language)
        click.echo(f"Posted: {what}. Ledger balance: {balance} credits.")
    elif answer.outcome == "queued":
        click.echo(f"Queued: {what}, order {done['order_id']}: {answer.detail}. Do not order it again.")
    if answer.outcome == "refused":
        raise NegativeError(f"the meter refused order {done['order_id']}, {what}: {answer.detail}")


wait_option = click.option(
    "--wait/--no-wait", default=True, help="Wait up to 5 s until the meter has posted it.  [default: wait]"
)


@click.command(context_settings=NEGATIVE_NUMBERS)
@click.argument("account", metavar="ACCOUNT")
@click.argument("amount", type=CREDITS)
@click.option("--memo", default="", callback=_memo, help="Why: stands on the statement.")
@click.option(
    "--expires",
    type=click.DateTime(["%Y-%m-%d"]),
    metavar="YYYY-MM-DD",
    help="Last day of the grant, in SUNDIAL_TIMEZONE; what is left then expires.",
)
@click.option(
    "--priority",
    type=click.IntRange(0, 1000),
    metavar="N",
    default=100,
    show_default=True,
    help="Grants of lower numbers are used up first.",
)
@wait_option
@directory_option
@output_options
def grant(
    account: str,
    amount: int,
    memo: str,
    expires: datetime | None,
    priority: int,
    wait: bool,
    directory: str | None,
    as_json: bool,
) -> None:
    """Give ACCOUNT credits. AMOUNT is in credits, up to three decimals.

    \b
    Examples:
      sundial grant 665f1c0a9d2e4b0012ab34cd 50000 --memo "welcome"
      sundial grant 665f1c0a9d2e4b0012ab34cd 1_000_000 --expires 2026-12-31
    """
    if amount <= 0:
        raise click.BadParameter("a grant is above 0; `sundial adjust` takes credits away", param_hint="AMOUNT")
    expires_at = None
    if expires is not None:
        expires_at = end_of_day(expires, ZoneInfo(database_settings().timezone))
        if expires_at <= datetime.now(UTC):
            raise click.BadParameter("that day is over", param_hint="--expires")
    _order(
        account,
        directory,
        as_json,
        wait,
        kind="grant",
        amount_mc=amount,
        memo=memo,
        priority=priority,
        expires_at=expires_at,
    )


@click.command(context_settings=NEGATIVE_NUMBERS)
@click.argument("account", metavar="ACCOUNT")
@click.argument("amount", type=CREDITS)
@click.option("--memo", required=True, callback=_reason, help="Why: stands on the statement.")
@wait_option
@directory_option
@output_options
def adjust(account: str, amount: int, memo: str, wait: bool, directory: str | None, as_json: bool) -> None:
    """Correct the balance of ACCOUNT, up or down.

    AMOUNT is in credits, negative to take some away. The history stays as it is; the correction is an entry of its own.

    \b
    Examples:
      sundial adjust 665f1c0a9d2e4b0012ab34cd -250 --memo "booked twice on 3 November"
      sundial adjust 665f1c0a9d2e4b0012ab34cd 12.5 --memo "outage"
    """
    if amount == 0:
        raise click.BadParameter("an adjustment of 0 moves nothing", param_hint="AMOUNT")
    _order(account, directory, as_json, wait, kind="adjustment", amount_mc=amount, memo=memo)
