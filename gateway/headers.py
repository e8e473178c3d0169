"""Headers on their way: what of the client's goes upstream, and what of the upstream's comes back."""

from collections.abc import Iterable
from typing import Final

from aiohttp import web

from gateway.admission import Call
from gateway.upstream import HOP_BY_HOP
from gateway.upstream_connection import Head

_NOT_UPSTREAM: Final = HOP_BY_HOP | {
    b"authorization",  # ours, not the client's
    b"api-key",
    b"x-api-key",
    b"host",
    b"content-length",  # the body may have grown
    b"accept-encoding",  # a compressed stream cannot be read for its usage
    b"expect",
    b"cookie",
    b"x-forwarded-for",
    b"x-http-method",  # what would make another request of this one
    b"x-http-method-override",
    b"x-method-override",
    b"x-original-url",
    b"x-rewrite-url",
}
_JSON: Final = b"application/json"
_OURS: Final = (b"x-sundial-", b"x-litellm-")
_NOT_DOWNSTREAM: Final = HOP_BY_HOP | {b"content-length", b"server", b"x-sundial-call-id"}


def to_upstream(request: web.BaseRequest, call: Call) -> list[tuple[bytes, bytes]]:
    """The client's headers less those of the connection, of the credentials and of the identity; plus ours.

    LiteLLM echoes `x-litellm-call-id`, and keeps `x-litellm-end-user-id` for its own logs. All others of its name would
    let a client steer it, e.g. make it repeat a call: they stay here too. The type of the body is what it was read as:
    called a form, a JSON body could mean another model.
    """
    content_type = _JSON if call.upload is None else call.upload.content_type
    headers = [(name, content_type if name.lower() == b"content-type" else value) for name, value in passed_on(request)]
    headers.append((b"accept-encoding", b"identity"))
    headers.append((b"x-litellm-call-id", call.event_text.encode()))
    headers.append((b"x-litellm-end-user-id", call.caller.account_text.encode()))
    return headers


def passed_on(request: web.BaseRequest) -> list[tuple[bytes, bytes]]:
    """The client's headers that may go upstream, as they came; of several types of the body, the first."""
    dropped = _NOT_UPSTREAM
    if "Connection" in request.headers:
        dropped = dropped | _listed(value for name, value in request.raw_headers if name.lower() == b"connection")
    typed = False
    headers = []
    for header in request.raw_headers:
        lower = header[0].lower()
        if lower in dropped or lower.startswith(_OURS):
            continue
        if lower == b"content-type":
            if typed:
                continue
            typed = True
        headers.append(header)
    return headers


def to_client(head: Head) -> list[bytes]:
    """The upstream's header lines less those of the connection and of the body's framing."""
    dropped = _NOT_DOWNSTREAM
    if head.get(b"connection"):
        dropped = dropped | _listed(value for name, value in head.headers if name == b"connection")
    return [b"%b: %b" % header for header in head.headers if header[0] not in dropped]


def _listed(values: Iterable[bytes]) -> set[bytes]:
    """Header names that Connection headers declare to be theirs."""
    return {name.strip().lower() for value in values for name in value.split(b",")}
