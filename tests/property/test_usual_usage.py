"""The short cut for usual usage objects says what the table of shapes says, of any object that it reads at all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.usage_rules.rules import by_shape, normalise
from shared.usage_rules.usual import FAMILIES

COUNTS = st.one_of(
    st.integers(0, 5), st.integers(-3, 2**41), st.none(), st.booleans(), st.text(max_size=3), st.floats()
)
DETAILS = st.dictionaries(
    st.sampled_from(
        [
            *("cached_tokens", "audio_tokens", "image_tokens", "cache_write_tokens", "cache_creation_tokens"),
            *("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens", "text_tokens"),
            *("tool_use_tokens", "web_search_requests", "cached_tokens_details"),
        ]
    ),
    COUNTS,
)
MAIN = ("prompt_tokens", "completion_tokens", "total_tokens")
OTHERS = st.dictionaries(
    st.sampled_from(
        [
            *("input_tokens", "output_tokens", "cost", "prompt_cache_hit_tokens", "cache_read_input_tokens"),
            *("cached_tokens", "citation_tokens", "num_search_queries", "reasoning_tokens", "queue_time"),
            *("server_tool_use", "prompt_audio_seconds", "seconds", "tokens", "billed_units", "iterations"),
        ]
    ),
    st.one_of(COUNTS, DETAILS),
)


@pytest.mark.parametrize("family", FAMILIES)
@given(
    st.integers(0, 40), st.integers(0, 40), st.integers(-1, 1), DETAILS, DETAILS, OTHERS, st.lists(COUNTS, max_size=3)
)
def test_the_short_cut_is_the_rule(
    family: str,
    read: int,
    made: int,
    off: int,
    of_read: dict[str, object],
    of_made: dict[str, object],
    others: dict[str, object],
    spoilt: list[object],
) -> None:
    """Whatever is beside the three main counts, and whatever stands in their place."""
    raw: dict[str, object] = {
        "prompt_tokens": read,
        "completion_tokens": made,
        "total_tokens": read + made + (off if len(spoilt) == 1 else 0),
        "prompt_tokens_details": of_read,
        "completion_tokens_details": of_made,
        **others,
    }
    if len(spoilt) > 1:
        raw |= dict(zip(MAIN, spoilt, strict=False))
    assert normalise(raw, family=family) == by_shape(raw, family=family)
