"""An answer that is there at once is carried as one that comes in pieces: same bytes, same records, same order."""

import asyncio
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from gateway import carrying
from gateway.budget import Hold
from gateway.families import FAMILIES
from gateway.gate import Gate
from gateway.running import Running
from gateway.settlement import Counted
from gateway.upstream import Upstream
from gateway.whole_answer import Whole
from shared import ends, events
from shared.settings import GatewaySettings, load
from shared.usage import Outcome
from tests.harness.calls import BOUNDS, ask, call, draft
from tests.harness.scripted_server import Peer, ScriptedServer

pytestmark = pytest.mark.integration

USAGE: Final = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
CHOICE: Final = {"index": 0, "message": {"role": "assistant", "content": "Bom dia."}, "finish_reason": "stop"}
WHOLE: Final = json.dumps({"model": "gpt-mini", "choices": [CHOICE], "usage": USAGE}).encode()
NO_USAGE: Final = json.dumps({"model": "gpt-mini", "choices": [CHOICE]}).encode()
ERROR: Final = b'{"error":{"message":"slow down","code":"rate_limit"}}'
LARGE: Final = json.dumps({"model": "gpt-mini", "choices": [CHOICE], "usage": USAGE, "more": "x" * 50_000}).encode()


def answer(body: bytes, status: int = 200, more: bytes = b"", *, chunked: bool = False) -> bytes:
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\ndate: today\r\n%b" % (status, more)
    if chunked:
        return head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\nx-trailer: t\r\n\r\n" % (len(body), body)
    return head + b"content-length: %d\r\n\r\n%b" % (len(body), body)


ANSWERS: Final = {
    "usage": answer(WHOLE, more=b"x-litellm-model-name: openai/gpt-mini\r\nx-litellm-response-cost: 0.001\r\n"),
    "chunked": answer(WHOLE, chunked=True),
    "large": answer(LARGE),
    "counted by its text": answer(NO_USAGE),
    "compressed": answer(gzip.compress(WHOLE), more=b"content-encoding: gzip\r\n"),
    "no JSON": answer(b"<h1>oops</h1>"),
    "an error that says so": answer(ERROR, 429, b"retry-after: 7\r\n"),
    "an error within": answer(ERROR),
    "given up": answer(ERROR, 504),
}


class Journal(list[tuple[str, Any]]):
    """What was recorded, and how much the client's transport had been given by then."""

    transport: Any = None

    def write(self, kind: bytes, payload: bytes) -> None:
        event = msgspec.to_builtins(events.decode(payload))
        for changing in ("event_id", "account_id", "started_at_us", "settled_at_us", "first_byte_us"):
            event.pop(changing, None)
        self.append((kind.decode(), event))
        self.append(("bytes given by then", len(self.given)))

    def later(self, kind: bytes, payload: bytes) -> None:
        end = msgspec.structs.asdict(ends.decode(payload))
        self.append((kind.decode(), {name: value for name, value in end.items() if name != "event_id"}))

    def __init__(self) -> None:
        super().__init__()
        self.given = bytearray()


class Client:
    """A transport that tells the journal what it is given."""

    def __init__(self, transport: Any, journal: Journal) -> None:
        self._transport, self._journal = transport, journal

    def write(self, data: bytes) -> None:
        self._journal.given += data
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Front(web.Request):
    """A request whose answer is watched."""

    journal: Journal

    @property
    def transport(self) -> Any:
        return Client(super().transport, self.journal)


