"""What is known about each model family: how its prompts are framed, how its images are billed, whether it thinks.

Every number was measured on recorded calls unless its line says `documented`; those are flagged `estimated` in use.
"""

from functools import lru_cache
from typing import Final

import msgspec

from gateway.recount.vocabulary import MODELS_REMEMBERED_MAX, bare_name


class Tiles(msgspec.Struct, frozen=True):
    """An image costs `base` plus `tile` for each 512-pixel square, after scaling to 2,048 and a short side of 768."""

    base: int
    tile: int


class Patches(msgspec.Struct, frozen=True):
    """An image costs its 32-pixel squares times `factor_percent`, at most `patches_max` squares, plus `extra`."""

    factor_percent: int
    patches_max: int = 1536
    extra: int = 1


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """What stands around the texts of a prompt: one API, one kind of model. All numbers in tokens."""

    priming: int
    """What starts the answer: its start, role and separator. Models that think choose their channel: two."""
    priming_tools: int
    """The same where functions may be called: the model picks the recipient itself."""
    priming_barred: int
    """The same where functions are offered that must not be called."""
    priming_format: int
    """The same where the answer has a JSON schema."""
    marks_format: bool
    """Whether an answer with a JSON schema, past or to come, carries the schema's name."""
    tools_preamble: int = 0
    """Instructions that come with functions, beside their declaration."""
    tools_apart: bool = False
    """Whether functions get a message of their own, though there is a system message."""
    format_message: int = 4
    """A message added to hold a JSON schema alone."""
    forced: int = 7
    """Naming the function that must be called: ` to=functions.` and its frame, beside the name's own tokens."""
    forced_name: bool = True
    """Whether that name is billed at all."""
    past_answer: int = 0
    """An earlier answer, beside the frame of every message."""
    call: int = 8
    """A past message that calls a function, beside the name and the compact arguments."""


CHAT: Final = Frame(priming=3, priming_tools=2, priming_barred=3, priming_format=3, marks_format=True)
CHAT_THINKER: Final = Frame(
    priming=2,
    priming_tools=2,
    priming_barred=2,
    priming_format=2,
    marks_format=False,
    past_answer=2,
    call=14,
)
RESPONSES: Final = Frame(priming=3, priming_tools=0, priming_barred=1, priming_format=0, marks_format=False, call=9)
RESPONSES_THINKER: Final = Frame(
    priming=2,
    priming_tools=1,
    priming_barred=1,
    priming_format=2,
    marks_format=False,
    tools_apart=True,
    format_message=0,
    forced=0,
    forced_name=False,
    past_answer=2,
    call=15,
)


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """What is particular to one family of OpenAI models."""

    image: Tiles | Patches = Tiles(85, 170)
    image_measured: bool = True
    reasoning: bool = False
    """Whether it thinks in tokens that are billed and never sent."""
    tools_preamble: int = 0
    """Tokens that functions cost in chat completions beside their declaration."""

    @property
    def chat(self) -> Frame:
        return _thinker_chat(self.tools_preamble) if self.reasoning else CHAT

    @property
    def responses(self) -> Frame:
        return RESPONSES_THINKER if self.reasoning else RESPONSES


@lru_cache
def _thinker_chat(tools_preamble: int) -> Frame:
    return msgspec.structs.replace(CHAT_THINKER, tools_preamble=tools_preamble)


_GPT5_TOOLS: Final = 84
"""The instructions on channels that gpt-5 models get in chat completions as soon as a function is offered."""

_PROFILES: Final = (
    ("gpt-4o-mini", Profile(image=Tiles(2833, 5667))),
    ("gpt-4.1-mini", Profile(image=Patches(162))),
    ("gpt-4.1-nano", Profile(image=Patches(246))),
    ("o4-mini", Profile(image=Patches(172), reasoning=True)),
    ("o1", Profile(image=Tiles(75, 150), image_measured=False, reasoning=True)),  # documented
    ("o3", Profile(image=Tiles(75, 150), image_measured=False, reasoning=True)),  # documented
    ("gpt-5-mini", Profile(tools_preamble=_GPT5_TOOLS, image=Patches(120), reasoning=True)),
    ("gpt-5-nano", Profile(tools_preamble=_GPT5_TOOLS, image=Patches(150, extra=0), reasoning=True)),
    ("gpt-5.4-mini", Profile(image=Patches(162), image_measured=False, reasoning=True)),  # documented
    ("gpt-5.4-nano", Profile(image=Patches(246), image_measured=False, reasoning=True)),  # documented
    ("gpt-5.", Profile(image=Patches(100, 2500), image_measured=False, reasoning=True)),  # documented
    ("gpt-5", Profile(tools_preamble=_GPT5_TOOLS, image=Tiles(70, 140), reasoning=True)),
    ("gpt-oss", Profile(tools_preamble=16, image_measured=False, reasoning=True)),
    ("computer-use", Profile(image=Tiles(65, 129), image_measured=False)),  # documented
)
"""Start of a model's bare name → profile; the first that fits."""

_PLAIN: Final = Profile()

_OPENAI: Final = (
    "gpt-",
    "chatgpt-",
    "o1",
    "o3",
    "o4",
    "codex",
    "text-embedding-",
    "text-davinci",
    "davinci",
    "babbage",
    "computer-use",
)

_THINKERS: Final = ("deepseek-r1", "grok-3-mini", "grok-4", "magistral", "gemini-2.5", "gemini-3")
"""Starts of names of other providers' models that may think without showing all of it."""


@lru_cache(MODELS_REMEMBERED_MAX)
def profile_of(model: str) -> Profile:
    """The profile of an OpenAI model, whatever prefixes its name carries; the plain one for unknown names."""
    name = bare_name(model)
    return next((profile for start, profile in _PROFILES if name.startswith(start)), _PLAIN)


@lru_cache(MODELS_REMEMBERED_MAX)
def is_openai(model: str) -> bool:
    """Whether the vocabularies and rules here are this model's own."""
    return bare_name(model).startswith(_OPENAI)


@lru_cache(MODELS_REMEMBERED_MAX)
def may_think(model: str) -> bool:
    """Whether the model may bill tokens of thought that no answer shows."""
    return profile_of(model).reasoning or bare_name(model).startswith(_THINKERS)
