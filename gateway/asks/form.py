"""Reads a multipart/form-data body as it passes: its fields, and the ends of its files. Pure, incremental.

Strict where parsers differ, for a body that two of them read differently could be priced as one request and run as
another: the boundary stands once in the header; nothing comes before the first part or after the last; lines end in
CRLF; a part says what it is in one plain header; no encodings; a field that matters stands there once, under its plain
name. Everything that common clients send passes.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from gateway.asks.clip import Clip
from gateway.asks.steering import refusal, steers
from gateway.refusals import Refusal

PARTS_MAX: Final = 256
PART_HEAD_BYTES_MAX: Final = 8 * 1024
"""Headers of one part."""
FIELDS_BYTES_MAX: Final = 1024 * 1024
"""Values of all fields together; files do not count."""

SINGLE: Final = frozenset({"model", "n", "size", "quality", "stream", "user", "response_format", "prompt", "input"})
"""Fields that may stand there once."""
_NUMBERS: Final = ("n",)
_FLAGS: Final = {"true": True, "false": False, "True": True, "False": False, "1": True, "0": False}

_BOUNDARY: Final = re.compile(
    r'multipart/form-data\s*;\s*boundary=(?:"([^"\\]{1,70})"|([^\s";,]{1,70}))\s*', re.IGNORECASE
)
_DISPOSITION: Final = re.compile(
    rb'form-data; ?name="([A-Za-z0-9_.\[\]-]{1,128})"'
    rb'(; ?filename="(?:[^"\\\r\n]|\\[\\"])*")?(; ?filename\*=[^;"\r\n]*)?;?',
    re.IGNORECASE,
)
_PLAIN_ENCODINGS: Final = (b"7bit", b"8bit", b"binary")


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises Refusal `invalid_multipart`."""
    found = _BOUNDARY.fullmatch(content_type.strip())
    if found is None:
        raise Refusal("invalid_multipart", reason="Content-Type: multipart/form-data; boundary=…")
    return (found[1] or found[2]).encode("latin-1", "replace")


class Form:
    """One body. Whatever is wrong raises Refusal `invalid_multipart`, or `invalid_field` where a field stands twice."""

    def __init__(self, boundary: bytes) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._buffer = bytearray(b"\r\n")  # the first boundary has no line end before it
        self._state = "start"
        self._name = ""
        self._value: bytearray | None = None
        self._parts = 0
        self._size = 0
        self._seen: set[str] = set()
        self.fields: dict[str, str] = {}
        """Fields by name, as far as they are whole."""
        self.files: list[Clip] = []

    @property
    def complete(self) -> bool:
        """The last boundary has come."""
        return self._state == "end"

    def feed(self, data: bytes) -> None:
        """Takes the next bytes of the body."""
        self._buffer += data
        while self._step():
            pass

    def finish(self) -> None:
        """The body has ended."""
        if not self.complete:
            raise Refusal("invalid_multipart", reason="the last boundary is missing")

    def request(self) -> Mapping[str, Any]:
        """The fields as a JSON body would have them, and how many `files` there are."""
        fields: dict[str, Any] = dict(self.fields)
        for name in _NUMBERS:
            text = self.fields.get(name, "")
            if text.isascii() and text.isdecimal():
                fields[name] = int(text)
        if "stream" in fields:
            fields["stream"] = _FLAGS.get(fields["stream"], fields["stream"])
        return fields | {"files": len(self.files)}

    # States: start → head → value → head … → end -------------------------------------------------------------

    def _step(self) -> bool:
        """One state further, as far as the bytes suffice; False: more are needed."""
        if self._state == "value":
            return self._pass_value()
        if self._state == "head":
            return self._read_head()
        if self._state == "end":
            if len(self._buffer) > 2 or not b"\r\n".startswith(self._buffer):
                raise Refusal("invalid_multipart", reason="bytes after the last boundary")
            return False
        return self._after_delimiter() if self._state == "delimiter" else self._begin()

    def _begin(self) -> bool:
        if not self._delimiter.startswith(self._buffer[: len(self._delimiter)]):
            raise Refusal("invalid_multipart", reason="it does not begin with its boundary")
        if len(self._buffer) < len(self._delimiter):
            return False
        del self._buffer[: len(self._delimiter)]
        self._state = "delimiter"
        return True

    def _after_delimiter(self) -> bool:
        """Two bytes tell whether a part follows."""
        if len(self._buffer) < 2:
            return False
        mark = bytes(self._buffer[:2])
        if mark not in (b"\r\n", b"--"):
            raise Refusal("invalid_multipart", reason="a boundary has something behind it")
        del self._buffer[:2]
        self._state = "head" if mark == b"\r\n" else "end"
        return True

    def _read_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if (end if end >= 0 else len(self._buffer)) > PART_HEAD_BYTES_MAX:
            raise Refusal("invalid_multipart", reason="a part's headers are too large")
        if end < 0:
            return False
        self._begin_part(bytes(self._buffer[:end]))
        del self._buffer[: end + 4]
        self._state = "value"
        return True

    def _begin_part(self, head: bytes) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise Refusal("invalid_multipart", reason=f"more than {PARTS_MAX} parts")
        name, is_file = _what(head)
        plain = name.partition("[")[0]
        if steers(plain):
            raise refusal(plain)
        if plain in SINGLE:
            if is_file:
                raise Refusal("invalid_field", field=plain, reason="it is sent as a file")
            if plain in self._seen or name != plain:
                raise Refusal("invalid_field", field=plain, reason="it stands there twice, or as a list")
            self._seen.add(plain)
        self._name = name
        if is_file:
            self._value = None
            self.files.append(Clip())
        else:
            self._value = bytearray()

    def _pass_value(self) -> bool:
        """Everything up to the next delimiter, of which the end of the buffer may be the beginning."""
        end = self._buffer.find(self._delimiter)
        sure = end if end >= 0 else len(self._buffer) - len(self._delimiter) + 1
        if sure > 0:
            self._take(bytes(self._buffer[:sure]))
            del self._buffer[:sure]
        if end < 0:
            return False
        del self._buffer[: len(self._delimiter)]
        if self._value is not None:
            try:
                self.fields[self._name] = self._value.decode("utf-8")
            except UnicodeDecodeError:
                raise Refusal("invalid_field", field=self._name, reason="it is no text in UTF-8") from None
        self._state = "delimiter"
        return True

    def _take(self, data: bytes) -> None:
        if self._value is None:
            self.files[-1].add(data)
            return
        self._size += len(data)
        if self._size > FIELDS_BYTES_MAX:
            raise Refusal("invalid_multipart", reason="its fields are too large")
        self._value += data


def _what(head: bytes) -> tuple[str, bool]:
    """Name of a part, and whether it is a file."""
    disposition = b""
    for line in head.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        name, value = name.lower(), value.strip()
        if not colon or not name or name != name.strip() or b"\n" in line or b"\r" in line:
            raise Refusal("invalid_multipart", reason="a part's headers cannot be read")
        if name == b"content-disposition":
            if disposition:
                raise Refusal("invalid_multipart", reason="a part says twice what it is")
            disposition = value
        elif name == b"content-transfer-encoding" and value.lower() not in _PLAIN_ENCODINGS:
            raise Refusal("invalid_multipart", reason="a part is encoded")
    found = _DISPOSITION.fullmatch(disposition)
    if found is None:
        raise Refusal("invalid_multipart", reason="a part does not say plainly what it is")
    return found[1].decode(), bool(found[2] or found[3])
