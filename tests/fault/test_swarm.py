"""X: the swarm. Random faults on all parts, overlapping, under closed-loop load; afterwards the books say the truth."""

from pathlib import Path

from tests.swarm.run import swarm

SECONDS = 20.0
SEED = 1


async def test_x_swarm(tmp_path: Path, postgres_template: Path) -> None:
    """Twenty seconds of faults on gateway, meter, Redis, Postgres and the ways between: every call whose client holds
    its end is booked once at the truth, nothing is invented, nothing is held, and balances are grants less charges.
    `make swarm` runs longer and with other seeds."""
    outcome = await swarm(SEED, SECONDS, tmp_path, postgres_template)
    assert outcome.whole > 0
    assert outcome.faults > 0
