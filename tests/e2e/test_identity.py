"""Who pays: keys, and the users that a service key names."""

import base64
from typing import Any

import pytest

from tests.harness.chain import Chain

BODY: Any = {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Olá"}], "user": "65f0"}


async def test_two_users_have_two_accounts(chain: Chain) -> None:
    """Users named through the service key's headers are provisioned at first sight, each with a balance of its own."""
    await chain.stack.sundial("plan", "set", "default", "--allowance", "5000")
    service = await chain.service()
    for user, calls in (("65f0", 1), ("71aa", 2)):
        for _ in range(calls):
            status, _, _ = await chain.post(service, {**BODY, "user": user}, {"X-Sundial-User-Id": user})
            assert status == 200
    await chain.booked(3)
    balances = {}
    for user, calls in (("65f0", 1), ("71aa", 2)):
        statement = await chain.stack.sundial("statement", user)
        assert statement["opening"] == 0
        assert statement["grants"] == 5_000_000
        assert len([entry for entry in statement["entries"] if entry["kind"] == "usage"]) == calls
        balances[user] = statement["closing"]
    assert balances["71aa"] < balances["65f0"] < 5_000_000


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("Jos\xe9".encode("latin-1"), "José"),
        ("José".encode(), "José"),
        (b"b64:" + base64.b64encode("Zoë 🌻".encode()), "Zoë 🌻"),
        (b"{{LIBRECHAT_USER_NAME}}", ""),
    ],
)
async def test_names_arrive_as_they_were_meant(chain: Chain, sent: bytes, shown: str) -> None:
    """Latin-1 bytes, UTF-8 bytes and b64: all become the name; an unresolved placeholder becomes none."""
    await chain.stack.sundial("plan", "set", "default", "--allowance", "5000")
    service = await chain.service()
    headers = {b"X-Sundial-User-Id": b"65f0", b"X-Sundial-User-Name": sent}
    status, _ = await chain.post_raw_headers(service, BODY, headers)
    assert status == 200
    await chain.booked(1)
    assert (await chain.stack.sundial("account", "show", "65f0"))["name"] == shown


@pytest.mark.parametrize(
    ("headers", "body", "code"),
    [
        ({}, BODY, "missing_user"),
        ({"X-Sundial-User-Id": ""}, BODY, "missing_user"),
        ({"X-Sundial-User-Id": "  "}, BODY, "missing_user"),
        ({"X-Sundial-User-Id": "{{LIBRECHAT_USER_ID}}"}, BODY, "unresolved_user"),
        ({"X-Sundial-User-Id": "other"}, BODY, "user_mismatch"),
        ({"X-Sundial-User-Id": "a" * 129}, {**BODY, "user": "a" * 129}, "invalid_user"),
    ],
)
async def test_doubtful_users_are_refused(chain: Chain, headers: dict[str, str], body: Any, code: str) -> None:
    """An empty, unresolved, contradictory or oversized id is a 403 that the upstream never sees."""
    service = await chain.service()
    status, _, answer = await chain.post(service, body, headers)
    assert (status, answer["error"]["code"]) == (403, code)
    assert chain.upstream.served == []


async def test_a_personal_key_cannot_name_users(chain: Chain) -> None:
    """Identity headers on a personal key are ignored: its own account pays."""
    secret = await chain.personal("ana", credit="1000")
    status, _, _ = await chain.post(secret, {**BODY, "user": "bob"}, {"X-Sundial-User-Id": "bob"})
    assert status == 200
    assert len(await chain.usage_entries("ana", 1)) == 1


async def test_a_revoked_key_is_refused_at_once(chain: Chain) -> None:
    """Revoking reaches the running gateway; unknown keys and missing ones are 401."""
    secret = await chain.personal("ana", credit="1000")
    assert (await chain.post(secret, BODY))[0] == 200
    await chain.stack.sundial("key", "revoke", "--", secret[-4:])
    await chain.until_status(secret, BODY, 401)
    assert (await chain.post("sk-sundial-nobody", BODY))[2]["error"]["code"] == "invalid_api_key"
    assert (await chain.post("", BODY))[2]["error"]["code"] == "missing_api_key"


async def test_a_blocked_account_is_refused(chain: Chain) -> None:
    """Blocking an account reaches the running gateway and reads as one clear sentence, also where nothing is
    held; a list of models is still given."""
    secret = await chain.personal("ana", credit="1000")
    await chain.stack.sundial("account", "block", "ana")
    answer = await chain.until_status(secret, BODY, 403)
    assert answer["error"]["code"] == "account_blocked"
    async with chain.session(secret) as session:
        for path in ("/v1/moderations", "/v1/messages/count_tokens"):
            async with session.post(path, json={**BODY, "input": "x"}) as refused:
                assert (refused.status, "bloqueada" in await refused.text()) == (403, True), path
        async with session.get("/v1/models") as listed:
            assert listed.status == 200
    assert {served.target for served in chain.upstream.served} <= {"/v1/chat/completions"}
    await chain.stack.sundial("account", "unblock", "ana")
    await chain.until_status(secret, BODY, 200)
