"""`make swarm SECONDS=600 SEEDS="1 2 3"`: the swarm, seed by seed, with what each was like. Exit 1 where one fails."""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from tests.harness.own_postgres import make_template
from tests.swarm.run import SwarmError, swarm


def main() -> int:
    parser = argparse.ArgumentParser(prog="make swarm")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--keep", type=Path, help="a folder for logs and data, which are removed otherwise")
    parser.add_argument("seeds", type=int, nargs="+")
    asked = parser.parse_args()
    failed = []
    with tempfile.TemporaryDirectory(prefix="sundial-swarm-") as temporary:
        folder = asked.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # PostgreSQL runs as somebody else, and must come in
        template = make_template(folder / "template")
        for seed in asked.seeds:
            try:
                outcome = asyncio.run(swarm(seed, asked.seconds, folder / f"seed-{seed}", template))
                sys.stdout.write(f"seed {seed}: {outcome}\n")
                sys.stdout.flush()
            except SwarmError as error:
                failed.append(seed)
                sys.stderr.write(f"{error}\n")
    if failed:
        sys.stderr.write(f"failed: {failed}\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
