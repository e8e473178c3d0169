"""Which vocabulary a model counts in, read from the files inside the litellm package.

Nothing here downloads: a file is handed to tiktoken only where its content is the one expected, since tiktoken would
otherwise remove it and fetch another. litellm itself is not imported (that takes seconds and a quarter of a gigabyte).
Loading takes 0.4 to 1 s, of which 0.2 to 0.5 s hold the interpreter even from a thread, and some 60 MB: a gateway loads
what it needs before its listener opens.
"""

import hashlib
import importlib.util
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Final

import tiktoken
from tiktoken import Encoding

DEFAULT: Final = "o200k_base"
"""The vocabulary of every OpenAI model since gpt-4o; and the measure by which other providers are estimated."""

MODELS_REMEMBERED_MAX: Final = 1024
"""Model names whose vocabulary is remembered; clients choose these names, so there must be a bound."""

MODEL_LENGTH_MAX: Final = 256
"""Characters of a model name that are looked at."""

_FILES: Final = {
    "cl100k_base": (
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    ),
    "o200k_base": (
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    ),
    "p50k_base": (
        "ec7223a39ce59f226a68acc30dc1af2788490e15",
        "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069",
    ),
}
"""Vocabulary → file in litellm's folder (tiktoken's name for it) and the SHA-256 of its content."""

_STANDS_IN: Final = {
    "o200k_harmony": "o200k_base",
    "p50k_edit": "p50k_base",
    "r50k_base": "p50k_base",
    "gpt2": "p50k_base",
}
"""Vocabularies that are not in the package but count ordinary text alike (they differ in special tokens or in runs of
spaces)."""

_OLDER: Final = ("gpt-3.5", "gpt-35", "gpt-4-", "text-embedding-", "davinci-002", "babbage-002")
"""Starts of names that tiktoken may not know in full, but whose family counts in cl100k_base."""

_loading = threading.Lock()


class VocabularyMissing(RuntimeError):  # noqa: N818
    """The litellm package or one of its vocabulary files is not there, or is not the file expected."""


def bare_name(model: str) -> str:
    """A model's own name: without provider and deployment prefixes (`azure/`, `openai/`) and fine-tuning marks.

    `ft:gpt-4o-mini:company::id` → `gpt-4o-mini`; `openrouter/openai/gpt-4o:free` → `gpt-4o`.
    """
    name = model[-MODEL_LENGTH_MAX:].rpartition("/")[2].strip().lower()
    name = name.removeprefix("ft:").partition(":")[0]
    return name.removeprefix("openai.")


@lru_cache(MODELS_REMEMBERED_MAX)
def encoding_name(model: str) -> str:
    """The vocabulary's name: what tiktoken says, else cl100k_base for older families and o200k_base for the rest."""
    name = bare_name(model)
    try:
        found = tiktoken.encoding_name_for_model(name)
    except KeyError:
        found = "cl100k_base" if name.startswith(_OLDER) else DEFAULT
    return _STANDS_IN.get(found, found)


def encoding_for(model: str) -> Encoding:
    """The vocabulary to count `model` in. Loads it where it is not loaded yet, which stalls the whole process.

    Raises VocabularyMissing.
    """
    return load(encoding_name(model))


@lru_cache(len(_FILES))
def load(name: str = DEFAULT) -> Encoding:
    """The vocabulary `name`, loaded once per process. Raises VocabularyMissing."""
    with _loading:
        folder = _folder()
        file, digest = _FILES[name]
        try:
            content = (folder / file).read_bytes()
        except OSError as error:
            raise VocabularyMissing(f"no vocabulary {name} in {folder}: {error.strerror}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise VocabularyMissing(f"vocabulary {name} in {folder} is not the file that was expected")
        os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
        return tiktoken.get_encoding(name)


def _folder() -> Path:
    spec = importlib.util.find_spec("litellm")
    if spec is None or not spec.submodule_search_locations:
        raise VocabularyMissing("the litellm package is not installed; its vocabularies are needed to count")
    return Path(spec.submodule_search_locations[0]) / "litellm_core_utils" / "tokenizers"
