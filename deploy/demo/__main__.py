"""`python -m deploy.demo --port N`: run the demo upstream, on a loopback address and nowhere else."""

import argparse
import asyncio
import ipaddress
import os
import signal
import sys

import structlog

from deploy.demo.app import build, serve
from deploy.demo.serving import TOKENS_PER_S
from shared import logs

USAGE_ERROR = 2


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def _run(arguments: argparse.Namespace, key: str) -> None:
    until = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, until.set)
    app = build(key, arguments.tokens_per_second)
    log = structlog.get_logger()

    def said(port: int) -> None:
        log.info("ready", url=f"http://{arguments.host}:{port}/v1")

    await serve(app, arguments.host, arguments.port, said=said, until=until)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m deploy.demo", description=__doc__)
    parser.add_argument("--port", type=int, default=4010, help="0: any free one (default: %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="a loopback address (default: %(default)s)")
    parser.add_argument(
        "--tokens-per-second", type=float, default=TOKENS_PER_S, help="0: no pauses (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not is_loopback(arguments.host):
        sys.stderr.write(f"demo: {arguments.host} is no loopback address; the demo model listens nowhere else.\n")
        return USAGE_ERROR
    key = os.environ.get("SUNDIAL_DEMO_KEY", "")
    if not key:
        sys.stderr.write("demo: set SUNDIAL_DEMO_KEY to the key that it shall accept.\n")
        return USAGE_ERROR
    style = os.environ.get("SUNDIAL_LOG", "auto")
    logs.configure("pretty" if style == "pretty" else "json" if style == "json" else "auto", "info", "demo")
    try:
        asyncio.run(_run(arguments, key))
    except OSError as error:
        sys.stderr.write(f"demo: cannot listen on {arguments.host}:{arguments.port}: {error.strerror}\n")
        return USAGE_ERROR
    return 0


if __name__ == "__main__":
    sys.exit(main())
