"""One of several gateway processes on one port. Started by gateway.workers, never by hand:

    python -m gateway.worker NUMBER SOCKET PARENT_PID

It is the gateway as it is alone, but for four things: it shares its port and the memory, it serves its health on a
socket that the parent asks, and it drains where the parent ends without a word.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path
from typing import Final

from gateway import app
from gateway.overload import control_group_bytes_max
from shared.settings import GatewaySettings, load

_PR_SET_PDEATHSIG: Final = 1


def main(number: int, socket: Path, parent: int) -> int:
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)
    if os.getppid() != parent:
        return 0  # it has ended already
    return app.run(part(load(GatewaySettings), number), health_socket=socket)


def part(settings: GatewaySettings, number: int) -> GatewaySettings:
    """What is one worker's of the whole gateway's settings: its name, and its part of the memory."""
    memory = settings.memory_bytes_max or control_group_bytes_max()
    name = settings.gateway_name and f"{settings.gateway_name}-{number}"
    return settings.model_copy(update={"gateway_name": name, "memory_bytes_max": memory // settings.gateway_workers})


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])))
