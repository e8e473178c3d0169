"""Where wrong keys come from, and how many: bounded, and never by what a client says of itself."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import guesses
from gateway.guesses import GUESSES_S, HOPS_MAX, SOURCES_MAX, Guesses, source
from shared.listed import networks

PROXIES = networks("10.0.0.0/8, 127.0.0.1")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "found"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("10.0.0.5", ["198.51.100.1"], "198.51.100.1"),
        ("10.0.0.5", ["6.6.6.6, 198.51.100.1, 10.0.0.7"], "198.51.100.1"),
        ("10.0.0.5", ["6.6.6.6", "198.51.100.1"], "198.51.100.1"),
        ("10.0.0.5", ["junk"], "10.0.0.5"),
        ("10.0.0.5", [], "10.0.0.5"),
        ("2001:db8::1", [], "2001:db8::/64"),
        ("2001:db8::2", [], "2001:db8::/64"),
        ("::ffff:10.0.0.5", ["198.51.100.1"], "198.51.100.1"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("", ["198.51.100.1"], ""),
    ],
)
def test_the_source_is_the_last_address_that_can_be_believed(peer: str, forwarded_for: list[str], found: str) -> None:
    """X-Forwarded-For counts where a trusted proxy wrote it, from its end, and nowhere else."""
    assert source(peer, forwarded_for, PROXIES) == found


@given(st.text(max_size=300), st.lists(st.text(max_size=300), max_size=3))
def test_any_text_has_a_source(peer: str, forwarded_for: list[str]) -> None:
    """Nothing that a header can hold raises, and a source is short."""
    assert len(source(peer, forwarded_for, networks("0.0.0.0/0"))) <= 43


def test_a_long_list_is_read_from_its_end() -> None:
    """No more addresses of it are looked at than allowed."""
    assert source("10.0.0.5", [",".join(["1.1.1.1"] + ["10.0.0.6"] * HOPS_MAX)], PROXIES) == "10.0.0.6"


def test_wrong_keys_are_counted_within_a_window() -> None:
    """Each source by itself; a new window begins at nothing."""
    table = Guesses()
    assert [table.count("a", second) for second in (0.0, 1.0, GUESSES_S - 1)] == [1, 2, 3]
    assert table.count("b", 2.0) == 1
    assert table.count("a", GUESSES_S) == 1


def test_the_table_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A million sources take no more room than the limit; who keeps on guessing is not forgotten for it."""
    monkeypatch.setattr(guesses, "SOURCES_MAX", 10)
    assert SOURCES_MAX > 10
    table = Guesses()
    for number in range(1_000):
        assert table.count("busy", 0.0) == number + 1
        table.count(f"other {number}", 0.0)
        assert len(table) <= 10


@pytest.mark.parametrize("listed", ["x", "10.0.0.0/33", "10.0.0.1/8"])
def test_a_list_that_is_none_is_a_mistake(listed: str) -> None:
    """Said at the start, not when the first request comes."""
    with pytest.raises(ValueError):
        networks(listed)
