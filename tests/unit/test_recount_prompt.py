"""What each part of a prompt costs, on requests of our own; the recorded calls are in test_recount_recorded.py."""

import json
from typing import Any

import pytest

from gateway.recount.prompt import count_prompt
from gateway.recount.tally import (
    Recount,
)
from gateway.recount.typescript import CHARACTERS_MAX, DEPTH_MAX, render_tools
from gateway.recount.vocabulary import encoding_for
from tests.unit.test_recount_images import data_url, png

Message = dict[str, Any]
HELLO: Message = {"role": "user", "content": "Olá, tudo bem?"}


def length(text: str, model: str = "gpt-4o") -> int:
    return len(encoding_for(model).encode_ordinary(text))


def chat(*messages: Message, model: str = "gpt-4o", **more: Any) -> Recount:
    return count_prompt("chat", model, {"messages": list(messages), **more})


def tool(name: str, description: str = "", **properties: object) -> Message:
    parameters = {"type": "object", "properties": properties}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


PING = tool("ping")


def test_a_plain_message() -> None:
    """A message costs three tokens, its role and its text; the answer is primed with three."""
    assert chat(HELLO) == Recount(3 + 1 + length("Olá, tudo bem?") + 3)


def test_a_name() -> None:
    """A message's name costs its tokens and one."""
    assert chat({**HELLO, "name": "maria"}).tokens == chat(HELLO).tokens + length("maria") + 1


@pytest.mark.parametrize("model", ["o3-mini", "gpt-5-nano", "azure/gpt-5.2-chat"])
def test_models_that_think_are_primed_with_two_tokens(model: str) -> None:
    """The thinking models' prompts are one token shorter."""
    assert chat(HELLO, model=model).tokens == chat(HELLO).tokens - 1


def test_parts_of_text_are_joined() -> None:
    """A content in parts costs what the same text in one piece costs."""
    parts = [{"type": "text", "text": "Olá, tudo"}, {"type": "text", "text": " bem?"}]
    assert chat({"role": "user", "content": parts}) == chat(HELLO)


@pytest.mark.parametrize("model", ["openai/gpt-4o", "azure/gpt-4o", "ft:gpt-4o:acme::1", "azure/eu/gpt-4o"])
def test_prefixes_change_nothing(model: str) -> None:
    """Portuguese costs the same under every prefix."""
    assert chat(HELLO, model=model) == chat(HELLO)


def test_tools_are_rendered_as_typescript() -> None:
    """Objects without comments stand on one line; titles, descriptions and defaults are comments; limits are absent."""
    schema = {
        "type": "object",
        "title": "Consulta",
        "properties": {
            "conta": {"type": "string", "title": "Conta", "description": "Da conta\n  de quem"},
            "dias": {"type": "integer", "default": 30, "minimum": 1},
            "tipo": {"enum": ["a", "b"]},
            "nota": {"type": ["string", "null"], "description": "Livre"},
            "donos": {"type": "array", "items": {"$ref": "#/$defs/Dono"}},
            "alvo": {"anyOf": [{"type": "string"}, {"type": "null"}]},
            "caixa": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
            "todos": {"type": "array"},
            "livre": {},
        },
        "required": ["conta"],
        "$defs": {"Dono": {"title": "Dono", "type": "object", "properties": {"cpf": {"title": "Cpf"}}}},
    }
    shown = render_tools(
        [
            {"name": "ver", "description": "Vê.\n\n    Sim.", "parameters": schema},
            {"name": "um", "parameters": {"properties": {"a": {"type": "string"}, "b": {"type": "boolean"}}}},
            {"name": "zero"},
        ]
    )
    assert shown.split("\n") == [
        "# Tools",
        "",
        "## functions",
        "",
        "namespace functions {",
        "",
        "// Vê.",
        "//",
        "// Sim.",
        "type ver = (_: // Consulta",
        "{",
        "// Conta",
        "//",
        "// Da conta",
        "// de quem",
        "conta: string,",
        "dias?: number, // default: 30",
        'tipo?: "a" | "b",',
        "// Livre",
        "nota?:",
        "// Livre",
        " | string",
        "// Livre",
        " | null",
        ",",
        "donos?: Array<",
        "// Dono",
        "{",
        "// Cpf",
        "cpf?: any,",
        "}",
        ">,",
        "alvo?: string | null,",
        "caixa?: { x: number },",
        "todos?: any[],",
        "livre?: any,",
        "}) => any;",
        "",
        "type um = (_: { a?: string, b?: boolean }) => any;",
        "",
        "type zero = () => any;",
        "",
        "} // namespace functions",
    ]


