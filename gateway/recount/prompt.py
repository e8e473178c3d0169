"""Counts a prompt that no provider counted. Slow (milliseconds, a vocabulary at first use): never on the event loop."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.recount.chat import count_chat
from gateway.recount.content import sequence
from gateway.recount.foreign import CLAUDE, estimate_foreign, foreign_of
from gateway.recount.profiles import is_openai, profile_of
from gateway.recount.responses import count_responses
from gateway.recount.tally import Recount, Tally
from gateway.recount.vocabulary import bare_name, encoding_for

HARMONY_SYSTEM: Final = 61
"""The system message that servers of the gpt-oss models put in front: identity, date, channels."""


def count_prompt(family: str, model: str, request: Mapping[str, Any]) -> Recount:
    """Tokens of the prompt in `request`, a parsed body of endpoint `family`, as `model` counts them.

    `family` is chat, responses, completions, embeddings or messages; of any other the texts under `input` and `prompt`
    are counted and flagged. `model` is the model that answered or was asked, with any prefix. Never raises for a
    request that a provider took; raises VocabularyMissing where the litellm package is not whole.
    """
    tally = Tally(encoding_for(model))
    foreign = foreign_of(model)
    if family == "messages":
        estimate_foreign(tally, request, foreign or CLAUDE)
        return tally.recount()
    if foreign and family in ("chat", "responses"):
        estimate_foreign(tally, request, foreign)
        return tally.recount()
    if not is_openai(model):
        tally.flag("estimated")
    profile = profile_of(model)
    if bare_name(model).startswith("gpt-oss"):
        tally.add(HARMONY_SYSTEM)
        tally.flag("estimated")
    if family == "chat":
        count_chat(tally, request, profile, profile.chat)
    elif family == "responses":
        count_responses(tally, request, profile)
    else:
        _plain(tally, request)
        if family not in ("completions", "embeddings"):
            tally.flag("estimated")
    return tally.recount()


def _plain(tally: Tally, request: Mapping[str, Any]) -> None:
    """Cases of `prompt` and `input`: a text, texts, one list of token ids, several."""
    for key in ("prompt", "input"):
        given = request.get(key)
        tally.text(given)
        for item in sequence(given):
            tally.text(item)
            tally.add(1 if isinstance(item, int) else len(sequence(item)))
    if isinstance(request.get("suffix"), str):
        tally.text(request["suffix"])
        tally.flag("estimated")
