"""What a balance allows: refusals before the limit, and streams that end well at it."""

import asyncio
import json
from typing import Any

from tests.harness.chain import Chain
from tests.harness.fake_upstream import Play

MESSAGES: Any = [{"role": "user", "content": "Conte uma história sobre o sol."}]


async def test_fifty_calls_on_credit_for_three(chain: Chain) -> None:
    """50 parallel calls on credit for three: at most three run, the rest read 402, and the floor holds."""
    body = {"model": "gpt-4o-mini", "messages": MESSAGES, "max_tokens": 100}
    chain.upstream.script = lambda _: Play(tokens=100)
    secret = await chain.personal("ana", credit="100000")
    probe = await chain.cost_of(secret, body)
    await chain.set_balance("ana", probe * 3)
    chain.upstream.served.clear()
    answers = await asyncio.gather(*(chain.post(secret, body) for _ in range(50)))
    statuses = sorted(status for status, _, _ in answers)
    ran = statuses.count(200)
    assert 1 <= ran <= 3
    assert statuses.count(402) == 50 - ran
    assert len(chain.upstream.served) == ran
    shown = await chain.settled("ana")
    assert shown["balance"] >= 0
    assert shown["balance"] == probe * (3 - ran)


async def test_the_refusal_reads_well(chain: Chain) -> None:
    """Out of credit is a 402 of the agreed shape: one line with the link, no Retry-After, no retry."""
    secret = await chain.personal("ana", credit="0")
    status, headers, answer = await chain.post(secret, {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True})
    error = answer["error"]
    assert status == 402
    assert headers["x-should-retry"] == "false"
    assert "retry-after" not in headers
    assert (error["type"], error["code"], error["param"]) == ("insufficient_credits", "credit_exhausted", None)
    assert "https://creditos.example.com" in error["message"]
    assert "\n" not in error["message"]
    assert len(error["message"]) <= 200
    assert not set("{}") & set(error["message"])


async def test_a_title_does_not_lock_out_its_answer(chain: Chain) -> None:
    """LibreChat asks for the title, whole, at the same time as for the first answer, a stream: whichever comes first,
    the credit of 2,500 runs both, though a title may be as long as nearly all of it."""
    secret = await chain.personal("ana", credit="2500")
    title = {"model": "gpt-4o-mini", "messages": MESSAGES}
    chat = {**title, "stream": True}
    for pair in ((title, chat), (chat, title)):
        answers = [asyncio.create_task(chain.post(secret, body)) for body in pair]
        assert [(await answer)[0] for answer in answers] == [200, 200]
        await chain.settled("ana")
        await chain.set_balance("ana", 2_500_000)


async def test_nobody_is_refused_on_an_estimate(chain: Chain) -> None:
    """A call whose estimate does not fit, but whose exact cost does, runs."""
    text = "ação " * 400
    body = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": text}], "max_tokens": 5}
    chain.upstream.script = lambda _: Play(tokens=5)
    secret = await chain.personal("ana", credit="100000")
    exact = await chain.cost_of(secret, body)
    await chain.set_balance("ana", exact)
    assert (await chain.post(secret, body))[0] == 200
    assert (await chain.settled("ana"))["balance"] == 0


async def test_searches_that_cannot_be_paid_are_not_begun(chain: Chain) -> None:
    """They cost more than the text: credit for one search of Claude's (10,000 credits) is not enough for three."""
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    body = {"model": "claude-sonnet-4-5", "messages": MESSAGES, "max_tokens": 20, "tools": [tool]}
    usage = {"input_tokens": 10, "output_tokens": 5, "server_tool_use": {"web_search_requests": 1}}
    chain.upstream.script = lambda _: Play(tokens=5, raw_usage=usage)
    secret = await chain.personal("ana", credit="25000")
    async with chain.session(secret) as session:
        for most, status in ((3, 402), (1, 200)):
            asked = {**body, "tools": [{**tool, "max_uses": most}]}
            async with session.post("/v1/messages", json=asked) as answer:
                assert answer.status == status, await answer.text()
    assert len(chain.upstream.served) == 1
    [entry] = await chain.usage_entries("ana", 1)
    assert entry["amount"] == -(10 * 3_000 + 5 * 15_000 + 10_000_000)


