"""Becomes another program under three conditions that must be set between fork and exec. Standard library only.

    python -I -S launch.py [--die-with PARENT_PID SIGNAL] [--as UID GID] -- PROGRAM ARGUMENT…

`--as` gives up root but keeps the one capability CAP_DAC_OVERRIDE, so that PostgreSQL, which refuses to run as root,
reaches a data folder below folders that only root may enter; their permissions stay as they are. `--die-with` asks the
kernel to signal the program when the thread that started it ends; changing user clears that wish, so it comes last.
Where a step is impossible the reason goes to stderr and the exit status is CANNOT_LAUNCH.
"""

import ctypes
import os
import sys
from typing import Final, NoReturn

CANNOT_LAUNCH: Final = 125

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_KEEPCAPS: Final = 8
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 1 << 2
_PR_CAP_AMBIENT: Final = 47
_PR_CAP_AMBIENT_RAISE: Final = 2
_CAP_DAC_OVERRIDE: Final = 1
_CAPABILITY_VERSION_3: Final = 0x20080522


class _CapabilityHeader(ctypes.Structure):
    _fields_ = [("version", ctypes.c_uint32), ("pid", ctypes.c_int)]


class _CapabilityWord(ctypes.Structure):
    _fields_ = [
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    ]


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, first: int, second: int = 0) -> bool:
    return bool(_libc().prctl(option, first, second, 0, 0) == 0)


def become(uid: int, gid: int) -> None:
    """Drop to `uid` and `gid`. Raises OSError where root itself may not change user.

    Without the capability (a container that dropped it) the program starts all the same: it suffices where the data
    folder's parents let everybody through. The secure bit makes access(2), by which initdb asks about its own files,
    count the capability too.
    """
    _prctl(_PR_SET_KEEPCAPS, 1)
    _prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    header = _CapabilityHeader(_CAPABILITY_VERSION_3, 0)
    bit = 1 << _CAP_DAC_OVERRIDE
    words = (_CapabilityWord * 2)(_CapabilityWord(bit, bit, bit), _CapabilityWord(0, 0, 0))
    if _libc().capset(ctypes.byref(header), words) != 0:
        words[0] = _CapabilityWord(0, 0, 0)
        _libc().capset(ctypes.byref(header), words)
        return
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE)


def die_with(parent: int, signal_number: int) -> None:
    """Ask to be signalled when the parent ends; exits at once where it has ended already. Linux only."""
    if not sys.platform.startswith("linux"):
        return
    _prctl(_PR_SET_PDEATHSIG, signal_number)
    if os.getppid() != parent:
        sys.exit(CANNOT_LAUNCH)


def main(arguments: list[str]) -> NoReturn:
    split = arguments.index("--")
    options, program = arguments[:split], arguments[split + 1 :]
    try:
        if "--as" in options:
            at = options.index("--as")
            become(int(options[at + 1]), int(options[at + 2]))
        if "--die-with" in options:
            at = options.index("--die-with")
            die_with(int(options[at + 1]), int(options[at + 2]))
        os.execv(program[0], program)  # noqa: S606
    except OSError as error:
        print(f"{program[0]} cannot be started: {error.strerror}", file=sys.stderr)  # noqa: T201
        sys.exit(CANNOT_LAUNCH)


if __name__ == "__main__":
    main(sys.argv[1:])
