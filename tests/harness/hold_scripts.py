"""The Lua scripts of shared/lua called by hand, and what they leave in Redis, in Python's own types."""

from typing import Any, Final

import msgspec
import redis

from shared import ids, redis_keys, scripts
from shared.events import StreamMessage, decode, encode
from tests.harness.calls import call, draft, event_of
from tests.harness.messages import account_of, seen

TTL_S: Final = 60
STREAM_CAP: Final = 10_000
ALLOWANCE_MC: Final = 1_000


class State(msgspec.Struct, frozen=True):
    """What Redis holds of one account."""

    fields: dict[str, str]
    held: int
    unposted: int
    balance: int
    floor: int
    holds: dict[str, tuple[int, int, bytes]]
    """Event id → amount, charge so far, draft."""
    waiting: dict[str, int]
    """Field of unposted → charge that is not posted yet."""
    deadlines: dict[str, float]

    @property
    def spendable(self) -> int:
        return self.balance - self.floor - self.held - self.unposted


class HoldScripts:
    """One account, `ana`'s unless another is named, on one Redis. Events are named by small numbers."""

    def __init__(self, client: Any, user: str = "ana") -> None:
        self.client = client
        self.user = user
        self.account_id = account_of(user)
        self.shard = ids.shard_of(self.account_id)
        self._major = int(client.info("server")["redis_version"].split(".")[0])
        self.keys = {
            "epoch": redis_keys.epoch(self.shard),
            "account": redis_keys.account(self.shard, self.account_id),
            "holds": redis_keys.holds(self.shard, self.account_id),
            "unposted": redis_keys.unposted(self.shard, self.account_id),
            "deadlines": redis_keys.deadlines(self.shard),
            "stream": redis_keys.usage_stream(self.shard),
        }

    def run(self, name: str, keys: str, *arguments: Any) -> list[Any]:
        """The answer of a script, its texts decoded; `keys` are their names in the order of the script's head."""
        script = scripts.load(name, self._major)
        named = [self.keys[key] for key in keys.split()]
        try:
            answer = self.client.evalsha(script.sha1, len(named), *named, *arguments)
        except redis.exceptions.NoScriptError:
            answer = self.client.eval(script.text, len(named), *named, *arguments)
        return [part.decode() if isinstance(part, bytes) else part for part in answer] if answer else answer

    # The life of an account and its calls -----------------------------------------------------------------

    def open(self) -> None:
        """Admission is open: the meter has told the projection."""
        self.client.set(self.keys["epoch"], "epoch-1")

    def told(self, balance: int, *, seq: int = 1, revision: int = 1, floor: int = 0, **more: str) -> int:
        """The meter tells the account as it is in Postgres; `more`: status, plan, mode, and `posted`: event numbers,
        `1/lost` for what was lost of event 1."""
        posted = [field(number) for number in more.pop("posted", "").split()]
        account = {"status": "active", "plan": "default", "mode": "enforce"} | more
        script = scripts.load("apply", self._major)
        keys = [self.keys["account"], self.keys["unposted"]]
        values = (balance, seq, revision, floor, *account.values(), len(posted), *posted)
        return int(self.client.eval(script.text, 2, *keys, *values))

    def reserve(
        self,
        number: int,
        full: int = 100,
        slice_: int = 100,
        least: int = 10,
        *,
        plan: str = "default",
        ttl_s: int = TTL_S,
        cap: int = STREAM_CAP,
        newcomer: bool = False,
        may_announce: bool = False,
        allowance: int = ALLOWANCE_MC,
    ) -> list[Any]:
        """`newcomer`: with an announcement; `may_announce`: one may be asked for."""
        announced = encode(seen(self.user, allowance, plan=plan)) if newcomer else b"?" if may_announce else b""
        arguments = (full, slice_, least, ttl_s, cap, self.event(number), announced, allowance)
        return self.run("reserve", "epoch account holds deadlines stream", *self._ids(number), plan, *arguments)

    def extend(
        self, number: int, more: int, charge: int = 0, *, ttl_s: int = TTL_S, again: int | None = None
    ) -> list[Any]:
        """`again`: what to hold where the hold is gone."""
        arguments = (more, ttl_s, charge, self.event(number, charge), "" if again is None else again)
        return self.run("extend", "account holds deadlines unposted epoch", *self._ids(number), *arguments)

    def settle(self, number: int, charge: int, *, lost: bool = False) -> list[Any]:
        """The true record of a call, or, with `lost`, what a journal says was noted of it."""
        kind = redis_keys.LOST if lost else ""
        event = self.event(number, charge)
        return self.run("settle", "account holds unposted deadlines stream", *self._ids(number), charge, event, kind)

    def void(self, number: int) -> list[Any]:
        return self.run("settle", "account holds unposted deadlines stream", *self._ids(number), 0, "", "")

    def expire(self, number: int) -> list[Any]:
        return self.run("expire", "account holds unposted deadlines stream", *self._ids(number))

    def forget(self, event_id: str) -> None:
        """A hold is gone, whoever made it."""
        script = scripts.load("settle", self._major)
        keys = [self.keys[key] for key in ("account", "holds", "unposted", "deadlines", "stream")]
        self.client.eval(script.text, len(keys), *keys, str(self.account_id), event_id, 0, "")

    # What they left ---------------------------------------------------------------------------------------

    def state(self) -> State:
        fields = {name.decode(): value.decode() for name, value in self.client.hgetall(self.keys["account"]).items()}
        holds = {}
        for event_id, hold in self.client.hgetall(self.keys["holds"]).items():
            amount, charge, event = hold.split(b" ", 2)
            holds[event_id.decode()] = (int(amount), int(charge), event)
        prefix = f"{self.account_id}/"
        return State(
            fields=fields,
            held=int(fields.get("held", 0)),
            unposted=int(fields.get("unposted", 0)),
            balance=int(fields.get("balance", 0)),
            floor=int(fields.get("floor", 0)),
            holds=holds,
            waiting={one.decode(): int(charge) for one, charge in self.client.hgetall(self.keys["unposted"]).items()},
            deadlines={
                member.decode().removeprefix(prefix): at
                for member, at in self.client.zrange(self.keys["deadlines"], 0, -1, withscores=True)
                if member.decode().startswith(prefix)
            },
        )

    def reported(self) -> list[StreamMessage]:
        """The messages on the shard's stream, oldest first."""
        return [decode(fields[b"d"]) for _, fields in self.client.xrange(self.keys["stream"])]

    def event(self, number: int, charge: int = 0) -> bytes:
        """The usage event of call `number`, as it would be booked at `charge`."""
        return encode(draft(call(self.user, event_id=event_of(number), started_at_us=number), charge_mc=charge))

    def _ids(self, number: int) -> tuple[str, str]:
        return str(self.account_id), str(event_of(number))


def name(number: int) -> str:
    """The event id of call `number`, as Redis has it."""
    return str(event_of(number))


def field(number: str) -> str:
    """The field of unposted for call `1`, or for what was lost of it, `1/lost`."""
    event, slash, _ = number.partition("/")
    return redis_keys.unposted_field(event_of(int(event)), lost=bool(slash))
