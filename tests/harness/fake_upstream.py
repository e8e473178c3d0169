"""A fake upstream on a real port: plays OpenAI's API by script, keeps the truth of what it served, and notes every
request that it did not expect, so that the test fails.

What a call gets is decided by `script(request) -> Play`; the default answers with a text of DEFAULT_TOKENS tokens.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

from tests.harness.fake_families import REPLIES, Asked, Reply, form_of
from tests.harness.fake_text import FakeText
from tests.harness.fake_wire import answer_json, answer_raw, chunk, first, leaving, read_body

DEFAULT_TOKENS: Final = 12
ARRIVAL_S_MAX: Final = 15.0
Ending = Literal["done", "reset", "silent", "no_done", "error_event", "incomplete", "failed"]


@dataclass(kw_only=True)
class Play:
    """How one call is answered."""

    tokens: int = DEFAULT_TOKENS
    status: int = 200
    ending: Ending = "done"
    """After the text: `reset` breaks the connection, `silent` keeps it open, `no_done` ends it without saying so; an
    answer of the Responses API may be `incomplete` or have `failed`."""
    usage: bool = True
    """Whether usage is reported at all (in a stream, where it was asked for)."""
    raw_usage: dict[str, Any] | None = None
    pause: Callable[[int], "asyncio.Future[Any] | None"] | None = None
    """Given the number of tokens sent so far, something to wait for before the next one."""
    before_head: "asyncio.Event | None" = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    """For error answers."""
    tokens_per_event: int = 1


@dataclass
class Served:
    """The truth about one request that reached the upstream."""

    event_id: UUID
    model: str
    stream: bool
    prompt_tokens: int
    request: dict[str, Any]
    """The body's fields; a file is its bytes."""
    headers: dict[str, str]
    target: str = ""
    body: bytes = b""
    sent: bytes = b""
    """The body of the answer, as far as it was sent (not of chats)."""
    sent_tokens: int = 0
    text: str = ""
    reported: dict[str, Any] | None = None
    ended: Literal["", "complete", "gone", "reset", "refused"] = ""
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the exchange is over, for whatever reason."""
    began_s: float = field(default_factory=time.monotonic)
    ended_s: float = 0.0

    def close(self) -> None:
        self.ended_s = time.monotonic()
        self.closed.set()


class FakeUpstream:
    """Listens on 127.0.0.1; `url` is the base URL to hand to a gateway."""

    def __init__(self) -> None:
        self._text = FakeText()
        self.script: Callable[[dict[str, Any]], Play] = lambda _: Play()
        self.served: list[Served] = []
        self.surprises: list[str] = []
        self.key = "sk-upstream"
        self._server: asyncio.Server | None = None
        self._arrivals = asyncio.Condition()

    def speak(self, piece: str) -> None:
        """From here on each token of an answer is this text: its number of tokens is then the upstream's word alone."""
        self._text = FakeText(piece)

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["FakeUpstream"]:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 26)
        try:
            yield self
        finally:
            self._server.close()

    async def arrived(self, number: int) -> None:
        """Wait until so many requests have come in all. TimeoutError where they do not come."""
        async with asyncio.timeout(ARRIVAL_S_MAX), self._arrivals:
            await self._arrivals.wait_for(lambda: len(self.served) >= number)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while await self._exchange(reader, writer):
                pass
        writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        request_line, *lines = head.strip().split("\r\n")
        method, path, _ = request_line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = await read_body(reader, headers)
        if headers.get("authorization") != f"Bearer {self.key}":
            self.surprises.append(f"{path}: authorization {headers.get('authorization')!r}")
        if leaked := [name for name in headers if name.startswith("x-sundial-")]:
            self.surprises.append(f"{path}: headers {leaked} were passed on")
        if (method, path) == ("GET", "/v1/models"):
            names = ("gpt-4o-mini", "gpt-4o", "gpt-5-mini", "no-such-price")
            await answer_json(writer, 200, {"object": "list", "data": [{"id": n, "object": "model"} for n in names]})
            return True
        if (method, path.partition("?")[0]) in REPLIES:
            return await self._other(reader, writer, method, path, headers, body)
        if (method, path) != ("POST", "/v1/chat/completions"):
            self.surprises.append(f"unexpected {method} {path}")
            await answer_json(writer, 404, {"error": {"message": "no such path"}})
            return True
        return await self._chat(reader, writer, headers, json.loads(body))

    async def _other(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
    ) -> bool:
        """An endpoint of fake_families."""
        content_type = headers.get("content-type", "")
        is_form = content_type.startswith("multipart/")
        request = form_of(body, content_type) if is_form else json.loads(body or b"{}")
        play = self.script(request)
        served = Served(
            event_id=UUID(headers["x-litellm-call-id"]),
            model=str(request.get("model")),
            stream=request.get("stream") in (True, "true") or request.get("stream_format") == "sse",
            prompt_tokens=self._text.count(target, request),
            request=request,
            headers=headers,
            target=target,
            body=body,
        )
        async with self._arrivals:
            self.served.append(served)
            self._arrivals.notify_all()
        pieces = [self._text.piece(k) for k in range(play.tokens)]
        reply = REPLIES[method, target.partition("?")[0]](
            Asked(
                request=request,
                event_id=str(served.event_id),
                prompt_tokens=served.prompt_tokens,
                pieces=pieces,
                ending=play.ending,
                usage=play.usage,
                raw_usage=play.raw_usage,
            )
        )
        gone = leaving(reader)
        try:
            if play.before_head is not None and await first(gone, play.before_head.wait()):
                served.ended = "gone"
                return False
            if play.status != 200:
                served.ended = "refused"
                await answer_raw(writer, play.status, play.body, play.headers)
                return True
            served.text, served.sent_tokens, served.reported = "".join(pieces), play.tokens, reply.reported
            if reply.events:
                return await self._events(writer, gone, play, served, reply)
            await answer_raw(writer, 200, reply.body, {"content-type": reply.content_type, **play.headers})
            served.sent, served.ended = reply.body, "complete"
        finally:
            served.close()
            if not gone.done():
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
        return True

    async def _events(
        self,
        writer: asyncio.StreamWriter,
        gone: "asyncio.Future[bytes]",
        play: Play,
        served: Served,
        reply: Reply,
    ) -> bool:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        cut = play.ending in ("reset", "no_done", "silent")
        for number, event in enumerate(reply.events[: reply.cut] if cut else reply.events):
            waiting = play.pause(number) if play.pause else None
            if (waiting is not None and await first(gone, waiting)) or gone.done():
                served.ended = "gone"
                return False
            chunk(writer, event)
            served.sent += event
            try:
                await writer.drain()
            except ConnectionError:
                served.ended = "gone"
                return False
        if play.ending == "reset":
            served.ended = "reset"
            writer.transport.abort()
            return False
        if play.ending == "silent":
            await gone
            served.ended = "gone"
            return False
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        served.ended = "complete"
        return True

    async def _chat(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        headers: dict[str, str],
        request: dict[str, Any],
    ) -> bool:
        play = self.script(request)
        served = Served(
            event_id=UUID(headers["x-litellm-call-id"]),
            model=request["model"],
            stream=bool(request.get("stream")),
            prompt_tokens=self._text.count_messages(request["messages"]),
            request=request,
            headers=headers,
            target="/v1/chat/completions",
        )
        if any(served.event_id == other.event_id for other in self.served):
            self.surprises.append(f"call {served.event_id} came twice")
        async with self._arrivals:
            self.served.append(served)
            self._arrivals.notify_all()
        gone = leaving(reader)
        try:
            if play.before_head is not None and await first(gone, play.before_head.wait()):
                served.ended = "gone"
                return False
            if play.status != 200:
                served.ended = "refused"
                await answer_raw(writer, play.status, play.body, play.headers)
            elif served.stream:
                return await self._stream(writer, gone, play, served)
            else:
                served.text, served.sent_tokens = "".join(self._text.piece(k) for k in range(play.tokens)), play.tokens
                await answer_json(writer, 200, self._whole(play, served), play.headers)
                served.ended = "complete"
        finally:
            served.close()
            if not gone.done():
                gone.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await gone
        return True

    async def _stream(
        self, writer: asyncio.StreamWriter, gone: "asyncio.Future[bytes]", play: Play, served: Served
    ) -> bool:
        extra = "".join(f"{name}: {value}\r\n" for name, value in play.headers.items())
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n"
            + extra.encode()
            + b"\r\n"
        )
        asked = (served.request.get("stream_options") or {}).get("include_usage") is True
        if not asked:
            self.surprises.append("a stream without include_usage")
        usage_null: dict[str, Any] = {"usage": None} if play.usage else {}
        chunk(writer, self._event(served, {"role": "assistant", "content": ""}, None, **usage_null))
        for start in range(0, play.tokens, play.tokens_per_event):
            waiting = play.pause(start) if play.pause else None
            if (waiting is not None and await first(gone, waiting)) or gone.done():
                served.ended = "gone"
                return False
            count = min(play.tokens_per_event, play.tokens - start)
            text = "".join(self._text.piece(start + k) for k in range(count))
            chunk(writer, self._event(served, {"content": text}, None, **usage_null))
            served.sent_tokens += count
            served.text += text
            try:
                await writer.drain()
            except ConnectionError:
                served.ended = "gone"
                return False
        if play.ending == "reset":
            served.ended = "reset"
            await writer.drain()
            writer.transport.abort()
            return False
        if play.ending == "silent":
            await gone
            served.ended = "gone"
            return False
        if play.ending == "error_event":
            chunk(writer, b'data: {"error":{"message":"overloaded","type":"server_error","code":"500"}}\n\n')
        elif play.ending == "done":
            chunk(writer, self._event(served, {}, "stop", **usage_null))
            if play.usage and asked:
                served.reported = play.raw_usage or self._usage(served)
                chunk(writer, self._event(served, None, None, usage=served.reported))
            chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        await writer.drain()
        served.ended = "complete"
        return True

    def _whole(self, play: Play, served: Served) -> dict[str, Any]:
        message = {"role": "assistant", "content": served.text, "refusal": None}
        answer: dict[str, Any] = {
            "id": f"chatcmpl-{served.event_id}",
            "object": "chat.completion",
            "created": 1_790_000_000,
            "model": f"{served.model}-2024-07-18",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        }
        if play.usage:
            served.reported = answer["usage"] = play.raw_usage or self._usage(served)
        return answer

    def _usage(self, served: Served) -> dict[str, Any]:
        prompt, completion = served.prompt_tokens, served.sent_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
        }

    def _event(
        self, served: Served, delta: dict[str, Any] | None, finish: str | None, **more: dict[str, Any] | None
    ) -> bytes:
        choices = [] if delta is None else [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]
        event = {
            "id": f"chatcmpl-{served.event_id}",
            "object": "chat.completion.chunk",
            "created": 1_790_000_000,
            "model": f"{served.model}-2024-07-18",
            "service_tier": "default",
            "choices": choices,
            **more,
        }
        return b"data: " + json.dumps(event, separators=(",", ":"), ensure_ascii=False).encode() + b"\n\n"
