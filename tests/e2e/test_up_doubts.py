"""What may go wrong with the counting, through gateway, the real LiteLLM proxy and the demo upstream: usage that cannot
be, models without a price, tools and paths that no price here is for."""

import asyncio
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import httpx
import openai
import pytest

from deploy.ports import free_port
from meter.prices import bundled_map
from tests.harness.books import assert_books
from tests.harness.stack import Program
from tests.harness.up import Up
from tests.harness.up_caller import DOUBTED, DOUBTED_CLAUDE, PRICES, Caller, kinds, units_of
from tests.harness.waiting import until

COUNT: Final = "Conte até 3"
ENDPOINTS: Final[dict[str, tuple[str, Callable[[str], dict[str, Any]]]]] = {
    "chat": (
        "/chat/completions",
        lambda text: {"model": DOUBTED, "messages": [{"role": "user", "content": text}]},
    ),
    "responses": ("/responses", lambda text: {"model": DOUBTED, "input": text}),
    "messages": (
        "/messages",
        lambda text: {"model": DOUBTED_CLAUDE, "max_tokens": 20, "messages": [{"role": "user", "content": text}]},
    ),
}
PROVISIONAL: Final = {
    "SUNDIAL_UNPRICED": "provisional",
    "SUNDIAL_PROVISIONAL_INPUT_USD": "2.50",
    "SUNDIAL_PROVISIONAL_OUTPUT_USD": "10",
}
PROVISIONAL_MC: Final = {"input": 2_500, "output": 10_000}


@pytest.fixture(scope="module")
def caller(up: Up) -> Iterator[Caller]:
    """An account with credit for everything here. Afterwards the books must close."""
    found = Caller(up, up.personal("rui", "100000000"))
    with found.client, found.http:
        yield found
    urls = up.env["SUNDIAL_DATABASE_URL"], up.env["SUNDIAL_REDIS_URL"]
    asyncio.run(assert_books(*urls, home=up.folder / ".sundial"))


def alarms(up: Up, flag: str) -> float:
    """How many calls the gateway's metric has with this flag."""
    lines = httpx.get(up.env["SUNDIAL_GATEWAY_METRICS_URL"] + "/metrics").text.splitlines()
    name = f'sundial_gateway_flags_total{{flag="{flag}"}} '
    return sum(float(line.removeprefix(name)) for line in lines if line.startswith(name))


CASES: Final = [
    # what the provider says instead of the truth; streamed; evidence, flags
    ("chat", '{"prompt_tokens":-5,"completion_tokens":-7}', False, "recounted", ["absurd"]),
    ("chat", '{"prompt_tokens":-5,"completion_tokens":-7}', True, "recounted", ["absurd"]),
    ("chat", '{"completion_tokens":9223372036854775808}', True, "recounted", ["absurd"]),
    ("chat", '{"completion_tokens":1000000000}', False, "recounted", ["absurd"]),
    ("chat", '{"prompt_tokens":null,"completion_tokens":null,"total_tokens":null}', True, "recounted", []),
    ("chat", '{"completion_tokens":null,"total_tokens":null}', False, "recounted", []),
    ("chat", "null", False, "recounted", []),
    ("chat", '{"prompt_tokens_details":null,"completion_tokens_details":null}', False, "provider", []),
    ("chat", '{"prompt_tokens_details":{"cached_tokens":-50}}', True, "provider", ["absurd"]),
    ("responses", '{"input_tokens":1e30}', True, "recounted", ["absurd"]),
    ("responses", '{"input_tokens":"x"}', False, "recounted", ["absurd"]),
    ("responses", '{"output_tokens":-1}', True, "recounted", ["absurd"]),
    ("responses", '{"output_tokens_details":{"reasoning_tokens":"x"}}', False, "provider", ["absurd"]),
    ("responses", '{"input_tokens":null,"output_tokens":null,"total_tokens":null}', True, "recounted", []),
    ("responses", "[1,2]", False, "recounted", []),
    ("messages", '{"output_tokens":1e30}', True, "recounted", ["estimated", "absurd"]),
    ("messages", '{"input_tokens":-5,"output_tokens":-7}', False, "recounted", ["estimated", "absurd"]),
    ("messages", '{"output_tokens":null}', True, "recounted", ["estimated"]),
    ("messages", "null", False, "recounted", ["estimated"]),
]


