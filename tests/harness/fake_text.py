"""The text that the fake upstream writes, token by token, and what it says that a request has."""

import importlib.util
import itertools
import os
from pathlib import Path
from typing import Any, Final

import tiktoken

_WORDS: Final = (
    " o relógio de sol mede a hora sem tocar a luz e cada sombra diz quanto do dia já passou assim também se conta"
    " cada palavra que o modelo escreve devagar uma depois da outra até que a resposta esteja inteira"
)


class FakeText:
    """A text without end in OpenAI's vocabulary, and OpenAI's count of plain requests."""

    def __init__(self, piece: str = "") -> None:
        """`piece` is said over and over instead, where it is given."""
        os.environ.setdefault("TIKTOKEN_CACHE_DIR", str(_vocabularies()))
        self._encoding = tiktoken.get_encoding("o200k_base")
        words = [self._encoding.decode([token]) for token in self._encoding.encode(_WORDS)]
        self._pieces = [piece] if piece else words

    def piece(self, index: int) -> str:
        """The token number `index` of every answer."""
        return self._pieces[index % len(self._pieces)]

    def count(self, target: str, request: dict[str, Any]) -> int:
        """Tokens of the texts of a request, and of what stands around them where OpenAI counts that too."""
        if isinstance(request.get("messages"), list):
            return self.count_messages(request["messages"])
        texts = [request[name] for name in ("input", "prompt") if isinstance(request.get(name), str)]
        around = 7 if target == "/v1/responses" else 0
        return around + sum(len(self._encoding.encode(text)) for text in texts)

    def count_messages(self, messages: list[dict[str, Any]]) -> int:
        """OpenAI's rule for plain text: three per message, role and content, three to prime the answer."""
        values = itertools.chain.from_iterable((m["role"], m["content"]) for m in messages)
        return 3 + 3 * len(messages) + sum(len(self._encoding.encode(value)) for value in values)


def _vocabularies() -> Path:
    """Where the litellm package keeps the tokenizers' files."""
    spec = importlib.util.find_spec("litellm")
    assert spec is not None
    assert spec.submodule_search_locations
    return Path(spec.submodule_search_locations[0]) / "litellm_core_utils" / "tokenizers"
