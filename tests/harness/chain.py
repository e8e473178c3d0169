"""`Chain`: what an end-to-end or fault test drives from outside: real gateway and meter, a fake upstream, clients."""

import asyncio
import json
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit
from uuid import UUID

import aiohttp
import asyncpg
import openai

from tests.harness.fake_upstream import FakeUpstream
from tests.harness.stack import Stack
from tests.harness.waiting import until

CLIENT_S_MAX: Final = 60.0


class Chain:
    """What a test drives, all of it from outside."""

    def __init__(self, stack: Stack, upstream: FakeUpstream) -> None:
        self.stack = stack
        self.upstream = upstream
        self._origin = "http://" + urlsplit(stack.base_url).netloc

    # Clients ----------------------------------------------------------------------------------------------

    def client(self, secret: str) -> openai.AsyncOpenAI:
        return openai.AsyncOpenAI(base_url=self.stack.base_url, api_key=secret, max_retries=0, timeout=CLIENT_S_MAX)

    def session(self, secret: str, *, decompress: bool = True) -> aiohttp.ClientSession:
        headers = {"Authorization": f"Bearer {secret}"} if secret else {}
        timeout = aiohttp.ClientTimeout(total=CLIENT_S_MAX)
        connector = aiohttp.TCPConnector(limit=0)
        return aiohttp.ClientSession(
            self._origin, headers=headers, timeout=timeout, connector=connector, auto_decompress=decompress
        )

    async def raw(self, secret: str, body: Any) -> bytes:
        """The bytes of an answer; raises aiohttp.ClientPayloadError where it is cut."""
        async with self.session(secret) as session, session.post("/v1/chat/completions", json=body) as answer:
            return await answer.read()

    async def post(
        self, secret: str, body: Any, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers (lower case) and JSON of an answer; None for a stream."""
        async with (
            self.session(secret) as session,
            session.post("/v1/chat/completions", json=body, headers=headers) as answer,
        ):
            data = await answer.read()
            found = {name.lower(): value for name, value in answer.headers.items()}
            parsed = json.loads(data) if answer.content_type == "application/json" else None
            return answer.status, found, parsed

    async def post_raw_headers(self, secret: str, body: Any, headers: dict[bytes, bytes]) -> tuple[int, bytes]:
        """As `post`, with header bytes that no client library would let through."""
        address = urlsplit(self._origin)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        data = json.dumps(body).encode()
        lines = b"".join(b"%b: %b\r\n" % pair for pair in headers.items())
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: sundial\r\nconnection: close\r\n"
            b"authorization: Bearer %b\r\n%bcontent-length: %d\r\n\r\n%b" % (secret.encode(), lines, len(data), data)
        )
        answer = await asyncio.wait_for(reader.read(), CLIENT_S_MAX)
        writer.close()
        return int(answer.split(b" ", 2)[1]), answer

    async def until_status(self, secret: str, body: Any, status: int) -> Any:
        """Repeat a call until it is answered with `status`; the answer's JSON."""
        answers: list[tuple[int, Any]] = []

        async def reached() -> bool:
            found, _, answer = await self.post(secret, body)
            answers.append((found, answer))
            return found == status

        await until(reached)
        return answers[-1][1]

    # Keys and credits -------------------------------------------------------------------------------------

    async def personal(self, user: str, *, credit: str) -> str:
        """The secret of a new personal key, known to the gateway, its account holding so many credits."""
        made = await self.stack.sundial("key", "create", "--personal", user)
        if Decimal(credit):
            await self.stack.sundial("grant", user, credit)
            await self._projected(user)
        return await self._known(made["secret"])

    async def service(self) -> str:
        """The secret of a new service key, known to the gateway."""
        return await self._known((await self.stack.sundial("key", "create", "--service", "librechat"))["secret"])

    async def set_balance(self, user: str, balance_mc: int) -> None:
        """An adjustment to exactly this balance, projected."""
        shown = await self.settled(user)
        difference = Decimal(balance_mc - shown["balance"]) / 1000
        if difference:
            await self.stack.sundial("adjust", user, "--memo", "test", "--", str(difference))
            await self._projected(user)

    async def _known(self, secret: str) -> str:
        async def known() -> bool:
            async with self.session(secret) as session, session.get("/v1/models") as answer:
                return answer.status == 200

        await until(known)
        return secret

    async def _projected(self, user: str) -> None:
        async def projected() -> bool:
            shown = await self.stack.sundial("account", "show", user)
            return bool(shown["balance"] == shown["ledger_balance"])

        await until(projected)

    # Books ------------------------------------------------------------------------------------------------

    async def booked(self, number: int) -> None:
        """Wait until so many usage events stand in Postgres."""
        connection = await asyncpg.connect(self.stack.database_url)
        try:

            async def enough() -> bool:
                return bool(await connection.fetchval("SELECT count(*) FROM sundial.usage_events") >= number)

            await until(enough)
        finally:
            await connection.close()

    async def standing(self) -> dict[UUID, Any]:
        """Every usage event as it stands now, its corrections taken in, by its id."""
        connection = await asyncpg.connect(self.stack.database_url)
        try:
            return {row["event_id"]: row for row in await connection.fetch("SELECT * FROM sundial.standing_events")}
        finally:
            await connection.close()

    async def usage_entries(self, user: str, number: int) -> list[dict[str, Any]]:
        """The account's usage on this month's statement, once there are so many."""
        await self.booked(number)
        statement = await self.stack.sundial("statement", user)
        return [entry for entry in statement["entries"] if entry["kind"] == "usage"]

    async def settled(self, user: str) -> dict[str, Any]:
        """`account show` once nothing is held or unposted."""
        shown: dict[str, Any] = {}

        async def quiet() -> bool:
            shown.update(await self.stack.sundial("account", "show", user))
            return not (shown["held"] or shown["unposted"]) and bool(shown["balance"] == shown["ledger_balance"])

        await until(quiet)
        return shown

    async def cost_of(self, secret: str, body: Any) -> int:
        """Make this call; the millicredits that it was charged."""
        status, headers, answer = await self.post(secret, body)
        assert status == 200, answer
        connection = await asyncpg.connect(self.stack.database_url)
        charge = "SELECT charge_mc FROM sundial.usage_events WHERE event_id = $1"
        try:

            async def booked() -> bool:
                return await connection.fetchval(charge, headers["x-sundial-call-id"]) is not None

            await until(booked)
            return int(await connection.fetchval(charge, headers["x-sundial-call-id"]))
        finally:
            await connection.close()
