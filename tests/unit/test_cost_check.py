"""When the upstream's cost of a call contradicts ours."""

import pytest

from meter import metrics
from meter.accounts import Account
from meter.cost_check import differs
from meter.posting import Known, Tariff, post
from shared.pricing import PricedModel, RateCard
from shared.usage import Usage
from tests.harness.messages import MODEL, account_of, used
from tests.harness.metering import entries

ANA = account_of("ana")
TARIFF = Tariff(
    models={1: {MODEL: PricedModel(model=MODEL, rates={"input": 150_000_000, "output": 600_000_000})}},
    cards={"tokens@1": RateCard(card="tokens@1", family="tokens")},
)
TOKENS = Usage(input=900, output=100)


@pytest.mark.parametrize(
    ("ours", "theirs", "found"),
    [
        (1_000_000, 1_000_000, False),
        (1_010_000, 1_000_000, False),
        (990_000, 1_000_000, False),
        (1_010_001, 1_000_000, True),
        (989_999, 1_000_000, True),
        (0, 1_000_000, True),
        (1_000, 2_000, False),  # half of it, and yet a nano-USD a token: rounding may come to that
        (999, 2_000, True),
    ],
)
def test_more_than_one_percent_and_more_than_rounding(ours: int, theirs: int, found: bool) -> None:
    """Both limits must be exceeded: 1 % of the upstream's figure, and a nano-USD for each of the 1,000 tokens."""
    assert differs(ours, theirs, TOKENS) is found


def test_only_costs_that_both_know_are_compared() -> None:
    """An event that the upstream told no cost of, and one that we have no price for, are left out of the metrics."""
    events = [
        used("ana", 500, upstream_cost_nano=375_000),
        used("ana", 500, upstream_cost_nano=750_000),
        used("ana", 500, upstream_cost_nano=0),
        used("ana", 500, upstream_cost_nano=9, priced_as="", flags=("provisional",)),
    ]
    ana = Account(account_id=ANA, balance_mc=0, seq=0, recorded_at_us=0, grants=[])
    posting = post(entries(events), {ANA: ana}, Known(events={}, newcomers=set()), TARIFF, 1)
    assert [(ours, theirs) for ours, theirs, _ in posting.costs] == [(375_000, 375_000), (375_000, 750_000)]
    before = metrics.COST_DIFFERENCES._value.get()
    metrics.count(posting)
    assert metrics.COST_DIFFERENCES._value.get() == before + 1
