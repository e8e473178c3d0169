"""The scripts where a gateway's own record comes after its call was given up for lost, on every Redis that is here."""

import pytest

from tests.harness.hold_fixtures import ana, server, settled
from tests.harness.hold_scripts import HoldScripts, field, name

pytestmark = pytest.mark.integration

__all__ = ["ana", "server"]

GONE = -1
"""A time to live that is over at once."""


def test_a_gateway_that_comes_back_too_late_still_tells_the_truth(ana: HoldScripts) -> None:
    """Expired meanwhile: extending is refused as gone; its true record is reported beside what was lost, and counts
    beside it until the meter has booked the one and corrected it by the other: less is shown, never more."""
    ana.reserve(1)
    ana.extend(1, 0, charge=30, ttl_s=GONE)
    ana.expire(1)
    assert ana.extend(1, 100) == ["gone"]
    assert ana.settle(1, 55)[0] == "ok"
    assert ana.settle(1, 55) == ["known"]
    assert settled(ana).waiting == {name(1): 55, field("1/lost"): 30}
    assert len(ana.reported()) == 2
    assert ana.told(970, seq=2, posted="1/lost") == 1
    assert settled(ana).spendable == 970 - 55
    assert ana.told(945, seq=3, posted="1") == 1
    assert settled(ana).spendable == 945


def test_what_was_lost_does_not_count_beside_the_truth(ana: HoldScripts) -> None:
    """A true record that waits is known to the reaper and to journals: what they have is neither counted nor reported.
    After it is booked they are reported, and the meter knows them."""
    ana.reserve(1)
    ana.settle(1, 40)
    ana.reserve(1, ttl_s=GONE)
    assert ana.settle(1, 15, lost=True) == ["known"]
    ana.reserve(1, ttl_s=GONE)
    assert ana.expire(1) == ["expired", 0]
    assert (settled(ana).unposted, settled(ana).held, len(ana.reported())) == (40, 0, 1)
    ana.told(960, seq=2, posted="1")
    assert ana.settle(1, 15, lost=True)[0] == "ok"
    assert ana.settle(1, 15, lost=True) == ["known"]
    assert settled(ana).waiting == {field("1/lost"): 15}
    ana.told(960, seq=2, posted="1/lost")
    assert settled(ana).spendable == 960


def test_a_record_is_dropped_for_an_account_of_which_nothing_is_told(ana: HoldScripts) -> None:
    """A dead letter that was discarded leaves unposted; the balance of an account that Redis has from a gateway alone
    stays as it is, with and without a seq."""
    ana.settle(1, 50)
    ana.settle(2, 7)
    assert ana.told(5, seq=-2, revision=-2, posted="1", plan="gold") == 1
    ana.client.hdel(ana.keys["account"], "seq", "revision")
    assert ana.told(5, seq=-2, revision=-2, posted="2", plan="gold") == 1
    state = settled(ana)
    assert (state.balance, state.unposted, state.fields["plan"]) == (1_000, 0, "default")
