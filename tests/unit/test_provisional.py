"""Models without a price: refused, or admitted at the operator's provisional price and flagged."""

from decimal import Decimal
from typing import Any

import msgspec
import pytest

from gateway.admission import permit
from gateway.models import offered
from gateway.provisional import provisional_model
from gateway.settlement import NOTHING, Counted, Facts
from shared.events import UsageEvent
from shared.pricing import PricedModel, provisional_of
from shared.settings import GatewaySettings, SettingsError, load
from shared.usage import Usage
from tests.harness.calls import CATALOG, COST, PLAN, TOKENS, ask, call, closed, draft, rates, refused

PROVISIONAL = PricedModel(model="", rates={"input": 2_500_000_000, "output": 10_000_000_000})
ADMITTING = msgspec.structs.replace(CATALOG, provisional=PROVISIONAL)
USED = Counted(Usage(input=1_000, output=500), "provider")
BOTH = {"provisional_input_usd": Decimal("2.5"), "provisional_output_usd": Decimal(10)}


def settings(**more: Any) -> GatewaySettings:
    return load(GatewaySettings, redis_url="redis://127.0.0.1", upstream_url="http://127.0.0.1/v1", **more)


def event(counted: Counted = USED, card: Any = COST, catalog: Any = ADMITTING, **facts: Any) -> UsageEvent:
    """The event of a call of gpt-7, which has no price."""
    of = call(ask=ask(model="gpt-7"), rates=rates(PROVISIONAL, card), catalog=catalog)
    return closed(of, counted, Facts(outcome="complete", **facts))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UNPRICED", "PROVISIONAL_INPUT_USD", "PROVISIONAL_OUTPUT_USD"):
        monkeypatch.delenv(f"SUNDIAL_{name}", raising=False)


def test_models_without_a_price_are_refused_unless_the_operator_says_so() -> None:
    """By default there is no provisional price, even where rates are set; with both the rates are exact."""
    assert provisional_model(settings(**BOTH)) is None
    assert provisional_model(settings(unpriced="provisional", **BOTH)) == PROVISIONAL
    with refused("model_not_priced"):
        permit(ask(model="gpt-7"), PLAN, CATALOG)


@pytest.mark.parametrize("missing", BOTH)
def test_both_prices_are_needed(missing: str) -> None:
    """One that is missing is a mistake that names the variable; nothing is free by accident."""
    with pytest.raises(SettingsError, match=f"SUNDIAL_{missing.upper()}: needed where SUNDIAL_UNPRICED=provisional"):
        settings(unpriced="provisional", **{name: price for name, price in BOTH.items() if name != missing})


@pytest.mark.parametrize("price", ["-1", "NaN", "0.0000000001", "1e9", "two"])
def test_a_price_is_an_amount_to_the_nano_dollar(price: str) -> None:
    """Negative, endless, too fine and too large ones are refused."""
    with pytest.raises(SettingsError, match="SUNDIAL_PROVISIONAL_INPUT_USD"):
        settings(unpriced="provisional", provisional_input_usd=price, provisional_output_usd=1)


def test_it_is_admitted_at_the_provisional_price() -> None:
    """What has a price keeps it; what has none gets the provisional one, and the plan's permission still decides."""
    assert permit(ask(model="gpt-7"), PLAN, ADMITTING).model == PROVISIONAL
    assert permit(ask(), PLAN, ADMITTING).model.model == "gpt-mini"
    with refused("model_not_allowed"):
        permit(ask(model="gpt-7"), msgspec.structs.replace(PLAN, models=("gpt-mini",)), ADMITTING)


@pytest.mark.parametrize("sold", ["images", "speech", "sound"])
def test_what_is_not_sold_by_text_is_refused_all_the_same(sold: Any) -> None:
    """A provisional price has no rate for an image or a second."""
    with refused("model_not_priced"):
        permit(ask(model="gpt-7", sold=sold), PLAN, ADMITTING)


def test_its_event_is_flagged_and_names_no_price() -> None:
    """Charged at the provisional rates, priced as nothing: whether or not the upstream names the model."""
    for model in ("", "gpt-7-2031-01-01"):
        made = event(model=model)
        assert (made.priced_as, made.flags) == ("", ("provisional", "provisional_rates:2500000000/10000000000"))
        assert provisional_of(made.priced_as, made.flags) == PROVISIONAL
        assert (made.charge_mc, made.cost_nano) == (7_500_000, 7_500_000)
    assert event(card=TOKENS).charge_mc == 1_500_000


@pytest.mark.parametrize(
    ("priced_as", "flags"),
    [
        ("", ()),
        ("", ("provisional",)),
        ("", ("provisional_rates:1/2",)),
        ("gpt-7", ("provisional", "provisional_rates:1/2")),
        *(("", ("provisional", f"provisional_rates:{rates}")) for rates in ("", "1", "1/-2", "1/2/3", "1.5/2", "1/2 ")),
    ],
)
def test_rates_that_are_not_said_are_not_guessed(priced_as: str, flags: tuple[str, ...]) -> None:
    """Of events of earlier gateways, and of any that name a price or say no numbers."""
    assert provisional_of(priced_as, flags) is None


def test_an_answer_of_a_priced_model_is_not_provisional() -> None:
    """The alias has no price, the model that answered has: its price counts, for good."""
    made = event(model="gpt-mini")
    assert (made.priced_as, made.flags, made.charge_mc) == ("gpt-mini", (), 450_000)


def test_a_call_that_came_to_nothing_is_not_provisional() -> None:
    """No price could change its charge."""
    of = call(rates=rates(PROVISIONAL), catalog=ADMITTING)
    for made in (draft(of), closed(of, NOTHING, Facts(outcome="timeout"))):
        assert (made.charge_mc, made.flags) == (0, ())


def test_the_list_of_models_has_them() -> None:
    """With what they cost until a price comes; without a provisional price they are left out."""
    entries = [{"id": "gpt-7"}, {"id": "gpt-mini"}]
    found = {entry["id"]: entry for entry in offered(entries, ADMITTING, PLAN)}
    assert found["gpt-7"]["pricing"] == {"prompt": "0.0000025", "completion": "0.00001"}
    assert [entry["id"] for entry in offered(entries, CATALOG, PLAN)] == ["gpt-mini"]
