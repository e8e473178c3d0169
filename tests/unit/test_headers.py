"""Headers on their way: nothing of a connection, of credentials or of the identity goes further than it should."""

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from gateway.headers import TEMPLATE_BYTES_MAX, TEMPLATES_MAX, _templates, passed_on, to_upstream
from gateway.reply import opening
from gateway.upstream import HOP_BY_HOP
from gateway.upstream_connection import Head
from tests.harness.calls import call

_DATE = [(b"date", b"today")]


def request(*headers: tuple[str, str]) -> web.Request:
    return make_mocked_request("POST", "/v1/chat/completions", headers=CIMultiDict(headers))


def upstream(*headers: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    """What of these client headers goes upstream, without what the gateway adds; asked for twice, for the second answer
    is that of a template."""
    of = call()
    ours = b"accept-encoding: identity\r\nx-litellm-call-id: %b\r\nx-litellm-end-user-id: %b\r\n" % (
        str(of.event_id).encode(),
        str(of.caller.account_id).encode(),
    )
    first, second = (to_upstream(request(*headers), of) for _ in range(2))
    assert first == second
    assert first.endswith(ours)
    return pairs(first.removesuffix(ours))


def pairs(lines: bytes) -> list[tuple[bytes, bytes]]:
    """Header lines as names and values."""
    assert lines.endswith(b"\r\n") or not lines
    split = (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in split]


def client(*headers: tuple[bytes, bytes]) -> list[bytes]:
    """What of these upstream headers reaches the client, as lines; an answer that is framed in chunks."""
    opened = opening(request(), Head([*headers, *_DATE], 200), "the-id", keep_alive=True, grows=True)
    first, *lines = opened.head.split(b"\r\n")
    assert first == b"HTTP/1.1 200 OK"
    assert lines[-5:] == [b"date: today", b"X-Sundial-Call-Id: the-id", b"transfer-encoding: chunked", b"", b""]
    return lines[:-5]


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


def test_a_client_may_list_another_header_in_each_request() -> None:
    """What Connection lists is of one request: the same names go upstream in the next one, and the other way round."""
    names = ("Connection", "X-One", "X-Two")
    for listed, kept in (("x-one", b"X-Two"), ("keep-alive", None), ("x-two", b"X-One"), ("x-one", b"X-Two")):
        sent = upstream(*zip(names, (listed, "1", "2"), strict=True))
        assert [name for name, _ in sent] == ([kept] if kept else [b"X-One", b"X-Two"])
    for second, kept in (("x-one", b"X-Two"), ("x-two", b"X-One")):  # of several, all count
        headers = [("Connection", "close"), ("Connection", second), ("X-One", "1"), ("X-Two", "2")]
        assert [name for name, _ in upstream(*headers)] == [kept]


def test_values_are_those_of_the_request_whoever_sent_the_same_names() -> None:
    """A template remembers names alone, and in which order and case they came."""
    assert upstream(("X-A", "1"), ("X-B", "2")) == [(b"X-A", b"1"), (b"X-B", b"2")]
    assert upstream(("X-A", "3"), ("X-B", "%b %d")) == [(b"X-A", b"3"), (b"X-B", b"%b %d")]
    assert upstream(("X-B", "4"), ("X-A", "")) == [(b"X-B", b"4"), (b"X-A", b"")]
    assert upstream(("x-b", "5"), ("x-a", "6")) == [(b"x-b", b"5"), (b"x-a", b"6")]
    assert upstream(("x-%b", "7"), ("%s%%", "8")) == [(b"x-%b", b"7"), (b"%s%%", b"8")]


def test_what_is_remembered_of_clients_is_bounded() -> None:
    """Names are theirs to choose: however many there are, and however long, memory does not grow with them."""
    for number in range(TEMPLATES_MAX + 10):
        assert upstream((f"X-{number}", "1")) == [(f"X-{number}".encode(), b"1")]
    assert len(_templates) <= TEMPLATES_MAX
    before = len(_templates)
    long = "X-" + "y" * TEMPLATE_BYTES_MAX
    assert upstream((long, "1")) == [(long.encode(), b"1")]
    assert upstream(("Connection", long), ("X-A", "1")) == [(b"X-A", b"1")]
    assert len(_templates) == before


def test_what_is_no_call_keeps_the_type_of_its_body() -> None:
    """Forwarded bodies are nobody's business; of several types the first goes on."""
    sent = passed_on(
        request(("Content-Type", "text/x"), ("X-A", "1"), ("content-type", "text/y"), ("Cookie", "c")), "i"
    )
    assert sent == b"Content-Type: text/x\r\nX-A: 1\r\naccept-encoding: identity\r\nx-litellm-call-id: i\r\n"


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
