"""Logs: one line per fact, JSON for machines, coloured for a terminal. Never a secret, never a text of a call."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec
import structlog

_encode = msgspec.json.Encoder(enc_hook=repr).encode


def configure(style: Literal["pretty", "json", "auto"], level: str, program: str) -> None:
    """Send structlog's and the standard library's records to stdout in one style, each bound to `program`."""
    pretty = style == "pretty" or (style == "auto" and sys.stdout.isatty())
    stamp: structlog.typing.Processor = (
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False) if pretty else _stamped
    )
    shared: list[structlog.typing.Processor] = [
        _Bound(program),
        structlog.processors.add_log_level,
        stamp,
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(pad_event_to=24)
        if pretty
        else structlog.processors.JSONRenderer(serializer=_json)
    )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stdout),
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


def _stamped(_: Any, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """With the time in ISO 8601, UTC, to the microsecond."""
    line["timestamp"] = f"{datetime.now(UTC).replace(tzinfo=None).isoformat()}Z"
    return line


def _json(line: structlog.typing.EventDict, **_: Any) -> str:
    """As json.dumps, several times as fast: every call writes a line. What is no JSON becomes its `repr`."""
    try:
        return _encode(line).decode()
    except (TypeError, ValueError, UnicodeEncodeError):
        return json.dumps(line, default=repr)