def test_endless_schemas_end() -> None:
    """Circular and exponentially growing references are cut off."""
    doubling = {f"D{n}": {"properties": {key: {"$ref": f"#/$defs/D{n + 1}"} for key in "ab"}} for n in range(40)}
    circle = {"Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}}
    for defs in (doubling, circle):
        properties = {"root": {"$ref": f"#/$defs/{next(iter(defs))}"}}
        shown = render_tools([{"name": "f", "parameters": {"properties": properties, "$defs": defs}}])
        assert len(shown) < 200_000
    assert shown.count("next") <= DEPTH_MAX + 1


def test_tools_join_the_system_message() -> None:
    """Tools stand behind the system message's text; without one, a message is added for them: frame and role."""
    system = {"role": "system", "content": "Seja breve."}
    section = render_tools([PING["function"]])
    joined = chat(system, HELLO, tools=[PING]).tokens - chat(HELLO).tokens
    alone = chat(HELLO, tools=[PING]).tokens - chat(HELLO).tokens
    assert joined == 4 + length("Seja breve.\n\n" + section) - 1
    assert alone == 4 + length(section) - 1


def test_tool_choice() -> None:
    """Naming a function costs seven tokens and its name; forbidding all costs one; asking for any costs nothing."""
    free = chat(HELLO, tools=[PING]).tokens
    forced = {"type": "function", "function": {"name": "ping"}}
    assert chat(HELLO, tools=[PING], tool_choice=forced).tokens == free + 7 + length("ping")
    assert chat(HELLO, tools=[PING], tool_choice="none").tokens == free + 1
    assert chat(HELLO, tools=[PING], tool_choice="required").tokens == free
    older: dict[str, Any] = {"functions": [PING["function"]], "function_call": {"name": "ping"}}
    assert chat(HELLO, **older).tokens == free + 7 + length("ping")


def test_gpt5_pays_for_channels_in_chat_completions() -> None:
    """A gpt-5 model gets 84 tokens of instructions with the first function."""
    tools = chat(HELLO, tools=[PING], model="gpt-5-nano").tokens - chat(HELLO, model="gpt-5-nano").tokens
    assert tools == 4 + length(render_tools([PING["function"]])) + 84


def test_a_json_schema() -> None:
    """A response format costs its heading, the schema as ASCII JSON without what binds the decoder, and its name."""
    schema = {
        "type": "object",
        "properties": {"título": {"type": "string", "maxLength": 9}, "required": {"type": "number", "default": 1}},
        "required": ["título"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "Resumo", "schema": schema, "strict": True}}
    shown = '{"type":"object","properties":{"t\\u00edtulo":{"type":"string"},"required":{"type":"number"}}}'
    expected = 4 + length("# Response Formats\n\n## Resumo\n\n" + shown) + length("Resumo") + 2
    assert chat(HELLO, response_format=response_format).tokens == chat(HELLO).tokens + expected
    assert chat(HELLO, response_format={"type": "json_object"}) == chat(HELLO)


def test_past_calls_and_results() -> None:
    """A past call costs eight and its compact arguments; a result four, `functions.` and the name; no id costs."""
    function = {"name": "ping", "arguments": '{"a": 1,  "b": "x y"}'}
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": function}]}
    result = {"role": "tool", "tool_call_id": "c1", "content": "pong", "name": "ignored"}
    expected = 8 + length("ping") + length('{"a":1,"b":"x y"}') + 4 + length("functions.ping") + length("pong")
    assert chat(HELLO, call, result).tokens - chat(HELLO).tokens == expected


def parallel(*results: str, model: str = "gpt-4o") -> int:
    """Tokens of calls made at once and their results, beside the question."""
    names = [f"f{number}" for number in range(len(results))]
    calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in names]
    answers = [
        {"role": "tool", "tool_call_id": name, "content": text} for name, text in zip(names, results, strict=True)
    ]
    asked = {"role": "assistant", "tool_calls": calls}
    return chat(HELLO, asked, *answers, model=model).tokens - chat(HELLO, model=model).tokens


@pytest.mark.parametrize(("model", "call"), [("gpt-4o", 8), ("gpt-5-nano", 14)])
@pytest.mark.parametrize("number", [2, 3, 5])
def test_parallel_calls_are_one_call(model: str, call: int, number: int) -> None:
    """Calls made at once are the arguments of one call, and their results one JSON list: each framed as one is."""
    uses = [{"recipient_name": f"functions.f{at}", "parameters": {}} for at in range(number)]
    wrapper = json.dumps({"tool_uses": uses}, separators=(",", ":"))
    shown = length(wrapper) + length(json.dumps(["ok"] * number)) + 2 * length("multi_tool_use.parallel")
    assert parallel(*["ok"] * number, model=model) == shown + call + 4


