"""Headers on their way: nothing of a connection, of credentials or of the identity goes further than it should."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from gateway.headers import to_client, to_upstream
from gateway.upstream import HOP_BY_HOP
from gateway.upstream_connection import Head
from tests.harness.calls import call


def request(*headers: tuple[str, str]) -> web.Request:
    return make_mocked_request("POST", "/v1/chat/completions", headers=CIMultiDict(headers))


def upstream(*headers: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    """What of these client headers goes upstream, without what the gateway adds."""
    of = call()
    sent = to_upstream(request(*headers), of)
    ours = [
        (b"accept-encoding", b"identity"),
        (b"x-litellm-call-id", str(of.event_id).encode()),
        (b"x-litellm-end-user-id", str(of.caller.account_id).encode()),
    ]
    assert sent[-3:] == ours
    return sent[:-3]


def client(*headers: tuple[bytes, bytes]) -> list[bytes]:
    """What of these upstream headers reaches the client, as lines."""
    return to_client(Head(headers))


def test_ordinary_headers_go_upstream_as_they_came() -> None:
    """Name, value and order are the client's, doubles too."""
    headers = [("Content-Type", "application/json"), ("X-Title", "a"), ("x-title", "b"), ("OpenAI-Beta", "x=1")]
    assert upstream(*headers) == [(name.encode(), value.encode()) for name, value in headers]


@pytest.mark.parametrize(
    "name",
    [
        *(name.decode() for name in sorted(HOP_BY_HOP)),
        "Authorization",
        "api-key",
        "X-API-Key",
        "Cookie",
        "Host",
        "Content-Length",
        "Accept-Encoding",
        "Expect",
        "X-Forwarded-For",
        "X-Sundial-User-Id",
        "x-sundial-user-email",
        "X-SUNDIAL-ANYTHING",
        "X-LiteLLM-Call-Id",
        "x-litellm-end-user-id",
        "x-litellm-num-retries",
    ],
)
def test_what_is_not_the_upstreams_stays_here(name: str) -> None:
    """The connection's own headers, the client's credentials, who the user is, and whatever steers LiteLLM."""
    assert upstream((name, "x"), (name.upper(), "y"), ("Kept", "z")) == [(b"Kept", b"z")]


def test_headers_that_connection_lists_stay_here() -> None:
    """RFC 9110, 7.6.1: each Connection header may name further ones; both directions."""
    headers = [
        ("Connection", "close, X-One"),
        ("X-One", "1"),
        ("connection", "x-two"),
        ("X-Two", "2"),
        ("X-Three", "3"),
    ]
    assert upstream(*headers) == [(b"X-Three", b"3")]
    assert client(*((name.lower().encode(), value.encode()) for name, value in headers)) == [b"x-three: 3"]


def test_the_upstreams_headers_reach_the_client() -> None:
    """Rate limits, Retry-After and cookies of an answer included: an error of the upstream's looks like its own."""
    assert client(
        (b"retry-after", b"7"), (b"x-ratelimit-remaining", b"0"), (b"set-cookie", b"a"), (b"set-cookie", b"b")
    ) == [b"retry-after: 7", b"x-ratelimit-remaining: 0", b"set-cookie: a", b"set-cookie: b"]


@pytest.mark.parametrize("name", [*sorted(HOP_BY_HOP), b"content-length", b"server"])
def test_the_upstream_connections_own_headers_do_not(name: bytes) -> None:
    """Length and framing are ours to write."""
    assert client((name, b"x"), (b"kept", b"y")) == [b"kept: y"]


def test_an_upstream_cannot_forge_the_calls_id() -> None:
    """There is one X-Sundial-Call-Id, ours."""
    assert client((b"x-sundial-call-id", b"forged")) == []


def test_values_pass_as_the_bytes_that_came() -> None:
    """Whatever their encoding is: nothing of an answer is rendered anew."""
    assert client((b"x-name", b"Jos\xe9"), (b"date", b"today")) == [b"x-name: Jos\xe9", b"date: today"]
