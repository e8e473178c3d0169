"""The two keys that `sundial up` shows: one of the account `demo`, one that may name users. The same at every start."""

import asyncio
import contextlib
import sys
from collections.abc import Mapping
from typing import Final

import aiohttp
import msgspec

from deploy.child import PartFailedError
from deploy.secrets_folder import Kept

ACCOUNT: Final = "demo"
WELCOME_CREDITS: Final = "10000000"
"""What the account gets beside its plan's allowance: US$ 10 of demo answers, some hundred thousand of them."""
KNOWN_TIMEOUT_S: Final = 15.0
"""Seconds for a key to reach the gateway."""
POLL_S: Final = 0.1


async def ensure(kept: Kept, gateway_url: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The personal and the service key, each accepted by the gateway. Raises PartFailedError.

    A kept key that the gateway does not know belongs to a ledger that was deleted: it is made again.
    """
    personal, service = kept.read("demo-key"), kept.read("service-key")
    if not personal or not await _known(gateway_url, personal):
        made = await _sundial(environment, "key", "create", "--personal", ACCOUNT, "--name", "make up", "--json")
        personal = made["secret"]
        kept.write("demo-key", personal)
        if made.get("opened"):
            await _sundial(environment, "grant", ACCOUNT, WELCOME_CREDITS, "--memo", "welcome", "--json")
    if not service or not await _known(gateway_url, service):
        service = (await _sundial(environment, "key", "create", "--service", ACCOUNT, "--json"))["secret"]
        kept.write("service-key", service)
    await _wait_until_known(gateway_url, personal)
    await _wait_until_known(gateway_url, service)
    return personal, service


async def _known(gateway_url: str, key: str) -> bool:
    """Whether the gateway accepts a key: anything but 401 says so, whatever the upstream answers. Raises
    PartFailedError where it cannot be asked."""
    headers = {"Authorization": f"Bearer {key}"}
    try:
        async with aiohttp.ClientSession(headers=headers) as session, session.get(f"{gateway_url}/models") as answer:
            return answer.status != 401
    except (aiohttp.ClientError, OSError, TimeoutError) as error:
        raise PartFailedError(
            f"the gateway is ready, but does not answer at {gateway_url}: {error}. See SUNDIAL_GATEWAY_HOST and "
            "SUNDIAL_GATEWAY_PORT."
        ) from error


async def _wait_until_known(gateway_url: str, key: str) -> None:
    try:
        async with asyncio.timeout(KNOWN_TIMEOUT_S):
            while True:
                if await _known(gateway_url, key):
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise PartFailedError(
            f"a key was created, but the gateway did not learn of it within {KNOWN_TIMEOUT_S:.0f} s"
        ) from None


async def _sundial(environment: Mapping[str, str], *arguments: str) -> dict[str, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sundial", *arguments),
        env=dict(environment),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, said = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.returncode is None:
                process.kill()
    if process.returncode != 0:
        raise PartFailedError(f"`sundial {' '.join(arguments)}` failed: {said.decode(errors='replace').strip()}")
    answer: dict[str, str] = msgspec.json.decode(out)
    return answer
