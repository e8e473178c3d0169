"""The client's side of an answer: its head as bytes, and what aiohttp is told of it.

The call writes head and body straight to the client's transport: framing, pausing and the end are its own (relay.py).
"""

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import HttpVersion, HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway.headers import stays
from gateway.upstream_connection import Head

LAST_CHUNK: Final = b"0\r\n\r\n"
FORMS_MAX: Final = 256
"""Forms of a head that are remembered: by the names of an upstream's headers, which are few sets, and the framing."""
_LEFT_OUT: Final = b"%.0b"
"""Takes a value of which nothing is written."""
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class Reply(web.StreamResponse):
    """Tells aiohttp that the answer has been written, and whether its connection is kept. Nobody changes it: all
    answers with that status are told by one."""

    def __init__(self, status: int, *, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._keep_alive = keep_alive

    @property
    def prepared(self) -> bool:
        return True

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class Opening(msgspec.Struct, frozen=True):
    """How an answer begins."""

    head: bytes
    chunked: bool
    """Whether the body is framed in chunks."""
    reply: Reply


def opening(
    request: web.BaseRequest, head: Head, call_id: str, *, keep_alive: bool, grows: bool = False, bodiless: bool = False
) -> Opening:
    """The head that the client gets of an answer: the upstream's, less what belongs to its connection.

    The upstream's length is told where it gives one, unless the body `grows` on the way; without one the body is
    framed in chunks, or, for a client of HTTP/1.0, ends with the connection. `keep_alive`: whether this process keeps
    connections.
    """
    version = request.version
    length = b"" if grows or bodiless else head.get(b"content-length")
    sized = length.isdigit()
    chunked = not sized and not bodiless and version >= HttpVersion11
    kept = keep_alive and request.keep_alive and (sized or chunked or bodiless)
    names, values = zip(*head.headers, strict=True) if head.headers else ((), ())
    listed = head.get(b"connection")
    if listed:
        listed = b",".join(value for name, value in head.headers if name == b"connection")
    date = head.get(b"date")
    form = _form(version, head.status, names, listed, (chunked, sized, kept, not date))
    begun = form % (*values, call_id.encode(), date or _date(), length)
    return Opening(begun, chunked, _reply(head.status, keep_alive=kept))


@lru_cache(FORMS_MAX)
def _form(
    version: HttpVersion,
    status: int,
    names: tuple[bytes, ...],
    listed: bytes,
    framing: tuple[bool, bool, bool, bool],
) -> bytes:
    """A head as a format for the values of the upstream's headers, the call's id, a date and a length, in this order.

    `listed`: the upstream's Connection headers. `framing`: whether the body is in chunks, or of a length that is told,
    whether the connection is kept, and whether the date is ours.
    """
    chunked, sized, kept, dated = framing
    lines = [b"HTTP/%d.%d %d %b\r\n" % (*version, status, _REASONS.get(status, b""))]
    lines += [name.replace(b"%", b"%%") + b": %b\r\n" if stays(name, listed) else _LEFT_OUT for name in names]
    lines.append(b"X-Sundial-Call-Id: %b\r\n")
    lines.append(b"date: %b\r\n" if dated else _LEFT_OUT)
    if chunked:
        lines.append(b"transfer-encoding: chunked\r\n")
    lines.append(b"content-length: %b\r\n" if sized else _LEFT_OUT)
    if not kept and version >= HttpVersion11:
        lines.append(b"connection: close\r\n")
    elif kept and version == HttpVersion10:
        lines.append(b"connection: keep-alive\r\n")
    return b"".join(lines) + b"\r\n"


@lru_cache(FORMS_MAX)
def _reply(status: int, *, keep_alive: bool) -> Reply:
    return Reply(status, keep_alive=keep_alive)


def _date() -> bytes:
    return _date_at(int(time.time()))


@lru_cache(2)
def _date_at(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
