"""The bar, on recorded calls where they lie beside the repository, else on calls of our own writing."""

import warnings
from typing import Any

import pytest

from tests.precision.recorded import DATA, OWN
from tests.precision.recount import UNHEARD, measure
from tests.precision.tables import PAGE, recounted

Measured = dict[str, Any]


@pytest.fixture(scope="module")
def measured() -> Measured:
    if not DATA.exists():
        warnings.warn(f"{DATA.name} is not here: measured on {OWN.name}, which proves less", stacklevel=1)
    return measure(DATA if DATA.exists() else OWN)


def row(measured: Measured, kind: str, family: str = "OpenAI chat", table: str = "prompts") -> Measured:
    return next(row for row in measured[table] if (row["family"], row["kind"]) == (family, kind))


def test_plain_prompts_are_exact(measured: Measured) -> None:
    """At least 97 % of OpenAI's plain text prompts are counted to the token."""
    plain = row(measured, "plain text")
    assert plain["exact"] >= 0.97 * plain["calls"]


def test_all_countable_prompts(measured: Measured) -> None:
    """All countable prompts of OpenAI chat: within 0.5 % in total, at most 1 % summed absolute error."""
    countable = row(measured, "all countable")
    assert abs(countable["total_error_percent"]) <= 0.5
    assert countable["absolute_error_percent"] <= 1


@pytest.mark.parametrize("kind", ["tools", "JSON schema", "tool history", "images"])
def test_tools_schemas_and_images(measured: Measured, kind: str) -> None:
    """Tools, schemas, histories of calls and images: each within 2 % in total."""
    assert abs(row(measured, kind)["total_error_percent"]) <= 2


@pytest.mark.parametrize("family", ["OpenAI responses", "OpenAI embeddings"])
def test_other_families_of_openai(measured: Measured, family: str) -> None:
    """Responses and embeddings: within 0.5 % in total, at most 1 % summed absolute error."""
    countable = row(measured, "all countable", family)
    assert abs(countable["total_error_percent"]) <= 0.5
    assert countable["absolute_error_percent"] <= 1


def test_cut_answers_are_exact(measured: Measured) -> None:
    """An answer cut at any byte counts exactly the tokens of the text that it holds."""
    assert measured["cut"]["wrong"] == []
    assert measured["cut"]["exact"] == measured["cut"]["cut"] > 0


def test_whole_answers_of_openai(measured: Measured) -> None:
    """Whole answers without hidden thought: within 1 % in total."""
    assert abs(row(measured, "JSON", table="completions")["total_error_percent"]) <= 1


def test_claude_is_near(measured: Measured) -> None:
    """Claude's prompts, which are estimated: within 5 % in total."""
    assert abs(row(measured, "all countable", "claude messages")["total_error_percent"]) <= 5


def test_books_with_aborted_calls(measured: Measured) -> None:
    """With 2 % of calls aborted at random points, the books are within 0.1 % of the truth.

    In the mean and in 95 of 100 draws, whichever calls are aborted; of hidden thought what came sealed is in the truth.
    Where Anthropic's first event, which counts the prompt, is not heeded, a file that a prompt only names weighs more.
    Calls of our own are few and tiny, and each draw aborts one of them: no more than one in a hundred.
    """
    bar = 0.1 if DATA.exists() else 1
    countable, anything, unheard, _ = measured["traffic"]
    assert unheard["aborted"] == UNHEARD
    assert abs(anything["mean_error_percent"]) <= bar
    assert abs(countable["mean_error_percent"]) <= bar
    assert countable["p95_absolute_error_percent"] <= bar
    assert anything["p95_absolute_error_percent"] <= bar


def test_holds_cover_what_they_are_for(measured: Measured) -> None:
    """The cheap estimates are not below the count, but for a file that the request only names, and one long answer."""
    for kind in ("prompts", "answers"):
        below = measured["holds"][kind]["below"]
        assert len(below) <= (1 if DATA.exists() else 0), below


@pytest.mark.parametrize("family", ["OpenAI chat", "OpenAI responses"])
def test_calls_held_out_of_the_fit(measured: Measured, family: str) -> None:
    """OpenAI's prompts of a project whose calls had no part in any constant: at most 1 % summed absolute error."""
    if not DATA.exists():
        pytest.skip("calls of our own are of one project")
    (held,) = (row for row in measured["held_out"] if row["family"] == family)
    assert held["held_out_absolute_error_percent"] <= 1


def test_the_page_has_what_is_measured(measured: Measured) -> None:
    """docs/precision.md holds the tables of recounts line by line as `make precision` prints them."""
    if not DATA.exists():
        pytest.skip(f"the page is of {DATA.name}, which lies beside the repository where it is there at all")
    printed = "\n".join(recounted(measured))
    assert printed.strip() in PAGE.read_text(encoding="utf-8")
