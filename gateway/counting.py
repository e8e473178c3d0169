"""How much a call used: as the upstream says, else as the text says, else by the pieces that it is sold by.

What is at hand is told at once; what needs a tokenizer is counted off the event loop.
"""

import asyncio

import msgspec
import structlog

from gateway import measure
from gateway.admission import Call, parse
from gateway.asks.searches import SEARCH_MODEL
from gateway.gate import Gate
from gateway.plain_tap import PlainTap
from gateway.recount.completion import Transcript, count_completion
from gateway.recount.prompt import count_prompt
from gateway.settlement import NOTHING, Counted, Facts, is_priced
from gateway.sse import SseTap
from shared.usage import Usage
from shared.usage_rules import ABSURD, Normalised, credible, normalise

log = structlog.get_logger()


def told(call: Call, tap: SseTap | PlainTap, facts: Facts) -> Counted | None:
    """What can be said at once. None: the text, or what stands for it, must be counted first.

    Of text the upstream's word counts. Other families are sold in two ways: the first one that has a price counts.
    """
    usage, sold = tap.usage, call.family.sold
    if usage is not None and usage.output and sold == "text" and SEARCH_MODEL not in call.rates.model.model:
        return Counted(usage, "provider")  # as `reported` says it
    said = reported(call, tap)
    if sold in ("text", "input"):
        return said and _alarmed(tap, said)
    ways = [] if said is None else [said]
    ways += measure.pieces(call, tap, facts.model)
    priced = (way for way in ways if is_priced(call, way, facts))
    chosen = next(priced, ways[0] if said is not None or sold == "request" else None)
    return chosen and _alarmed(tap, chosen)


def reported(call: Call, tap: SseTap | PlainTap) -> Counted | None:
    """What the upstream reported. None: nothing, nothing credible, or only its input."""
    said = _said(call, tap)
    if said is None or tap.usage_partial or (call.family.sold == "text" and not said.usage.tokens_out):
        return None
    return Counted(said.usage, "provider", said.flags)


def _said(call: Call, tap: SseTap | PlainTap) -> Normalised | None:
    """What can be believed of the upstream's usage, be it the input alone; None where there is nothing."""
    if tap.usage is not None:
        return Normalised(_searched(call, tap.usage))
    raw, family = tap.usage_raw, call.family.name
    if raw is None or not credible(raw, family=family):
        return None
    normalised = normalise(raw, family=family, provider=call.rates.model.provider)
    if normalised.usage.is_zero:
        return None
    return Normalised(_searched(call, normalised.usage), normalised.flags)


def _searched(call: Call, usage: Usage) -> Usage:
    """OpenAI's search models search once before each answer in chat completions, and no usage of theirs says so."""
    if SEARCH_MODEL not in call.rates.model.model or usage.searches or call.family.name != "chat":
        return usage
    return msgspec.structs.replace(usage, searches=1)


def _alarmed(tap: SseTap | PlainTap, counted: Counted) -> Counted:
    """Flagged, where the upstream reported what cannot be: also where that was passed over."""
    if not tap.usage_absurd or ABSURD in counted.flags:
        return counted
    return msgspec.structs.replace(counted, flags=(*counted.flags, ABSURD))


async def recount(gate: Gate, call: Call, tap: SseTap | PlainTap, transcript: Transcript | None) -> Counted:
    """Count what was sent and what came, by tokenizer, off the loop. Where even that fails, the estimate and a flag."""
    loop = asyncio.get_running_loop()
    try:
        counted = await loop.run_in_executor(gate.counters, _recount, call, tap, transcript)
    except Exception:
        # A text that no rule can read must not lose the call.
        log.exception("recount_failed", event_id=str(call.event_id))
        output = transcript.estimate() if transcript is not None else 0
        counted = Counted(Usage(input=call.input_tokens, output=output), "recounted", ("estimated",))
    if isinstance(tap, SseTap) and tap.raw_full and transcript is not None:
        counted = msgspec.structs.replace(counted, flags=(*counted.flags, "text_missing"))
    return _alarmed(tap, counted)


async def count_prompt_exactly(gate: Gate, call: Call) -> int:
    """Tokens of the call's input, by tokenizer, off the loop."""
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(gate.counters, _count_prompt, call)


async def count_output(gate: Gate, call: Call, transcript: Transcript) -> int:
    """Tokens that have streamed so far, by tokenizer, off the loop."""
    loop = asyncio.get_running_loop()
    return (await loop.run_in_executor(gate.counters, transcript.count, call.ask.model)).tokens


def _count_prompt(call: Call) -> int:
    return count_prompt(call.family.name, call.ask.model, parse(call.request)).tokens


def _recount(call: Call, tap: SseTap | PlainTap, transcript: Transcript | None) -> Counted:
    if call.family.sold not in ("text", "input"):
        return measure.tokens(call, tap)
    family, model = call.family.name, tap.model or call.ask.model
    flags: list[str] = []
    output = 0
    if transcript is not None:
        completion = transcript.count(model)
        output, flags = completion.tokens, [*completion.flags]
    elif call.family.sold == "text":
        assert isinstance(tap, PlainTap)
        completion = count_completion(family, model, tap.body)
        output, flags = completion.tokens, [*completion.flags]
    said = _said(call, tap)
    if said is not None and not tap.usage_partial and not output:
        return Counted(said.usage, "provider", said.flags)  # it said that it produced nothing, and nothing came
    if tap.error and not output and (said is None or isinstance(tap, PlainTap)):
        return NOTHING  # an answer that says it failed, and nothing else: not billed, but it can be compared
    usage = input_said(call, tap)
    if usage is None:
        prompt = count_prompt(family, model, parse(call.request))
        usage, flags = _searched(call, Usage(input=prompt.tokens)), [*prompt.flags, *flags]
    counted = msgspec.structs.replace(usage, output=output)
    return Counted(counted, "recounted", tuple(dict.fromkeys(flags)))


def input_said(call: Call, tap: SseTap | PlainTap) -> Usage | None:
    """The input as the upstream says it, cache and all: as Anthropic does when a stream begins. None where it has not
    said it, or nothing credible."""
    said = _said(call, tap)
    if said is None or not said.usage.tokens_in:
        return None
    return msgspec.structs.replace(said.usage, output=0, reasoning=0, audio_out=0, image_out=0)
