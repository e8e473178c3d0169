"""Logs: one line per fact, JSON for machines, coloured for a terminal. Never a secret, never a text of a call."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final, Literal

import msgspec
import structlog

_LEVELS: Final = {"warn": "warning", "exception": "error"}
"""Methods that are called otherwise than the level that they log at."""

_encode = msgspec.json.Encoder(enc_hook=repr).encode


def configure(style: Literal["pretty", "json", "auto"], level: str, program: str) -> None:
    """Send structlog's and the standard library's records to stdout in one style, each bound to `program`."""
    global usual  # noqa: PLW0603 (configured once, as structlog is)
    pretty = style == "pretty" or (style == "auto" and sys.stdout.isatty())
    shared: list[structlog.typing.Processor]
    if pretty:
        shared = [
            _Bound(program),
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
            structlog.processors.format_exc_info,
        ]
        renderer: structlog.typing.Processor = structlog.dev.ConsoleRenderer(pad_event_to=24)
        processors = [*shared, renderer]
        factory: Any = structlog.WriteLoggerFactory(file=sys.stdout)
        usual = None
    else:
        line = JsonLine(program)
        shared, renderer = [], lambda logger, method, event: line(logger, method, event).decode()
        processors = [line]
        lines = Lines(sys.stdout.buffer)
        usual = Usual(line, lines) if logging.getLevelName(level.upper()) <= logging.INFO else None
        factory = lambda *_: lines  # noqa: E731 (what structlog asks for)
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=factory,
        cache_logger_on_first_use=True,
    )

    foreign = logging.StreamHandler(sys.stdout)
    foreign.setFormatter(structlog.stdlib.ProcessorFormatter(processor=renderer, foreign_pre_chain=shared))
    root = logging.getLogger()
    root.handlers[:] = [foreign]
    root.setLevel(max(logging.WARNING, logging.getLevelName(level.upper())))


class _Bound:
    """Puts the program's name into every line."""

    def __init__(self, program: str) -> None:
        self._program = program

    def __call__(self, _: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
        line["program"] = self._program
        return line


class JsonLine:
    """Renders a line at once, without a chain of processors: every call writes one."""

    def __init__(self, program: str) -> None:
        self.program = program
        self._second = 0
        self._stamp = ""
        """Of that second, without its fraction."""

    def timestamp(self) -> str:
        """The time in ISO 8601, UTC, in microseconds."""
        second, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
        if second != self._second:
            self._second = second
            self._stamp = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        return f"{self._stamp}.{nanoseconds // 1000:06d}Z"

    def __call__(self, logger: Any, method: str, line: structlog.typing.EventDict) -> bytes:
        """With program, level and time. What is no JSON becomes its `repr`."""
        if "exc_info" in line:
            line = structlog.processors.format_exc_info(logger, method, line)
        line["program"] = self.program
        line["level"] = _LEVELS.get(method, method)
        line["timestamp"] = self.timestamp()
        return self.encoded(line)

    @staticmethod
    def encoded(line: Mapping[str, Any]) -> bytes:
        try:
            return _encode(line)
        except (TypeError, ValueError, UnicodeEncodeError):
            return json.dumps(line, default=repr).encode()


class Lines:
    """Where structlog's lines go. Those of one turn of the event loop leave in one write; a warning, an error, and
    whatever is said outside of a loop, leaves at once, with all before it."""

    def __init__(self, file: BinaryIO) -> None:
        """`file`: buffered, and safe to be written to by several threads."""
        self._file = file
        self._flushing_in: asyncio.AbstractEventLoop | None = None

    def msg(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self._file.flush()
            return
        if self._flushing_in is not loop:
            self._flushing_in = loop
            loop.call_soon(self._flush)

    def urgent(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self._file.flush()

    def _flush(self) -> None:
        self._flushing_in = None
        self._file.flush()

    debug = info = msg
    warn = warning = error = exception = critical = fatal = failure = urgent


class Usual:
    """Says lines of level info that are said often as `log.info` would, byte for byte, but without structlog's steps,
    and many at once. Such a line is a Struct of its own, with the fields that `log.info` would be told, then `event`,
    `program`, `level` and `timestamp`."""

    def __init__(self, render: JsonLine, lines: Lines) -> None:
        self._render = render
        self._lines = lines
        self.program = render.program
        self.timestamp = render.timestamp

    def say(self, lines: Sequence[msgspec.Struct]) -> None:
        try:
            said = b"\n".join(map(_encode, lines))
        except (TypeError, ValueError, UnicodeEncodeError):
            said = b"\n".join(self._render.encoded(msgspec.structs.asdict(line)) for line in lines)
        self._lines.info(said)


usual: Usual | None = None
"""None where lines of level info are not said, or not as JSON: what becomes of them is for `log.info` to know then."""
