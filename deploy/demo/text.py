"""The demo's endpoints for plain text: chat, the older completions, embeddings, moderations."""

import asyncio
import secrets
import time
from typing import Any, Final

from aiohttp import web

from deploy.demo import answers, wire
from deploy.demo.counting import Tokenizer
from deploy.demo.generation import BadRequestError, Generation, complete, generate
from deploy.demo.serving import DEMO, Served, answered, body_of, failure, log, no_such_model, streamed

EMBEDDING_INPUTS_MAX: Final = 2048


async def chat(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    body = await body_of(request)
    model = body.get("model")
    if not isinstance(model, str):
        raise BadRequestError("you must provide a model parameter")
    snapshot = wire.snapshot(model)
    if snapshot is None:
        return no_such_model(model)
    tokenizer = demo.tokenizers.of(snapshot)
    generation = generate(body, tokenizer, demo.cache)
    base = {
        "id": f"chatcmpl-{secrets.token_urlsafe(21)}",
        "created": int(time.time()),
        "model": snapshot,
        "service_tier": "default",
        "system_fingerprint": "fp_sundial_demo",
    }
    with Served("chat", model, generation.usage(), stream=bool(body.get("stream"))) as call:
        call.failed = answers.is_to_fail(generation.question)
        await demo.pace.first()
        if not call.stream:
            if call.failed:
                return failure(500, wire.FAILED)
            await demo.pace.wait(generation.completion_tokens)
            call.sent = generation.completion_tokens
            whole = wire.completion(base, generation, f"call_{secrets.token_urlsafe(18)}")
            return answered({**whole, "usage": answers.told_usage(generation.question, call.usage)})
        with_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return await _stream_chat(request, call, generation, base, tokenizer, with_usage=with_usage)


async def _stream_chat(
    request: web.Request,
    call: Served,
    generation: Generation,
    base: dict[str, Any],
    tokenizer: Tokenizer,
    *,
    with_usage: bool,
) -> web.StreamResponse:
    pace = request.app[DEMO].pace
    response = await streamed(request)
    extra = {"usage": None} if with_usage else {}
    for index, choice in enumerate(generation.choices):
        for tokens, delta in wire.deltas(choice, index, f"call_{secrets.token_urlsafe(18)}", tokenizer):
            await pace.wait(tokens)
            await response.write(wire.event({**wire.chunk(base, [delta]), **extra}))
            call.sent += tokens
            if call.failed and call.sent > choice.tokens // 2:
                return await _broken(response)
    if with_usage:
        told = answers.told_usage(generation.question, call.usage)
        await response.write(wire.event({**wire.chunk(base, []), "usage": told}))
    await response.write(wire.DONE)
    await response.write_eof()
    return response


async def completions(request: web.Request) -> web.StreamResponse:
    demo = request.app[DEMO]
    body = await body_of(request)
    model = str(body.get("model"))
    if model not in wire.COMPLETION_MODELS:
        return no_such_model(model)
    tokenizer = demo.tokenizers.of(model)
    generation = complete(body, tokenizer)
    base = {
        "id": f"cmpl-{secrets.token_urlsafe(21)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": f"{model}:20230824-v2",
    }
    usage = {
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": generation.completion_tokens,
        "total_tokens": generation.prompt_tokens + generation.completion_tokens,
    }
    with Served("completions", model, usage, stream=bool(body.get("stream"))) as call:
        call.failed = answers.is_to_fail(generation.question)
        await demo.pace.first()
        if not call.stream:
            if call.failed:
                return failure(500, wire.FAILED)
            await demo.pace.wait(generation.completion_tokens)
            call.sent = generation.completion_tokens
            choices = [
                wire.text_choice(choice.text, index, choice.finish) for index, choice in enumerate(generation.choices)
            ]
            return answered({**base, "choices": choices, "usage": answers.told_usage(generation.question, usage)})
        response = await streamed(request)
        for index, choice in enumerate(generation.choices):
            for piece in tokenizer.pieces(choice.text):
                await demo.pace.wait(1)
                await response.write(wire.event({**base, "choices": [wire.text_choice(piece, index, None)]}))
                call.sent += 1
                if call.failed and call.sent > choice.tokens // 2:
                    return await _broken(response)
            await response.write(wire.event({**base, "choices": [wire.text_choice("", index, choice.finish)]}))
        if (body.get("stream_options") or {}).get("include_usage"):
            told = answers.told_usage(generation.question, usage)
            await response.write(wire.event({**base, "choices": [], "usage": told}))
        await response.write(wire.DONE)
        await response.write_eof()
        return response


async def _broken(response: web.StreamResponse) -> web.StreamResponse:
    """How OpenAI ends a stream that went wrong: an error as an event, and no [DONE]."""
    await response.write(wire.event(wire.error(wire.FAILED, kind="server_error", code="server_error")))
    await response.write_eof()
    return response


async def embeddings(request: web.Request) -> web.Response:
    demo = request.app[DEMO]
    body = await body_of(request)
    model = body.get("model")
    full = wire.EMBEDDING_DIMENSIONS.get(str(model))
    if full is None:
        return no_such_model(model)
    inputs = _embedding_inputs(body.get("input"))
    dimensions = body.get("dimensions") or full
    if not isinstance(dimensions, int) or not 1 <= dimensions <= full:
        raise BadRequestError(f"Invalid 'dimensions': expected an integer from 1 to {full}.", "dimensions")
    as_base64 = body.get("encoding_format") == "base64"
    tokenizer = demo.tokenizers.of(str(model))
    data, tokens = [], 0
    for index, each in enumerate(inputs):
        content = each if isinstance(each, str) else " ".join(map(str, each))
        tokens += tokenizer.count(each) if isinstance(each, str) else len(each)
        vector = wire.embedding(content, dimensions, as_base64=as_base64)
        data.append({"object": "embedding", "index": index, "embedding": vector})
        await asyncio.sleep(0)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    log.info("answered", family="embeddings", model=model, inputs=len(data), usage=usage)
    return answered({"object": "list", "data": data, "model": model, "usage": usage})


def _embedding_inputs(given: Any) -> list[str] | list[list[int]]:
    """A text, texts, one list of tokens or several."""
    if isinstance(given, str):
        given = [given]
    if isinstance(given, list) and given and all(isinstance(each, int) for each in given):
        given = [given]
    if not isinstance(given, list) or not 0 < len(given) <= EMBEDDING_INPUTS_MAX or not all(given):
        raise BadRequestError("Invalid 'input': expected a non-empty text or list.", "input")
    if not all(isinstance(each, str | list) for each in given):
        raise BadRequestError("Invalid 'input': expected texts or lists of tokens.", "input")
    return given


async def moderations(request: web.Request) -> web.Response:
    body = await body_of(request)
    model = str(body.get("model") or wire.MODERATION_MODELS[0])
    if model not in wire.MODERATION_MODELS:
        return no_such_model(model)
    given = body.get("input")
    inputs = given if isinstance(given, list) else [given]
    if not inputs or not all(isinstance(each, str | dict) for each in inputs):
        raise BadRequestError("Invalid 'input': expected a text or a list.", "input")
    if any(isinstance(each, dict) for each in inputs):  # parts of one content
        inputs = [" ".join(str(part.get("text", "")) for part in inputs if isinstance(part, dict))]
    results = [wire.moderation(violent=answers.is_violent(str(each))) for each in inputs]
    log.info("answered", family="moderations", model=model, usage={"requests": 1})
    return answered({"id": f"modr-{secrets.token_hex(12)}", "model": model, "results": results})
