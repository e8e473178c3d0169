"""What a request asks for, read by endpoint family: the fields that permit, price and bound a call. Pure.

Everything else in a request passes unseen. A field that matters and has a wrong type is refused, naming it: what the
gateway reads otherwise than the upstream could be a way around the meter. So is what steers the proxy behind it.
"""

from collections.abc import Mapping
from typing import Any

from gateway.asks import media, text
from gateway.asks.ask import Ask
from gateway.asks.steering import refuse_steering
from gateway.families import Family

__all__ = ["Ask", "read"]

_READERS = {
    "chat": text.chat,
    "responses": text.responses,
    "completions": text.completions,
    "messages": text.messages,
    "embeddings": text.embeddings,
    "moderations": media.moderations,
    "images": media.images,
    "speech": media.speech,
    "transcription": media.transcription,
}


def read(family: Family, request: Mapping[str, Any]) -> Ask:
    """The fields that matter in a parsed body. Raises Refusal `invalid_field` naming the first one that is wrong."""
    refuse_steering(request)
    return _READERS[family.name](request)
