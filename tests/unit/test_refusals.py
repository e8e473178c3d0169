"""Every way the gateway says no: the shape on the wire, and one readable line whatever the facts are."""

import ast
import json
from pathlib import Path
from string import Formatter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import gateway
from gateway.budget import ExhaustedError, exhausted
from gateway.refusals import MESSAGE_LENGTH_MAX, TABLE, Refusal, body, response, sentence

LANGUAGES = ("pt-BR", "en")
CODES = sorted(TABLE)
HOSTILE = (
    "x" * 5_000,
    "line\nbreak\r\n\x00\x1b[31m\u2028\u202e",
    "{balance} {0.__class__} {{}} {",
    "\ud800 lone \udce9",
    '"quotes" \\ </script>',
    "",
)


def fields(code: str) -> set[str]:
    """The facts that the sentences of a row need, in either language."""
    row = TABLE[code]
    return {name for text in (row.pt, row.en) for _, name, _, _ in Formatter().parse(text) if name}


def answer(code: str, language: str = "en", call_id: str = "", **facts: object) -> tuple[Any, dict[str, Any]]:
    """The HTTP answer of a refusal, and its parsed error object."""
    given_facts = dict.fromkeys(fields(code), "fact") | {"allowed": "GET"} | facts
    made = response(Refusal(code, **given_facts), language, call_id)
    assert isinstance(made.body, bytes)
    parsed = json.loads(made.body)
    assert list(parsed) == ["error"]
    return made, parsed["error"]


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", CODES)
def test_every_refusal_has_the_shape_that_openais_clients_read(code: str, language: str) -> None:
    """`{"error": {message, type, code, param: null}}` as JSON, the status of its row, never a Retry-After."""
    made, error = answer(code, language)
    assert made.status == TABLE[code].status
    assert made.content_type == "application/json"
    assert set(error) == {"message", "type", "code", "param"}
    assert (error["code"], error["type"], error["param"]) == (code, TABLE[code].type, None)
    assert "Retry-After" not in made.headers


@pytest.mark.parametrize("code", CODES)
def test_only_what_may_be_repeated_is_left_to_the_client(code: str) -> None:
    """`x-should-retry: false` stops OpenAI's clients; what fails behind us (5xx) may be tried again."""
    made, _ = answer(code)
    assert (made.headers.get("x-should-retry") == "false") is (made.status < 500)


def test_out_of_credit_is_the_answer_that_librechat_shows_once() -> None:
    """402, `insufficient_credits`, `credit_exhausted`, no retry, with the balance and the link in one line."""
    refusal = exhausted(ExhaustedError(1_234_500), "https://creditos.example.com", "pt-BR")
    made = response(refusal, "pt-BR", "the-call")
    assert isinstance(made.body, bytes)
    error = json.loads(made.body)["error"]
    assert made.status == 402
    assert dict(made.headers) == {
        "x-should-retry": "false",
        "x-sundial-call-id": "the-call",
        "Content-Type": "application/json",
    }
    assert error == {
        "message": "Seu saldo não basta: restam 1.234,5 créditos disponíveis. https://creditos.example.com",
        "type": "insufficient_credits",
        "code": "credit_exhausted",
        "param": None,
    }


def test_a_negative_balance_is_shown_as_nothing_left() -> None:
    """Below the floor there are 0 credits to spend; without a link the sentence ends with its full stop."""
    refusal = exhausted(ExhaustedError(-5_000), "", "en")
    assert sentence(refusal.code, "en", **refusal.facts) == "Your credit does not suffice: 0 credits left to spend."


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", CODES)
def test_no_refusal_speaks_of_quota(code: str, language: str) -> None:
    """LibreChat tells users to bring their own key where it reads `insufficient_quota`."""
    made, _ = answer(code, language)
    assert b"insufficient_quota" not in made.body


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("code", CODES)
def test_a_sentence_is_one_short_line_whatever_the_facts(code: str, language: str) -> None:
    """Long, broken and forged facts give one printable line without braces, of at most 200 characters."""
    for fact in HOSTILE:
        _, error = answer(code, language, **dict.fromkeys(fields(code), fact))
        check(error["message"])


@given(st.sampled_from(CODES), st.sampled_from(LANGUAGES), st.text(st.characters() | st.characters(categories=["Cs"])))
def test_any_text_as_a_fact_gives_a_sentence(code: str, language: str, fact: str) -> None:
    """The same for arbitrary text, surrogates included; and the result is valid JSON."""
    message = sentence(code, language, **dict.fromkeys(fields(code), fact))
    check(message)
    assert json.loads(body(code, message))["error"]["message"] == message


def check(message: str) -> None:
    assert 0 < len(message) <= MESSAGE_LENGTH_MAX
    assert message.isprintable()
    assert "{" not in message
    assert "}" not in message


@pytest.mark.parametrize("code", ["credit_exhausted", "credit_ended"])
@pytest.mark.parametrize("language", LANGUAGES)
def test_the_longest_link_stands_whole_beside_the_largest_balance(code: str, language: str) -> None:
    """A link that the settings allow is never cut: a cut link leads nowhere."""
    link = " https://" + "x" * 90
    assert link in sentence(code, language, balance="-9,007,199,254,740.991", link=link)


@pytest.mark.parametrize("code", CODES)
def test_a_row_says_the_same_in_both_languages(code: str) -> None:
    """Both sentences need the same facts, and differ."""
    row = TABLE[code]
    names = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in (row.pt, row.en)]
    assert names[0] == names[1]
    assert row.pt != row.en


def test_a_refused_method_names_those_that_are_allowed() -> None:
    """405 carries Allow, as RFC 9110 demands."""
    made, error = answer("method_not_allowed", allowed="POST")
    assert made.headers["allow"] == "POST"
    assert "POST" in error["message"]


def test_the_call_id_is_there_as_soon_as_there_is_one() -> None:
    """An id for support, where the call had got one before it was refused."""
    assert answer("credit_exhausted", balance="0", link="", call_id="x")[0].headers["x-sundial-call-id"] == "x"
    assert "x-sundial-call-id" not in answer("missing_api_key")[0].headers


def test_every_refusal_that_is_raised_is_in_the_table_and_has_its_facts() -> None:
    """Codes and facts in the gateway's source and in the table are the same: none is missing, none is left over."""
    raised: dict[str, set[str | None]] = {}
    for path in Path(str(gateway.__file__)).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Name("Refusal" | "sentence"), args=[ast.Constant(str() as code), *_]):
                    raised.setdefault(code, set()).update(keyword.arg for keyword in node.keywords)
    assert raised.keys() == TABLE.keys()
    for code, facts_given in raised.items():
        assert facts_given == fields(code), code
