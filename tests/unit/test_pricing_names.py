"""Names to prices: each rule finds what it should, and nothing is guessed."""

import pytest

from shared.pricing import PricedModel, resolve
from shared.pricing.names import covered

PROVIDERS = {
    "gpt-4o": "openai",
    "gpt-4o-2024-05-13": "openai",
    "gpt-4o-mini": "openai",
    "azure/gpt-4o": "azure",
    "ft:gpt-4o-mini-2024-07-18": "openai",
    "ft:gpt-4o-2024-08-06": "openai",
    "ft:gpt-4o-2024-11-20": "openai",
    "ft:gpt-3.5-turbo": "openai",
    "claude-sonnet-4-5": "anthropic",
    "us.anthropic.claude-opus-4-5-20251101-v1:0": "bedrock_converse",
    "gemini-2.5-pro": "vertex_ai-language-models",
    "gemini/gemini-2.5-pro": "gemini",
    "gpt-35-instruct": "azure_text",
    "house/model": "",
}
MODELS = {name: PricedModel(model=name, provider=provider, rates={"input": 1}) for name, provider in PROVIDERS.items()}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        # 1 as it stands
        *((name, name) for name in PROVIDERS),
        # 2 a date that the map lacks
        ("gpt-4o-2031-01-01", "gpt-4o"),
        ("azure/gpt-4o-2031-01-01", "azure/gpt-4o"),
        ("claude-sonnet-4-5-20310929", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20310929", "claude-sonnet-4-5"),
        # 3 Gemini's API
        ("models/gemini-2.5-pro", "gemini/gemini-2.5-pro"),
        # 4 the provider's own model without its prefix
        ("openai/gpt-4o", "gpt-4o"),
        ("openai/gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        ("openai/gpt-4o-2031-01-01", "gpt-4o"),
        ("anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("bedrock/us.anthropic.claude-opus-4-5-20251101-v1:0", "us.anthropic.claude-opus-4-5-20251101-v1:0"),
        ("vertex_ai/gemini-2.5-pro", "gemini-2.5-pro"),
        ("azure/gpt-35-instruct", "gpt-35-instruct"),
        # 5 fine-tuned
        ("ft:gpt-4o-2024-08-06:org::id", "ft:gpt-4o-2024-08-06"),
        ("ft:gpt-3.5-turbo:org:name:id", "ft:gpt-3.5-turbo"),
        ("ft:gpt-4o-mini:org::id", "ft:gpt-4o-mini-2024-07-18"),
        ("openai/ft:gpt-4o-mini-2024-07-18:org::id", "ft:gpt-4o-mini-2024-07-18"),
    ],
)
def test_a_name_finds_its_model(name: str, found: str) -> None:
    """Each rule of the module's docstring, in its order."""
    model = resolve(MODELS, name)
    assert model is not None
    assert model.model == found


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "gpt-7",
        "gpt-4o-mini-high",  # no prefix of a name is the name
        "gpt-4",
        "my-gpt-4o",
        "gpt-4o-2031-13-01",  # no date
        "gpt-4o-2031",
        "GPT-4o",
        "azure/gpt-4o-mini",  # Azure's price is not OpenAI's
        "openrouter/gpt-4o",
        "openrouter/openai/gpt-4o",
        "gemini/claude-sonnet-4-5",
        "azure/claude-sonnet-4-5",
        "azure_ai/gpt-35-instruct",
        "models/gpt-4o",
        "ft:gpt-4o:org::id",  # two dated ones: which?
        "ft:gpt-4o-mini-2031-01-01:org::id",
        "ft:claude-sonnet-4-5:org::id",  # a fine-tuned model does not cost what its base costs
        "gpt-4o/",
        "gpt-4o" + " " * 300,
    ],
)
def test_a_name_that_no_rule_covers_finds_nothing(name: str) -> None:
    """A wrong price is worse than none: the call is refused or booked as unpriced."""
    assert resolve(MODELS, name) is None


def test_the_name_with_its_provider_wins_over_the_bare_one() -> None:
    """Azure's gpt-4o and OpenAI's are two models with two prices."""
    azure, bare = resolve(MODELS, "azure/gpt-4o"), resolve(MODELS, "gpt-4o")
    assert azure is MODELS["azure/gpt-4o"]
    assert bare is MODELS["gpt-4o"]


def test_a_dated_name_of_the_map_is_not_shortened() -> None:
    """A snapshot with a price of its own keeps it."""
    assert resolve(MODELS, "gpt-4o-2024-05-13") is MODELS["gpt-4o-2024-05-13"]


def priced(*own: str) -> dict[str, PricedModel]:
    """The models of above, with prices of an operator's."""
    models = {name: PricedModel(model=name, provider=PROVIDERS.get(name, ""), rates={}, override=True) for name in own}
    return MODELS | models


@pytest.mark.parametrize(
    ("own", "name", "found"),
    [
        (("gpt-4o",), "gpt-4o-2024-05-13", "gpt-4o"),
        (("gpt-4o",), "openai/gpt-4o-2024-05-13", "gpt-4o"),
        (("gpt-4o", "gpt-4o-2024-05-13"), "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        (("gpt-4o-2024-05-13",), "gpt-4o", "gpt-4o"),
        (("ft:gpt-4o",), "ft:gpt-4o-2024-08-06:org::id", "ft:gpt-4o"),
        (("ft:gpt-4o-mini",), "ft:gpt-4o-mini:org::id", "ft:gpt-4o-mini"),
        (("azure/gpt-4o",), "gpt-4o-2024-05-13", "gpt-4o-2024-05-13"),
        (("gpt-4o",), "azure/gpt-4o-2024-05-13", "azure/gpt-4o"),
        # a family of the operator's own, which is no provider's: with a provider's prefix the imported name is meant
        (("house-4",), "house-4-20240513", "house-4"),
        (("house-4",), "openai/house-4-20240513", "house-4-20240513"),
    ],
)
def test_a_price_of_a_family_is_that_of_its_imported_snapshots(own: tuple[str, ...], name: str, found: str) -> None:
    """Upstreams answer with the snapshot's name: what an operator sets for the family counts, but where the snapshot
    has a price of the operator's too."""
    snapshot = PricedModel(model="house-4-20240513", provider="openai", rates={})
    model = resolve(priced(*own) | {snapshot.model: snapshot}, name)
    assert model is not None
    assert model.model == found


def test_a_price_of_a_family_says_what_it_covers() -> None:
    """Its dated names that are only imported, and no name that is merely alike."""
    assert covered(priced("gpt-4o"), "gpt-4o") == ("gpt-4o-2024-05-13",)
    assert covered(priced("gpt-4o", "gpt-4o-2024-05-13"), "gpt-4o") == ()
    assert covered(priced("ft:gpt-4o"), "ft:gpt-4o") == ("ft:gpt-4o-2024-08-06", "ft:gpt-4o-2024-11-20")
