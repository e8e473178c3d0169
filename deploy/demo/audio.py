"""The demo's audio endpoints: it hums what it is to speak, and of what it hears it tells how long it was."""

import base64
import math
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web

from deploy.demo import answers, wire
from deploy.demo.counting import Tokenizer
from deploy.demo.generation import BadRequestError
from deploy.demo.serving import DEMO, Served, answered, body_of, headers, no_such_model, streamed
from deploy.demo.sound import FORMATS, heard_s, spoken, spoken_ms

CHARACTERS_MAX: Final = 4096
PIECE_BYTES: Final = 8192
SPEECH_TOKENS_PER_S: Final = 20
HEARD_TOKENS_PER_S: Final = 10


async def speech(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    body = await body_of(request)
    model, text = str(body.get("model")), body.get("input")
    if model not in wire.SPEECH_MODELS:
        return no_such_model(model)
    if not isinstance(text, str) or not 0 < len(text) <= CHARACTERS_MAX:
        raise BadRequestError(f"Invalid 'input': expected a text of up to {CHARACTERS_MAX} characters.", "input")
    form = str(body.get("response_format") or "mp3")
    if form not in FORMATS:
        raise BadRequestError(f"The demo speaks {', '.join(FORMATS)} alone.", "response_format")
    length_ms = spoken_ms(text)
    usage: dict[str, Any] = {"characters": len(text)}
    by_tokens = not model.startswith("tts-")
    if by_tokens:
        read = demo.tokenizers.of(model).count(text + str(body.get("instructions") or ""))
        made = math.ceil(length_ms * SPEECH_TOKENS_PER_S / 1000)
        usage = {"input_tokens": read, "output_tokens": made, "total_tokens": read + made}
    as_events = body.get("stream_format") == "sse"
    if as_events and not by_tokens:
        raise BadRequestError(f"'stream_format' is not supported by {model}.", "stream_format")
    with Served("speech", model, usage, stream=as_events) as call:
        await demo.pace.first()
        kind = "text/event-stream; charset=utf-8" if as_events else FORMATS[form]
        response = web.StreamResponse(headers={**headers(), "Content-Type": kind})
        await response.prepare(request)
        sound = spoken(length_ms, form)
        for at in range(0, len(sound), PIECE_BYTES):
            piece = sound[at : at + PIECE_BYTES]
            delta = {"type": "speech.audio.delta", "audio": base64.b64encode(piece).decode()}
            await response.write(wire.event(delta) if as_events else piece)
        if as_events:
            await response.write(wire.event({"type": "speech.audio.done", "usage": usage}))
        call.sent = usage.get("output_tokens", 0)
        await response.write_eof()
        return response


async def transcriptions(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    form = await request.post()
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    model, file = fields.get("model", ""), form.get("file")
    if model not in wire.TRANSCRIPTION_MODELS:
        return no_such_model(model)
    if not isinstance(file, web.FileField):
        raise BadRequestError("Missing required parameter: 'file'.", "file")
    seconds = heard_s(file.file.read())
    shape = fields.get("response_format", "json")
    if model != "whisper-1" and shape not in ("json", "text"):
        raise BadRequestError(f"response_format '{shape}' is not compatible with model '{model}'.", "response_format")
    text = answers.transcript(fields.get("prompt", ""), seconds)
    tokenizer = demo.tokenizers.of(model)
    usage = _usage(model, fields.get("prompt", ""), seconds, text, tokenizer)
    stream = model != "whisper-1" and fields.get("stream", "").lower() == "true"
    with Served("transcription", model, usage, stream=stream) as call:
        await demo.pace.first()
        call.sent = tokenizer.count(text)
        if stream:
            response = await streamed(request)
            for piece in tokenizer.pieces(text):
                await demo.pace.wait(1)
                await response.write(wire.event({"type": "transcript.text.delta", "delta": piece}))
            await response.write(wire.event({"type": "transcript.text.done", "text": text, "usage": usage}))
            await response.write_eof()
            return response
        if shape in ("text", "srt", "vtt"):
            return web.Response(text="".join(_lines(shape, text, seconds)), headers=headers())
        if shape == "verbose_json":
            segments = [{"id": 0, "start": 0.0, "end": seconds, "text": text}]
            told = {"task": "transcribe", "language": "portuguese", "duration": seconds, "segments": segments}
            return answered({**told, "text": text, "usage": usage})
        return answered({"text": text, "usage": usage})


def _usage(model: str, prompt: str, seconds: float, text: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """whisper-1 is sold by the second, begun ones whole; the others by tokens."""
    if model == "whisper-1":
        return {"type": "duration", "seconds": math.ceil(seconds)}
    heard, asked, said = math.ceil(seconds * HEARD_TOKENS_PER_S), tokenizer.count(prompt), tokenizer.count(text)
    return {
        "type": "tokens",
        "input_tokens": heard + asked,
        "input_token_details": {"text_tokens": asked, "audio_tokens": heard},
        "output_tokens": said,
        "total_tokens": heard + asked + said,
    }


def _lines(shape: str, text: str, seconds: float) -> Iterator[str]:
    """The text as it stands, or as a subtitle."""
    if shape == "text":
        yield text + "\n"
        return
    comma = "," if shape == "srt" else "."
    end = f"{int(seconds) // 3600:02}:{int(seconds) // 60 % 60:02}:{int(seconds) % 60:02}{comma}000"
    yield "1\n" if shape == "srt" else "WEBVTT\n\n"
    yield f"00:00:00{comma}000 --> {end}\n{text}\n"