def test_accents_in_parallel_results_cost_their_escapes() -> None:
    """Three results in Korean, a thousand words each, were billed at 39,235 where English ones were at 3,191.

    So it was reported of gpt-4.1 and gpt-5.2: thirteen tokens a word and space, for the list is written in ASCII.
    """
    korean, english = (parallel(*[word * 1_000] * 3, model="gpt-4.1") for word in ("테스트 ", "test "))
    assert korean - english == pytest.approx(39_235 - 3_191, rel=0.002)
    assert parallel("ação", "x") > parallel("acao", "x")


def test_a_result_of_parallel_calls_may_hold_an_image() -> None:
    """What is no text in such a result counts as it does anywhere."""
    image = {"type": "image_url", "image_url": {"url": data_url(png(640, 480))}}
    calls = [{"id": name, "function": {"name": name, "arguments": "{}"}} for name in "ab"]

    def with_content(*parts: Message) -> int:
        result = {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "ok"}, *parts]}
        return chat(HELLO, {"role": "assistant", "tool_calls": calls}, result).tokens

    assert with_content(image) - with_content() == 425


def test_images_and_files_and_their_flags() -> None:
    """An image in the request is counted; what cannot be seen is estimated, and says so."""

    def with_part(part: Message, model: str = "gpt-4o") -> Recount:
        return chat({"role": "user", "content": [{"type": "text", "text": "Olá, tudo bem?"}, part]}, model=model)

    plain = chat(HELLO).tokens
    seen = with_part({"type": "image_url", "image_url": {"url": data_url(png(640, 480))}})
    low = with_part({"type": "image_url", "image_url": {"url": data_url(png(640, 480)), "detail": "low"}})
    assert (seen.tokens - plain, seen.flags) == (425, ())
    assert (low.tokens - plain, low.flags) == (85, ())
    remote = {"type": "image_url", "image_url": {"url": "https://example.test/a.png"}}
    assert with_part(remote).flags == ("remote_image",)
    assert with_part(remote).tokens > plain + 85
    assert with_part({"type": "input_audio", "input_audio": {"data": "A" * 9000, "format": "wav"}}).flags == ("audio",)
    pdf = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64," + "A" * 6400}}
    assert with_part(pdf).flags == ("pdf",)
    assert with_part(pdf).tokens > plain + 200
    assert with_part({"type": "file", "file": {"filename": "a.docx"}}).flags == ("file",)
    assert with_part({"type": "hologram"}).flags == ("estimated",)
    assert with_part(remote, model="o3").flags == ("estimated", "remote_image")


def test_responses() -> None:
    """Responses count as chat completions do, from instructions, items and flat tools."""
    system = {"role": "system", "content": "Seja breve."}
    asked = {"instructions": "Seja breve.", "input": "Olá, tudo bem?"}
    assert count_prompt("responses", "gpt-4o", asked) == chat(system, HELLO)
    items = {"instructions": "Seja breve.", "input": [HELLO]}
    assert count_prompt("responses", "gpt-4o", items) == chat(system, HELLO)
    flat = {"type": "function", **PING["function"]}
    tools = count_prompt("responses", "gpt-4o", {**asked, "tools": [flat]}).tokens
    assert tools == chat(system, HELLO, tools=[PING]).tokens - 2


def test_responses_of_models_that_think_keep_functions_apart() -> None:
    """gpt-5's functions get a message of their own beside the instructions, and the answer a shorter start."""
    asked = {"instructions": "Seja breve.", "input": "Olá, tudo bem?"}
    flat = {"type": "function", **PING["function"]}
    added = count_prompt("responses", "gpt-5", {**asked, "tools": [flat]}).tokens
    added -= count_prompt("responses", "gpt-5", asked).tokens
    assert added == 4 + length(render_tools([PING["function"]])) - 1


def test_responses_flags() -> None:
    """What the provider alone knows is flagged: an earlier conversation, its own tools, thought that came back."""

    def flags(**more: object) -> tuple[str, ...]:
        return count_prompt("responses", "gpt-5", {"input": [HELLO], **more}).flags

    assert flags(previous_response_id="resp_1") == ("hidden_history",)
    assert flags(tools=[{"type": "web_search"}]) == ("hosted_tool",)
    thought = {"type": "reasoning", "encrypted_content": "A" * 2000}
    assert flags(input=[HELLO, thought]) == ("hidden_history",)
    assert flags(input=[thought, HELLO]) == ()