@pytest.mark.parametrize(("family", "told", "streamed", "evidence", "flags"), CASES)
def test_usage_that_cannot_be(
    caller: Caller, family: str, told: str, streamed: bool, evidence: str, flags: list[str]
) -> None:
    """Negative, beyond all bounds, no number, null or not there: what is wrong is passed over and counted here, flagged
    and alarmed; the charge is that of the true counts, or of the estimate where the vocabulary is not public."""
    before = alarms(caller.up, "absurd")
    path, body = ENDPOINTS[family]
    answer = caller.http.post(path, json={**body(f"{COUNT} #usage{told}"), "stream": streamed})
    assert answer.status_code == 200, answer.text
    true = kinds(caller.served()["usage"])
    receipt = caller.up.receipt(answer.headers["x-sundial-call-id"])
    assert (receipt["outcome"], receipt["evidence"], receipt["flags"]) == ("complete", evidence, flags)
    assert alarms(caller.up, "absurd") - before == flags.count("absurd")
    units = units_of(receipt)
    # A recount of Responses has the token that OpenAI adds to an answer and the demo does not; Claude's are estimated.
    spare = 0 if evidence == "provider" or family == "chat" else 1 if family == "responses" else 5
    assert units.keys() == true.keys()
    assert all(0 <= units[kind] - true[kind] <= spare for kind in true), (units, true)
    prices = PRICES[receipt["priced_as"]]
    assert receipt["charge"] == sum(count * prices[kind] for kind, count in units.items()) > 0


def test_parts_beyond_their_whole(caller: Caller) -> None:
    """More cached tokens than there are: the prompt is cached, no more than that, and it is flagged."""
    path, body = ENDPOINTS["chat"]
    answer = caller.http.post(path, json=body(f'{COUNT} #usage{{"prompt_tokens_details":{{"cached_tokens":5000}}}}'))
    true = kinds(caller.served()["usage"])
    receipt = caller.up.receipt(answer.headers["x-sundial-call-id"])
    assert units_of(receipt) == {"cached": true["input"], "output": true["output"]}
    assert (receipt["evidence"], receipt["flags"]) == ("provider", ["inconsistent"])


def test_a_usage_that_litellm_cannot_read(caller: Caller) -> None:
    """A whole answer becomes its error, booked nowhere; of a stream, which ends in an error, what came is booked."""
    path, body = ENDPOINTS["chat"]
    asked = body(f'{COUNT} #usage{{"prompt_tokens":1e30}}')
    assert caller.http.post(path, json=asked).status_code == 500
    caller.served()
    answer = caller.http.post(path, json={**asked, "stream": True})
    true = kinds(caller.served()["usage"])
    receipt = caller.up.receipt(answer.headers["x-sundial-call-id"])
    assert (receipt["outcome"], receipt["evidence"]) == ("upstream_error", "recounted")
    assert units_of(receipt) == true


@pytest.mark.parametrize("family", ["chat", "responses"])
def test_litellms_own_count_is_flagged(caller: Caller, family: str) -> None:
    """Where a stream of the provider's tells no usage LiteLLM counts by itself and says it like a provider's: near, and
    not to be taken for the provider's word."""
    path, body = ENDPOINTS[family]
    answer = caller.http.post(path, json={**body(f"{COUNT} #usagenull"), "stream": True})
    true = kinds(caller.served()["usage"])
    receipt = caller.up.receipt(answer.headers["x-sundial-call-id"])
    assert (receipt["evidence"], receipt["flags"]) == ("provider", ["by_proxy"])
    assert units_of(receipt) == true


def test_tools_that_are_billed_apart(caller: Caller) -> None:
    """Those that a provider runs itself, at prices that no usage shows: refused before anybody sees them."""
    tools: list[dict[str, Any]] = [{"type": kind} for kind in ("image_generation", "code_interpreter", "file_search")]
    tools.append({"type": "shell", "environment": {"type": "container_auto"}})
    anthropic = {"type": "code_execution_20250825", "name": "code_execution"}
    for family, tool in (*(("responses", tool) for tool in tools), *(("chat", tool) for tool in tools[:3])):
        path, body = ENDPOINTS[family]
        with pytest.raises(openai.BadRequestError) as refused:
            caller.client.post(path, body={**body(COUNT), "tools": [tool]}, cast_to=object)
        assert refused.value.code == "invalid_field", tool
    path, body = ENDPOINTS["messages"]
    answer = caller.http.post(path, json={**body(COUNT), "tools": [anthropic]})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
    caller.nothing_served()


def test_variations_of_images(caller: Caller) -> None:
    """LiteLLM has no such path: its 404 reaches OpenAI's client, nothing is booked and nothing stays held."""
    caller.up.sundial("price", "set", "dall-e-3", "--images", "0.04")
    picture = ("sol.png", b"\x89PNG\r\n\x1a\n" + bytes(3_000), "image/png")
    before = len(caller.up.usage("rui", 0))

    async def admitted() -> bool:
        try:
            caller.client.images.create_variation(model="dall-e-3", image=picture)
        except openai.PermissionDeniedError:  # the price is on its way
            return False
        except openai.NotFoundError as error:
            return "x-sundial-call-id" in error.response.headers
        raise AssertionError("LiteLLM knows variations: let them be metered here")

    asyncio.run(until(admitted))
    caller.nothing_served()
    assert len(caller.up.usage("rui", 0)) == before
    assert caller.up.sundial("account", "show", "rui")["held"] == 0


