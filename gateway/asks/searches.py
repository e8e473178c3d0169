"""How often a request may have the web searched: as it says itself, else as often as is usual.

Searches are billed apart from tokens, and what they cost is held with the input. A provider that searches more often
than a request says bills more than is held; where a request says nothing, SEARCHES_USUAL are held.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.asks.ask import count

SEARCH_MODEL: Final = "-search-"
"""What the names of OpenAI's search models have in them: gpt-4o-search-preview, gpt-5-search-api. They search once."""
SEARCHES_MAX: Final = 1_000
"""Searches that a request may allow."""
SEARCHES_USUAL: Final = 5
"""Held for where a request does not say how many it allows."""
_BY_CONTEXT: Final = {"low": 1, "medium": 5, "high": 10}
"""What LiteLLM (1.106, ANTHROPIC_WEB_SEARCH_TOOL_MAX_USES) allows Claude for a `search_context_size`."""
_GOOGLE: Final = frozenset({
    "googleSearch", "google_search", "googleSearchRetrieval", "google_search_retrieval", "enterpriseWebSearch"
})  # fmt: skip
"""Keys of the tools with which LiteLLM has Gemini search."""


def searches(request: Mapping[str, Any], model: str) -> int:
    """How many are allowed. Raises Refusal `invalid_field` where a number is none, or above SEARCHES_MAX."""
    tools = request.get("tools")
    allowed = sum(map(_by_tool, tools)) if isinstance(tools, list) else 0
    options = request.get("web_search_options")
    if SEARCH_MODEL in model:
        allowed += 1
    elif isinstance(options, dict):
        size = options.get("search_context_size")
        allowed += _BY_CONTEXT.get(size, SEARCHES_USUAL) if isinstance(size, str) else SEARCHES_USUAL
    if not allowed:
        return 0
    most = count(request, "max_tool_calls", SEARCHES_MAX)
    return min(allowed, most) if most else allowed


def _by_tool(tool: object) -> int:
    if not isinstance(tool, dict):
        return 0
    kind = tool.get("type")
    if isinstance(kind, str) and kind.startswith("web_search"):
        return count(tool, "max_uses", SEARCHES_MAX) or SEARCHES_USUAL
    return 0 if _GOOGLE.isdisjoint(tool) else SEARCHES_USUAL
