"""A chain whose upstream does, byte by byte, what the test says: what it was asked, what its clients got, what was
booked."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import UUID

import aiohttp
import asyncpg
import tiktoken

from tests.harness.books import assert_books
from tests.harness.chain import Chain
from tests.harness.fake_upstream import FakeUpstream
from tests.harness.scripted_server import Peer, ScriptedServer
from tests.harness.servers import Database
from tests.harness.stack import Stack
from tests.harness.waiting import until

CREDIT: Final = "1000000"
CHAIN_S_MAX: Final = 600.0
CHAT: Final = "/chat/completions"
ASK: Final[Any] = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Que horas são?"}]}
STREAM: Final[Any] = {**ASK, "stream": True}
LIMITS: Final = {
    "SUNDIAL_FIRST_BYTE_TIMEOUT_S": "2",
    "SUNDIAL_IDLE_TIMEOUT_S": "2",
    "SUNDIAL_ANSWER_TIMEOUT_S": "20",
}
"""Limits that a test can wait for."""


class Asked(NamedTuple):
    """One request that reached the upstream."""

    head: bytes
    body: bytes


class Got(NamedTuple):
    """What a client got. `clean`: the answer ended as HTTP says it must."""

    status: int
    headers: dict[str, str]
    body: bytes
    clean: bool

    @property
    def event_id(self) -> UUID:
        """Of the call, as we name it."""
        return UUID(self.headers["x-sundial-call-id"])

    @property
    def code(self) -> str:
        """Of a refusal of ours."""
        return str(json.loads(self.body)["error"]["code"])


Play = Callable[[Peer], Awaitable[None]]


class Scripted:
    """`play` answers each request, which was read already; then the next one may come on the same connection."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        """The calls that reached the upstream."""
        self.connections = 0
        """Connections of the upstream that a call came on."""
        self.play: Play = _surprised
        self.secret = ""
        self._chain: Chain | None = None
        self._seen = 0

    @property
    def chain(self) -> Chain:
        assert self._chain is not None
        return self._chain

    async def begin(self, chain: Chain) -> None:
        """From here on there is a chain, and ana has credit."""
        self._chain = chain
        self.secret = await chain.personal("ana", credit=CREDIT)

    async def serve(self, peer: Peer) -> None:
        """One connection of the upstream."""
        counted = False
        while True:
            head, body = await peer.request()
            if head.startswith(b"GET /v1/models "):
                await peer.say(with_length(json.dumps({"data": [{"id": "gpt-4o-mini"}]}).encode()))
            else:
                self.asked.append(Asked(head, body))
                self.connections += not counted
                counted = True
                await self.play(peer)

    def plays(self, play: Play) -> None:
        self.play = play

    def says(self, answer: bytes, size: int = 0) -> None:
        """From here on each request gets these bytes."""

        async def say(peer: Peer) -> None:
            await peer.say(answer, size)

        self.plays(say)

    async def call(
        self,
        body: Any = ASK,
        path: str = CHAT,
        secret: str = "",
        headers: dict[str, str] | None = None,
        *,
        decompress: bool = True,
    ) -> Got:
        """One call to its end, however that comes."""
        received = b""
        async with (
            self.chain.session(secret or self.secret, decompress=decompress) as session,
            session.post(f"/v1{path}", json=body, headers=headers) as answer,
        ):
            clean = True
            try:
                async for data in answer.content.iter_any():
                    received += data
            except (aiohttp.ClientPayloadError, aiohttp.ClientConnectionError):
                clean = False
            found = {name.lower(): value for name, value in answer.headers.items()}
            return Got(answer.status, found, received, clean)

    async def calls(self, plays: Sequence[Play], body: Any = ASK) -> list[Got]:
        """One call for each of these plays, all of them at once; what each got, in the order of the plays."""

        async def by_number(peer: Peer) -> None:
            await plays[json.loads(self.asked[-1].body)["seed"]](peer)

        self.plays(by_number)
        return await asyncio.gather(*(self.call({**body, "seed": number}) for number in range(len(plays))))

    async def events(self, number: int) -> list[dict[str, Any]]:
        """The usage events that were booked since the last time, once there are so many, in the order of the calls."""
        connection = await asyncpg.connect(self.chain.stack.database_url)
        try:

            async def enough() -> bool:
                found = await connection.fetchval("SELECT count(*) FROM sundial.usage_events")
                return int(found) >= self._seen + number

            await until(enough)
            rows = await connection.fetch("SELECT * FROM sundial.usage_events ORDER BY event_id OFFSET $1", self._seen)
        finally:
            await connection.close()
        self._seen += len(rows)
        assert len(rows) == number, rows
        return [dict(row) for row in rows]

    async def nothing_booked(self) -> None:
        """No usage event came since the last time, and nothing is held."""
        await self.chain.settled("ana")
        assert await self.events(0) == []

    async def metric(self, name: str) -> float:
        """The value of one metric of the gateway, with its labels as they stand there."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.chain.stack.gateway.url("/metrics")) as answer,
        ):
            lines = (await answer.text()).splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name), 0.0)

    async def works(self) -> None:
        """A call that the upstream answers well succeeds: nothing is left over of what was before."""
        self.says(with_length(answer_of("pronto", 3)))
        got = await self.call()
        assert (got.status, json.loads(got.body)["choices"][0]["message"]["content"]) == (200, "pronto")
        await self.events(1)


