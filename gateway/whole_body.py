"""A sink that waits for the whole of a small answer."""

import asyncio

from gateway.upstream_connection import UpstreamError


class WholeBody:
    """Of `bytes_max` at most: `whole` raises ValueError for a larger one, UpstreamError for one that broke."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._parts: list[bytes] = []
        self._size = 0
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._bytes_max:
            self._parts.append(data)
        elif not self.whole.done():
            self.whole.set_exception(ValueError(f"above {self._bytes_max} bytes"))

    def cork(self) -> None:
        pass

    def uncork(self) -> None:
        pass

    def on_end(self) -> None:
        if not self.whole.done():
            self.whole.set_result(b"".join(self._parts))

    def on_broken(self, error: UpstreamError) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)
