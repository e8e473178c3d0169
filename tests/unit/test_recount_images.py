"""Sizes of images from their first bytes, and what an image costs."""

import base64
import struct

import pytest

from gateway.recount.images import HEADER_BYTES_MAX, image_tokens, size_of_base64, size_of_data_url
from gateway.recount.profiles import Patches, Tiles, profile_of

GPT_4O = Tiles(85, 170)


def png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", width, height, 8, 2, 0, 0, 0) + bytes(40)


def jpeg(width: int, height: int, comment: int = 20) -> bytes:
    segments = b""
    while comment > 0:
        size = min(comment, 60_000)
        segments += b"\xff\xe1" + struct.pack(">H", size + 2) + bytes(size)
        comment -= size
    tables = b"\xff\xc4" + struct.pack(">H", 6) + bytes(4)
    return b"\xff\xd8" + segments + tables + b"\xff\xff\xc2" + struct.pack(">HBHHB", 11, 8, height, width, 3) + bytes(9)


def webp(kind: bytes, width: int, height: int) -> bytes:
    if kind == b"VP8X":
        body = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    elif kind == b"VP8L":
        body = b"\x2f" + ((width - 1) | (height - 1) << 14).to_bytes(4, "little")
    else:
        body = bytes(3) + b"\x9d\x01\x2a" + struct.pack("<HH", width, height)
    return b"RIFF" + bytes(4) + b"WEBP" + kind + struct.pack("<I", len(body)) + body + bytes(8)


def data_url(image: bytes) -> str:
    return "data:image/any;base64," + base64.b64encode(image).decode()


@pytest.mark.parametrize(
    "image",
    [
        png(800, 600),
        jpeg(800, 600),
        jpeg(800, 600, comment=200_000),
        b"GIF89a" + struct.pack("<HH", 800, 600) + bytes(20),
        webp(b"VP8 ", 800, 600),
        webp(b"VP8L", 800, 600),
        webp(b"VP8X", 800, 600),
    ],
    ids=["png", "jpeg", "jpeg-with-preview", "gif", "webp-lossy", "webp-lossless", "webp-extended"],
)
def test_size_is_read_from_the_header(image: bytes) -> None:
    """Every format that providers take tells its size without being decoded, even behind a large preview."""
    assert size_of_data_url(data_url(image)) == (800, 600)


@pytest.mark.parametrize(
    "url",
    ["https://example.test/cat.png", "data:image/png;base64,", "data:image/png;base64,!!!!", "data:,", "", "data:x"]
    + [data_url(image[:20]) for image in (png(8, 6), jpeg(8, 6), webp(b"VP8X", 8, 6))]
    + [data_url(b"\xff\xd8" + b"\x00" * 50), data_url(b"BM" + bytes(60)), data_url(png(0, 0))],
)
def test_what_tells_no_size(url: str) -> None:
    """A remote, empty, broken, truncated or unknown image has no size, and raises nothing."""
    assert size_of_data_url(url) is None


def test_only_the_beginning_of_a_large_image_is_decoded() -> None:
    """A broken character behind the header does not matter, for nobody looks there."""
    text = base64.b64encode(png(3000, 2000) + bytes(HEADER_BYTES_MAX)).decode()
    assert size_of_base64(text + "!" * 100) == (3000, 2000)


@pytest.mark.parametrize(
    ("rule", "size", "detail", "tokens"),
    [
        (GPT_4O, (1024, 1024), "high", 765),  # OpenAI's own example
        (GPT_4O, (2048, 4096), "high", 1105),  # OpenAI's own example
        (GPT_4O, (4096, 8192), "low", 85),  # OpenAI's own example
        (GPT_4O, (640, 480), "auto", 85 + 2 * 170),  # small images are not enlarged
        (GPT_4O, (1, 1), "auto", 255),
        (profile_of("azure/gpt-4o-mini").image, (640, 480), "auto", 2833 + 2 * 5667),
        (Patches(100, extra=0), (1024, 1024), "auto", 1024),  # OpenAI's own example
        (Patches(100, extra=0), (1800, 2400), "auto", 1452),  # OpenAI's own example, scaled down
        (profile_of("o4-mini").image, (640, 480), "auto", 300 * 172 // 100 + 1),
        (profile_of("gpt-4.1-nano").image, (128, 128), "auto", 41),
        (Patches(100, extra=0), (2048, 2048), "low", 256),
        (Patches(100, extra=0), (100_000, 1), "auto", 1536),
    ],
)
def test_image_tokens(rule: Tiles | Patches, size: tuple[int, int], detail: str, tokens: int) -> None:
    """Images cost what OpenAI's documentation computes for its examples, and what was measured for the others."""
    assert image_tokens(rule, size, detail) == tokens
