"""Several gateway processes seen as one: their metrics, their readiness, their port."""

import errno
import socket
from typing import Any

import pytest

from gateway import metric_sums
from gateway.worker import part
from gateway.workers import reserved
from gateway.workers_health import Said, verdict
from shared.settings import GatewaySettings

PAGE = """\
# HELP sundial_gateway_calls_total Closed calls.
# TYPE sundial_gateway_calls_total counter
sundial_gateway_calls_total{family="chat",outcome="complete"} %d
# HELP sundial_gateway_calls_created Closed calls.
# TYPE sundial_gateway_calls_created gauge
sundial_gateway_calls_created{family="chat",outcome="complete"} 17%d
# HELP seconds Time.
# TYPE seconds histogram
seconds_bucket{le="1.0"} 1
seconds_bucket{le="+Inf"} 2
seconds_count 2
seconds_sum 3.5
# HELP sundial_gateway_holds_open Running calls.
# TYPE sundial_gateway_holds_open gauge
sundial_gateway_holds_open 4
# HELP sundial_gateway_ready 1 while calls can begin.
# TYPE sundial_gateway_ready gauge
sundial_gateway_ready 1
"""


def lines(page: metric_sums.Page) -> dict[str, float]:
    """The samples of a page by their names and labels, as they are written."""
    text = metric_sums.rendered(page).decode()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")}


def test_pages_add_up() -> None:
    """Counters, histograms and gauges are sums, but for the gauges of which a sum means nothing; labels stay apart."""
    other = PAGE.replace("chat", "images")
    pages = [metric_sums.parsed(PAGE % (5, 2)), metric_sums.parsed(PAGE % (3, 1)), metric_sums.parsed(other % (7, 3))]
    found = lines(metric_sums.added(pages))
    assert found['sundial_gateway_calls_total{family="chat",outcome="complete"}'] == 8
    assert found['sundial_gateway_calls_total{family="images",outcome="complete"}'] == 7
    assert found['sundial_gateway_calls_created{family="chat",outcome="complete"}'] == 171
    assert (found['seconds_bucket{le="1.0"}'], found["seconds_count"], found["seconds_sum"]) == (3, 6, 10.5)
    assert (found["sundial_gateway_holds_open"], found["sundial_gateway_ready"]) == (12, 1)


def test_one_page_alone_looks_as_it_did() -> None:
    """Names, meanings, kinds and values are those that were read."""
    text = (PAGE % (5, 2)).replace("seconds", "a_seconds")
    again = metric_sums.rendered(metric_sums.added([metric_sums.parsed(text)])).decode()
    assert [line for line in again.splitlines() if line[0] == "#"] == [
        line for line in text.splitlines() if line[0] == "#"
    ]
    assert [float(line.rsplit(" ", 1)[1]) for line in again.splitlines() if line[0] != "#"] == [
        float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line[0] != "#"
    ]


def test_what_had_been_counted_outlasts_its_process() -> None:
    """Counters and histograms stay, gauges are of the living."""
    kept = lines(metric_sums.lasting(metric_sums.parsed(PAGE % (5, 2))))
    assert 'sundial_gateway_calls_total{family="chat",outcome="complete"}' in kept
    assert "seconds_count" in kept
    assert "sundial_gateway_holds_open" not in kept


def test_a_worker_has_its_part_of_the_settings() -> None:
    """Its name tells it from the others; the memory is for all of them together."""
    urls: dict[str, Any] = {"redis_url": "redis://127.0.0.1", "upstream_url": "http://127.0.0.1:1/v1"}
    whole = GatewaySettings(**urls, gateway_name="gw", gateway_workers=4, memory_bytes_max=4_000_000)
    one = part(whole, 3)
    assert (one.gateway_name, one.memory_bytes_max, one.gateway_workers) == ("gw-3", 1_000_000, 4)
    assert part(GatewaySettings(**urls, gateway_workers=2), 1).gateway_name == ""


@pytest.mark.parametrize(
    ("said", "ready", "line"),
    [
        ([Said(True), Said(True)], True, "ready, 2 of 2 workers"),
        ([Said(True), Said(False)], True, "ready, 1 of 2 workers"),
        ([Said(False), Said(False)], False, "no worker is there"),
        ([Said(True), Said(True, "Redis is away")], False, "worker 2: Redis is away"),
        ([Said(True, "draining"), Said(False)], False, "worker 1: draining"),
    ],
)
def test_ready_is_who_answers_every_connection(said: list[Said], ready: bool, line: str) -> None:
    """One that takes connections and no calls makes all unready; one that takes none leaves them to the others."""
    assert verdict(said) == (ready, line)


def test_the_port_is_kept_for_workers_alone() -> None:
    """Another program's port is refused at once; ours is shared with those that know of it, until it is let go."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        with pytest.raises(OSError, match="Address already in use") as refused, reserved(*taken.getsockname()):
            raise AssertionError("two on one port")
        assert refused.value.errno == errno.EADDRINUSE
    with reserved("127.0.0.1", 0) as held:
        address = held.getsockname()
        with pytest.raises(OSError, match="Address already in use"):
            socket.create_server(address)
        with socket.create_server(address, reuse_port=True), reserved(*address):
            pass
