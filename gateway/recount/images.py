"""What an image in a prompt costs. Its size is read from the first bytes of the file; nothing is decoded or fetched."""

import base64
import binascii
import struct
from math import ceil, floor, sqrt
from typing import Final

from gateway.recount.profiles import Patches, Tiles

HEADER_BYTES_MAX: Final = 64 * 1024
"""Bytes of an image that are looked at first: enough for all but JPEGs with large embedded previews."""

IMAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Bytes of an image that are looked at where the first did not tell."""

TILE_PX: Final = 512
PATCH_PX: Final = 32
SIDE_PX_MAX: Final = 2048
SHORT_SIDE_PX_MAX: Final = 768

REMOTE_PX: Final = (768, 512)
"""The size that is assumed of an image that cannot be seen: two tiles, which all of those on record had."""


def image_tokens(rule: Tiles | Patches, size: tuple[int, int], detail: str = "auto") -> int:
    """Tokens of an image of `size` pixels (width, height); `detail` as in the request, `auto` being high."""
    width, height = (max(1, side) for side in size)
    if isinstance(rule, Tiles):
        return rule.base if detail == "low" else rule.base + rule.tile * _tiles(width, height)
    if detail == "low":
        width, height = _fit(width, height, TILE_PX)
    return ceil(_patches(width, height, rule.patches_max) * rule.factor_percent / 100) + rule.extra


def size_of_data_url(url: str) -> tuple[int, int] | None:
    """Width and height of the image in a `data:` URL with base64; None where they cannot be told."""
    head, comma, _ = url[:256].partition(",")
    if not comma or not head.startswith("data:"):
        return None
    return size_of_base64(url, len(head) + 1)


def size_of_base64(text: str, start: int = 0) -> tuple[int, int] | None:
    """Width and height of the PNG, JPEG, GIF or WebP whose base64 begins at `start`."""
    for limit in (HEADER_BYTES_MAX, IMAGE_BYTES_MAX):
        end = start + limit // 3 * 4
        data = _decode(text[start:end])
        found = _size(data)
        if found or end >= len(text) or not data.startswith(b"\xff\xd8"):
            return found
    return None


def _decode(text: str) -> bytes:
    text = text.rstrip("=\r\n")
    try:
        return base64.b64decode(text[: len(text) // 4 * 4])
    except (binascii.Error, ValueError):
        return b""


def _size(data: bytes) -> tuple[int, int] | None:
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
        elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            width, height = _webp(data)
        elif data.startswith(b"\xff\xd8"):
            width, height = _jpeg(data)
        else:
            return None
    except (struct.error, IndexError):
        return None
    return (width, height) if width and height else None


def _webp(data: bytes) -> tuple[int, int]:
    kind = data[12:16]
    if len(data) < 30:
        raise IndexError
    if kind == b"VP8X":
        return int.from_bytes(data[24:27], "little") + 1, int.from_bytes(data[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF


def _jpeg(data: bytes) -> tuple[int, int]:
    """Walks the segments to the start of frame (C0 to CF without C4, C8 and CC, which are tables)."""
    at = 2
    while True:
        if data[at] != 0xFF:
            raise IndexError
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        elif marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
        else:
            at += 2 + max(2, struct.unpack_from(">H", data, at + 2)[0])


def _fit(width: float, height: float, side: int) -> tuple[int, int]:
    """Scaled down so that no side is longer than `side`."""
    scale = min(1.0, side / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def _tiles(width: int, height: int) -> int:
    width, height = _fit(width, height, SIDE_PX_MAX)
    scale = min(1.0, SHORT_SIDE_PX_MAX / min(width, height))
    return ceil(round(width * scale) / TILE_PX) * ceil(round(height * scale) / TILE_PX)


def _patches(width: float, height: float, patches_max: int) -> int:
    if ceil(width / PATCH_PX) * ceil(height / PATCH_PX) > patches_max:
        scale = sqrt(PATCH_PX**2 * patches_max / (width * height))
        across, down = width * scale / PATCH_PX, height * scale / PATCH_PX
        if across >= 1 and down >= 1:
            scale *= min(floor(across) / across, floor(down) / down)
        width, height = width * scale, height * scale
    return min(patches_max, ceil(round(width, 3) / PATCH_PX) * ceil(round(height, 3) / PATCH_PX))
