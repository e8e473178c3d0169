"""Sound that the demo speaks and hears: a hum as long as the text would take, and how long a file is. Pure.

MP3 is silence, frame by frame (24 kHz, mono, 64 kbit/s): an encoder would be a dependency.
"""

import io
import math
import struct
import wave
from typing import Final

RATE: Final = 24_000
"""Samples a second."""
SPOKEN_PER_S: Final = 14
"""Characters spoken in a second."""
HUM_HZ: Final = 220
LOUDNESS: Final = 4_000
MP3_HEADER: Final = b"\xff\xf3\x84\xc4"
MP3_FRAME_BYTES: Final = 192
MP3_FRAME_MS: Final = 24
UNKNOWN_BYTES_PER_S: Final = 16_000
"""Bytes of a second of sound in a file that is neither WAV nor the demo's own MP3: 128 kbit/s."""
FORMATS: Final = {"mp3": "audio/mpeg", "wav": "audio/wav", "pcm": "audio/pcm"}


def spoken_ms(text: str) -> int:
    """How long the text takes, in whole frames of MP3, so that it is the same in every format."""
    return -(-len(text) * 1000 // SPOKEN_PER_S // MP3_FRAME_MS) * MP3_FRAME_MS


def spoken(length_ms: int, form: str) -> bytes:
    """So much sound in one of FORMATS."""
    if form == "mp3":
        return (MP3_HEADER + bytes(MP3_FRAME_BYTES - len(MP3_HEADER))) * (length_ms // MP3_FRAME_MS)
    cycle = [round(LOUDNESS * math.sin(2 * math.pi * HUM_HZ * at / RATE)) for at in range(RATE)]
    second = struct.pack(f"<{RATE}h", *cycle)
    size = length_ms * RATE // 1000 * 2
    samples = (second * (size // len(second) + 1))[:size]
    if form == "pcm":
        return samples
    held = io.BytesIO()
    with wave.open(held, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(samples)
    return held.getvalue()


def heard_s(data: bytes) -> float:
    """Seconds of sound in a file."""
    if data[:4] == b"RIFF":
        try:
            with wave.open(io.BytesIO(data), "rb") as file:
                return file.getnframes() / file.getframerate()
        except (wave.Error, EOFError, ZeroDivisionError):
            return 0.0
    if data.startswith(MP3_HEADER):
        return len(data) // MP3_FRAME_BYTES * MP3_FRAME_MS / 1000
    return len(data) / UNKNOWN_BYTES_PER_S
