"""Pictures that the demo draws: a dial in two colours, as a PNG of a few hundred bytes whatever its size. Pure."""

import math
import struct
import zlib
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_GREY: Final = 64
"""Least brightness of the background, so that the dial stands out."""


def dial(prompt: str, width: int, height: int) -> bytes:
    """A disc with a shadow whose colour and hour the prompt decides."""
    seed = zlib.crc32(prompt.encode("utf-8", "replace"))
    background = bytes(_GREY + (seed >> shift) % (256 - _GREY) for shift in (0, 8, 16))
    rows = b"".join(b"\0" + row for row in _rows(width, height, math.radians(seed % 360)))
    head = struct.pack(">IIBBBBB", width, height, 1, 3, 0, 0, 0)  # one bit per pixel, each an index of the palette
    chunks = ((b"IHDR", head), (b"PLTE", background + bytes(3)), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)


def size_of(data: bytes) -> tuple[int, int] | None:
    """Width and height of a PNG; None for anything else."""
    if not data.startswith(SIGNATURE) or len(data) < 24:
        return None
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def _rows(width: int, height: int, angle: float) -> list[bytes]:
    """Each row one run of set bits (the disc), less the gnomon's shadow, which is a few pixels of each row above."""
    radius, size = min(width, height) * 0.4, (width + 7) // 8
    rows = []
    for y in range(height):
        away = y - height / 2
        bits = 0
        if abs(away) < radius:
            half = math.sqrt(radius * radius - away * away)
            bits = _run(width / 2 - half, width / 2 + half, size)
            if away < 0 and abs(shift := away / math.tan(angle or 1)) < half:
                bits &= ~_run(width / 2 + shift, width / 2 + shift + radius / 32, size)
        rows.append(bits.to_bytes(size, "big"))
    return rows


def _run(start: float, end: float, size: int) -> int:
    """Bits from one pixel to another in a row of so many bytes."""
    length = max(round(end) - round(start), 0)
    return ((1 << length) - 1) << max(size * 8 - round(end), 0)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
