"""Rows U1, U2, U5, U8, U10 and U11: an upstream that fails before there is an answer, or answers what is none."""

import asyncio
import json
import ssl
import subprocess
from pathlib import Path
from typing import Final

import pytest

from deploy.ports import free_port
from tests.harness.messages import fresh_event_id
from tests.harness.scripted_chain import (
    ASK,
    END,
    SSE,
    STREAM,
    Scripted,
    answer_of,
    chunked,
    text_event,
    with_length,
)
from tests.harness.scripted_server import Peer


async def test_u1_refused_unknown_reset_before_the_head(scripted: Scripted) -> None:
    """Reset before a byte, or within the head: 502 of our own shape, asked once, nothing booked, nothing held."""

    async def resets(peer: Peer) -> None:
        await peer.reset()

    async def closes(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\ncontent-le")
        await peer.close()
        await peer.gone()

    scripted.plays(resets)
    await scripted.call()  # on a connection that is kept since the models were read: that one is sent again
    before = len(scripted.asked)
    cases = [(play, body) for play in (resets, closes) for body in (ASK, STREAM)]
    for number, (play, body) in enumerate(cases, 1):
        scripted.plays(play)
        got = await scripted.call(body)
        assert (got.status, got.code) == (502, "upstream_unavailable")
        assert len(scripted.asked) == before + number
    await scripted.nothing_booked()
    await scripted.works()


def self_signed(folder: Path) -> ssl.SSLContext:
    """A certificate for localhost that nobody else signed."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    request = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-days", "1", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    try:
        subprocess.run([*request, *names], check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed: it makes the certificate")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    return context


async def test_u1_nobody_there(scripted: Scripted, tmp_path: Path) -> None:
    """A closed port, a name that nobody has, a certificate that nobody signed: 502, nothing sent, nothing booked."""
    served: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=self_signed(tmp_path))
    for url in (
        f"http://127.0.0.1:{free_port()}/v1",
        "http://nobody.invalid/v1",
        f"https://localhost:{server.sockets[0].getsockname()[1]}/v1",
    ):
        await scripted.chain.stack.gateway.stop()
        await scripted.chain.stack.gateway.start(SUNDIAL_UPSTREAM_URL=url)
        for body in (ASK, STREAM):
            got = await scripted.call(body)
            assert (got.status, got.code) == (502, "upstream_unavailable"), url
    await scripted.nothing_booked()
    server.close()
    assert not any(served)


async def test_u2_no_answer(scripted: Scripted) -> None:
    """No byte, or half a head, until the limit: 504, and a call is booked at nothing, to be compared with the bill."""

    async def half(peer: Peer) -> None:
        await peer.say(b"HTTP/1.1 200 OK\r\nx-slow: ")
        await peer.gone()

    async def none(peer: Peer) -> None:
        await peer.gone()

    for play in (none, half):
        scripted.plays(play)
        got = await scripted.call()
        assert (got.status, got.code) == (504, "upstream_timeout")
        [booked] = await scripted.events(1)
        assert (booked["charge_mc"], booked["evidence"], booked["outcome"]) == (0, "none", "timeout")
    assert len(scripted.asked) == 2
    await scripted.works()


async def test_u5_refusals_of_the_upstream_pass(scripted: Scripted) -> None:
    """4xx and 5xx, JSON or not: the same status, headers and bytes, one request each, nothing booked."""
    cases = [
        (500, "text/html", b"<h1>oops</h1>", ""),
        (503, "application/json", b'{"error":{"message":"busy"}}', "retry-after: 7\r\n"),
        (429, "application/json", b'{"error":{"message":"slow down","code":"rate_limit"}}', "retry-after: 3\r\n"),
        (401, "application/json", '{"error":{"message":"chave inválida"}}'.encode(), "www-authenticate: Bearer\r\n"),
        (400, "application/json", b'{"usage":{"prompt_tokens":5,"completion_tokens":9}}', ""),
        (418, "application/octet-stream", bytes(range(256)), ""),
    ]
    for number, (status, kind, body, more) in enumerate(cases, 1):
        scripted.says(with_length(body, kind, more, status))
        got = await scripted.call(STREAM if number % 2 else ASK)
        assert (got.status, got.body, got.headers["content-type"], got.clean) == (status, body, kind, True)
        assert got.headers.get("retry-after") == (more[13:-2] if more.startswith("retry") else None)
        assert len(scripted.asked) == number
    await scripted.nothing_booked()


PAID: Final = [
    ("/chat/completions", ASK),
    ("/chat/completions", STREAM),
    ("/responses", {"model": "gpt-4o-mini", "input": "Que horas são?", "stream": True}),
    ("/embeddings", {"model": "text-embedding-3-small", "input": "um texto"}),
    ("/audio/speech", {"model": "tts-1", "voice": "alloy", "input": "Bom dia. " * 60}),
    ("/images/generations", {"model": "gpt-image-1", "prompt": "um relógio", "n": 2, "quality": "high"}),
]


@pytest.mark.parametrize("end", ["cut", "reset", "silent", "left"])
async def test_u5_a_refusal_whose_reason_does_not_come_whole_costs_nothing(scripted: Scripted, end: str) -> None:
    """The status has said it: nothing was made, whatever the call is sold by. The client sees that something is
    missing, unless it has left."""
    said = asyncio.Event()

    async def half(peer: Peer) -> None:
        await peer.say(with_length(b'{"error":{"message":"slow down"}}', status=429)[:-20])
        said.set()
        await {"cut": peer.close, "reset": peer.reset}.get(end, peer.gone)()
        await peer.gone()

    scripted.plays(half)
    for path, body in PAID:
        said.clear()
        if end == "left":
            call = asyncio.create_task(scripted.call(body, path))
            await said.wait()
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
            continue
        got = await scripted.call(body, path)
        assert (got.status, got.clean) == (429, False), path
    assert len(scripted.asked) == len(PAID)
    await scripted.nothing_booked()
    await scripted.works()


async def test_u5_a_call_that_the_upstream_gave_up_is_booked_at_nothing(scripted: Scripted) -> None:
    """408 and 504: its own upstream may be at work, and bill it. It passes as it is, and can be compared."""
    reason = b'{"error":{"message":"timed out"}}'
    for status, body in ((408, ASK), (504, STREAM)):
        scripted.says(with_length(reason, status=status))
        got = await scripted.call(body)
        assert (got.status, got.body, got.clean) == (status, reason, True)
        [booked] = await scripted.events(1)
        assert (booked["charge_mc"], booked["evidence"], booked["outcome"]) == (0, "none", "timeout")
        assert booked["status"] == status
    await scripted.works()


async def test_u5_an_image_in_an_error_that_was_cut_is_charged(scripted: Scripted) -> None:
    """LiteLLM (1.106) wraps a streamed image into an error: it was made, and its provider bills it."""
    event = json.dumps({"type": "image_generation.completed", "b64_json": "eA==" * 50})
    reason = json.dumps({"error": {"message": f"cannot read: data: {event}"}}).encode()

    async def half(peer: Peer) -> None:
        await peer.say(with_length(reason, status=500)[:-20])
        await peer.reset()

    scripted.plays(half)
    got = await scripted.call({"model": "gpt-image-1", "prompt": "um relógio"}, "/images/generations")
    assert (got.status, got.clean) == (500, False)
    [booked] = await scripted.events(1)
    assert booked["outcome"] == "upstream_error"
    assert booked["charge_mc"] > 0


async def test_a_stream_that_only_says_that_it_failed_is_booked_at_nothing(scripted: Scripted) -> None:
    """As a whole answer that says so: nothing was made, and it can be compared with the bill. With text before it, that
    is charged."""
    failed = b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n'
    for body, outputs in ((failed, 0), (text_event("Bom dia") + failed, 1)):
        scripted.says(SSE + chunked(body) + END)
        got = await scripted.call(STREAM)
        assert (got.status, got.body) == (200, body)
        [booked] = await scripted.events(1)
        assert booked["outcome"] == "upstream_error"
        assert (booked["evidence"], booked["charge_mc"] > 0) == (("none", False), ("recounted", True))[outputs]


async def test_u8_what_is_no_answer(scripted: Scripted) -> None:
    """Garbage, two lengths, endless heads and interim answers: 502, one request each, and the connection that said it
    never serves again."""
    ok = b"HTTP/1.1 200 OK\r\n"
    for number, answer in enumerate(
        (
            b"garbage\r\n\r\n",
            b"\x16\x03\x01\x02\x00",
            ok + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            ok + b"content-length: 2\r\ncontent-length: 3\r\n\r\nok",
            ok + b"x: " + b"y" * 1_000_000 + b"\r\n\r\n",
            ok + b"x: a\x00b\r\ncontent-length: 2\r\n\r\nok",
            b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000,
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\nraw",
        ),
        1,
    ):
        connections = scripted.connections
        scripted.says(answer)
        got = await scripted.call()
        assert (got.status, got.code) == (502, "upstream_unavailable"), answer[-20:]
        assert len(scripted.asked) == number
        assert scripted.connections == connections + 1
    await scripted.nothing_booked()
    # The answer to another call, by the id that LiteLLM echoes: nobody sees a byte of it.
    other = b"x-litellm-call-id: %b\r\n" % str(fresh_event_id()).encode()
    scripted.says(ok + other + b"content-length: 2\r\n\r\nok")
    got = await scripted.call()
    assert (got.status, got.code) == (502, "upstream_unavailable")
    [booked] = await scripted.events(1)
    assert (booked["outcome"], booked["charge_mc"]) == ("upstream_error", 0)
    assert await scripted.metric('sundial_gateway_invariant_violations_total{rule="isolation"}') == 1
    # A frame that is none, after text: the client sees a cut, and pays what came.
    scripted.says(SSE + chunked(text_event("Olá")) + b"xyz\r\n")
    assert not (await scripted.call(STREAM)).clean
    [booked] = await scripted.events(1)
    assert booked["outcome"] == "upstream_error"
    await scripted.works()


async def test_u10_redirects_and_headers_that_split(scripted: Scripted) -> None:
    """A redirect is followed by nobody, and its target is not passed on; a header with a line break reaches nobody."""
    trapped: list[bytes] = []

    async def trap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trapped.append(await reader.read(1))
        writer.close()

    server = await asyncio.start_server(trap, "127.0.0.1", 0)
    target = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    for status in (301, 302, 303, 307, 308):
        for where in (target, "http://169.254.169.254/latest/meta-data/"):
            scripted.says(with_length(b"", more=f"location: {where}\r\n", status=status))
            got = await scripted.call()
            assert (got.status, got.code) == (502, "upstream_unavailable")
            assert "location" not in got.headers
    for value in ("a\x00b", "a\rset-cookie: evil=1", "a\nset-cookie: evil=1"):
        scripted.says(with_length(answer_of("olá", 2), more=f"x-bad: {value}\r\n"))
        got = await scripted.call()
        assert "set-cookie" not in got.headers
        assert got.status == 502 or "\x00" not in got.headers.get("x-bad", "")
        if got.status == 200:
            await scripted.events(1)
    server.close()
    assert trapped == []
    await scripted.nothing_booked()
    await scripted.works()


async def test_u11_a_kept_connection_that_died(scripted: Scripted) -> None:
    """Closed as the request arrives: sent once more, on a new connection, counted. With one byte back: never again."""
    await scripted.works()
    died: list[int] = []

    async def dies_once(peer: Peer) -> None:
        if not died:
            died.append(1)
            await peer.reset()
        else:
            await peer.say(with_length(answer_of("de novo", 2)))

    asked = len(scripted.asked)
    scripted.plays(dies_once)
    got = await scripted.call()
    assert (got.status, json.loads(got.body)["choices"][0]["message"]["content"]) == (200, "de novo")
    assert len(scripted.asked) == asked + 2
    assert scripted.asked[-1] == scripted.asked[-2]
    assert await scripted.metric("sundial_gateway_upstream_resent") == 1
    await scripted.events(1)

    async def speaks_and_dies(peer: Peer) -> None:
        await peer.say(b"H")
        await peer.reset()

    scripted.plays(speaks_and_dies)
    asked = len(scripted.asked)
    assert (await scripted.call()).status == 502
    assert len(scripted.asked) == asked + 1
    await scripted.nothing_booked()
