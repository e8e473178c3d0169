"""What the demo upstream answers, and what it says it used: every number follows OpenAI's rules."""

import json
from typing import Any

import pytest

from deploy.demo import answers, wire
from deploy.demo.counting import PromptCache, Tokenizer
from deploy.demo.generation import BadRequestError, Generation, generate

MINI = Tokenizer("gpt-4o-mini")
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "location": {"type": "string"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "integer"},
            },
        },
    },
}


def asked(question: str, **body: Any) -> Generation:
    model = body.setdefault("model", "gpt-4o-mini")
    body.setdefault("messages", [{"role": "user", "content": question}])
    return generate(body, Tokenizer(model), PromptCache())


def test_prompts_are_counted_as_openai_documents_it() -> None:
    """3 per message, role, content and name, and 3 for the answer's start: 129 tokens in the cookbook's example."""
    messages = [
        {
            "role": "system",
            "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain "
            "English.",
        },
        {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Things working well together will increase revenue.",
        },
        {
            "role": "system",
            "name": "example_user",
            "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased "
            "leverage.",
        },
        {
            "role": "system",
            "name": "example_assistant",
            "content": "Let's talk later when we're less busy about how to do better.",
        },
        {
            "role": "user",
            "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
        },
    ]
    assert len(Tokenizer("gpt-4").prompt(messages)) == 129
    assert len(MINI.prompt(messages)) == 124


def test_completion_tokens_are_those_of_the_text() -> None:
    """What the usage says is what a tokenizer counts over the answer."""
    generation = asked("Conte até 50")
    (choice,) = generation.choices
    assert choice.text == " ".join(str(number) for number in range(1, 51))
    assert generation.usage()["completion_tokens"] == MINI.count(choice.text)
    assert generation.usage()["total_tokens"] == generation.prompt_tokens + choice.tokens


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_a_limit_cuts_at_the_token(name: str) -> None:
    """The answer has exactly as many tokens as allowed and says `length`; a limit that suffices changes nothing."""
    (cut,) = asked("Write a long story", **{name: 7}).choices
    assert (cut.tokens, cut.finish) == (7, "length")
    assert MINI.count(cut.text) == 7
    (whole,) = asked("Write a long story", **{name: 5000}).choices
    assert whole.finish == "stop"


def test_stop_ends_before_its_text() -> None:
    """The stop text itself is not part of the answer, and not billed."""
    (choice,) = asked("Conte até 9", stop=["7", "5"]).choices
    assert (choice.text, choice.finish) == ("1 2 3 4 ", "stop")


def test_n_answers_are_billed_together() -> None:
    """Each choice counts, the prompt once."""
    generation = asked("Tell me about black holes", n=3)
    assert len({choice.text for choice in generation.choices}) == 3
    assert generation.usage()["completion_tokens"] == sum(choice.tokens for choice in generation.choices)


def test_a_weather_question_calls_the_offered_tool() -> None:
    """The arguments fit the tool's schema and name the place of the question; after the tool comes text."""
    question = "Qual é o clima em Porto Alegre?"
    (choice,) = asked(question, tools=[WEATHER]).choices
    assert choice.call is not None
    assert choice.finish == "tool_calls"
    assert json.loads(choice.call.arguments) == {"location": "Porto Alegre", "unit": "celsius", "days": 1}
    answered = [
        {"role": "user", "content": question},
        {"role": "assistant", "tool_calls": [{"function": {"name": "get_weather", "arguments": "{}"}}]},
        {"role": "tool", "content": "21 graus"},
    ]
    (after,) = asked(question, tools=[WEATHER], messages=answered).choices
    assert after.call is None
    assert "21 graus" in after.text
    (refused,) = asked(question, tools=[WEATHER], tool_choice="none").choices
    assert refused.call is None


