"""How the fake upstream reads and writes HTTP/1.1, on asyncio's streams."""

import asyncio
import json
from typing import Any


def leaving(reader: asyncio.StreamReader) -> "asyncio.Future[bytes]":
    """Done when the client has gone, by FIN or RST: EOF on the reading side is how an upstream learns it."""
    gone = asyncio.ensure_future(reader.read(1))
    gone.add_done_callback(lambda done: None if done.cancelled() else done.exception())  # nobody need wait for it
    return gone


async def first(gone: "asyncio.Future[bytes]", waiting: Any) -> bool:
    """Wait for either; True where the client went first."""
    other = asyncio.ensure_future(waiting)
    await asyncio.wait((gone, other), return_when=asyncio.FIRST_COMPLETED)
    if not other.done():
        other.cancel()
    return gone.done()


async def read_body(reader: asyncio.StreamReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


def chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%b\r\n" % (len(data), data))


async def answer_json(
    writer: asyncio.StreamWriter, status: int, value: Any, headers: dict[str, str] | None = None
) -> None:
    body = json.dumps(value, ensure_ascii=False).encode()
    await answer_raw(writer, status, body, {"content-type": "application/json", **(headers or {})})


async def answer_raw(writer: asyncio.StreamWriter, status: int, body: bytes, headers: dict[str, str]) -> None:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} Scripted\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()
