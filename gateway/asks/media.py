"""Requests for images, for sound and about it, and for moderation.

The fields of a form are texts: `gateway.asks.form` has made numbers and truth values of those that matter.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.asks.ask import Ask, count, flag, model, text
from gateway.refusals import Refusal

IMAGES_MAX: Final = 10
"""Images that one call may ask for (`n`)."""
MODERATION_MODEL: Final = "omni-moderation-latest"
"""What OpenAI takes where no model is named."""

Request = Mapping[str, Any]


def images(request: Request) -> Ask:
    """Of a stream only the first image would be seen to end it; OpenAI streams no more than one either."""
    stream, number = flag(request, "stream"), count(request, "n", IMAGES_MAX) or 1
    if stream and number > 1:
        raise Refusal("invalid_field", field="n", reason="a stream has one image")
    return Ask(
        model=model(request),
        stream=stream,
        usage_asked=True,
        output_limit=0,
        choices=number,
        service_tier="",
        user=request.get("user"),
        sold="images",
        size=_chosen(request, "size"),
        quality=_chosen(request, "quality"),
        images_in=request.get("files", 0),
    )


def speech(request: Request) -> Ask:
    spoken = request.get("input")
    if not isinstance(spoken, str):
        raise Refusal("invalid_field", field="input", reason="a text is needed")
    return Ask(
        model=model(request),
        stream=text(request, "stream_format") == "sse",
        usage_asked=True,
        output_limit=0,
        choices=1,
        service_tier="",
        user=None,
        sold="speech",
        characters=len(spoken),
        format=text(request, "response_format"),
    )


def transcription(request: Request) -> Ask:
    return Ask(
        model=model(request),
        stream=flag(request, "stream"),
        usage_asked=True,
        output_limit=0,
        choices=1,
        service_tier="",
        user=request.get("user"),
        sold="sound",
        format=text(request, "response_format"),
    )


def moderations(request: Request) -> Ask:
    return Ask(
        model=model(request, MODERATION_MODEL),
        stream=False,
        usage_asked=True,
        output_limit=0,
        choices=1,
        service_tier="",
        user=request.get("user"),
        sold="request",
    )


def _chosen(request: Request, field: str) -> str:
    chosen = text(request, field).lower()
    return "" if chosen == "auto" else chosen
