"""What images and sound are made of in tests: models that are sold in each way, forms, recordings."""

import io
import wave
from typing import Final

import msgspec

from gateway.bounds import Rates
from shared.pricing import PricedModel, RateCard
from tests.harness.calls import CATALOG, COST, MINI

PER_IMAGE: Final = 40_000_000_000_000
"""0.04 US dollars."""


def image(name: str, rate: int = PER_IMAGE, provider: str = "openai") -> PricedModel:
    return PricedModel(model=name, provider=provider, mode="image_generation", rates={"images": rate})


GPT_IMAGE: Final = PricedModel(
    model="gpt-image-1",
    provider="openai",
    mode="image_generation",
    rates={"input": 5_000_000_000, "image_in": 10_000_000_000, "output": 40_000_000_000},
)
TTS: Final = PricedModel(model="tts-1", mode="audio_speech", rates={"characters": 15_000_000_000})
TALKER: Final = PricedModel(
    model="talker", mode="audio_speech", rates={"input": 600_000_000, "output": 1, "audio_out": 12_000_000_000}
)
WHISPER: Final = PricedModel(model="whisper-1", mode="audio_transcription", rates={"duration_ms": 100_000_000})
SCRIBE: Final = PricedModel(
    model="scribe",
    mode="audio_transcription",
    rates={"input": 2_500_000_000, "output": 10_000_000_000},
    output_max=2_000,
)
EMBEDDER: Final = PricedModel(model="embedder", mode="embedding", rates={"input": 20_000_000, "output": 0})
MODERATOR: Final = PricedModel(model="omni-moderation-latest", mode="moderation", rates={"requests": 0})
MODELS: Final = {
    model.model: model
    for model in (
        MINI,
        GPT_IMAGE,
        image("low/1024-x-1024/gpt-image-1", 11),
        image("high/1024-x-1536/gpt-image-1", 250),
        image("azure/standard/1024-x-1024/dall-e-3", 44, "azure"),
        image("azure/hd/1024-x-1792/dall-e-3", 132, "azure"),
        image("fal_ai/high/3840-x-2160/openai/gpt-image-2", 401, "fal_ai"),
        image("imagen", 20),
        TTS,
        TALKER,
        WHISPER,
        SCRIBE,
        EMBEDDER,
        MODERATOR,
    )
}
PRICED: Final = msgspec.structs.replace(CATALOG, models=MODELS)


def rates(model: PricedModel, card: RateCard = COST, image: PricedModel | None = None) -> Rates:
    return Rates(1, model, "default", card, image)


B: Final = b"----x1"


def part(what: str, value: bytes, *headers: str) -> bytes:
    lines = [f"Content-Disposition: form-data; {what}", *headers]
    return b"--%b\r\n%b\r\n\r\n%b\r\n" % (B, "\r\n".join(lines).encode("latin-1"), value)


def field(name: str, value: str) -> bytes:
    return part(f'name="{name}"', value.encode())


END: Final = b"--%b--\r\n" % B


def wav(seconds: float, rate: int = 16_000) -> bytes:
    """A recording of silence, in stereo."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(2)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(bytes(int(seconds * rate) * 4))
    return file.getvalue()