def test_a_forced_format_is_json() -> None:
    """JSON mode and a JSON schema both give text that parses, the latter with the schema's properties."""
    (free,) = asked("oi", response_format={"type": "json_object"}).choices
    assert "answer" in json.loads(free.text)
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "tags": {"type": "array"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    (shaped,) = asked("oi", response_format=wanted).choices
    assert set(json.loads(shaped.text)) == {"ok", "tags"}


def test_reasoning_is_part_of_the_completion() -> None:
    """A reasoning model's hidden tokens are billed as output, and spend the limit before any text does."""
    usage = asked("oi", model="gpt-5-mini").usage()
    hidden = usage["completion_tokens_details"]["reasoning_tokens"]
    assert 64 <= hidden < 256
    assert usage["completion_tokens"] > hidden
    (starved,) = asked("oi", model="gpt-5-mini", max_completion_tokens=10).choices
    assert (starved.text, starved.finish, starved.reasoning) == ("", "length", 10)


def test_a_repeated_long_prompt_is_partly_cached() -> None:
    """From 1,024 tokens on, in steps of 128, and never more than what was equal."""
    cache = PromptCache()
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "sol e sombra " * 700}]}
    first = generate(body, MINI, cache)
    again = generate(body, MINI, cache)
    assert first.cached_tokens == 0
    assert again.cached_tokens == again.prompt_tokens // 128 * 128
    assert generate({**body, "messages": [{"role": "user", "content": "oi"}]}, MINI, cache).cached_tokens == 0


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"messages": None}, "messages"),
        ({"messages": [{"content": "no role"}]}, "messages[0].role"),
        ({"n": 0.5}, "n"),
        ({"n": 99}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "many"}, "max_tokens"),
    ],
)
def test_what_openai_refuses_is_refused(body: dict[str, Any], param: str) -> None:
    """The error names the field."""
    with pytest.raises(BadRequestError) as refused:
        asked("x", **body)
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("O que é um relógio de sol?", "pt"),
        ("Como vai você", "pt"),
        ("What is a sundial?", "en"),
        ("Explain why the sky is blue", "en"),
    ],
)
def test_the_answer_is_in_the_language_of_the_question(question: str, language: str) -> None:
    """And says that a demo model speaks."""
    assert answers.language_of(question) == language
    said = answers.answer(question)
    assert answers.language_of(said) == language
    assert "demo" in said


def test_answers_vary_with_the_question() -> None:
    """A sum is computed, and no two subjects read the same."""
    assert answers.answer("Quanto é 17 * 23?").startswith("17 * 23 = 391")
    questions = ["quero uma piada", "escreva um poema", "meu saldo?", "fale de baleias", "tell me about trains"]
    assert len({answers.answer(question) for question in questions}) == len(questions)


def test_a_title_request_gets_a_short_title() -> None:
    """As LibreChat asks for it: not streamed, with the conversation in the prompt."""
    prompt = (
        "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. Only return the "
        "title itself.\n\nConversation:\nUser: Como funciona um relógio de sol?\nAI: Um relógio de sol mede a luz."
    )
    (choice,) = asked(prompt).choices
    assert choice.text == "Funciona Relógio Sol"
    (chat,) = asked(prompt, stream=True).choices
    assert chat.text != choice.text


def test_pieces_never_split_a_character() -> None:
    """Tokens that end inside an emoji are held back; the pieces make up the text."""
    text = "Zoë 🌻 diz: 你好, olá 👩‍👩‍👧!"
    pieces = list(MINI.pieces(text))
    assert "".join(pieces) == text
    assert len(pieces) == MINI.count(text)


def test_related_texts_have_related_vectors() -> None:
    """Vectors have unit length, and texts with words in common lie closer than others."""

    def vector(text: str) -> list[float]:
        found = wire.embedding(text, 256, as_base64=False)
        assert isinstance(found, list)
        return found

    def product(left: list[float], right: list[float]) -> float:
        return sum(a * b for a, b in zip(left, right, strict=True))

    sun, sunny, fish = vector("relógio de sol"), vector("um relógio de sol"), vector("peixe frito")
    assert product(sun, sun) == pytest.approx(1)
    assert product(sun, sunny) > 0.7 > 0.3 > product(sun, fish)
