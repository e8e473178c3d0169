"""Rows A1 to A6, as far as there is no console: what a hostile client tries, and what becomes of it."""

import asyncio
import base64
import json
import random
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pytest

from gateway.guesses import GUESSES_MAX
from tests.fault.test_clients_slow import resident_bytes
from tests.harness.scripted_chain import ASK, STREAM, Scripted, answer_of, with_length

GUESSERS = 16
GUESSED = 3_000
SERVED_S_MAX = 5.0
GROWTH_BYTES_MAX = 8_000_000
CANARY = "canário-4711-segredo"
HOSTILE = (
    "'; DROP TABLE sundial.accounts; --",
    "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
    '{"level":"error"}\n{"event":"forged"}',
    "\x00nulo",
    "\u202eesrever\u202c",
    "🌻" * 40,
    "\x1b[31mred",
    "${jndi:ldap://127.0.0.1/a}",
    "../../etc/passwd",
    "%00%0d%0aset-cookie:%20evil=1",
    "a" * 5_000,
    "\ufeff\u2028\u2029",
    "<script>alert(1)</script>",
    "{{user}}",
)


def well(scripted: Scripted) -> None:
    scripted.says(with_length(answer_of("pronto", 3)))


async def test_a1_key_guessing(scripted: Scripted) -> None:
    """Hundreds of wrong keys, some with the right beginning: one and the same 401, then one and the same 429; Redis is
    not asked, the log does not grow with them, and a right key from the same address is served."""
    well(scripted)
    commands = await scripted.metric("sundial_gateway_redis_commands")
    right = scripted.secret
    wrong = [right[: 1 + number % (len(right) - 1)] for number in range(200)] + ["x" * 4_000, "é", right + "x"] * 10
    answers = await asyncio.gather(*(scripted.call(secret=secret) for secret in wrong))
    told = [got for got in answers if got.status == 401]
    rest = [got for got in answers if got.status == 429]
    assert len(told) == GUESSES_MAX
    assert len(rest) == len(wrong) - GUESSES_MAX
    assert len({got.body for got in told}) == len({got.body for got in rest}) == 1
    assert rest[0].code == "too_many_guesses"
    assert "retry-after" not in rest[0].headers
    assert await scripted.metric("sundial_gateway_redis_commands") - commands < 20
    assert scripted.asked == []
    assert (await scripted.call()).status == 200
    lines = scripted.chain.stack.gateway.output.splitlines()
    assert sum('"refused"' in line for line in lines) <= GUESSES_MAX + 5
    await scripted.events(1)


async def test_a1_guessing_without_end(scripted: Scripted) -> None:
    """Guesses as fast as they are answered, over kept connections, while a user calls: none is let in or asks Redis,
    each call of the user is served in its time, and the gateway's memory stays."""
    well(scripted)
    gateway = scripted.chain.stack.gateway
    commands, before = await scripted.metric("sundial_gateway_redis_commands"), resident_bytes(gateway.pid)
    answers: Counter[int] = Counter()
    done = asyncio.Event()

    async def guess(number: int) -> None:
        async with scripted.chain.session("") as session:
            while not done.is_set():
                headers = {"Authorization": f"Bearer {scripted.secret[:-9]}{number:02d}{answers.total():07d}"}
                async with session.get("/v1/models", headers=headers) as answer:
                    answers[answer.status] += 1

    async with asyncio.TaskGroup() as guessers:
        for number in range(GUESSERS):
            guessers.create_task(guess(number))
        calls = 0
        while answers.total() < GUESSED:
            async with asyncio.timeout(SERVED_S_MAX):
                assert (await scripted.call()).status == 200
            calls += 1
        done.set()
    assert set(answers) == {401, 429}
    assert answers[401] == GUESSES_MAX
    assert await scripted.metric("sundial_gateway_redis_commands") - commands < 3 * calls + 60  # looks at the epochs
    assert resident_bytes(gateway.pid) - before < GROWTH_BYTES_MAX
    await scripted.events(calls)


def _request(lines: bytes, body: bytes, start: bytes = b"POST /v1/chat/completions HTTP/1.1") -> bytes:
    return start + b"\r\nhost: sundial\r\nauthorization: Bearer KEY\r\n" + lines + b"\r\n" + body


