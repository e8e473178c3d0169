"""Headers on their way: what of the client's goes upstream, and what of the upstream's comes back.

Which of a client's headers go upstream depends on their names, on what its Connection header lists, and on nothing
else. A client has the same names in each request, so its lines are a template that was made once, with a place for each
value.
"""

from collections.abc import Iterable
from typing import Final

from aiohttp import hdrs, web

from gateway.admission import Call
from gateway.upstream import HOP_BY_HOP

TEMPLATES_MAX: Final = 256
"""Sets of names that are remembered: some dozens of clients have a few each."""
TEMPLATE_BYTES_MAX: Final = 4096
"""Of a template that is remembered, and of the names and the Connection header that it is for."""

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
_ADDED: Final = b"accept-encoding: identity\r\nx-litellm-call-id: %b\r\n"
_END_USER: Final = b"x-litellm-end-user-id: %b\r\n"

_templates: dict[tuple[str | None, tuple[bytes, ...]], bytes] = {}
"""For JSON bodies, by the Connection header and the names of all headers, as they came."""


def to_upstream(request: web.BaseRequest, call: Call) -> bytes:
    """The client's header lines less those of the connection, of the credentials and of the identity; plus ours.

    LiteLLM echoes `x-litellm-call-id`, and keeps `x-litellm-end-user-id` for its own logs. All others of its name would
    let a client steer it, e.g. make it repeat a call: they stay here too. The type of the body is what it was read as:
    called a form, a JSON body could mean another model.
    """
    names, values = zip(*request.raw_headers, strict=True)
    if call.upload is None:
        listed = request.headers.get(hdrs.CONNECTION)
        template = _templates.get((listed, names)) or _learn(listed, names, values)
    else:
        template = _template(names, values, call.upload.content_type) + _ADDED + _END_USER
    return template % (*values, call.event_text.encode(), call.caller.account_text.encode())


def passed_on(request: web.BaseRequest, call_id: str) -> bytes:
    """The same of a request that is no call: of several types of its body the first, as it came."""
    names, values = zip(*request.raw_headers, strict=True)
    return (_template(names, values, None) + _ADDED) % (*values, call_id.encode())


def _learn(listed: str | None, names: tuple[bytes, ...], values: tuple[bytes, ...]) -> bytes:
    """The template for a JSON body; remembered, unless it is one of a kind."""
    template = _template(names, values, _JSON) + _ADDED + _END_USER
    single = sum(name.lower() == b"connection" for name in names) <= 1  # of several, `listed` is the first alone
    if single and len(template) + sum(map(len, names)) + len(listed or "") <= TEMPLATE_BYTES_MAX:
        if len(_templates) >= TEMPLATES_MAX:
            _templates.clear()
        _templates[listed, names] = template
    return template


def _template(names: tuple[bytes, ...], values: tuple[bytes, ...], content_type: bytes | None) -> bytes:
    """The lines of these headers that go upstream, as bytes to be formatted with the values of all of them.

    A header that stays here has the place `%.0b`, which takes its value and writes nothing. `content_type` replaces
    what the client called the body; None leaves it.
    """
    headers = list(zip(names, map(bytes.lower, names), values, strict=True))
    dropped = _NOT_UPSTREAM | _listed(value for _, lower, value in headers if lower == b"connection")
    typed = False
    lines = []
    for name, lower, _ in headers:
        place = b"%b"
        if lower in dropped or lower.startswith(_OURS) or (lower == b"content-type" and typed):
            lines.append(b"%.0b")
            continue
        if lower == b"content-type":
            typed = True
            if content_type is not None:
                place = _literal(content_type) + b"%.0b"
        lines.append(_literal(name) + b": " + place + b"\r\n")
    return b"".join(lines)


def _literal(data: bytes) -> bytes:
    return data.replace(b"%", b"%%")


def stays(name: bytes, listed: bytes) -> bool:
    """Whether a header of the upstream's, in lower case, reaches the client: all do but those of the connection, which
    `listed` says further ones of (its Connection headers), and of the body's framing."""
    return name not in _NOT_DOWNSTREAM and name not in _listed((listed,))


def _listed(values: Iterable[bytes]) -> set[bytes]:
    """Header names that Connection headers declare to be theirs."""
    return {name.strip().lower() for value in values for name in value.split(b",")}
