"""docs/settings.md says of every setting what the code says."""

from tests.harness.map import ROOT
from tests.harness.settings_map import PAGE, READERS, meanings, written


def test_the_page_of_settings_is_true() -> None:
    """Names, defaults, ranges and meanings are those of shared/settings.py: `make map` writes them."""
    text = PAGE.read_text(encoding="utf-8")
    assert text == written(text)


def test_every_setting_says_what_it_means() -> None:
    """In a sentence below it."""
    named = {name for reader in READERS.values() for name in reader.model_fields}
    assert named - meanings().keys() == set()


def test_the_page_is_found() -> None:
    """README and the page of commands lead there."""
    assert "(docs/settings.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "(settings.md)" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
