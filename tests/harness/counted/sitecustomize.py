"""Counts what the interpreter does in a process that has this folder on its PYTHONPATH; see tests/harness/steps.py.

SIGUSR2 begins the count, a second one ends it and writes it to the file that STEPS_INTO names, a line for each code
object: opcodes, calls, file, first line, name. Counted is the main thread, which is where the event loop runs.
"""

import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

_opcodes: Counter[CodeType] = Counter()
_calls: Counter[CodeType] = Counter()


def _within(frame: FrameType, event: str, _: Any) -> Any:
    if event == "opcode":
        _opcodes[frame.f_code] += 1
    return _within


def _entered(frame: FrameType, _: str, __: Any) -> Any:
    frame.f_trace_opcodes, frame.f_trace_lines = True, False
    _calls[frame.f_code] += 1
    return _within


def _toggle(*_: object) -> None:
    into = Path(os.environ["STEPS_INTO"])
    if sys.gettrace() is None:
        into.touch()
        sys.settrace(_entered)
        return
    sys.settrace(None)
    lines = [
        f"{count}\t{_calls[code]}\t{code.co_filename}\t{code.co_firstlineno}\t{code.co_qualname}\n"
        for code, count in _opcodes.most_common()
    ]
    whole = into.with_suffix(".whole")
    whole.write_text("".join(lines), encoding="utf-8")
    whole.rename(into)


if "STEPS_INTO" in os.environ and "gateway" in sys.orig_argv:
    signal.signal(signal.SIGUSR2, _toggle)
