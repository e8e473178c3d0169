"""The head of an answer is the same, whatever form of it is remembered: line by line, as one would write it."""

from typing import Any, Final

from aiohttp import HttpVersion, web
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from gateway.reply import opening
from gateway.upstream import HOP_BY_HOP
from gateway.upstream_connection import Head

STAY_HERE: Final = HOP_BY_HOP | {b"content-length", b"server", b"x-sundial-call-id"}

names = st.sampled_from(
    [b"content-type", b"x-100%b", b"%", b"set-cookie", b"date", b"server", b"keep-alive", b"content-length", b"x-one"]
)
values = st.one_of(st.sampled_from([b"", b"12", b"%b", b"keep-alive", b"close, X-One", b"Jos\xe9"]), st.binary())
headers = st.lists(st.tuples(st.one_of(names, st.just(b"connection")), values.filter(lambda v: b"\r\n" not in v)))


def line_by_line(
    request: web.Request, head: Head, *, keep_alive: bool, grows: bool, bodiless: bool
) -> tuple[list[bytes], bool, bool]:
    """The lines of a head but for a date of ours, whether the body is in chunks, whether the connection is kept."""
    length = b"" if grows or bodiless else head.get(b"content-length")
    chunked = not length.isdigit() and not bodiless and request.version >= HttpVersion(1, 1)
    kept = keep_alive and request.keep_alive and (length.isdigit() or chunked or bodiless)
    dropped = set(STAY_HERE)
    if head.get(b"connection"):
        for name, value in head.headers:
            if name == b"connection":
                dropped |= {listed.strip().lower() for listed in value.split(b",")}
    reason = {200: b"OK", 429: b"Too Many Requests", 799: b""}[head.status]
    lines = [b"HTTP/%d.%d %d %b" % (*request.version, head.status, reason)]
    lines += [b"%b: %b" % header for header in head.headers if header[0] not in dropped]
    lines.append(b"X-Sundial-Call-Id: the-id")
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    elif length.isdigit():
        lines.append(b"content-length: " + length)
    if not kept and request.version >= HttpVersion(1, 1):
        lines.append(b"connection: close")
    elif kept and request.version == HttpVersion(1, 0):
        lines.append(b"connection: keep-alive")
    return lines, chunked, kept


@given(
    headers,
    st.sampled_from([200, 429, 799]),
    st.sampled_from([HttpVersion(1, 0), HttpVersion(1, 1)]),
    st.sampled_from([{}, {"Connection": "close"}, {"Connection": "keep-alive"}]),
    st.fixed_dictionaries({flag: st.booleans() for flag in ("keep_alive", "grows", "bodiless")}),
)
def test_a_head_is_what_it_is_line_by_line(
    pairs: list[tuple[bytes, bytes]], status: int, version: HttpVersion, asked: dict[str, str], flags: dict[str, Any]
) -> None:
    """The upstream's headers in their order, doubles too; ours behind them; a date where there is none."""
    request = make_mocked_request("POST", "/", version=version, headers=asked)
    head = Head(pairs, status)
    opened = opening(request, head, "the-id", **flags)
    lines, chunked, kept = line_by_line(request, head, **flags)
    if not head.get(b"date"):
        at = lines.index(b"X-Sundial-Call-Id: the-id") + 1
        rendered = opened.head.split(b"X-Sundial-Call-Id: the-id\r\n")[1].split(b"\r\n")[0]
        assert rendered.startswith(b"date: ")
        assert rendered.endswith(b" GMT")
        lines.insert(at, rendered)
    assert opened.head == b"\r\n".join(lines) + b"\r\n\r\n"
    assert (opened.chunked, opened.reply.status, bool(opened.reply.keep_alive)) == (chunked, status, bool(kept))
