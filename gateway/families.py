"""Endpoint families: what each path is, how it is counted, and which family a request belongs to. Pure.

A path counts as it is spelt here and in no other way: percent-encoding, doubled slashes, dot segments, a slash at the
end, another case are other paths, and what is not declared is refused. What goes upstream is the declared path, never
the client's spelling of it, and never its query: an upstream may read a model there.
"""

import re
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from shared.listed import METHODS, SEGMENT, paths

Treatment = Literal["metered", "flat", "free", "forwarded"]
"""`metered`: held, counted, charged. `flat`: booked as one request, at the price of one, if there is any. `free`:
answered to any valid key, never booked. `forwarded`: listed by the operator; passed on to any valid key, logged and
counted in a metric, never booked."""

Sold = Literal["text", "input", "images", "speech", "sound", "request", ""]
"""What a call of a family comes to where no provider counts it: text in and out; text in alone; images; characters that
are spoken; seconds of sound; one request; nothing."""

BASE_PATH: Final = "/v1"
ANTHROPIC_PATH: Final = "/messages"
"""Below it refusals have Anthropic's shape."""


class Family(msgspec.Struct, frozen=True):
    """One kind of endpoint; several paths may share a name, which is the one that stands in the books."""

    name: str
    method: str
    path: str
    """Below the base URL, as clients and upstream write it."""
    treatment: Treatment
    streams: bool = False
    body: Literal["json", "multipart", "any", ""] = "json"
    """How the request's body is read; `any`: not at all."""
    sold: Sold = "text"
    limits: tuple[str, ...] = ()
    """Names of the request's field that limits an answer's tokens, the one that counts first."""
    usage_option: bool = False
    """The usage of a stream must be asked for, by `stream_options`."""


def _images(path: str, body: Literal["json", "multipart"]) -> Family:
    return Family("images", "POST", path, "metered", streams=True, body=body, sold="images")


def _transcription(path: str) -> Family:
    return Family("transcription", "POST", path, "metered", streams=True, body="multipart", sold="sound")


CHAT_LIMITS: Final = ("max_completion_tokens", "max_tokens")

CHAT: Final = Family(
    "chat", "POST", "/chat/completions", "metered", streams=True, limits=CHAT_LIMITS, usage_option=True
)

FAMILIES: Final = (
    CHAT,
    Family("responses", "POST", "/responses", "metered", streams=True, limits=("max_output_tokens",)),
    Family("completions", "POST", "/completions", "metered", streams=True, limits=("max_tokens",), usage_option=True),
    Family("messages", "POST", "/messages", "metered", streams=True, limits=("max_tokens",)),
    Family("embeddings", "POST", "/embeddings", "metered", sold="input"),
    _images("/images/generations", "json"),
    _images("/images/edits", "multipart"),
    _images("/images/variations", "multipart"),
    Family("speech", "POST", "/audio/speech", "metered", streams=True, sold="speech"),
    _transcription("/audio/transcriptions"),
    _transcription("/audio/translations"),
    Family("moderations", "POST", "/moderations", "flat", sold="request"),
    Family("count_tokens", "POST", "/messages/count_tokens", "free", body="any", sold=""),
    Family("models", "GET", "/models", "free", body="", sold=""),
    Family("models", "GET", "/models/{id}", "free", body="", sold=""),
)

_BY_PATH: Final = {BASE_PATH + family.path: family for family in FAMILIES if "{" not in family.path}
_MODEL: Final = next(family for family in FAMILIES if family.path == "/models/{id}")
_MODEL_PREFIX: Final = BASE_PATH + "/models/"
_TAIL: Final = re.compile(rf"(?:{SEGMENT}/)*{SEGMENT}")
"""What may stand for the `*` of a listed path: plain segments, none of them empty or made of dots."""


class UndeclaredError(Exception):
    """No family has this method and path. `allowed`: the methods that the path takes, empty for an unknown path."""

    def __init__(self, allowed: tuple[str, ...] = ()) -> None:
        super().__init__(", ".join(allowed) or "unknown path")
        self.allowed = allowed


def find(method: str, target: str, listed: Sequence[Family] = ()) -> Family:
    """The family of a request by its method and target, as they came. Raises UndeclaredError.

    Declared paths come first: what an operator lists (`forwarded`) cannot take one of them out of the meter, nor
    another method of theirs.
    """
    declared = _BY_PATH.get(target)
    if declared is not None and declared.method == method:
        return declared  # as it mostly is
    path = target.partition("?")[0]
    declared = _BY_PATH.get(path)
    if declared is None and path.startswith(_MODEL_PREFIX) and len(path) > len(_MODEL_PREFIX):
        declared = _MODEL
    if declared is not None:
        if declared.method != method:
            raise UndeclaredError((declared.method,))
        return declared
    methods: list[str] = []
    for family in listed:
        if _fits(family.path, path.removeprefix(BASE_PATH) if path.startswith(BASE_PATH + "/") else ""):
            accepted = METHODS if family.method == "*" else (family.method,)
            if method in accepted:
                return family
            methods += accepted
    raise UndeclaredError(tuple(methods))


def forwarded(listed: str) -> tuple[Family, ...]:
    """The families that an operator lists: `GET /files, POST /files, /vector_stores/*`, below the base URL.

    Without a method all are meant; a `*` at the end stands for whatever follows. Raises ValueError for what is no such
    list, for everything (`/*`), and for a path that is declared already.
    """
    families = []
    for method, path in paths(listed):
        for declared in FAMILIES:
            if _fits(path, declared.path) or (declared is _MODEL and path.startswith("/models/")):
                raise ValueError(f"{path!r} covers {declared.path}, which is a declared endpoint")
        families.append(Family("forwarded", method, path, "forwarded", streams=True, body="any", sold=""))
    return tuple(families)


def _fits(pattern: str, path: str) -> bool:
    if not pattern.endswith("/*"):
        return path == pattern
    return path.startswith(pattern[:-1]) and _TAIL.fullmatch(path, len(pattern) - 1) is not None
