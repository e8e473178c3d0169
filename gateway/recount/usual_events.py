"""The usual events of a chat, many at once: they are alike but for their texts, as most of a stream are. Pure.

    HEAD text TAIL blank line

HEAD, up to the text's first quote, is the same in each. TAIL says that nothing else was said and nothing has ended; its
other fields may differ. What has this form is a usual event and nothing else; what has not is read event by event. In
texts no `\\u` may stand: half of a character may be in one event and the other half in the next.
"""

import re
from typing import Final, NamedTuple

import msgspec

_HEAD: Final = re.compile(
    rb'[ \t]*\{[^\r\n]*?"choices":\[\{(?:"index":[0-9]{1,3},)?"delta":\{(?:"role":"[a-z]{1,16}",)?"content":"'
)
_TEXT: Final = rb'(?![\x80-\xbf])([^"\\\x00-\x1f]*+(?:\\["\\/bfnrt][^"\\\x00-\x1f]*+)*+)'
_TAIL: Final = (
    rb'"(?:,"role":"[a-z]{1,16}")?(?:,"refusal":null)?\}(?:,"(?:logprobs|finish_reason)":null){0,2}\}\]'
    rb'(?:,"(?!choices")[a-z_]{1,32}":(?:"[ !#-\[\]-~]*+"|null|[0-9]{1,18}))*+\}'
)
_rest = re.compile(_TEXT + _TAIL + rb"\n\n").fullmatch
_decode = msgspec.json.Decoder(str).decode


class Texts(NamedTuple):
    """What some events said."""

    text: str
    events: int
    spoken: int
    """Those of them whose text was not empty."""


def head_of(data: bytes) -> bytes:
    """How the usual events of a stream begin, given the data of one that could be read; empty where it is none."""
    found = _HEAD.match(data)
    if found is None or _rest(data[found.end() :] + b"\n\n") is None:
        return b""
    return b"data:" + found[0]


def texts_of(raw: bytes, head: bytes) -> Texts | None:
    """The texts of whole events, all of which begin with `head`; None where one of them is not usual."""
    if not raw.startswith(head):
        return None
    texts = []
    for rest in raw.split(head)[1:]:
        found = _rest(rest)
        if found is None:
            return None
        texts.append(found[1])
    try:
        text = _decode(b'"%b"' % b"".join(texts))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return Texts(text, len(texts), len(texts) - texts.count(b""))
