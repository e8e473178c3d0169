"""The short cut for usual usage objects says what the table of shapes says, of any object that it reads at all."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.usage_rules import ABSURD, absurd, credible
from shared.usage_rules.rules import by_shape, normalise
from shared.usage_rules.shapes import SHAPES
from shared.usage_rules.usual import FAMILIES, usual

COUNTS = st.one_of(
    st.integers(0, 5), st.integers(-3, 2**41), st.none(), st.booleans(), st.text(max_size=3), st.floats()
)
MOSTLY_NOTHING = st.one_of(st.sampled_from([0, None]), COUNTS)
DETAILS = st.dictionaries(
    st.sampled_from(
        [
            *("cached_tokens", "audio_tokens", "image_tokens", "cache_write_tokens", "cache_creation_tokens"),
            *("reasoning_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens", "text_tokens"),
            *("tool_use_tokens", "web_search_requests", "cached_tokens_details", "cache_creation_token_details"),
            *("video_tokens", "ephemeral_1h_input_tokens"),
        ]
    ),
    st.one_of(MOSTLY_NOTHING, st.dictionaries(st.sampled_from(["audio_tokens", "AUDIO"]), COUNTS)),
)
MAIN = ("prompt_tokens", "completion_tokens", "total_tokens")
OTHERS = st.dictionaries(
    st.sampled_from(
        [
            *("input_tokens", "output_tokens", "cost", "prompt_cache_hit_tokens", "cache_read_input_tokens"),
            *("cached_tokens", "citation_tokens", "num_search_queries", "reasoning_tokens", "queue_time"),
            *("server_tool_use", "prompt_audio_seconds", "seconds", "tokens", "billed_units", "iterations"),
            *("cache_creation_input_tokens", "audio_prompt_tokens", "server_side_tool_usage_details", "tool_usage"),
            *("prompt_cache_miss_tokens", "is_byok", "cost_details", "cache_creation", "input_tokens_details"),
        ]
    ),
    st.one_of(MOSTLY_NOTHING, DETAILS, st.lists(DETAILS, max_size=2)),
    max_size=3,
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
    """Whatever is beside the three main counts, and whatever stands in their place. What it reads is credible."""
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
    expected = by_shape(raw, family=family)
    assert normalise(raw, family=family) == expected
    if usual(raw) is not None:
        assert credible(raw, family=family)
        assert not absurd(raw, family=family)
        assert ABSURD not in expected.flags


CHAT = next(shape for shape in SHAPES if shape.name == "chat")
LISTS = [value for value in msgspec.structs.astuple(CHAT) if isinstance(value, tuple)]
FIRST = [shape.marks for shape in SHAPES[: SHAPES.index(CHAT)]]  # tried before
MORE = {"tool_usage.image_gen.total_tokens", "completion_tokens_details.text_tokens", "iterations", "input_tokens"}
PATHS = sorted({path for paths in (*LISTS, *FIRST) for path in paths} | MORE)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("value", [None, 0, 1, 9, 1.5, "x", {}, [], [{"cache_read_input_tokens": 2}]])
def test_no_count_that_the_rules_know_is_passed_over(path: str, value: object) -> None:
    """Wherever they look for a count: it is read as they read it, or the object is left to them."""
    raw: dict[str, Any] = {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}
    *within, name = path.split(".")
    place = raw
    for outer in within:
        place = place.setdefault(outer, {})
    place[name] = value
    assert normalise(raw, family="chat") == by_shape(raw, family="chat")
