"""The client's side of an answer: its head as bytes, and what aiohttp is told of it.

The call writes head and body straight to the client's transport: framing, pausing and the end are its own (relay.py).
"""

import time
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Final

import msgspec
from aiohttp import HttpVersion10, HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter

from gateway.headers import to_client
from gateway.upstream_connection import Head

LAST_CHUNK: Final = b"0\r\n\r\n"
_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


class Reply(web.StreamResponse):
    """Tells aiohttp that the answer has been written, and whether its connection is kept."""

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
    lines = [
        b"HTTP/%d.%d %d %b" % (*version, head.status, _REASONS.get(head.status, b"")),
        *to_client(head),
        b"X-Sundial-Call-Id: " + call_id.encode(),
    ]
    if not head.get(b"date"):
        lines.append(b"date: " + _date())
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    elif sized:
        lines.append(b"content-length: " + length)
    if not kept and version >= HttpVersion11:
        lines.append(b"connection: close")
    elif kept and version == HttpVersion10:
        lines.append(b"connection: keep-alive")
    return Opening(b"\r\n".join(lines) + b"\r\n\r\n", chunked, Reply(head.status, keep_alive=kept))


def _date() -> bytes:
    return _date_at(int(time.time()))


@lru_cache(2)
def _date_at(second: int) -> bytes:
    return formatdate(second, usegmt=True).encode()
