"""The clients of the swarm, each calling in a closed loop, and the upstream's play: both drawn from the seed."""

import asyncio
import json
import random
from collections import Counter
from itertools import count
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

import aiohttp

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Ending, Play

CHAT: Final = "/v1/chat/completions"
MESSAGES: Final = "/v1/messages"
MODELS: Final = {CHAT: "gpt-4o-mini", MESSAGES: "claude-sonnet-4-5"}
LAST: Final = {CHAT: b"data: [DONE]\n\n", MESSAGES: b'data: {"type":"message_stop"}\n\n'}
"""With what a stream ends."""
CALL_S_MAX: Final = 20.0
"""After this a client gives up."""
PAUSE_S: Final = (0.01, 0.15)
"""Between two calls of one client."""
CALLS_PER_NAME: Final = 40
"""Calls of a service's client for one user, before it names another."""
AWAY_S: Final = 0.2
"""After a call that reached nobody."""
LEAVING: Final = 0.15
"""Chance that a client leaves before the end."""
REFUSED: Final = 0.05
BROKEN: Final = 0.08
TOKENS_MAX: Final = 60
TOKEN_S_MAX: Final = 0.03

How = Literal["whole", "refused", "cut", "left", "unreached"]


class Client(NamedTuple):
    """Who calls: a key, and the user that it names."""

    user: str
    secret: str
    named: bool
    """Whether the key is a service's, and the user stands in a header."""


class Seen(NamedTuple):
    """One call from its client's side."""

    user: str
    how: How
    """`whole`: the client holds the terminal chunk, or all of an answer that is not streamed."""
    call_id: UUID | None
    status: int
    body: bytes


class Crowd:
    """Clients that call until they are told to stop."""

    def __init__(self, chain: Chain, clients: list[Client], seed: int) -> None:
        self.seen: list[Seen] = []
        self._chain = chain
        self._clients = clients
        self._seed = seed
        self._done = asyncio.Event()
        self._numbers = count()

    @property
    def counts(self) -> Counter[str]:
        return Counter(f"{one.how} {one.status}" for one in self.seen)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number, client in enumerate(self._clients):
                tasks.create_task(self._run(client, random.Random(f"{self._seed}/client {number}")))

    def stop(self) -> None:
        """Each client finishes the call that it is in."""
        self._done.set()

    async def _run(self, client: Client, chance: random.Random) -> None:
        async with self._chain.session(client.secret) as session:
            for number in count():
                if self._done.is_set():
                    return
                user = f"{client.user}.{number // CALLS_PER_NAME}" if client.named else client.user
                self.seen.append(await self.call(session, client, user, chance))
                await asyncio.sleep(chance.uniform(*PAUSE_S))

    async def call(self, session: aiohttp.ClientSession, client: Client, user: str, chance: random.Random) -> Seen:
        """One call, to whatever end it comes."""
        path = MESSAGES if chance.random() < 0.3 else CHAT
        stream = chance.random() < 0.7
        text = f"{user}|Que horas são? {next(self._numbers)}"
        body: dict[str, Any] = {"model": MODELS[path], "messages": [{"role": "user", "content": text}]}
        body |= {"stream": stream, "max_tokens": 2 * TOKENS_MAX}
        if stream and path == CHAT and chance.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
        leaves_after = chance.randint(0, 4000) if chance.random() < LEAVING else None
        headers = {"X-Sundial-User-Id": user} if client.named else {}
        received, call_id, status = b"", None, 0
        try:
            async with asyncio.timeout(CALL_S_MAX), session.post(path, json=body, headers=headers) as answer:
                status = answer.status
                if found := answer.headers.get("x-sundial-call-id"):
                    call_id = UUID(found)
                async for data in answer.content.iter_any():
                    received += data
                    if leaves_after is not None and len(received) > leaves_after:
                        answer.close()
                        return Seen(user, "left", call_id, status, received)
        except TimeoutError:
            return Seen(user, "left", call_id, status, received)
        except (aiohttp.ClientError, OSError):
            if not status:
                await asyncio.sleep(AWAY_S)
            # Cut, perhaps behind the terminal chunk: the client holds it all the same.
            how: How = "cut" if status else "unreached"
            if status == 200 and stream and received.endswith(LAST[path]):
                how = "whole"
            return Seen(user, how, call_id, status, received)
        if status != 200:
            return Seen(user, "refused", call_id, status, received)
        assert received.endswith(LAST[path]) if stream else json.loads(received), ("a clean end without an end", body)
        return Seen(user, "whole", call_id, status, received)


class Player:
    """How the upstream answers: mostly well, sometimes slowly, sometimes not to the end."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"{seed}/upstream")

    def __call__(self, request: dict[str, Any]) -> Play:
        chance = self._chance
        if chance.random() < REFUSED:
            status = chance.choice((429, 500, 503))
            return Play(
                status=status, body=b'{"error":{"message":"busy"}}', headers={"content-type": "application/json"}
            )
        ending: Ending = "done"
        if request["stream"] and chance.random() < BROKEN:
            ending = chance.choice(("reset", "no_done"))
        token_s = chance.choice((0, TOKEN_S_MAX)) * chance.random()
        before_head = asyncio.Event()
        asyncio.get_running_loop().call_later(chance.choice((0, 0.3)) * chance.random(), before_head.set)
        return Play(
            tokens=chance.randint(1, TOKENS_MAX),
            ending=ending,
            pause=(lambda _: asyncio.ensure_future(asyncio.sleep(token_s))) if token_s else None,
            before_head=before_head,
        )