@pytest.fixture
def admitting(caller: Caller, tmp_path: Path) -> Iterator[str]:
    """The base URL of a second gateway before the same LiteLLM, one that admits models without a price."""
    port, metrics = free_port(), free_port()
    taken = ("SUNDIAL_REDIS_URL", "SUNDIAL_UPSTREAM_URL", "SUNDIAL_UPSTREAM_KEY")
    environment = {name: caller.up.env[name] for name in taken} | PROVISIONAL
    ports = {"SUNDIAL_GATEWAY_PORT": str(port), "SUNDIAL_GATEWAY_METRICS_PORT": str(metrics)}
    gateway = Program(
        "gateway",
        {**environment, **ports, "SUNDIAL_HOME": str(tmp_path), "SUNDIAL_DRAIN_GRACE_S": "0"},
        metrics,
        tmp_path / "gateway.log",
    )
    asyncio.run(gateway.start())
    yield f"http://127.0.0.1:{port}/v1"
    assert asyncio.run(gateway.stop()) == 0, gateway.output


def test_a_model_without_a_price(caller: Caller, admitting: str, tmp_path: Path) -> None:
    """Refused by the gateway as it is by default. Where the operator admits it: booked at the provisional price, and
    corrected by one linked entry when `sundial price import` brings the price, at which later calls are booked."""
    messages: Any = [{"role": "user", "content": COUNT}]
    with pytest.raises(openai.PermissionDeniedError) as refused:
        caller.client.chat.completions.create(model="gpt-sol", messages=messages)
    assert refused.value.code == "model_not_priced"
    caller.nothing_served()
    client = openai.OpenAI(base_url=admitting, api_key=caller.secret, max_retries=0)
    create: Callable[..., Any] = client.chat.completions.with_raw_response.create
    booked: dict[str, dict[str, int]] = {}
    for streamed in (False, True):
        answer = create(model="gpt-sol", messages=messages, stream=streamed)
        if streamed:
            list(answer.parse())
        true = kinds(caller.served()["usage"])
        receipt = caller.up.receipt(answer.headers["x-sundial-call-id"])
        assert (receipt["evidence"], receipt["flags"][0], receipt["corrections"]) == ("provider", "provisional", [])
        assert receipt["recomputed"] == receipt["charge"]
        assert {line["kind"]: line["units"] for line in receipt["lines"]} == true
        assert receipt["usage"] == true
        assert receipt["charge"] == sum(count * PROVISIONAL_MC[kind] for kind, count in true.items())
        booked[receipt["event_id"]] = true
    prices = json.loads(bundled_map().read_text(encoding="utf-8"))
    prices["gpt-sol"] = {
        "litellm_provider": "openai",
        "mode": "chat",
        "input_cost_per_token": 4e-06,
        "output_cost_per_token": 7e-06,
    }
    map_file = tmp_path / "prices.json"
    map_file.write_text(json.dumps(prices), encoding="utf-8")
    imported = caller.up.sundial("price", "import", "--file", str(map_file))
    assert imported["added"] == ["gpt-sol"]
    for event_id, true in booked.items():
        asyncio.run(until(partial(corrected, caller, event_id)))
        receipt = caller.up.receipt(event_id)
        [correction] = receipt["corrections"]
        due = true["input"] * 4_000 + true["output"] * 7_000
        assert (units_of(receipt), receipt["due"], receipt["recomputed"]) == (true, due, due)
        assert correction["amount"] == receipt["charge"] - due
        assert (correction["price_version"], correction["priced_as"]) == (imported["version"], "gpt-sol")
        linked = [entry for entry in caller.up.sundial("statement", "rui")["entries"] if "corrects" in entry]
        assert [entry["link_id"] for entry in linked].count(event_id) == 1
    answer = create(model="gpt-sol", messages=messages)
    receipt = caller.up.receipt(answer.headers["x-sundial-call-id"])
    true = kinds(caller.served()["usage"])
    assert (receipt["flags"], receipt["priced_as"]) == ([], "gpt-sol")
    assert receipt["charge"] == true["input"] * 4_000 + true["output"] * 7_000


async def corrected(caller: Caller, event_id: str) -> bool:
    return bool(caller.up.receipt(event_id)["corrections"])
