"""Tokens as OpenAI counts them: the real vocabularies, its rule for messages, and its cache of prompt prefixes."""

import codecs
import importlib.util
import json
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import tiktoken

TOKENS_PER_MESSAGE: Final = 3
TOKENS_PER_NAME: Final = 1
TOKENS_PER_TOOL_CALL: Final = 8
PRIMING_TOKENS: Final = 3
PRIMING_TOKENS_REASONING: Final = 2
"""The o-series and gpt-5 are primed with one token less."""
TOKENS_PER_IMAGE: Final = 85
"""OpenAI's price of one image at low detail, which the demo takes for every image."""
CACHED_FROM_TOKENS: Final = 1024
CACHED_STEP_TOKENS: Final = 128
CACHED_PREFIXES_MAX: Final = 4096
"""Prefixes remembered by the prompt cache; the oldest are forgotten first."""


class PromptCache:
    """OpenAI discounts a prompt's beginning that it has seen before, from 1,024 tokens on in steps of 128."""

    def __init__(self) -> None:
        self._seen: OrderedDict[int, None] = OrderedDict()

    def cached(self, tokens: Sequence[int]) -> int:
        """How many leading tokens were seen before; remembers this prompt."""
        found = 0
        for length in range(CACHED_FROM_TOKENS, len(tokens) + 1, CACHED_STEP_TOKENS):
            prefix = hash(tuple(tokens[:length]))
            if prefix in self._seen:
                found = length
                self._seen.move_to_end(prefix)
            self._seen[prefix] = None
        self._forget()
        return found

    def holds(self, prefix: Sequence[int]) -> bool:
        """Whether exactly these leading tokens were seen before; remembers them. For caches that are told what to keep
        (Anthropic's)."""
        mark = hash(("whole", *prefix))
        held = mark in self._seen
        self._seen[mark] = None
        self._seen.move_to_end(mark)
        self._forget()
        return held

    def _forget(self) -> None:
        while len(self._seen) > CACHED_PREFIXES_MAX:
            self._seen.popitem(last=False)


class Tokenizer:
    """One model's vocabulary."""

    def __init__(self, model: str) -> None:
        self._encoding = tiktoken.get_encoding(encoding_of(model))
        self._priming = PRIMING_TOKENS_REASONING if is_reasoning(model) else PRIMING_TOKENS

    def encode(self, text: str) -> list[int]:
        return self._encoding.encode_ordinary(text)

    def decode(self, tokens: list[int]) -> str:
        return self._encoding.decode(tokens)

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def prompt(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> list[int]:
        """The tokens of a prompt, framing included (as zeros, which stand for OpenAI's invisible tokens)."""
        tokens: list[int] = []
        if tools:
            tokens += self.encode(json.dumps(tools, ensure_ascii=False, separators=(",", ":")))
        for message in messages:
            tokens += [0] * TOKENS_PER_MESSAGE
            tokens += self.encode(str(message.get("role", "")))
            if name := message.get("name"):
                tokens += [0] * TOKENS_PER_NAME + self.encode(str(name))
            tokens += self._content(message.get("content"))
            for call in message.get("tool_calls") or []:
                function = call.get("function") or {}
                tokens += [0] * TOKENS_PER_TOOL_CALL
                tokens += self.encode(str(function.get("name", ""))) + self.encode(str(function.get("arguments", "")))
        return tokens + [0] * self._priming

    def pieces(self, text: str) -> Iterator[str]:
        """The text token by token; a token that ends inside a character is held back until the character is whole."""
        decoder = codecs.getincrementaldecoder("utf-8")()
        for token in self.encode(text):
            yield decoder.decode(self._encoding.decode_single_token_bytes(token))

    def cut(self, text: str, tokens_max: int) -> tuple[str, int, bool]:
        """The text's first tokens, their number, and whether any were cut off."""
        tokens = self.encode(text)
        if len(tokens) <= tokens_max:
            return text, len(tokens), False
        kept = self._encoding.decode_bytes(tokens[:tokens_max]).decode("utf-8", errors="ignore")
        return kept, tokens_max, True

    def _content(self, content: Any) -> list[int]:
        if isinstance(content, str):
            return self.encode(content)
        tokens: list[int] = []
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("type") == "text":
                tokens += self.encode(str(part.get("text", "")))
            else:
                tokens += [0] * TOKENS_PER_IMAGE
        return tokens


class Tokenizers(msgspec.Struct):
    """Every tokenizer asked for so far, by model."""

    known: dict[str, Tokenizer] = {}

    def of(self, model: str) -> Tokenizer:
        if model not in self.known:
            self.known[model] = Tokenizer(model)
        return self.known[model]


def encoding_of(model: str) -> str:
    """Name of a model's vocabulary; unknown models have the newest."""
    use_bundled_vocabularies()
    try:
        return tiktoken.encoding_name_for_model(model)
    except KeyError:
        return "o200k_base"


def is_reasoning(model: str) -> bool:
    """Whether the model thinks in hidden tokens."""
    return model.startswith(("o1", "o3", "o4", "gpt-5"))


def use_bundled_vocabularies() -> None:
    """Point tiktoken to the vocabularies inside the litellm package, which is found without importing it: otherwise it
    would download them."""
    if "TIKTOKEN_CACHE_DIR" in os.environ:
        return
    spec = importlib.util.find_spec("litellm")
    if spec and spec.submodule_search_locations:
        folder = Path(spec.submodule_search_locations[0]) / "litellm_core_utils" / "tokenizers"
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