async def carried(said: list[bytes]) -> tuple[bytes, Journal, list[Any]]:
    """What the client's transport was given, what was recorded, and what was offered to be counted once more; of an
    answer that comes in these pieces."""
    journal, offered = Journal(), list[Any]()
    arrived, settled = asyncio.Event(), asyncio.Event()

    async def serve(peer: Peer) -> None:
        await peer.request()
        for at, piece in enumerate(said):
            if at:
                await arrived.wait()
            await peer.say(piece)

    async def handle(request: web.Request) -> web.StreamResponse:
        async with upstream.send("POST", "/chat/completions", b"", b"{}") as got:
            of = call(family=FAMILIES[0], ask=ask(stream=False), strip_usage=False, started_s=0.0)
            hold = Hold(of, BOUNDS, 100, "enforce", draft(of), events.encode(draft(of)))
            asyncio.get_running_loop().call_later(0.05, arrived.set)
            request.__class__ = Front
            assert isinstance(request, Front)
            request.journal = journal
            reply = await carrying.relay(gate, hold, request, got)
            settled.set()
            return reply

    def spawn(todo: Any) -> asyncio.Task[Any]:
        return asyncio.ensure_future(todo)

    server = ScriptedServer(serve)
    async with server.listening():
        upstream = Upstream(server.url, "", 10.0)
        settings = load(GatewaySettings, redis_url="redis://127.0.0.1", upstream_url=server.url)
        nothing = SimpleNamespace(settle=lambda *_: None, void=lambda *_: None, closed=lambda *_: None)
        gate: Any = SimpleNamespace(
            settings=settings,
            journal=journal,
            budget=nothing,
            saying=nothing,
            shadow=SimpleNamespace(offer=lambda _, tap, *rest: offered.append((tap.body, *rest))),
            spawn=spawn,
            counters=ThreadPoolExecutor(1),
            keep_alive=True,
            cutting=False,
            name="test",
            now_us=Gate.now_us,
        )
        app = web.Application()
        app.router.add_post("/", handle)
        async with TestServer(app) as front, aiohttp.ClientSession() as client, client.post(front.make_url("/")) as got:
            await asyncio.wait_for(got.content.read(), 30)
            await settled.wait()
        await upstream.close()
    given = bytes(journal.given)
    at = given.index(b"X-Sundial-Call-Id: ") + len(b"X-Sundial-Call-Id: ")
    return given[:at] + given[at + 36 :], journal, offered


@pytest.mark.parametrize("name", ANSWERS)
async def test_both_ways_are_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Head and body at once, or the body later and in two pieces: what is given to the client, what is recorded of it
    and how much of it had left by then are the same."""
    ways: list[str] = []

    def watched(way: str, made: Any) -> Any:
        def make(*args: Any, **more: Any) -> Any:
            ways.append(way)
            return made(*args, **more)

        return make

    for way in ("Whole", "Relay"):
        monkeypatch.setattr(carrying, way, watched(way, getattr(carrying, way)))
    whole = ANSWERS[name]
    body = whole.index(b"\r\n\r\n") + 4
    at_once = await carried([whole])
    in_pieces = await carried([whole[:body], whole[body : body + 9], whole[body + 9 :]])
    assert ways == ["Whole", "Relay"]
    assert at_once == in_pieces
    given, journal, _ = at_once
    kinds = [kind for kind, _ in journal]
    assert kinds in (["S", "bytes given by then", "E"], ["S", "bytes given by then"], ["V", "bytes given by then"])
    assert journal[1][1] == 0, "nothing leaves before the record"
    assert given.startswith(whole[: whole.index(b"X\r\n")])


@pytest.mark.parametrize("pieces", [1, 2])
async def test_an_end_that_leaves_before_its_record_is_told(pieces: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever way it is carried: the record of the end says `early` (I7)."""
    told = Running._told

    def too_late(running: Running, outcome: Outcome) -> Counted | None:
        relay, body = running.relay, running._tap.release()
        give = relay.give if isinstance(relay, Whole) else relay.write
        give(body)
        monkeypatch.setattr(running._tap, "release", lambda: b"")
        return told(running, outcome)

    monkeypatch.setattr(Running, "_told", too_late)
    whole = ANSWERS["usage"]
    body = whole.index(b"\r\n\r\n") + 4
    _, journal, _ = await carried([whole] if pieces == 1 else [whole[:body], whole[body:]])
    assert [kind for kind, _ in journal] == ["S", "bytes given by then", "E"]
    assert journal[-1][1]["early"]
