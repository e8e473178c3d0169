"""A request's body: read whole, or, where it is a form with files, passed through while it is watched."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

from aiohttp import hdrs, web

from gateway.asks.form import Form, boundary_of
from gateway.refusals import Refusal

FORM_BYTES_PER_S_MIN: Final = 16 * 1024
"""How fast a form must come at least, beyond the time that any body has."""


def body_at_once(request: web.BaseRequest, bytes_max: int) -> bytes | None:
    """The request's body, where it came with its head, as it mostly does. None: it must be waited for, or refused.

    Raises Refusal 415.
    """
    if hdrs.CONTENT_ENCODING in request.headers:
        refuse_encoded(request)
    content = request.content
    return content.read_nowait() if content.is_eof() and content.total_bytes <= bytes_max else None


async def read_body(request: web.BaseRequest, bytes_max: int, seconds_max: float) -> bytes:
    """The same, which must have come within `seconds_max`. Refusals: 408, 413, 415."""
    body = body_at_once(request, bytes_max)
    if body is not None:
        return body
    try:
        async with asyncio.timeout(seconds_max):
            return await request.read()
    except TimeoutError:
        raise Refusal("body_timeout", limit_s=f"{seconds_max:g}") from None
    except web.HTTPRequestEntityTooLarge:
        raise Refusal("body_too_large", limit_mb=bytes_max // (1024 * 1024)) from None


def refuse_encoded(request: web.BaseRequest) -> None:
    """Raises Refusal `unsupported_encoding` for a compressed body, which cannot be read on its way."""
    if request.headers.get(hdrs.CONTENT_ENCODING, "identity").lower() != "identity":
        raise Refusal("unsupported_encoding")


class Pieces:
    """A body that is passed through as it comes, within its limits of size and time."""

    def __init__(self, request: web.BaseRequest, bytes_max: int, seconds_max: float) -> None:
        """`seconds_max`: time that it has, and more by its size."""
        refuse_encoded(request)
        self._content = request.content
        self._bytes_max = bytes_max
        self._seconds_max = seconds_max
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self.received = 0
        self.length = request.content_length
        """Of the whole body; None where the client does not say."""
        if self.length is not None and self.length > bytes_max:
            self._refuse_size()

    async def read(self) -> bytes:
        """The next bytes; empty at the end. Refusals: 408, 413."""
        late_s = self._started_s + self._seconds_max + self.received / FORM_BYTES_PER_S_MIN
        try:
            async with asyncio.timeout_at(late_s):
                data = await self._content.readany()
        except TimeoutError:
            raise Refusal("body_timeout", limit_s=int(late_s - self._started_s)) from None
        self.received += len(data)
        if self.received > self._bytes_max:
            self._refuse_size()
        return data

    async def rest(self) -> AsyncIterator[bytes]:
        while data := await self.read():
            yield data

    def _refuse_size(self) -> None:
        raise Refusal("body_too_large", limit_mb=self._bytes_max // (1024 * 1024))


class Upload(Pieces):
    """A form: read as far as it must be known before it is priced, then handed on.

    What is wrong with it may show late. Then its last bytes are never handed on, so that the upstream has no whole
    request to work on.
    """

    def __init__(self, request: web.BaseRequest, bytes_max: int, seconds_max: float) -> None:
        super().__init__(request, bytes_max, seconds_max)
        boundary = boundary_of(",".join(request.headers.getall("Content-Type", [""])))
        self.content_type = b'multipart/form-data; boundary="%b"' % boundary
        self.form = Form(boundary)
        self.begun = b""
        """What has been read before it was handed on."""

    async def read(self) -> bytes:
        """As Pieces.read; refusals also 400."""
        data = await super().read()
        self.form.feed(data)
        if not data or self.received == self.length:
            self.form.finish()
        return data

    async def read_until_known(self, *, whole: bool) -> None:
        """Read up to the name of the model, wherever it stands; with `whole` all of it, for the number and size of
        images may stand behind the images that they are made from."""
        pieces = []
        while not self.form.complete and (whole or "model" not in self.form.fields):
            data = await self.read()
            if not data:
                break
            pieces.append(data)
        self.begun = b"".join(pieces)
