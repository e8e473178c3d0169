"""The demo's images: sold by tokens (gpt-image-1 and its kin) or by the piece (dall-e), drawn from a text or edited."""

import base64
import time
from collections.abc import Mapping
from typing import Any, Final

from aiohttp import web

from deploy.demo import wire
from deploy.demo.generation import BadRequestError
from deploy.demo.picture import dial
from deploy.demo.serving import DEMO, Served, answered, body_of, no_such_model, streamed

PICTURES: Final = "/pictures/"
"""Where dall-e's pictures are fetched, without a key."""
IMAGES_MAX: Final = 10
INPUT_TOKENS: Final = 194
"""Tokens of an image that is sent along: OpenAI's 65, and 129 for its one tile."""
PARTIAL_TOKENS: Final = 100
TOKENS: Final[Mapping[str, Mapping[str, int]]] = {
    "low": {"1024x1024": 272, "1024x1536": 408, "1536x1024": 400},
    "medium": {"1024x1024": 1_056, "1024x1536": 1_584, "1536x1024": 1_568},
    "high": {"1024x1024": 4_160, "1024x1536": 6_240, "1536x1024": 6_208},
}
"""Output tokens of one image, as OpenAI documents them."""
DALLE_SIZES: Final = ("1024x1024", "1024x1792", "1792x1024", "512x512", "256x256")


async def generations(request: web.Request) -> web.StreamResponse:
    return await _draw(request, await body_of(request), given=0)


async def edits(request: web.Request) -> web.StreamResponse:
    form = await request.post()
    fields: dict[str, Any] = {name: value for name, value in form.items() if isinstance(value, str)}
    for name in ("n", "partial_images"):
        if str(fields.get(name, "")).isdecimal():
            fields[name] = int(fields[name])
    fields["stream"] = fields.get("stream") in ("true", "True")
    files = sum(name.partition("[")[0] == "image" for name, value in form.items() if not isinstance(value, str))
    if not files:
        raise BadRequestError("Missing required parameter: 'image'.", "image")
    return await _draw(request, fields, given=files)


async def picture(request: web.Request) -> web.Response:
    """A picture that an answer named by its address."""
    size, _, prompt = request.match_info["name"].partition("-")
    if size not in DALLE_SIZES:
        raise web.HTTPNotFound
    return web.Response(body=dial(prompt, *_sides(size)), content_type="image/png")


async def _draw(request: web.Request, body: dict[str, Any], *, given: int) -> web.StreamResponse:
    """`given`: images that came along, to be edited."""
    model, prompt = str(body.get("model")), body.get("prompt")
    if model not in wire.IMAGE_MODELS:
        return no_such_model(model)
    if not isinstance(prompt, str) or not prompt:
        raise BadRequestError("Missing required parameter: 'prompt'.", "prompt")
    number = body.get("n") or 1
    if not isinstance(number, int) or not 1 <= number <= (1 if model == "dall-e-3" else IMAGES_MAX):
        raise BadRequestError("Invalid 'n'.", "n")
    if not model.startswith("gpt-image"):
        return await _by_piece(request, body, model, prompt, number)
    quality = _one_of(body, "quality", tuple(TOKENS), "medium")
    size = _one_of(body, "size", tuple(TOKENS["low"]), "1024x1024")
    partials = body.get("partial_images") or 0
    text = request.app[DEMO].tokenizers.of(model).count(prompt)
    output = number * TOKENS[quality][size] + (partials * PARTIAL_TOKENS if body.get("stream") else 0)
    usage = {
        "input_tokens": text + given * INPUT_TOKENS,
        "input_tokens_details": {"image_tokens": given * INPUT_TOKENS, "text_tokens": text},
        "output_tokens": output,
        "total_tokens": text + given * INPUT_TOKENS + output,
    }
    look = {"background": "opaque", "output_format": "png", "quality": quality, "size": size}
    drawn = base64.b64encode(dial(prompt, *_sides(size))).decode()
    with Served("images", model, usage, stream=bool(body.get("stream"))) as call:
        await request.app[DEMO].pace.first()
        call.sent = output
        if not call.stream:
            data = [{"b64_json": drawn}] * number
            return answered({"created": int(time.time()), **look, "data": data, "usage": usage})
        response = await streamed(request)
        kind = "image_edit" if given else "image_generation"
        common = {"b64_json": drawn, "created_at": int(time.time()), **look}
        for index in range(partials):
            partial = {"type": f"{kind}.partial_image", **common, "partial_image_index": index}
            await response.write(wire.event(partial, named=True))
        await response.write(wire.event({"type": f"{kind}.completed", **common, "usage": usage}, named=True))
        await response.write_eof()
        return response


async def _by_piece(
    request: web.Request, body: dict[str, Any], model: str, prompt: str, number: int
) -> web.StreamResponse:
    size = _one_of(body, "size", DALLE_SIZES, "1024x1024")
    quality = _one_of(body, "quality", ("standard", "hd"), "standard")
    with Served("images", model, {"images": number, "quality": quality, "size": size}):
        await request.app[DEMO].pace.first()
        if body.get("response_format") == "b64_json":
            drawn = {"b64_json": base64.b64encode(dial(prompt, *_sides(size))).decode()}
        else:
            subject = "".join(letter if letter.isalnum() else "-" for letter in prompt[:40])
            drawn = {"url": str(request.url.with_path(f"{PICTURES}{size}-{subject}"))}
        if model == "dall-e-3":
            drawn["revised_prompt"] = prompt
        return answered({"created": int(time.time()), "data": [drawn] * number})


def _one_of(body: dict[str, Any], field: str, known: tuple[str, ...], usual: str) -> str:
    asked = body.get(field) or "auto"
    if asked == "auto":
        return usual
    if asked not in known:
        raise BadRequestError(f"Invalid value: '{asked}'. Supported values are: {', '.join(known)}.", field)
    return str(asked)


def _sides(size: str) -> tuple[int, int]:
    width, _, height = size.partition("x")
    return int(width), int(height)