@pytest.mark.parametrize(
    ("given", "tokens"),
    [
        ("saldo disponível", 3),
        (["saldo disponível", "extrato"], 5),
        ([1, 2, 3], 3),
        ([[1, 2], [3]], 3),
        ("", 0),
        (None, 0),
    ],
)
def test_completions_and_embeddings(given: object, tokens: int) -> None:
    """Texts and token ids are counted as they stand, without a frame."""
    assert count_prompt("embeddings", "text-embedding-3-small", {"input": given}) == Recount(tokens)
    assert count_prompt("completions", "davinci-002", {"prompt": given}) == Recount(tokens)


@pytest.mark.parametrize(
    ("family", "model"),
    [("messages", "claude-haiku-4-5"), ("messages", "an-alias"), ("chat", "openrouter/anthropic/claude-haiku-4.5")]
    + [("chat", model) for model in ("mistral-large-latest", "deepseek-chat", "xai/grok-4", "gemini-2.5-flash")]
    + [("chat", "an-alias"), ("chat", "gpt-oss:120b"), ("speech", "gpt-4o-mini-tts")],
)
def test_other_vocabularies_are_estimated_and_say_so(family: str, model: str) -> None:
    """No count in a vocabulary that is not public is given as exact."""
    request = {"system": "Seja breve.", "messages": [HELLO], "input": "Olá, tudo bem?"}
    recount = count_prompt(family, model, request)
    assert "estimated" in recount.flags
    assert recount.tokens >= length("Olá, tudo bem?")


def test_anthropic_parts() -> None:
    """Tools, their use and result, images and documents of Anthropic's shape each add to the estimate."""

    def count(*content: Message, **more: object) -> int:
        request = {"messages": [{"role": "user", "content": list(content)}], **more}
        return count_prompt("messages", "claude-haiku-4-5", request).tokens

    text = {"type": "text", "text": "Olá"}
    source = {"type": "base64", "media_type": "image/png", "data": data_url(png(710, 100)).partition(",")[2]}
    assert count(text, {"type": "image", "source": source}) == count(text) + 100
    spelled = length(json.dumps(PING, separators=(",", ":")), model="gpt-4")
    assert count(text, tools=[PING]) == count(text) + 500 + spelled * 130 // 100
    use = {"type": "tool_use", "id": "t", "name": "ping", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "pong"}]}
    assert count(text, use, result) > count(text) + 50
    document = {"type": "document", "source": {"type": "text", "data": "Um texto."}, "citations": {"enabled": True}}
    assert count(text, document) > count(text) + 500


@pytest.mark.parametrize("family", ["chat", "responses", "messages", "embeddings", "completions"])
@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"messages": None, "input": {}, "tools": "x", "prompt": 4},
        {"messages": [None, 1, "x", {}, {"content": [None, 3, {"type": None}, {"type": "image_url"}]}]},
        {
            "messages": [{"role": 1, "tool_calls": [None, {"function": {"name": 3, "arguments": 4}}]}],
            "tools": [None, {}],
        },
        {"input": [None, {"type": "function_call"}, {"type": "function_call_output"}, {"type": "reasoning"}]},
        {"messages": [{"role": "user", "content": "\ud83d"}], "input": "\ud83d", "tool_choice": {"function": 3}},
        {"messages": [], "tools": [{"function": {"name": "f", "parameters": {"properties": {"a": None, "b": 3}}}}]},
        {
            "messages": [],
            "response_format": {"type": "json_schema", "json_schema": {"schema": [1]}},
            "text": {"format": 1},
        },
    ],
)
def test_nothing_that_a_client_sends_raises(family: str, request_: dict[str, Any]) -> None:
    """A request of any shape gives a count; what is no text counts as none."""
    for model in ("gpt-4o", "gpt-5", "claude-haiku-4-5"):
        assert count_prompt(family, model, request_).tokens >= 0


def test_a_body_stands_for_no_more_than_a_few_times_itself() -> None:
    """What a schema or a history repeats without end is cut off: the work is bounded by the body."""
    long = "palavra " * 20_000
    by_reference = {"properties": {f"p{at}": {"$ref": "#/d"} for at in range(4_000)}, "d": {"description": long}}
    by_types = {"properties": {"p": {"type": ["string"] * 4_000, "description": long}}}
    for parameters in (by_reference, by_types):
        assert len(render_tools([{"name": "f", "parameters": parameters}])) < 2 * CHARACTERS_MAX
    answers = [{"role": "assistant", "content": "{}"}] * 1_000
    response_format = {"type": "json_schema", "json_schema": {"name": long, "schema": {}}}
    assert chat(*answers, response_format=response_format).tokens < 3 * len(long)
    call = {"role": "assistant", "tool_calls": [{"id": "a", "function": {"name": long, "arguments": "{}"}}]}
    results = [{"role": "tool", "tool_call_id": "a", "content": "x"}] * 1_000
    assert chat(call, *results).tokens < 3 * len(long)
