"""How long a sound is, as its file says: from the first and last bytes, without decoding. Pure; never raises.

Cases, by the first bytes: WAV, FLAC, Ogg (Opus, Vorbis), MP4 (M4A), WebM, AAC, MP3. Where the beginning does not say
how long it is, because it was recorded as a stream, the end does. What cannot be told is 0.
"""

import struct
from typing import Final

from gateway.asks.clip import Clip

SOUND_MS_MAX: Final = 24 * 3600 * 1000
"""Longest duration that a file is believed to have: a day."""
_OPUS_RATE: Final = 48_000
_MP3_SAMPLES: Final = {3: 1152, 2: 576, 0: 576}
"""MPEG version (its two bits) → samples of a layer III frame."""
_MP3_RATES: Final = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_MP3_KBPS: Final = {
    3: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    2: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    0: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_AAC_RATES: Final = (
    *(96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000),
    *(22_050, 16_000, 12_000, 11_025, 8_000, 7_350),
)
_AAC_FRAMES_MAX: Final = 2_000
_CLUSTER: Final = b"\x1f\x43\xb6\x75"
_WEBM_NS: Final = 1_000_000
"""Nanoseconds of a WebM's unit of time where it does not say."""


def duration_ms(clip: Clip) -> int:
    """The duration in ms; 0 where it cannot be told."""
    try:
        found = _duration_ms(clip)
    except (struct.error, IndexError, ZeroDivisionError, OverflowError, ValueError):
        return 0
    return found if 0 < found <= SOUND_MS_MAX else 0


def _duration_ms(clip: Clip) -> int:
    head = clip.head
    if head.startswith(b"RIFF") and head[8:12] == b"WAVE":
        return _wav(clip)
    if head.startswith(b"fLaC"):
        return _flac(head)
    if head.startswith(b"OggS"):
        return _ogg(clip)
    if head[4:8] == b"ftyp":
        return _mp4(clip)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _webm(clip)
    if len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0:
        return _aac(clip)
    return _mp3(clip)


def _wav(clip: Clip) -> int:
    """Bytes of sound by bytes per second; recorders leave the size out, then it is the rest of the file."""
    at, rate = 12, 0
    while at + 8 <= len(clip.head):
        name, size = clip.head[at : at + 4], struct.unpack_from("<I", clip.head, at + 4)[0]
        if name == b"fmt ":
            rate = struct.unpack_from("<I", clip.head, at + 16)[0]
        elif name == b"data":
            rest = clip.size - at - 8
            return (size if 0 < size <= rest else rest) * 1000 // rate
        at += 8 + size + size % 2
    return 0


def _flac(head: bytes) -> int:
    """STREAMINFO: rate in 20 bits, then channels and depth, then the number of samples in 36."""
    bits = int.from_bytes(head[18:26], "big")
    return (bits & (2**36 - 1)) * 1000 // (bits >> 44)


def _ogg(clip: Clip) -> int:
    """The last page's position, in samples."""
    at = clip.tail.rfind(b"OggS")
    samples = struct.unpack_from("<q", clip.tail, at + 6)[0] if at >= 0 else 0
    opus, vorbis = clip.head.find(b"OpusHead", 0, 512), clip.head.find(b"\x01vorbis", 0, 512)
    if opus >= 0:
        return int(samples - struct.unpack_from("<H", clip.head, opus + 10)[0]) * 1000 // _OPUS_RATE
    return int(samples) * 1000 // int(struct.unpack_from("<I", clip.head, vorbis + 12)[0]) if vorbis >= 0 else 0


def _mp4(clip: Clip) -> int:
    """`mvhd`, wherever it stands; a recording in fragments says 0 there, and the time of the last one in `tfdt`."""
    for part in (clip.head, clip.tail):
        at = part.find(b"mvhd")
        if at >= 0:
            scale, length = _mp4_time(part, at + 4)
            if length:
                return length * 1000 // scale
    track, last = clip.head.find(b"mdhd"), clip.tail.rfind(b"tfdt")
    if track < 0 or last < 0:
        return 0
    scale, _ = _mp4_time(clip.head, track + 4)
    wide = clip.tail[last + 4] == 1
    return int(struct.unpack_from(">Q" if wide else ">I", clip.tail, last + 8)[0]) * 1000 // scale


def _mp4_time(data: bytes, at: int) -> tuple[int, int]:
    """Units per second, and units, behind the version that says how wide they are."""
    if data[at] == 1:
        scale, length = struct.unpack_from(">IQ", data, at + 20)
    else:
        scale, length = struct.unpack_from(">II", data, at + 12)
    return scale, length if length not in (2**32 - 1, 2**64 - 1) else 0


def _webm(clip: Clip) -> int:
    """`Duration`, as a float; a browser's recording has none, but its last cluster and blocks say their time."""
    head = clip.head
    at = head.find(b"\x2a\xd7\xb1")
    scale = int.from_bytes(head[at + 4 : at + 4 + (head[at + 3] & 0x7F)], "big") if at >= 0 else _WEBM_NS
    for mark, shape in ((b"\x44\x89\x88", ">d"), (b"\x44\x89\x84", ">f")):
        at = head.find(mark)
        if at >= 0 and (found := struct.unpack_from(shape, head, at + 3)[0]) > 0:
            return int(found * scale / 1_000_000)
    at = clip.tail.rfind(_CLUSTER)
    if at < 0:
        return 0
    return _webm_cluster(clip.tail, at + 4) * scale // 1_000_000


def _webm_cluster(data: bytes, at: int) -> int:
    """The time of a cluster's last block, as far as its elements can be read."""
    at += _length(data[at])
    start = late = 0
    while at + 2 < len(data):
        name = data[at]
        width = _length(data[at + 1])
        size = int.from_bytes(data[at + 1 : at + 1 + width], "big") & (2 ** (7 * width) - 1)
        body = at + 1 + width
        if name == 0xE7:
            start = int.from_bytes(data[body : body + size], "big")
        elif name == 0xA3 and body + 3 <= len(data):
            late = max(late, struct.unpack_from(">h", data, body + _length(data[body]))[0])
        elif name not in (0xA0, 0xA7, 0xAB, 0xEC, 0xBF):
            break
        at = body + size
    return start + late


def _length(first: int) -> int:
    """Bytes of an EBML number, by its first one."""
    return 9 - first.bit_length()


def _aac(clip: Clip) -> int:
    """ADTS: frames of 1,024 samples, as large on average as those at the beginning."""
    head, at, frames = clip.head, 0, 0
    rate = _AAC_RATES[head[2] >> 2 & 0xF]
    while at + 6 < len(head) and frames < _AAC_FRAMES_MAX and head[at] == 0xFF:
        at += (head[at + 3] & 3) << 11 | head[at + 4] << 3 | head[at + 5] >> 5
        frames += 1
    return clip.size * frames * 1024 * 1000 // (at * rate)


def _mp3(clip: Clip) -> int:
    """Frames by their number where the first frame says it (Xing, Info), else the size by the first frame's rate."""
    skipped = 0
    if clip.head.startswith(b"ID3"):
        size = clip.head[6:10]
        skipped = 10 + (size[0] << 21 | size[1] << 14 | size[2] << 7 | size[3])
    data, at = clip.head, skipped
    if skipped >= len(clip.head) - 4:  # a picture stands before the sound: the frames at the end tell the rate
        data, at = clip.tail, max(0, skipped - clip.size + len(clip.tail))
    limit = min(len(data) - 4, at + 8 * 1024)
    frame = None
    while at < limit and (frame := _mp3_frame(data, at)) is None:
        at += 1
    if frame is None:
        return 0
    samples, rate, kbps = frame
    for mark in (b"Xing", b"Info"):
        found = data.find(mark, at, at + 64)
        if found >= 0 and data[found + 7] & 1:
            return int(struct.unpack_from(">I", data, found + 8)[0]) * samples * 1000 // rate
    return (clip.size - skipped) * 8 // kbps


def _mp3_frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Samples, samples per second and kbit/s of the layer III frame at `at`, if there is one and another follows."""
    first, second, third = data[at : at + 3]
    version, layer, rate_index, kbps_index = second >> 3 & 3, second >> 1 & 3, third >> 2 & 3, third >> 4
    if first != 0xFF or second & 0xE0 != 0xE0 or version == 1 or layer != 1 or rate_index == 3 or kbps_index in (0, 15):
        return None
    samples, rate, kbps = _MP3_SAMPLES[version], _MP3_RATES[version][rate_index], _MP3_KBPS[version][kbps_index]
    follows = at + samples // 8 * kbps * 1000 // rate + (third >> 1 & 1)
    if follows + 1 < len(data) and (data[follows] != 0xFF or data[follows + 1] & 0xE0 != 0xE0):
        return None
    return samples, rate, kbps
