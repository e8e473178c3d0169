"""Prompts of models whose vocabulary is not public: an estimate, and flagged as one.

Texts are counted in the nearest vocabulary and scaled; frames, tools and images cost what they were seen to cost on
recorded calls of that family. Typically within 5 % of the provider's count, at times 15 % off; never booked as exact.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from gateway.recount.content import (
    FILE_CHARACTERS_PER_TOKEN,
    PDF_CHARACTERS_PER_TOKEN,
    characters_of,
    is_pdf,
    sequence,
)
from gateway.recount.images import REMOTE_PX, size_of_base64, size_of_data_url
from gateway.recount.sealed import GROK, Seal
from gateway.recount.tally import Tally
from gateway.recount.vocabulary import bare_name, load

Request = Mapping[str, Any]

DEPTH_MAX: Final = 8
"""Contents within contents that are looked at (a tool's result may hold parts of its own)."""


class Foreign(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured of one family. Numbers in tokens; percents scale the count of the vocabulary."""

    vocabulary: str = "o200k_base"
    text_percent: int = 104
    base: int = 6
    message: int = 3
    """Each message."""
    tools: int = 60
    """Offering tools at all; their definitions as JSON cost `tools_percent`."""
    tools_percent: int = 125
    tools_when_barred: bool = True
    """Whether tools that must not be called are shown all the same."""
    forced: int = 0
    """Requiring a tool call."""
    call: int = 15
    """Each past call and each result, beside their texts."""
    schema: int = 10
    """A JSON schema for the answer, beside its JSON."""
    image_pixels_per_token: int = 700
    image_max: int = 1600
    image_min: int = 16
    pdf: int = 0
    """A PDF, beside its size."""
    citations: int = 0
    """Asking for citations of a document."""
    thinking: int = 0
    """Asking for visible thought."""
    seal: Seal | None = None
    """How thought that is sent back is sealed; None where it is not."""
    ending_text: int = 1
    """An answer that came to its end, beside its text."""
    ending_call: int = 10
    """Each call in an answer that came to its end, beside name and arguments."""


CLAUDE: Final = Foreign(
    vocabulary="cl100k_base", text_percent=108, base=5, message=2, tools=500, tools_percent=130, forced=75, call=29,
    schema=113, image_pixels_per_token=710, pdf=1500, citations=597, thinking=29, ending_text=3, ending_call=44,
)  # fmt: skip


def _claude(tools: int, forced: int, text_percent: int = 108, ending_call: int = 44) -> Foreign:
    return msgspec.structs.replace(
        CLAUDE, tools=tools, forced=forced, text_percent=text_percent, ending_call=ending_call
    )


def _grok(base: int, tools: int, tools_percent: int = 125, text_percent: int = 100, call: int = 15) -> Foreign:
    return Foreign(
        base=base, tools=tools, tools_percent=tools_percent, text_percent=text_percent, call=call,
        image_pixels_per_token=1, image_max=256, seal=GROK,
    )  # fmt: skip


_KNOWN: Final = (
    ("claude-3-haiku", _claude(272, 98, 115, 25)),
    ("claude-3-5-haiku", _claude(272, 98, 115)),
    ("claude-haiku-3", _claude(272, 98, 115)),
    ("claude-3-5-sonnet", _claude(299, -33, 115, 70)),
    ("claude-3-7", _claude(316, 16)),
    ("claude-3", _claude(530, -249, 115, 70)),
    ("claude-sonnet-4-2", _claude(316, 16)),
    ("claude-sonnet-4-0", _claude(316, 16)),
    ("claude-sonnet-4@", _claude(316, 16)),
    ("claude-opus-4-0", _claude(316, 16)),
    ("claude-opus-4-1", _claude(316, 16)),
    ("claude-opus-4-2", _claude(316, 16)),
    ("claude-2", _claude(0, 0, 120)),
    ("claude", CLAUDE),
    ("grok-4.", Foreign(text_percent=100, base=189, message=2, tools=40, tools_percent=105,
                        image_pixels_per_token=780, seal=GROK)),
    ("grok-4", _grok(0, 140, 100, 97, call=0)),
    ("grok-2", _grok(4, 50, 150, 104)),
    ("grok", _grok(4, 100)),
    ("deepseek-chat-v3", Foreign(text_percent=102, base=1, message=2, tools=95, tools_percent=135, forced=18,
                                ending_text=0, ending_call=13)),
    ("deepseek", Foreign(text_percent=102, base=1, message=3, tools=208, tools_percent=135, tools_when_barred=False,
                        ending_call=36)),
    ("gemini", Foreign(text_percent=100, base=0, message=1, tools=0, tools_percent=20, image_pixels_per_token=1,
                      image_max=258, call=8)),
    ("mistral-tiny", Foreign(text_percent=116, base=3, message=1)),
    ("mixtral", Foreign(text_percent=120, base=5)),
    ("mistral-small", Foreign(text_percent=104, base=14, message=1, tools=-4, tools_percent=150, call=0,
                             tools_when_barred=False, ending_text=2, ending_call=4)),
    ("mistral", Foreign(text_percent=103, base=2, message=2, tools=6, tools_percent=144, call=4, ending_text=1,
                       ending_call=13)),
    ("llama", Foreign(text_percent=100, base=10, message=5)),
)  # fmt: skip
"""Start of a model's bare name → family; the first that fits."""


def foreign_of(model: str) -> Foreign | None:
    """What was measured of a model's family; None where it is OpenAI's or unknown."""
    name = bare_name(model)
    name = name[max(0, name.find("claude")) :]
    return next((found for start, found in _KNOWN if name.startswith(start)), None)


def estimate_foreign(tally: Tally, request: Request, foreign: Foreign) -> None:
    """Adds the estimate of a chat, Responses or Anthropic request's prompt to `tally`, and flags it."""
    texts = Tally(load(foreign.vocabulary))
    beside = Tally(load(foreign.vocabulary))
    beside.add(foreign.base)
    for key in ("system", "instructions"):
        _content(texts, beside, request.get(key), foreign)
    _content(texts, beside, request.get("input") if isinstance(request.get("input"), str) else None, foreign)
    for message in (*sequence(request.get("messages")), *sequence(request.get("input"))):
        if isinstance(message, Mapping):
            beside.add(foreign.message)
            _message(texts, beside, message, foreign)
    _tools(beside, request, foreign)
    _schema(beside, request, foreign)
    thinking = request.get("thinking")
    if isinstance(thinking, Mapping) and thinking.get("type") == "enabled":
        beside.add(foreign.thinking)
    tally.add(texts.tokens * foreign.text_percent // 100 + beside.tokens)
    tally.flags |= texts.flags | beside.flags | {"estimated"}


def _message(texts: Tally, beside: Tally, message: Request, foreign: Foreign) -> None:
    """Cases: a message; calls in one (chat); a call, a result or a thought of its own (Responses)."""
    kind = message.get("type", "message")
    if kind == "reasoning":
        beside.flag("hidden_history")
        sealed = message.get("encrypted_content")
        beside.add(foreign.seal.tokens(len(sealed)) if foreign.seal and isinstance(sealed, str) else 0)
    if kind in ("function_call", "function_call_output") or message.get("role") in ("tool", "function"):
        beside.add(foreign.call)
    _content(texts, beside, message.get("content"), foreign)
    _content(texts, beside, message.get("output"), foreign)
    texts.text(message.get("name") if kind == "function_call" else None, message.get("arguments"))
    for call in sequence(message.get("tool_calls")):
        function = call.get("function") if isinstance(call, Mapping) else None
        if isinstance(function, Mapping):
            beside.add(foreign.call)
            texts.text(function.get("name"), function.get("arguments"))


def _content(texts: Tally, beside: Tally, content: object, foreign: Foreign, depth: int = 0) -> None:
    if isinstance(content, str):
        texts.text(content)
    if depth > DEPTH_MAX:
        return
    for part in _parts(content):
        if isinstance(part, str):
            texts.text(part)
        elif isinstance(part, Mapping):
            _part(texts, beside, part, foreign, depth)


def _part(texts: Tally, beside: Tally, part: Request, foreign: Foreign, depth: int) -> None:
    """Cases: text; thought; a tool's use and its result; images of all three APIs; files; the rest."""
    kind = part.get("type")
    source = part.get("source")
    if isinstance(part.get("text"), str):
        texts.text(part["text"])
    elif kind == "thinking":
        texts.text(part.get("thinking"))
    elif kind in ("tool_use", "server_tool_use"):
        beside.add(foreign.call)
        texts.text(part.get("name"), json.dumps(part.get("input"), ensure_ascii=False))
    elif isinstance(kind, str) and kind.endswith("tool_result"):
        beside.add(foreign.call)
        _content(texts, beside, part.get("content"), foreign, depth + 1)
    elif kind in ("image", "image_url", "input_image"):
        beside.add(_image(beside, part, foreign))
    elif isinstance(source, Mapping) and source.get("type") == "text":
        texts.text(source.get("data"), part.get("title"))
        citations = part.get("citations")
        beside.add(foreign.citations if isinstance(citations, Mapping) and citations.get("enabled") else 0)
    elif kind in ("document", "file", "input_file"):
        pdf = is_pdf(part)
        beside.flag("pdf" if pdf else "file")
        each = PDF_CHARACTERS_PER_TOKEN if pdf else FILE_CHARACTERS_PER_TOKEN
        beside.add((foreign.pdf if pdf else 0) + characters_of(part) // each)
    elif kind == "input_audio":
        beside.flag("audio")


def _image(beside: Tally, part: Request, foreign: Foreign) -> int:
    source = part.get("source") or part.get("image_url")
    size = None
    if isinstance(source, Mapping) and isinstance(source.get("data"), str):
        size = size_of_base64(source["data"])
    else:
        url = source.get("url") if isinstance(source, Mapping) else source
        size = size_of_data_url(url) if isinstance(url, str) else None
    if size is None:
        beside.flag("remote_image")
    width, height = size or REMOTE_PX
    return min(foreign.image_max, max(foreign.image_min, width * height // foreign.image_pixels_per_token))


def _tools(beside: Tally, request: Request, foreign: Foreign) -> None:
    tools = [*sequence(request.get("tools")), *sequence(request.get("functions"))]
    choice = request.get("tool_choice")
    kind = choice.get("type") if isinstance(choice, Mapping) else choice
    if tools and (kind != "none" or foreign.tools_when_barred):
        spelled = sum(beside.length(json.dumps(tool, separators=(",", ":"), ensure_ascii=False)) for tool in tools)
        beside.add(foreign.tools + spelled * foreign.tools_percent // 100)
        beside.add(foreign.forced if kind in ("any", "tool", "required", "function") else 0)


def _schema(beside: Tally, request: Request, foreign: Foreign) -> None:
    """A schema for the answer. Cases: chat, Responses, Anthropic before and after it left its trial."""
    wrapped = [request.get("text"), request.get("output_config")]
    places = [request.get("response_format"), request.get("output_format")]
    places += [place.get("format") for place in wrapped if isinstance(place, Mapping)]
    for schema in places:
        if isinstance(schema, Mapping) and schema.get("type") == "json_schema":
            beside.add(foreign.schema + beside.length(json.dumps(schema, separators=(",", ":"))))


def _parts(content: object) -> Iterable[object]:
    return content if isinstance(content, list) else ()
