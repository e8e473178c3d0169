"""How long a sound is, by its file alone. The files here are built by hand, with the fields that say it."""

import struct
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.asks.clip import Clip
from gateway.asks.sound import SOUND_MS_MAX, duration_ms
from tests.harness.media import wav


def clip(data: bytes, size: int = 7_000) -> Clip:
    """The file, in pieces of `size` bytes."""
    made = Clip()
    for start in range(0, len(data), size):
        made.add(data[start : start + size])
    return made


def flac(samples: int, rate: int) -> bytes:
    info = bytes(10) + (rate << 44 | 1 << 41 | 15 << 36 | samples).to_bytes(8, "big") + bytes(16)
    return b"fLaC\x80\x00\x00\x22" + info + bytes(5_000)


def ogg_page(content: bytes, position: int) -> bytes:
    return b"OggS\x00\x00" + struct.pack("<q", position) + bytes(12) + b"\x01\xff" + content


def opus(samples: int, skipped: int = 312) -> bytes:
    head = b"OpusHead\x01\x01" + struct.pack("<HIhB", skipped, 48_000, 0, 0)
    return ogg_page(head, 0) + ogg_page(bytes(9_000), 960) * 40 + ogg_page(bytes(50), samples + skipped)


def vorbis(samples: int, rate: int) -> bytes:
    head = b"\x01vorbis" + bytes(4) + b"\x01" + struct.pack("<I", rate) + bytes(16)
    return ogg_page(head, 0) + ogg_page(bytes(900), samples)


def box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name + content


def mvhd(scale: int, units: int, version: int = 0) -> bytes:
    times = bytes(20) + struct.pack(">IQ", scale, units) if version else bytes(12) + struct.pack(">II", scale, units)
    return box(b"moov", box(b"mvhd", bytes([version]) + times[1:] + bytes(80)))


FTYP: Final = box(b"ftyp", b"M4A \x00\x00\x02\x00isomiso2")
SAMPLES: Final = box(b"mdat", bytes(400_000))


def fragmented(seconds: int) -> bytes:
    track = box(b"mdhd", bytes(12) + struct.pack(">II", 48_000, 0))
    late = box(b"moof", box(b"tfdt", b"\x01\x00\x00\x00" + struct.pack(">Q", seconds * 48_000)))
    return FTYP + mvhd(1_000, 0) + track + SAMPLES + late + box(b"mdat", bytes(900))


def element(name: bytes, content: bytes) -> bytes:
    return name + (len(content) | 1 << 56).to_bytes(8, "big") + content


EBML: Final = element(b"\x1a\x45\xdf\xa3", b"\x42\x82\x84webm")


def recorded_webm(cluster_ms: int, block_ms: int) -> bytes:
    """As a browser records it: no duration, only clusters."""
    block = b"\xa3\x88\x81" + struct.pack(">h", block_ms) + bytes(5)
    cluster = element(b"\x1f\x43\xb6\x75", b"\xe7\x83" + cluster_ms.to_bytes(3, "big") + block)
    return EBML + element(b"\x18\x53\x80\x67", bytes(300_000) + cluster)


def told_webm(units: float) -> bytes:
    info = b"\x2a\xd7\xb1\x83" + (1_000_000).to_bytes(3, "big") + b"\x44\x89\x88" + struct.pack(">d", units)
    return EBML + element(b"\x15\x49\xa9\x66", info)


def mp3_frames(number: int, first: bytes = b"") -> bytes:
    """Frames of 128 kbit/s at 44,100 samples per second: 417 bytes, 1,152 samples."""
    frame = b"\xff\xfb\x90\xc0"
    return (frame + bytes(17) + first).ljust(417, b"\0") + (frame + bytes(413)) * (number - 1)


def xing(frames: int) -> bytes:
    return b"Xing" + struct.pack(">II", 1, frames)


def id3(size: int) -> bytes:
    return b"ID3\x04\x00\x00" + bytes([size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127]) + bytes(size)


def adts(number: int) -> bytes:
    """Frames of 200 bytes at 16,000 samples per second."""
    return (b"\xff\xf1" + bytes([8 << 2, 200 >> 11, 200 >> 3 & 255, (200 & 7) << 5, 0]) + bytes(193)) * number


@pytest.mark.parametrize(
    ("data", "expected_ms"),
    [
        (wav(12.5), 12_500),
        (wav(12.5)[:40] + b"\xff\xff\xff\xff" + wav(12.5)[44:], 12_500),
        (wav(12.5)[:40] + bytes(4) + wav(12.5)[44:], 12_500),
        (wav(0.001), 1),
        (flac(600_000, 48_000), 12_500),
        (opus(600_000), 12_500),
        (vorbis(551_250, 44_100), 12_500),
        (FTYP + mvhd(1_000, 12_500) + SAMPLES, 12_500),
        (FTYP + SAMPLES + mvhd(1_000, 12_500), 12_500),
        (FTYP + mvhd(48_000, 600_000, version=1) + SAMPLES, 12_500),
        (fragmented(12), 12_000),
        (told_webm(12_500.0), 12_500),
        (recorded_webm(12_000, 500), 12_500),
        (mp3_frames(479), 12_483),
        (mp3_frames(479, xing(479)), 12_512),
        (id3(500) + mp3_frames(479), 12_483),
        (id3(100_000) + mp3_frames(479), 12_483),
        (adts(195), 12_480),
    ],
)
def test_each_kind_of_file_says_how_long_it_is(data: bytes, expected_ms: int) -> None:
    """Headers where they say it, the end of the file where it was recorded as a stream."""
    assert abs(duration_ms(clip(data)) - expected_ms) <= 15
    assert duration_ms(clip(data, 900)) == duration_ms(clip(data, 1 << 30))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"R",
        b"RIFF",
        b"RIFF\0\0\0\0WAVE",
        b"RIFF\0\0\0\0WAVEdata\xff\xff\xff\xff",
        b"fLaC",
        b"fLaC" + bytes(40),
        b"OggS",
        b"OggS" + bytes(100),
        FTYP,
        FTYP + mvhd(0, 100),
        EBML,
        b"\x1a\x45\xdf\xa3" + bytes(100) + b"\x1f\x43\xb6\x75",
        b"\xff\xf1",
        b"\xff\xfb\x90",
        b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f",
        b"some text, no sound at all",
        bytes(10_000),
        wav(12.5)[:36],
        flac(2**36 - 1, 1),
    ],
)
def test_what_does_not_say_it_is_not_guessed(data: bytes) -> None:
    """Cut, empty, contradictory, no sound, or longer than a day."""
    assert duration_ms(clip(data)) == 0


_STARTS = st.sampled_from(
    (
        *(b"", wav(0.1)[:60], flac(600, 48_000)[:80], opus(600)[:200], FTYP + mvhd(1_000, 5), told_webm(5.0)),
        *(adts(3), EBML + recorded_webm(5, 5)[-60:], mp3_frames(3, xing(3)), id3(20) + mp3_frames(3)),
    )
)


@given(_STARTS, st.binary(max_size=300), st.integers(0, 80), st.binary(max_size=8))
def test_no_bytes_are_too_much(start: bytes, more: bytes, at: int, change: bytes) -> None:
    """Whatever a file holds, nothing is raised and nothing incredible comes out."""
    data = start[:at] + change + start[at + len(change) :] + more
    assert 0 <= duration_ms(clip(data)) <= SOUND_MS_MAX
