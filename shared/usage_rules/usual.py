"""The usual usage object, read at once: what OpenAI's chat endpoints say of most calls, and LiteLLM for any provider.

A short cut through the rules, never another rule: whatever is not plainly usual is left to them, and a test compares
the two on any object.
"""

from collections.abc import Mapping
from typing import Any, Final

from shared.usage import COUNT_MAX, Usage

FAMILIES: Final = ("chat", "completions")
"""Families whose usage these names are; others begin with other ones."""
_MAIN: Final = frozenset({"prompt_tokens", "completion_tokens", "total_tokens"})
_NO_COUNTS: Final = frozenset({"accepted_prediction_tokens", "rejected_prediction_tokens"})
"""Parts of the output that are billed as output."""


def usual(raw: Mapping[str, Any]) -> Usage | None:
    """The usage, where `raw` has input, output and their sum, and beside them at most cached tokens within the input
    and reasoning within the output: all other counts are zero or null. None: it says more, or something is wrong."""
    read, made, total = raw.get("prompt_tokens"), raw.get("completion_tokens"), raw.get("total_tokens")
    if type(read) is not int or type(made) is not int or type(total) is not int:
        return None
    if read < 0 or made < 0 or total != read + made or not 0 < total <= COUNT_MAX:
        return None
    cached = reasoning = 0
    for key, value in raw.items():
        if value is None or key in _MAIN or (type(value) is int and value == 0):
            continue
        if type(value) is not dict:
            if key != "cost":
                return None
        elif key == "prompt_tokens_details":
            for name, count in value.items():
                if count is None or (type(count) is int and count == 0):
                    continue
                if name != "cached_tokens" or type(count) is not int or not 0 < count <= read:
                    return None
                cached = count
        elif key == "completion_tokens_details":
            for name, count in value.items():
                if count is None or (type(count) is int and count == 0) or name in _NO_COUNTS:
                    continue
                if name != "reasoning_tokens" or type(count) is not int or not 0 < count <= made:
                    return None
                reasoning = count
        elif key != "cost":
            return None
    return Usage(input=read - cached, cached=cached, output=made - reasoning, reasoning=reasoning)
