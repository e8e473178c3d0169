"""How much a call used, by what it is sold by, where no provider counted it: images, characters, seconds, requests.

Such a call may be sold by the piece or by tokens, as its model is priced: `pieces` are exact where the request or the
answer says them, `tokens` stand for them by what is documented of such models, and are flagged `estimated`.
"""

from typing import Any, Final

import msgspec

from gateway.admission import Call, parse
from gateway.asks.clip import Clip
from gateway.asks.image_names import image_tokens, priced_names
from gateway.asks.sound import duration_ms
from gateway.binary_tap import BinaryTap
from gateway.bounds import SOUND_TOKENS_PER_S, SPEECH_TOKENS_PER_S
from gateway.plain_tap import PlainTap
from gateway.recount.prompt import count_prompt
from gateway.settlement import Counted
from gateway.sse import SseTap
from shared import pricing
from shared.usage import Usage

CODED_BYTES_PER_S: Final = 4_000
"""Bytes of a second of sound whose file does not say how long it is: 32 kbit/s, as low as speech is often coded."""
PCM_BYTES_PER_S: Final = 48_000
"""Bytes of a second of raw speech: 24,000 samples of 16 bits."""
CHARACTERS_PER_S: Final = 14
"""Characters that are spoken in a second, where the sound itself does not say how long it is."""


def pieces(call: Call, tap: SseTap | PlainTap, answered: str) -> list[Counted]:
    """What the call used by the piece; `answered` is the model that answered, as far as it is known."""
    match call.family.sold:
        case "images":
            return [_images(call, tap, answered)]
        case "speech":
            return [Counted(Usage(characters=call.ask.characters), "recounted")]
        case "sound":
            length_ms, flags = _sound_ms(call)
            return [Counted(Usage(duration_ms=length_ms), "recounted", flags)]
        case "request":
            return [Counted(Usage(requests=1), "recounted", names=(call.rates.model.model,))]
        case _:
            return []


def tokens(call: Call, tap: SseTap | PlainTap) -> Counted:
    """What the call used in tokens. Runs the tokenizer."""
    family, ask = call.family.name, call.ask
    fields: dict[str, Any] = dict(call.upload.form.fields) if call.upload else parse(call.request)
    texts = [fields.get(name) for name in ("prompt", "input", "instructions")]
    given = [text for text in texts if isinstance(text, str)]
    usage = Usage(input=count_prompt(family, ask.model, {"input": given}).tokens)
    flags = ["estimated"]
    match call.family.sold:
        case "images":
            each = image_tokens(ask.model, *_look(call, tap))
            usage = msgspec.structs.replace(usage, image_out=_number(call, tap) * each)
        case "speech":
            length_ms = _spoken_ms(call, tap)
            usage = msgspec.structs.replace(usage, audio_out=-(-length_ms * SPEECH_TOKENS_PER_S // 1000))
        case "sound":
            length_ms, more = _sound_ms(call)
            flags += more
            said = count_prompt(family, ask.model, {"input": [_transcript(tap)]}).tokens
            heard = -(-length_ms * SOUND_TOKENS_PER_S // 1000)
            usage = msgspec.structs.replace(usage, audio_in=heard, output=said)
    return Counted(usage, "recounted", tuple(dict.fromkeys(flags)))


def _images(call: Call, tap: SseTap | PlainTap, answered: str) -> Counted:
    """At the price of their quality and size, as the answer says them or else the request. Where neither does, or no
    such image has a price, at the one that was held for: the dearest, and flagged, where there are several."""
    number, look = Usage(images=_number(call, tap)), _look(call, tap)
    for name in (*priced_names(answered, *look), *priced_names(call.ask.model, *look)):
        found = pricing.resolve(call.catalog.models, name)
        if found is not None and "images" in found.rates:
            return Counted(number, "recounted", names=(name,))
    dearest = call.rates.image
    if dearest is None:
        return Counted(number, "recounted")
    flags = ("estimated",) if "-x-" in dearest.model else ()
    return Counted(number, "recounted", flags, (dearest.model,))


def _number(call: Call, tap: SseTap | PlainTap) -> int:
    return (tap.images if isinstance(tap, PlainTap) else 0) or call.ask.choices


def _look(call: Call, tap: SseTap | PlainTap) -> tuple[str, str]:
    """Quality and size."""
    plain = tap if isinstance(tap, PlainTap) else None
    return (plain and plain.quality) or call.ask.quality, (plain and plain.size) or call.ask.size


def _sound_ms(call: Call) -> tuple[int, tuple[str, ...]]:
    """How long the sound is that was sent, and how that is known."""
    files = call.upload.form.files if call.upload else []
    found = [duration_ms(clip) for clip in files]
    if files and all(found):
        return sum(found), ("duration_estimated",)
    rest = sum(clip.size for clip, known in zip(files, found, strict=True) if not known)
    return sum(found) + rest * 1000 // CODED_BYTES_PER_S, ("duration_estimated", "estimated")


def _spoken_ms(call: Call, tap: SseTap | PlainTap) -> int:
    """How long the speech is that came, as far as it came."""
    if isinstance(tap, BinaryTap):
        clip: Clip = tap.clip
        if call.ask.format == "pcm":
            return clip.size * 1000 // PCM_BYTES_PER_S
        if found := duration_ms(clip):
            return found
    return call.ask.characters * 1000 // CHARACTERS_PER_S


def _transcript(tap: SseTap | PlainTap) -> str:
    """The text of an answer, in whatever form it came."""
    body = tap.body if isinstance(tap, PlainTap) else b""
    try:
        answer = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "replace")
    found = answer.get("text") if isinstance(answer, dict) else None
    return found if isinstance(found, str) else ""
