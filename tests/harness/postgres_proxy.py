"""A proxy in front of PostgreSQL that knows where one request ends and the next begins, and cuts between them.

A client's *turn* is all that it says until it waits for an answer: messages up to Query, Sync or CopyDone. The test
decides what becomes of each:

    PASS           it goes through, and so does the answer
    CUT_BEFORE     the server never sees it: both connections are closed
    CUT_AFTER      the server does it, and both connections are closed before the client has its answer

`CUT_AFTER` waits until the server says that it is ready again: a COMMIT has been done then.
"""

import asyncio
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from tests.harness.loopback import LoopbackServer

_SSL_REQUEST: Final = 80877103
_GSS_REQUEST: Final = 80877104
_TURN_ENDS: Final = b"QSc"
_READY: Final = b"Z"
_COPY_IN: Final = b"G"


class Fate(Enum):
    PASS = auto()
    CUT_BEFORE = auto()
    CUT_AFTER = auto()


@dataclass
class Turn:
    """One turn of a client, as a test sees it."""

    sql: str
    """The statement, also where it was prepared earlier; `CopyDone` at the end of rows."""
    after_lock: int
    """Its place in a transaction that moves money: 0 before the accounts are locked, 1 for the locking, and on."""


@dataclass
class _Session:
    statements: dict[str, str] = field(default_factory=dict)
    sql: str = ""
    after_lock: int = 0

    def read(self, kind: bytes, payload: bytes) -> None:
        """Take note of one message of the client's."""
        if kind == b"P":
            name, sql, _ = payload.split(b"\0", 2)
            self.statements[name.decode()] = self.sql = sql.decode()
        elif kind == b"B":
            self.sql = self.statements.get(payload.split(b"\0", 2)[1].decode(), "")
        elif kind == b"Q":
            self.sql = payload.rstrip(b"\0").decode()
        elif kind == b"c":
            self.sql = "CopyDone"

    def turn(self) -> Turn:
        if self.after_lock or "FOR UPDATE OF b" in self.sql:
            self.after_lock += 1
        turn = Turn(self.sql, self.after_lock)
        if self.sql.startswith(("COMMIT", "ROLLBACK")):
            self.after_lock = 0
        return turn


class PostgresProxy(LoopbackServer):
    """Forwards to `target_port`; `decide` holds for the turns that come next."""

    def __init__(self, target_port: int) -> None:
        super().__init__()
        self.target_port = target_port
        self.decide: Callable[[Turn], Fate] = lambda _: Fate.PASS
        self.delay_s = 0.0
        """Every turn of a client waits so long before it goes on."""
        self.cuts = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        swallow = asyncio.Event()
        answers = asyncio.ensure_future(self._answers(far_reader, writer, swallow))
        try:
            await self._begin(reader, writer, far_writer)
            await self._turns(reader, far_writer, swallow, answers)
        finally:
            answers.cancel()
            far_writer.transport.abort()

    async def _begin(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, far: asyncio.StreamWriter
    ) -> None:
        """The first packet has no kind; encryption is declined."""
        while True:
            head = await reader.readexactly(8)
            size, code = struct.unpack("!II", head)
            if code in (_SSL_REQUEST, _GSS_REQUEST):
                writer.write(b"N")
                continue
            far.write(head + await reader.readexactly(size - 8))
            return

    async def _turns(
        self,
        reader: asyncio.StreamReader,
        far: asyncio.StreamWriter,
        swallow: asyncio.Event,
        answers: "asyncio.Future[None]",
    ) -> None:
        session = _Session()
        kept = b""
        while True:
            kind, size = struct.unpack("!cI", await reader.readexactly(5))
            payload = await reader.readexactly(size - 4)
            session.read(kind, payload)
            kept += struct.pack("!cI", kind, size) + payload
            if kind not in _TURN_ENDS:
                if kind in b"dpXH":  # rows, passwords, the end, a flush: nobody's turn ends, and it goes on at once
                    far.write(kept)
                    kept = b""
                    await far.drain()
                continue
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            fate = self.decide(session.turn())
            if fate is not Fate.PASS:
                self.cuts += 1
            if fate is Fate.CUT_BEFORE:
                return
            if fate is Fate.CUT_AFTER:
                swallow.set()
            far.write(kept)
            kept = b""
            await far.drain()
            if fate is Fate.CUT_AFTER:
                await answers
                return

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallow: asyncio.Event
    ) -> None:
        """Hand on what the server says; once `swallow` is set, only read on until it is ready for the next turn."""
        with suppress(OSError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readexactly(5)
                kind, size = struct.unpack("!cI", head)
                payload = await reader.readexactly(size - 4)
                if not swallow.is_set():
                    writer.write(head + payload)
                elif kind in _READY + _COPY_IN:
                    return
        writer.transport.abort()