async def test_a_stream_ends_well_when_the_credit_ends(chain: Chain) -> None:
    """Credit that ends in mid-stream: text kept, reason as text, finish_reason length, [DONE]; charged what came."""
    secret = await chain.personal("ana", credit="100000")
    small = {"model": "gpt-4o-mini", "messages": MESSAGES, "max_tokens": 1}
    chain.upstream.script = lambda _: Play(tokens=1)
    await chain.cost_of(secret, small)
    await chain.set_balance("ana", 400_000)  # 400 credits: some 650 tokens of output
    chain.upstream.script = lambda _: Play(tokens=50_000)
    received = await chain.raw(secret, {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True})
    events = [json.loads(line[6:]) for line in received.decode().split("\n\n") if line.startswith("data: {")]
    assert received.endswith(b"data: [DONE]\n\n")
    assert events[-1]["choices"][0]["finish_reason"] == "length"
    assert "créditos" in events[-2]["choices"][0]["delta"]["content"]
    *_, entry = await chain.usage_entries("ana", 2)
    served = chain.upstream.served[-1]
    assert entry["outcome"] == "exhausted"
    forwarded = sum(bool(event["choices"][0]["delta"].get("content")) for event in events) - 1
    assert abs(entry["tokens_out"] - forwarded) <= 1
    assert served.ended == "gone"
    slice_mc = 1024 * 600  # output tokens of a slice × millicredits
    assert (await chain.settled("ana"))["balance"] >= -slice_mc


async def test_a_long_stream_extends_its_hold(chain: Chain) -> None:
    """An account with credit streams past its first slice without notice."""
    secret = await chain.personal("ana", credit="100000")
    chain.upstream.script = lambda _: Play(tokens=5_000)
    received = await chain.raw(secret, {"model": "gpt-4o-mini", "messages": MESSAGES, "stream": True})
    assert received.endswith(b"data: [DONE]\n\n")
    [entry] = await chain.usage_entries("ana", 1)
    assert entry["tokens_out"] == 5_000
    assert (await chain.settled("ana"))["held"] == 0


async def test_a_plain_answer_is_capped_by_what_is_left(chain: Chain) -> None:
    """An answer that cannot be stopped on the way is asked for no longer than the account can pay."""
    secret = await chain.personal("ana", credit="300")
    await chain.post(secret, {"model": "gpt-4o-mini", "messages": MESSAGES})
    cap = chain.upstream.served[0].request["max_tokens"]
    assert 64 <= cap <= 300_000 // 600
    await chain.set_balance("ana", 1_000_000_000)
    await chain.post(secret, {"model": "gpt-4o-mini", "messages": MESSAGES})
    assert "max_tokens" not in chain.upstream.served[1].request


async def test_a_model_without_price_is_refused(chain: Chain) -> None:
    """What has no price is never free by accident."""
    secret = await chain.personal("ana", credit="100000")
    status, _, answer = await chain.post(secret, {"model": "no-such-price", "messages": MESSAGES})
    assert (status, answer["error"]["code"]) == (403, "model_not_priced")
    assert chain.upstream.served == []


async def test_the_statement_closes(chain: Chain) -> None:
    """opening + grants − usage ± adjustments − expiry = closing, and the closing is the balance."""
    secret = await chain.personal("ana", credit="1000")
    await chain.post(secret, {"model": "gpt-4o-mini", "messages": MESSAGES, "max_tokens": 20})
    await chain.booked(1)
    await chain.stack.sundial("adjust", "ana", "--memo", "cortesia", "--", "250.5")
    await chain.stack.sundial("adjust", "ana", "--memo", "estorno", "--", "-100")
    s = await chain.stack.sundial("statement", "ana")
    assert s["grants"] == 1_000_000
    assert s["adjustments"] == 150_500
    assert s["usage"] > 0
    assert s["opening"] + s["grants"] + s["purchases"] - s["usage"] + s["adjustments"] - s["expiry"] == s["closing"]
    assert s["closing"] == (await chain.settled("ana"))["balance"]
