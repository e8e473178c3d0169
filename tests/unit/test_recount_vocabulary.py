"""Which vocabulary counts a model, and where it comes from."""

import subprocess
import sys
from pathlib import Path

import pytest

from gateway.recount import vocabulary
from gateway.recount.vocabulary import VocabularyMissing, bare_name, encoding_for, encoding_name, load

PORTUGUESE = "A conciliação compara a fatura do provedor com os lançamentos do livro-razão e explica cada diferença."


@pytest.mark.parametrize(
    ("model", "bare"),
    [
        ("gpt-4o", "gpt-4o"),
        ("openai/gpt-4o", "gpt-4o"),
        ("azure/eu/gpt-4o-mini", "gpt-4o-mini"),
        ("ft:gpt-4o-mini-2024-07-18:acme::abc", "gpt-4o-mini-2024-07-18"),
        ("openrouter/openai/gpt-4o:free", "gpt-4o"),
        ("openai.gpt-oss-20b", "gpt-oss-20b"),
        ("", ""),
    ],
)
def test_bare_name(model: str, bare: str) -> None:
    """A model's name is what is left without provider, deployment, fine-tune and variant."""
    assert bare_name(model) == bare


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("azure/gpt-4o", "o200k_base"),
        ("openai/gpt-4o-2024-11-20", "o200k_base"),
        ("ft:gpt-4o:acme::1", "o200k_base"),
        ("gpt-4.1-nano", "o200k_base"),
        ("o3-mini", "o200k_base"),
        ("gpt-5.6-luna", "o200k_base"),
        ("gpt-oss:120b", "o200k_base"),
        ("a-name-nobody-knows", "o200k_base"),
        ("azure/gpt-4", "cl100k_base"),
        ("gpt-4-0125-preview", "cl100k_base"),
        ("openai/gpt-3.5-turbo", "cl100k_base"),
        ("azure/gpt-35-turbo", "cl100k_base"),
        ("text-embedding-3-large", "cl100k_base"),
        ("text-davinci-003", "p50k_base"),
        ("text-davinci-001", "p50k_base"),
    ],
)
def test_encoding_name(model: str, name: str) -> None:
    """Prefixed and unknown names count in the vocabulary of their own family, never in an older one by accident."""
    assert encoding_name(model) == name


def test_portuguese_with_a_prefix_is_not_counted_in_the_older_vocabulary() -> None:
    """`azure/gpt-4o` counts Portuguese as `gpt-4o` does; the older vocabulary would book a tenth more at least."""
    tokens = len(encoding_for("gpt-4o").encode_ordinary(PORTUGUESE))
    assert len(encoding_for("azure/gpt-4o").encode_ordinary(PORTUGUESE)) == tokens
    assert len(load("cl100k_base").encode_ordinary(PORTUGUESE)) > tokens * 1.1


def test_special_tokens_in_a_text_are_text() -> None:
    """Text that looks like a control token is counted as the letters that it is, and raises nothing."""
    assert len(encoding_for("gpt-4o").encode_ordinary("<|endoftext|>")) > 3


def test_loading_imports_no_litellm() -> None:
    """The vocabularies are found without importing litellm, which costs seconds and a quarter of a gigabyte."""
    script = "import sys; from gateway.recount.vocabulary import load; load(); sys.exit('litellm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize("content", [None, b"not the vocabulary"])
def test_a_wrong_file_is_refused_and_not_replaced(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing or changed vocabulary file raises; it is left as it is, and nothing is downloaded in its place."""
    file = tmp_path / vocabulary._FILES["p50k_base"][0]
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(vocabulary, "_folder", lambda: tmp_path)
    with pytest.raises(VocabularyMissing, match="p50k_base"):
        load.__wrapped__("p50k_base")
    assert (file.read_bytes() if file.exists() else None) == content
