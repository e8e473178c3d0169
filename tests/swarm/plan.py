"""What breaks when: a plan of faults drawn from a seed, so that what it finds can be repeated. Pure."""

import random
from collections.abc import Collection, Mapping
from typing import Final, NamedTuple

QUIET_S: Final = 1.0
"""Before the first fault: calls run undisturbed."""
PAUSE_S: Final = (0.5, 5.0)
"""Between two faults of a way, in seconds. Faults of different parts overlap as it comes."""
WORK_S: Final = (2.0, 15.0)
"""Between two faults of a program or a server: each takes some seconds to start, and needs others for its work. What
never works long enough to do anything finds nothing."""


class Kind(NamedTuple):
    """A fault: how often it is drawn beside the others of its part, and for how many seconds it lasts."""

    weight: int
    least_s: float = 0.0
    most_s: float = 0.0


KINDS: Final[Mapping[str, Mapping[str, Kind]]] = {
    "gateway": {"kill": Kind(3, 0, 1), "restart": Kind(2, 0, 0.5), "pause": Kind(2, 0.2, 12)},
    "meter": {"kill": Kind(3, 0, 3), "restart": Kind(2, 0, 1), "pause": Kind(2, 0.5, 6)},
    "redis": {
        "restart": Kind(2, 0, 2),
        "kill": Kind(2, 0, 2),
        "forget": Kind(2),
        "pause": Kind(2, 0.2, 4),
        "forget_scripts": Kind(2),
        "full": Kind(2, 0.5, 4),
    },
    "postgres": {
        "backend": Kind(3),
        "immediate": Kind(2, 0, 2),
        "postmaster": Kind(1, 0, 2),
        "pause": Kind(2, 0.5, 4),
        "lock": Kind(2, 0.5, 4),
    },
    "to_upstream": {"cut": Kind(3), "stall": Kind(2, 0.2, 4), "delay": Kind(2, 1, 4)},
    "to_redis": {"cut": Kind(3), "stall": Kind(2, 0.2, 3), "delay": Kind(2, 1, 4)},
    "to_postgres": {"cut": Kind(3, 0.5, 3), "slow": Kind(1, 0.5, 3)},
}
"""Faults by part: the methods `<part>_<fault>` of tests.swarm.faults.Faults."""


class Step(NamedTuple):
    """One fault: begun so many seconds after the plan's begin, healed `hold_s` seconds later."""

    at_s: float
    part: str
    fault: str
    hold_s: float

    def __str__(self) -> str:
        return f"{self.at_s:7.2f} s  {self.part}_{self.fault} for {self.hold_s:.2f} s"


def plan(seed: int, seconds: float, parts: Collection[str] = tuple(KINDS)) -> list[Step]:
    """The faults of `seconds` seconds in order; those of one part never overlap."""
    steps: list[Step] = []
    for part in parts:
        chance = random.Random(f"{seed}/{part}")
        kinds = KINDS[part]
        pause_s = PAUSE_S if part.startswith("to_") else WORK_S
        at_s = QUIET_S + chance.uniform(*PAUSE_S)
        while at_s < seconds:
            [fault] = chance.choices(list(kinds), [kind.weight for kind in kinds.values()])
            hold_s = chance.uniform(kinds[fault].least_s, kinds[fault].most_s)
            steps.append(Step(at_s, part, fault, hold_s))
            at_s += hold_s + chance.uniform(*pause_s)
    return sorted(steps)
