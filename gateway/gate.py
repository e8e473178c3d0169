"""What every call of one gateway process shares. Built in app.py, passed to the phases of a call."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from gateway.book import KeyBook
from gateway.budget import Budget
from gateway.event_ids import event_id
from gateway.families import Family
from gateway.guesses import Guesses
from gateway.journal import Journal
from gateway.overload import Overload
from gateway.redis_link import RedisLink
from gateway.saying import Saying
from gateway.shadow import Shadow
from gateway.upstream import Upstream
from shared.listed import Network
from shared.settings import GatewaySettings

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from gateway.models import ModelList


@dataclass(slots=True, kw_only=True)
class Gate:
    """The parts of the gateway, and what is no function of its input: time, ids and tasks."""

    settings: GatewaySettings
    name: str
    book: KeyBook
    link: RedisLink
    budget: Budget
    journal: Journal
    upstream: Upstream
    models: "ModelList"
    counters: Executor
    """Runs the tokenizer, off the event loop."""
    shadow: Shadow
    """Counts some calls once more, when they are over."""
    spawn: Callable[[Awaitable[Any]], "asyncio.Task[Any]"]
    """Runs something to its end, whatever becomes of the request that it is for."""
    forwarded: tuple[Family, ...] = ()
    """What the operator listed to be passed on unmetered."""
    trusted_proxies: tuple[Network, ...] = ()
    guesses: Guesses = field(default_factory=Guesses)
    """Wrong keys, by where they come from."""
    requests: "dict[asyncio.Task[Any], RequestHandler]" = field(default_factory=dict)
    """What is being answered, and on which connection."""
    overload: Overload = field(default_factory=Overload)
    saying: Saying = field(default_factory=Saying)
    listening: bool = False
    """The public port is open."""
    draining: bool = False
    cutting: bool = False
    """Draining has taken too long: what still runs is being ended."""

    @staticmethod
    def now_us() -> int:
        return time.time_ns() // 1000

    @staticmethod
    def loop_s() -> float:
        """Seconds of the event loop's clock."""
        return asyncio.get_running_loop().time()

    @staticmethod
    def new_event_id() -> UUID:
        return event_id(time.time_ns() // 1_000_000, os.urandom(10))

    @property
    def keep_alive(self) -> bool:
        """Whether a client's connection is for more than one answer."""
        return not (self.draining or self.overload.easing)

    @property
    def unready(self) -> str:
        """Why nobody should send calls here; empty where they are welcome. Draining serves those that come."""
        if self.draining:
            return "draining"
        return self.unfit if self.listening else "the port is not open yet"

    @property
    def unfit(self) -> str:
        """Why no call can begin now; empty where one can."""
        if not self.book.loaded:
            return "keys and prices are not loaded"
        if not self.link.ready:
            return "Redis is away"
        if not self.link.takes_writes:
            return "Redis takes no writes"
        if self.journal.failing:
            return "the journal cannot be written"
        return self.overload.full(len(self.budget.running))
