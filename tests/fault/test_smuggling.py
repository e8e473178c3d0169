"""A2 behind proxies: whatever the proxy makes of a request with two meanings, the gateway means the same."""

import asyncio
import json
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import pytest

from tests.fault.test_attacks import REFUSED, SERVED_ONCE
from tests.harness.front_proxies import before
from tests.harness.scripted_chain import ASK, Scripted, answer_of, with_length

LAST: Final = b"GET /v1/models HTTP/1.1\r\nhost: sundial\r\nauthorization: Bearer KEY\r\nconnection: close\r\n\r\n"
"""Follows each payload on its connection: the answer to it is the last thing that comes, if it is seen at all."""
ANSWERED_S_MAX: Final = 10.0
ANSWER: Final = b'"choices"'


async def everything(port: int, payload: bytes) -> bytes:
    """All that is answered to these bytes on one connection, to its end."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(payload)
    answer = b""
    try:
        async with asyncio.timeout(ANSWERED_S_MAX):
            while data := await reader.read(1 << 16):
                answer += data
    except ConnectionError:
        pass
    writer.close()
    return answer


@pytest.mark.parametrize("name", ["nginx", "haproxy"])
async def test_a2_behind_a_proxy(scripted: Scripted, tmp_path: Path, name: str) -> None:
    """Each request that reaches the upstream is whole, and is one that the client has got the answer to: no part of a
    body is taken for a request, no client meets what another left. What has one meaning is served once."""
    scripted.says(with_length(answer_of("pronto", 3)))
    target = urlsplit(scripted.chain.stack.base_url).port
    assert target is not None
    key = scripted.secret.encode()
    async with before(name, tmp_path, target) as port:
        for title, payload in (REFUSED | SERVED_ONCE).items():
            known = len(scripted.asked)
            answer = await everything(port, (payload + LAST).replace(b"KEY", key))
            asked = scripted.asked[known:]
            assert len(asked) == answer.count(ANSWER), (title, answer)
            assert all(json.loads(body) == ASK for _, body in asked), (title, asked)
            if title in SERVED_ONCE:
                assert len(asked) == 1, (title, answer)
        assert (await scripted.call()).status == 200
    await scripted.events(len(scripted.asked))