BODY = json.dumps(ASK).encode()
LENGTH = b"content-length: %d\r\n" % len(BODY)
CHUNKED = b"transfer-encoding: chunked\r\n"
FRAMED = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)
SMUGGLED = _request(LENGTH, BODY)
REFUSED = {
    "length and chunks": _request(LENGTH + CHUNKED, FRAMED),
    "chunks and length": _request(CHUNKED + b"content-length: 4\r\n", FRAMED + SMUGGLED),
    "two lengths": _request(LENGTH + b"content-length: 5\r\n", BODY),
    "length with a plus": _request(b"content-length: +%d\r\n" % len(BODY), BODY),
    "length with an underscore": _request(b"content-length: 1_0\r\n", BODY),
    "negative length": _request(b"content-length: -1\r\n", BODY),
    "hexadecimal length": _request(b"content-length: 0x10\r\n", BODY),
    "list of lengths": _request(b"content-length: 5, 5\r\n", BODY),
    "folded header": _request(LENGTH + b"x-a: 1\r\n folded: 2\r\n", BODY),
    "space before the colon": _request(b"content-length : %d\r\n" % len(BODY), BODY),
    "space in the name": _request(LENGTH + b"transfer encoding: chunked\r\n", BODY),
    "name beyond ASCII": _request(LENGTH + b"\xef: 1\r\n", BODY),
    "unknown coding": _request(b"transfer-encoding: xchunked\r\n", FRAMED),
    "coding before chunks": _request(b"transfer-encoding: chunked, identity\r\n", FRAMED),
    "chunked twice": _request(b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", FRAMED),
    "NUL in a header": _request(LENGTH + b"x-a: a\x00b\r\n", BODY),
    "bad chunk size": _request(CHUNKED, b"zz\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "chunk size with a plus": _request(CHUNKED, b"+%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk size with an underscore": _request(CHUNKED, b"1_0\r\n" + BODY + b"\r\n0\r\n\r\n"),
    "bad end of a chunk": _request(CHUNKED, b"%x\r\n%bXX0\r\n\r\n" % (len(BODY), BODY)),
    "another protocol": _request(LENGTH, BODY, b"POST /v1/chat/completions HTTP/3.0"),
    "no version": _request(LENGTH, BODY, b"POST /v1/chat/completions"),
    "tab in the first line": _request(LENGTH, BODY, b"POST\t/v1/chat/completions\tHTTP/1.1"),
}
SERVED_ONCE = {
    "plain": _request(LENGTH, BODY),
    "chunks": _request(CHUNKED, FRAMED),
    "chunk extension": _request(CHUNKED, b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "connection names a header": _request(LENGTH + b"connection: x-secret, close\r\nx-secret: 1\r\n", BODY),
    "underscores": _request(LENGTH + b"content_length: 3\r\ntransfer_encoding: chunked\r\n", BODY),
}


async def _send(scripted: Scripted, payload: bytes) -> bytes:
    """All that is answered to these bytes until the gateway has nothing more to say."""
    address = urlsplit(scripted.chain.stack.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(payload.replace(b"KEY", scripted.secret.encode()))
    answer = b""
    try:
        async with asyncio.timeout(5):
            while data := await reader.read(1 << 16):
                answer += data
                if answer.endswith(b"}"):
                    break
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return answer


async def test_a2_smuggling(scripted: Scripted) -> None:
    """Requests of which two parsers could think differently: 400, the connection ends, and the upstream sees none of
    them; what has one meaning reaches the upstream once, without what was for this connection only."""
    well(scripted)
    for name, payload in REFUSED.items():
        answer = await _send(scripted, payload)
        assert answer.startswith(b"HTTP/") or answer == b"", (name, answer)
        assert answer.split(b" ", 2)[1:2] in ([], [b"400"], [b"411"], [b"501"], [b"505"]), (name, answer)
        assert answer.count(b"\r\nDate: ") <= 1, (name, answer)
        assert scripted.asked == [], name
    for number, (name, payload) in enumerate(SERVED_ONCE.items(), 1):
        answer = await _send(scripted, payload)
        assert answer.startswith(b"HTTP/1.1 200 "), (name, answer)
        assert len(scripted.asked) == number, name
        head, body = scripted.asked[-1]
        assert json.loads(body) == ASK, name
        assert b"x-secret" not in head.lower(), name
        assert head.lower().count(b"content-length:") == 1, name
        assert b"transfer-encoding" not in head.lower(), name
    await scripted.events(len(SERVED_ONCE))


async def test_a3_hostile_texts(scripted: Scripted) -> None:
    """Whatever stands in names, ids, models, users and paths: served or 4xx, never a fault; stored as it came or not at
    all; and each line of the log stays one object."""
    well(scripted)
    service = await scripted.chain.service()
    chance = random.Random(11)
    texts = [
        *HOSTILE,
        *(
            "".join(
                chr(chance.choice((0x20, 0xA0, 0x300, 0x600, 0x1F300)) + chance.randrange(0x80))
                for _ in range(chance.randrange(1, 60))
            )
            for _ in range(10)
        ),
    ]
    served = 0
    for text in texts:
        coded = "b64:" + base64.b64encode(text.encode()).decode()
        labels = {f"X-Sundial-{name}": coded for name in ("User-Name", "User-Email", "Conversation-Id", "Message-Id")}
        for body, headers, secret in (
            (ASK, {"X-Sundial-User-Id": coded}, service),
            ({**ASK, "model": text}, labels, scripted.secret),
            ({**ASK, "user": text}, labels, scripted.secret),
            ({**ASK, "messages": [{"role": text, "content": text}]}, labels, scripted.secret),
        ):
            got = await scripted.call(body, secret=secret, headers=headers)
            assert got.status == 200 or 400 <= got.status < 500, (text, got)
            served += got.status == 200
    booked = await scripted.events(served)
    for row in booked:
        assert row["conversation"].isprintable()
        assert "\n" not in row["conversation"]
    for program in (scripted.chain.stack.gateway, scripted.chain.stack.meter):
        for line in program.output.splitlines():
            assert isinstance(json.loads(line), dict), line
            assert '"event": "forged"' not in line


async def test_a4_the_gateway_fetches_nothing(scripted: Scripted) -> None:
    """Addresses in a request are text: no image, file or tool is looked up, also where the input must be counted."""
    trapped: list[bytes] = []

    async def trap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trapped.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(trap, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/x.png"
    parts: list[Any] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "file", "file": {"file_data": url, "file_id": url}},
        {"type": "text", "text": url},
    ]
    body = {**ASK, "messages": [{"role": "user", "content": parts}]}
    scripted.says(with_length(json.dumps({"choices": [], "model": "gpt-4o-mini"}).encode()))  # no usage: recounted
    for asks in (body, {**body, "stream": False, "metadata": {"callback": url}}):
        assert (await scripted.call(asks)).status == 200
    await scripted.events(2)
    assert json.loads(scripted.asked[0].body) == body
    server.close()
    assert trapped == []


NUMBERS = ("-1", "0", "1.5", "2147483648", "9007199254740991", "9007199254740993", "9223372036854775808",
    "18446744073709551616", "1e400", "-1e400", "NaN", "null", '"5"', "true", "[]")  # fmt: skip


async def test_a5_numbers(scripted: Scripted) -> None:
    """The edges of every integer in `max_tokens`, `n` and amounts: 4xx, or as far as it can mean something; nothing
    wraps, nothing is a fault, and nothing is free."""
    well(scripted)
    served = 0
    for field in ("max_tokens", "max_completion_tokens", "n"):
        for number in NUMBERS:
            body = json.dumps(ASK)[:-1] + f',"{field}":{number}}}'
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n" % len(body)
            answer = await _send(scripted, _request(head, body.encode()))
            status = int(answer.split(b" ", 2)[1])
            assert status == 200 or 400 <= status < 500, (field, number, answer)
            served += status == 200
    for row in await scripted.events(served):
        assert row["charge_mc"] > 0
        assert 0 <= row["hold_mc"] <= 1 << 53
    before = await scripted.chain.settled("ana")
    for amount in ("-1", "0", "9007199254741", "9223372036854775808", "1e400", "NaN", "0x10", "١"):
        with pytest.raises(AssertionError, match="exit"):
            await scripted.chain.stack.sundial("grant", "ana", "--", amount)
    assert (await scripted.chain.settled("ana"))["balance"] == before["balance"]


async def test_a6_no_secret_and_no_prompt_in_the_logs(scripted: Scripted) -> None:
    """Served, refused, broken and misread calls: neither a key nor a word of prompt or answer is written down."""
    asks = {**ASK, "messages": [{"role": "user", "content": CANARY}], "user": "ana"}
    reset = b"HTTP/1.1 200 OK\r\n" + CANARY.encode() + b"\r\n\r\n"
    for answer in (
        with_length(answer_of(CANARY, 5)),
        with_length(json.dumps({"error": {"message": CANARY}}).encode(), status=500),
        reset,
    ):
        scripted.says(answer)
        for body in (asks, {**asks, "max_tokens": -1}, {**asks, "model": "no-such-price"}, {**STREAM, **asks}):
            await scripted.call(body)
            await scripted.call(body, secret=scripted.secret + "x")
    await scripted.chain.settled("ana")
    logs = scripted.chain.stack.gateway.output + scripted.chain.stack.meter.output
    assert "refused" in logs
    for hidden in (
        scripted.secret,
        scripted.secret[-12:],
        "sk-upstream",
        "canário-4711",
        "can\\u00e1rio-4711",
        "4711-seg",
    ):
        assert hidden not in logs
