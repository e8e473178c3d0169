"""A running call's hold that expired, or that Redis forgot, made again by the script, on every Redis that is here."""

import pytest

from tests.harness.hold_fixtures import ana, server, settled
from tests.harness.hold_scripts import HoldScripts, field, name

pytestmark = pytest.mark.integration

__all__ = ["ana", "server"]

GONE = -1
"""A time to live that is over at once."""


def test_a_hold_is_made_again_once(ana: HoldScripts) -> None:
    """As large as it was, with its note and a deadline; repeats change nothing, and what more is asked for is added."""
    assert ana.extend(1, 0, charge=30, again=100) == ["ok", 100, 900]
    assert settled(ana).holds == {name(1): (100, 30, ana.event(1, 30))}
    assert ana.extend(1, 0, charge=30, again=100) == ["ok", 100, 900]
    assert ana.extend(2, 50, again=100) == ["ok", 150, 750]
    assert ana.extend(3, 900, again=100) == ["refused", 100, 650]
    assert settled(ana).held == 350


def test_no_more_than_there_is(ana: HoldScripts) -> None:
    """Others have taken the credit meanwhile: what is left is held, but never less than what has streamed."""
    assert ana.reserve(1, 950, 950)[:2] == ["ok", 950]
    assert ana.extend(2, 0, charge=20, again=100) == ["ok", 50, 0]
    assert ana.extend(3, 0, charge=20, again=100) == ["ok", 20, -20]
    assert ana.extend(4, 0, charge=0, again=100) == ["ok", 0, -20]
    assert ana.reserve(5)[0] == "exhausted"
    ana.told(1_000, seq=2, revision=2, mode="shadow")
    assert ana.extend(6, 0, charge=20, again=100) == ["ok", 100, -120]
    assert settled(ana).held == 950 + 50 + 20 + 100


def test_not_before_the_balances_are_told(ana: HoldScripts) -> None:
    """Without the epoch, or the account, nobody knows what there is: the stream runs on, and asks again."""
    ana.client.delete(ana.keys["epoch"])
    assert ana.extend(1, 0, again=100) == ["gone"]
    ana.client.flushall()
    ana.open()
    assert ana.extend(1, 0, again=100) == ["gone"]
    assert settled(ana).fields == {}
    ana.told(1_000)
    assert ana.extend(1, 0, again=100) == ["ok", 100, 900]


def test_not_where_the_call_is_settled(ana: HoldScripts) -> None:
    """A command that was under way for long does not bring back what is closed."""
    ana.reserve(1)
    ana.settle(1, 70)
    assert ana.extend(1, 0, again=100) == ["gone"]
    assert (settled(ana).held, settled(ana).spendable) == (0, 930)


def test_what_was_lost_meanwhile_is_corrected_all_the_same(ana: HoldScripts) -> None:
    """Expired, booked as lost, and made again: it counts beside what was lost, until the true record has come."""
    ana.reserve(1)
    ana.extend(1, 0, charge=30, ttl_s=GONE)
    ana.expire(1)
    assert ana.extend(1, 0, charge=40, again=100) == ["ok", 100, 870]
    ana.told(970, seq=2, posted="1/lost")
    assert settled(ana).spendable == 870
    ana.settle(1, 55)
    assert settled(ana).waiting == {name(1): 55}
    ana.told(945, seq=3, posted="1")
    assert (settled(ana).held, settled(ana).spendable) == (0, 945)


def test_a_hold_that_expires_twice_is_lost_once(ana: HoldScripts) -> None:
    """While the first is unposted the second adds nothing; afterwards the meter knows it by its id."""
    ana.reserve(1)
    ana.extend(1, 0, charge=30, ttl_s=GONE)
    ana.expire(1)
    ana.extend(1, 0, charge=40, ttl_s=GONE, again=100)
    assert ana.expire(1) == ["expired", 40]
    state = settled(ana)
    assert (state.held, state.waiting) == (0, {field("1/lost"): 30})
    assert len(ana.reported()) == 1