@asynccontextmanager
async def scripted_chain(
    home: Path, database: Database, redis_url: str, fake: FakeUpstream, **settings: str
) -> AsyncIterator[Scripted]:
    """A chain with short limits before a scripted upstream. Afterwards the books must close."""
    scripted = Scripted()
    async with ScriptedServer(scripted.serve, patience_s=CHAIN_S_MAX).listening() as server:
        limits = {**LIMITS, **settings}
        stack = Stack(
            home, database, redis_url=redis_url, upstream_url=server.url, upstream_key="sk-upstream", settings=limits
        )
        try:
            await stack.start()
            await scripted.begin(Chain(stack, fake))
            yield scripted
            await assert_books(database.url, redis_url, home=home)
        finally:
            await stack.stop()


# Answers ----------------------------------------------------------------------------------------------------------


def with_length(body: bytes, content_type: str = "application/json", more: str = "", status: int = 200) -> bytes:
    """An answer with Content-Length."""
    head = f"HTTP/1.1 {status} Scripted\r\ncontent-type: {content_type}\r\ncontent-length: {len(body)}\r\n{more}\r\n"
    return head.encode("latin-1") + body


SSE: Final = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
END: Final = b"0\r\n\r\n"


def chunked(body: bytes, size: int = 1 << 16) -> bytes:
    """The body in frames of so many bytes, without the last one."""
    return b"".join(b"%x\r\n%b\r\n" % (len(body[k : k + size]), body[k : k + size]) for k in range(0, len(body), size))


def event(choices: list[Any], usage: Any = None, **more: Any) -> bytes:
    """One event of a chat."""
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-mini-2024-07-18"}
    payload = json.dumps({**whole, "choices": choices, "usage": usage, **more}, ensure_ascii=False)
    return b"data: " + payload.encode() + b"\n\n"


def text_event(text: str) -> bytes:
    return event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])


STOP: Final = event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
DONE: Final = b"data: [DONE]\n\n"


def usage_of(tokens_in: Any, tokens_out: Any) -> dict[str, Any]:
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out}


def answer_of(text: str, tokens_out: int, tokens_in: int = 10) -> bytes:
    """A whole answer of a chat."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return json.dumps({"model": "gpt-4o-mini", "choices": [choice], "usage": usage_of(tokens_in, tokens_out)}).encode()


def tokens_of(text: str) -> int:
    """As the models of this test count them."""
    return len(tiktoken.get_encoding("o200k_base").encode(text))


def texts_in(body: bytes) -> list[str]:
    """The texts of the whole events of a chat that stand in `body`."""
    found = []
    for block in body.split(b"\n\n")[:-1]:
        with suppress(ValueError, LookupError):
            found.append(json.loads(block.removeprefix(b"data: "))["choices"][0]["delta"]["content"])
    return found


async def _surprised(_: Peer) -> None:
    raise AssertionError("the upstream was called before the test said what it plays")


async def forever() -> None:
    """Until the test, or the connection, is over."""
    await asyncio.Event().wait()
