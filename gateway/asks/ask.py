"""What a call asks for, and how single fields of a request are read."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from gateway.families import Sold
from gateway.refusals import Refusal
from shared.pricing import PLAIN_IN, PLAIN_OUT

MODEL_LENGTH_MAX: Final = 256
"""Characters of a model's name."""
CHOICES_MAX: Final = 128
"""Answers that one call may ask for (`n`)."""
TOKENS_ASKED_MAX: Final = 2**31


class Ask(msgspec.Struct, frozen=True):
    """The fields of a request that the gateway acts on."""

    model: str
    stream: bool
    usage_asked: bool
    output_limit: int
    """Tokens of one answer that the client asked for at most; 0: it did not say."""
    choices: int
    service_tier: str
    """As shared.pricing takes it: a tier's name, and after an `@` the uplifts that were asked for."""
    user: object
    sold: Sold = "text"
    least_output: int = 0
    """Output tokens below which the upstream would refuse the request: a budget of thought."""
    thinks: bool = True
    """The model may think in hidden tokens, if it can at all."""
    searches: int = 0
    """Searches of the web that the call may make, as far as is known."""
    kinds_in: tuple[str, ...] = PLAIN_IN
    kinds_out: tuple[str, ...] = PLAIN_OUT
    """Kinds of tokens that the call may use."""
    size: str = ""
    quality: str = ""
    """Of the images that are asked for; empty: the upstream chooses."""
    images_in: int = 0
    """Images that are sent along."""
    characters: int = 0
    """Of the text that is to be spoken."""
    format: str = ""
    """Of the sound or the text of the answer (`response_format`)."""


def model(request: Mapping[str, Any], otherwise: str = "") -> str:
    name = request.get("model")
    if name is None and otherwise:
        return otherwise
    if not isinstance(name, str) or not name.strip() or len(name) > MODEL_LENGTH_MAX or not name.isprintable():
        raise Refusal("invalid_field", field="model", reason="a model's name is needed")
    if "," in name:  # LiteLLM (1.106) would ask each of them, and answer with a list that has no usage of its own
        raise Refusal("invalid_field", field="model", reason="one model's name is needed")
    return name


def flag(request: Mapping[str, Any], field: str) -> bool:
    value = request.get(field)
    if value is not None and not isinstance(value, bool):
        raise Refusal("invalid_field", field=field, reason="true or false is needed")
    return bool(value)


def count(request: Mapping[str, Any], field: str, most: int) -> int:
    """A whole number from 1 to `most`; 0 where there is none."""
    value = request.get(field)
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise Refusal("invalid_field", field=field, reason=f"a whole number from 1 to {most} is needed")
    return value


def text(request: Mapping[str, Any], field: str) -> str:
    """A text; empty where there is none, or where it is none."""
    value = request.get(field)
    return value if isinstance(value, str) else ""


def usage_asked(request: Mapping[str, Any]) -> bool:
    """Whether `stream_options` asks for usage."""
    options = request.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise Refusal("invalid_field", field="stream_options", reason="an object is needed")
    return bool(options and options.get("include_usage") is True)
