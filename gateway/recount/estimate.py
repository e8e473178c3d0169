"""A cheap upper estimate of a prompt, for the hold: sizes alone, no vocabulary, fit for the event loop.

Too high is harmless (a hold is released, and nobody is refused on an estimate); too low would let a call in that the
balance cannot pay. So every figure is on the high side; docs/precision.md says how far.
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

from gateway.recount.profiles import Tiles, profile_of

TEXT_BYTES_PER_TOKEN_X10: Final = 25
"""Tenths of bytes of the body that make a token. Prose has 40 and more, dense JSON about 27; a body carries its own
JSON marks, names and fields besides."""

BASE: Final = 40
"""What stands around the shortest prompt; some servers put a message of their own in front."""

SERVER_SYSTEM: Final = 200
"""Such a message, where the model's provider is known to send one: its name contains one of SERVED."""
SERVED: Final = ("grok", "gpt-oss", "deepseek-v", "llama")

TOOLS: Final = 600
"""Instructions that come with the first tool."""

SCHEMA: Final = 150
"""Instructions that come with a JSON schema for the answer, beside its bytes."""

CITED: Final = 600
"""Instructions that come with sources to cite: documents and search results."""

HOSTED_TOOL: Final = 10_000
"""A tool that runs at the provider, which reads what it finds."""

TILES_MAX: Final = 8
"""Tiles of the largest image, after scaling."""

MEDIUM: Final = 2_000
"""A file, or sound, beside its size."""

FILE_CHARACTERS_PER_TOKEN: Final = 8
"""Characters of base64 a token, in documents and sound."""

FILE_ELSEWHERE: Final = 8_000
"""A file that the request only names; it may be larger, which nobody here can see."""

EARLIER: Final = 8_000
"""A conversation that the provider keeps; it may be longer."""

PARTS_MAX: Final = 20_000
"""Parts that are looked at; the bytes of further ones count as text, which is more."""

MODELS_KNOWN_MAX: Final = 256
"""Names of models of which is remembered what their prompts may have."""

_SCHEMAS: Final = frozenset({"response_format", "output_format", "output_config", "text"})
_HARMLESS: Final = ("text", "input_text", "output_text", "refusal", "tool_use", "thinking", "reasoning", "summary_text")


def estimate_prompt(body_size: int, request: Mapping[str, Any]) -> int:
    """An upper estimate, in tokens, of the prompt in `request`, whose body has `body_size` bytes.

    Looks at the number and kind of parts, never into texts: some 3 µs and 0.2 µs for each message and part, whatever
    their size.
    """
    model = request.get("model")
    name = model if isinstance(model, str) else ""
    scan = _Scan(name)
    for key in ("messages", "input"):
        items = request.get(key)
        if isinstance(items, list):
            scan.items(items)
    tools = request.get("tools")
    if not isinstance(tools, list):
        tools = []
    schema = not request.keys().isdisjoint(_SCHEMAS) and any(request.get(key) for key in _SCHEMAS)
    size = max(0, body_size - scan.media_bytes)
    tokens = scan.tokens + estimate_texts(size, name, tools=bool(tools), schema=schema)
    for tool in tools:
        kind = tool.get("type", "function") if isinstance(tool, Mapping) else "function"
        if kind not in ("function", "custom"):
            tokens += HOSTED_TOOL
    if request.get("previous_response_id") or request.get("conversation"):
        tokens += EARLIER
    return tokens


def estimate_texts(body_size: int, model: str, *, tools: bool, schema: bool) -> int:
    """The same of a request that has nothing but texts in its messages, functions for `tools`, and a `schema`."""
    tokens = BASE + body_size * 10 // TEXT_BYTES_PER_TOKEN_X10
    if _is_served(model):
        tokens += SERVER_SYSTEM
    if tools:
        tokens += TOOLS
    if schema:
        tokens += SCHEMA
    return tokens


class _Scan:
    """Goes through messages and their parts once, and adds up what is no text."""

    __slots__ = ("_image", "_parts", "media_bytes", "tokens")

    def __init__(self, model: str) -> None:
        self._image = _image_max(model)
        self._parts = 0
        self.tokens = 0
        self.media_bytes = 0

    def items(self, items: list[Any]) -> None:
        for item in items:
            if isinstance(item, dict):
                for key in ("content", "output"):
                    content = item.get(key)
                    if isinstance(content, list):
                        self.parts(content)

    def parts(self, parts: list[Any]) -> None:
        for part in parts:
            if not isinstance(part, dict):
                continue
            self._parts += 1
            if self._parts > PARTS_MAX:
                return
            kind = part.get("type")
            if kind not in _HARMLESS:
                self.medium(kind, part)

    def medium(self, kind: object, part: dict[str, Any]) -> None:
        """Cases: a tool's result with parts of its own; an image; a document, a sound, or what is not known."""
        content = part.get("content")
        if isinstance(content, list):
            self.tokens += CITED if kind != "tool_result" else 0
            self.parts(content)
            return
        size = _largest(part)
        self.media_bytes += size
        if kind in ("image", "image_url", "input_image"):
            self.tokens += self._image
        elif size:
            self.tokens += MEDIUM + size // FILE_CHARACTERS_PER_TOKEN
        else:
            self.tokens += FILE_ELSEWHERE


def _largest(part: Mapping[str, Any], depth: int = 0) -> int:
    """The length of a part's longest text, two levels down: its data URL or base64. Short texts are no media."""
    size = 0
    for value in part.values():
        if isinstance(value, str):
            size = max(size, len(value))
        elif isinstance(value, dict) and depth < 2:
            size = max(size, _largest(value, depth + 1))
    return size if size > 256 or depth else 0


@lru_cache(MODELS_KNOWN_MAX)
def _is_served(model: str) -> bool:
    return any(served in model for served in SERVED)


@lru_cache(MODELS_KNOWN_MAX)
def _image_max(model: str) -> int:
    """Tokens of the largest image that the model's provider bills."""
    rule = profile_of(model).image
    if isinstance(rule, Tiles):
        return max(2_000, rule.base + rule.tile * TILES_MAX)
    return rule.patches_max * rule.factor_percent // 100 + 1
