"""The usual request for a chat, decoded by type: what LibreChat and most clients send, read in one step. Pure.

It has no fields but those named here, of the types named here, and its messages are texts. All other bodies are None
here, and are read as any request is (`gateway.asks.text`), which refuses what is wrong with them; wherever this way
answers, both say the same (tests/property/test_usual_chat.py). Nothing is passed over unread: what has no meaning for
the gateway is decoded all the same, so that both find the same bodies malformed.
"""

from functools import lru_cache
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from gateway.asks.ask import CHOICES_MAX, MODEL_LENGTH_MAX, TOKENS_ASKED_MAX, Ask
from gateway.asks.searches import SEARCH_MODEL
from gateway.asks.text import CLAUDE

MODELS_KNOWN_MAX: Final = 256
"""Names of models of which is remembered whether they are usual."""

Limit = Annotated[int, Meta(ge=1, le=TOKENS_ASKED_MAX)]


class _Model:
    """Stands for the name of a model, which `_meet` is given."""


class _CacheControl(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: str
    ttl: str | None = None


class _Text(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A part of a message. One of another type is unusual: images and files have costs of their own."""

    type: Literal["text"]
    text: str
    cache_control: _CacheControl | None = None


class _Called(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    function: _Called
    id: str | None = None
    type: str | None = None
    index: int | None = None


class _Message(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str
    content: str | list[_Text] | None = None
    name: str | None = None
    tool_calls: list[_ToolCall] | None = None
    tool_call_id: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None


class _Function(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A tool that the client runs itself. All others are billed apart, or are searches."""

    type: Literal["function"]
    function: Any


class _StreamOptions(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    include_usage: bool = False


class UsualChat(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The fields of such a request: first those that the gateway acts on, then those that it only lets pass."""

    model: _Model
    messages: list[_Message]
    stream: bool | None = None
    stream_options: _StreamOptions | UnsetType = UNSET
    user: str | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    n: Annotated[int, Meta(ge=1, le=CHOICES_MAX)] | None = None
    service_tier: str | None = None
    reasoning_effort: str | None = None
    tools: list[_Function] | None = None
    response_format: Any = None

    temperature: float | None = None
    top_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tool_choice: str | None = None
    parallel_tool_calls: bool | None = None
    verbosity: str | None = None
    store: bool | None = None
    prompt_cache_key: str | None = None


_MODEL: Final = _Model()
_models: Final[list[object]] = []


def _meet(_: type, name: object) -> _Model:
    """Called for each `model` of a body: it may stand there twice, of which the decoder keeps the last."""
    _models.append(name)
    return _MODEL


_decode: Final = msgspec.json.Decoder(UsualChat, dec_hook=_meet).decode


def usual_chat(body: bytes) -> tuple[Ask, UsualChat] | None:
    """What a usual request for a chat asks for, and its fields. None: it is unusual, or wrong.

    A stream in it that does not ask for its usage has no `stream_options` either. Not for two threads at a time.
    """
    _models.clear()
    try:
        chat = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # a ValidationError is a DecodeError
        return None
    model, options, asked = _models[-1], chat.stream_options, False
    if len(_models) > 1 or not isinstance(model, str) or len(model) > MODEL_LENGTH_MAX or not _is_usual(model):
        return None
    if (chat.tools or chat.response_format) and (body.count(b'"model"') > 1 or b"\\u006" in body):
        return None  # what is nested there may have a field of that name, even twice: see gateway.admission.parse
    if options is not UNSET:
        asked = options.include_usage
        if not asked:
            return None
    ask = Ask(
        model=model,
        stream=chat.stream or False,
        usage_asked=asked,
        output_limit=chat.max_completion_tokens or chat.max_tokens or 0,
        choices=chat.n or 1,
        service_tier=chat.service_tier or "",
        user=chat.user,
        thinks=CLAUDE not in model or chat.reasoning_effort not in (None, "none"),
    )
    return ask, chat


@lru_cache(MODELS_KNOWN_MAX)
def _is_usual(model: str) -> bool:
    """One model's name that needs no look at what else it says (`gateway.asks.ask.model`)."""
    return bool(model.strip()) and model.isprintable() and "," not in model and SEARCH_MODEL not in model
