"""No path is a way around the meter: what is not declared is refused, what is declared is metered however it is put."""

import asyncio
import json
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from tests.harness.chain import CLIENT_S_MAX, Chain
from tests.harness.fake_upstream import Play

BODY: Final = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Olá"}]}
DECLARED: Final = "/v1/chat/completions"


async def raw(
    chain: Chain, secret: str, target: str, body: bytes, method: str = "POST", *more: str
) -> tuple[int, bytes]:
    """Status and body for a request line that no client library would write."""
    address = urlsplit(chain.stack.base_url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    lines = [
        f"{method} {target} HTTP/1.1",
        f"host: {address.netloc}",
        f"authorization: Bearer {secret}",
        f"content-length: {len(body)}",
        "connection: close",
        *more,
    ]
    writer.write("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
    answer = await asyncio.wait_for(reader.read(), CLIENT_S_MAX)
    writer.close()
    head, _, rest = answer.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), rest


async def test_other_spellings_of_a_path_are_other_paths(chain: Chain) -> None:
    """Encoded, doubled, dotted, with a slash or a fragment at the end, in another case, as an absolute URL, without the
    base: all refused before the upstream sees anything."""
    secret = await chain.personal("ana", credit="100000")
    body = json.dumps(BODY).encode()
    for target in (
        "/v1/chat%2Fcompletions",
        "/v1/ch%61t/completions",
        "/v1/%63hat/completions",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/./chat/completions",
        "/v1/files/../chat/completions",
        "/v1/%2e%2e/v1/chat/completions",
        "/v1/chat/completions/",
        "/v1/chat/completions%00",
        "/v1/chat/completions;a=b",
        "/v1/chat/completions#x",
        "/V1/chat/completions",
        "/v1/Chat/Completions",
        "/chat/completions",
        "/openai/deployments/gpt-4o-mini/chat/completions",
        "/engines/gpt-4o-mini/chat/completions",
        "http://127.0.0.1/v1/chat/completions",
        "http://example.com/v1/chat/completions",
        "/v1/realtime",
        "/v1/models/../chat/completions",
        "*",
    ):
        status, answer = await raw(chain, secret, target, body)
        assert status in (400, 404, 405), target
        if status != 400:
            assert json.loads(answer)["error"]["code"] in ("unknown_path", "method_not_allowed"), target
    for method in ("GET", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"):
        status, _ = await raw(chain, secret, DECLARED, body, method)
        assert status == 405, method
    status, _ = await raw(chain, secret, "/v1/models", body, "POST", "x-http-method-override: GET")
    assert status == 405
    assert chain.upstream.served == []


async def test_what_goes_upstream_is_what_was_priced(chain: Chain) -> None:
    """A query, an override of the method, another type of the body: none of them reaches the upstream, where each could
    mean another model. The call is metered as any other."""
    secret = await chain.personal("ana", credit="100000")
    body = json.dumps(BODY).encode()
    more = (
        "x-http-method-override: DELETE",
        "x-original-url: /v1/embeddings",
        "content-type: application/x-www-form-urlencoded",
        "x-litellm-model-name: gpt-4o",
    )
    status, _ = await raw(chain, secret, f"{DECLARED}?model=gpt-4o&api_base=http://x", body, "POST", *more)
    assert status == 200
    [served] = chain.upstream.served
    assert served.target == DECLARED
    assert served.headers["content-type"] == "application/json"
    assert not {"x-http-method-override", "x-original-url", "x-litellm-model-name"} & set(served.headers)
    [entry] = await chain.usage_entries("ana", 1)
    assert entry["tokens_in"] == served.prompt_tokens


def form(*parts: tuple[str, str]) -> bytes:
    """A form of parts: what stands behind `form-data; ` and the value."""
    lines = "".join(f"--b\r\nContent-Disposition: form-data; {what}\r\n\r\n{value}\r\n" for what, value in parts)
    return f"{lines}--b--\r\n".encode()


SOUND: Final = ('name="file"; filename="a.wav"', "x" * 300_000)
CHEAP: Final = ('name="model"', "whisper-1")


DOUBTFUL: Final = (
    form(CHEAP, SOUND, ('name="model"', "gpt-4o-transcribe")),
    form(CHEAP, ('name="model[]"', "gpt-4o-transcribe"), SOUND),
    form(CHEAP, SOUND, ("name=model", "gpt-4o-transcribe")),
    form(('name="model"; filename="m"', "whisper-1"), SOUND),
    form(SOUND),
    form(CHEAP, SOUND)[:-8],
    form(CHEAP, SOUND) + b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nx\r\n--b--',
    b"x" + form(CHEAP, SOUND),
    form(CHEAP, SOUND).replace(b"\r\n", b"\n"),
    b'{"model":"whisper-1"}',
)


async def test_a_form_means_one_thing_or_is_refused(chain: Chain) -> None:
    """Two models, one of them behind the file; parts that parsers read differently; a form without an end: the upstream
    never has a whole request to work on, nothing is booked or held."""
    secret = await chain.personal("ana", credit="100000")
    for number, body in enumerate(DOUBTFUL):
        for send in (sized, chunked):
            status, answer = await send(chain, secret, body)
            assert status == 400, number
            assert json.loads(answer)["error"]["code"] in ("invalid_multipart", "invalid_field"), number
    assert chain.upstream.served == []
    shown = await chain.settled("ana")
    assert (shown["balance"], shown["held"]) == (100_000_000, 0)
    for send in (sized, chunked):
        assert (await send(chain, secret, form(CHEAP, SOUND)))[0] == 200


async def sized(chain: Chain, secret: str, body: bytes) -> tuple[int, bytes]:
    headers = ("content-type: multipart/form-data; boundary=b",)
    return await raw(chain, secret, "/v1/audio/transcriptions", body, "POST", *headers)


async def chunked(chain: Chain, secret: str, body: bytes) -> tuple[int, bytes]:
    """The form in chunks, its length untold."""

    async def pieces() -> Any:
        for start in range(0, len(body), 50_000):
            yield body[start : start + 50_000]

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    async with (
        chain.session(secret) as session,
        session.post("/v1/audio/transcriptions", data=pieces(), headers=headers) as answer,
    ):
        return answer.status, await answer.read()


async def test_listed_paths_are_forwarded_and_nothing_else(chain: Chain) -> None:
    """What the operator lists passes with its query to any valid key, unbooked and counted; other methods, other
    spellings and everything else stay refused; a list that covers a metered path ends the start with one line."""
    secret = await chain.personal("ana", credit="0")
    await chain.stack.gateway.stop()
    await chain.stack.gateway.start(SUNDIAL_FORWARDED_PATHS="GET /files, /vector_stores/*")
    status, answer = await raw(chain, secret, "/v1/files?limit=2", b"", "GET")
    [served] = chain.upstream.served
    assert (status, answer, served.target) == (200, served.sent, "/v1/files?limit=2")
    for method, target, expected in (
        ("POST", "/v1/files", 405),
        ("GET", "/v1/files/", 404),
        ("GET", "/v1/vector_stores/../files", 404),
        ("GET", "/v1/vector_stores/%2e%2e/chat/completions", 404),
        ("GET", "/v1/vector_stores/", 404),
        ("HEAD", "/v1/vector_stores/a", 405),
        ("POST", "/v1/batches", 404),
    ):
        assert (await raw(chain, secret, target, b"", method))[0] == expected, target
    assert (await raw(chain, "nobody", "/v1/files", b"", "GET"))[0] == 401
    assert len(chain.upstream.served) == 1
    async with aiohttp.ClientSession() as session, session.get(chain.stack.gateway.url("/metrics")) as told:
        assert 'sundial_gateway_forwarded_total{path="/files"} 1.0' in await told.text()
    await chain.stack.gateway.stop()
    chain.stack.gateway.launch(SUNDIAL_FORWARDED_PATHS="/chat/*")
    assert await chain.stack.gateway.ended() == 2
    assert "SUNDIAL_FORWARDED_PATHS" in chain.stack.gateway.output
    await chain.stack.gateway.start()


async def test_a_recording_is_booked_though_its_client_left(chain: Chain) -> None:
    """The client hangs up once its file is sent: the upstream works on, and what it reports is booked."""
    secret = await chain.personal("ana", credit="100000")
    answering = asyncio.Event()
    chain.upstream.script = lambda _: Play(before_head=answering)
    address = urlsplit(chain.stack.base_url)
    _, writer = await asyncio.open_connection(address.hostname, address.port)
    body = form(CHEAP, SOUND)
    writer.write(
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=b\r\n"
        b"authorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b" % (secret.encode(), len(body), body)
    )
    await chain.upstream.arrived(1)
    writer.transport.abort()
    answering.set()
    [entry] = await chain.usage_entries("ana", 1)
    assert entry["evidence"] == "provider"
    assert entry["amount"] == -900_000
