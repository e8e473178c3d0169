"""The content of a message: a text, or parts that are texts, images, sound and files."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from gateway.recount.images import REMOTE_PX, image_tokens, size_of_data_url
from gateway.recount.profiles import Profile
from gateway.recount.tally import Tally

AUDIO_CHARACTERS_PER_TOKEN: Final = 1024
"""Assumed for sound: characters of its base64 for each token; ten tokens a second of compressed speech."""
PDF_CHARACTERS_PER_TOKEN: Final = 32
"""Assumed for PDFs: characters of base64 for each token of the text and page images that the provider takes."""
FILE_CHARACTERS_PER_TOKEN: Final = 128
"""Assumed for other documents, which are compressed and mostly markup."""

Part = Mapping[str, Any]


def content_tokens(tally: Tally, content: object, profile: Profile, tail: str = "") -> None:
    """Adds a content and `tail`. Texts of parts follow one another without a separator."""
    if isinstance(content, str):
        tally.text(content + tail)
        return
    texts: list[str] = []
    for part in sequence(content):
        text = part if isinstance(part, str) else _text(part)
        if text is not None:
            texts.append(text)
        elif isinstance(part, Mapping):
            _medium(tally, part, profile)
    tally.text("".join(texts) + tail)


def media_tokens(tally: Tally, content: object, profile: Profile) -> None:
    """Adds what is no text in a content."""
    for part in sequence(content):
        if isinstance(part, Mapping) and _text(part) is None:
            _medium(tally, part, profile)


def text_of(content: object) -> str:
    """All text of a content, whether one text or parts."""
    if isinstance(content, str):
        return content
    return "".join(text for part in sequence(content) if (text := _text(part)) is not None)


def _text(part: object) -> str | None:
    if not isinstance(part, Mapping):
        return None
    for value in (part.get("text"), part.get("refusal")):
        if isinstance(value, str):
            return value
    return None


def _medium(tally: Tally, part: Part, profile: Profile) -> None:
    """Cases: chat's `image_url` and Responses' `input_image`; sound; a PDF; another file; a kind unheard of."""
    kind = part.get("type")
    if kind in ("image_url", "input_image"):
        image = part.get("image_url")
        holder: Part = image if isinstance(image, Mapping) else part
        source = image.get("url") if isinstance(image, Mapping) else image
        size = size_of_data_url(source) if isinstance(source, str) else None
        if size is None:
            tally.flag("remote_image")
        if not profile.image_measured:
            tally.flag("estimated")
        tally.add(image_tokens(profile.image, size or REMOTE_PX, str(holder.get("detail") or "auto")))
    elif kind == "input_audio":
        tally.flag("audio")
        tally.add(characters_of(part) // AUDIO_CHARACTERS_PER_TOKEN)
    elif kind in ("file", "input_file", "document"):
        pdf = is_pdf(part)
        tally.flag("pdf" if pdf else "file")
        tally.add(characters_of(part) // (PDF_CHARACTERS_PER_TOKEN if pdf else FILE_CHARACTERS_PER_TOKEN))
    else:
        tally.flag("estimated")


def is_pdf(part: Part) -> bool:
    """Whether a file part says in its name, media type or data that it is a PDF."""
    return any(
        "pdf" in value[:256].lower() if isinstance(value, str) else isinstance(value, Mapping) and is_pdf(value)
        for value in part.values()
    )


def characters_of(part: Part) -> int:
    """Characters of all texts in a part: about the size of its base64."""
    return sum(
        len(value) if isinstance(value, str) else characters_of(value) if isinstance(value, Mapping) else 0
        for value in part.values()
    )


def sequence(value: object) -> Sequence[Any]:
    """`value` where it is a list, else nothing."""
    return value if isinstance(value, list) else ()
