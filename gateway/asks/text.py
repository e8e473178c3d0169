"""Requests for text: chat completions, responses, completions, Anthropic's messages, embeddings."""

from collections.abc import Mapping
from typing import Any, Final

from gateway.asks.ask import CHOICES_MAX, TOKENS_ASKED_MAX, Ask, count, flag, model, text, usage_asked
from gateway.asks.searches import searches
from gateway.families import CHAT_LIMITS
from gateway.refusals import Refusal
from shared.pricing import PLAIN_OUT

PROMPTS_MAX: Final = 2048
"""Prompts in one request for completions."""
UNMETERED_TOOLS: Final = ("image_generation", "code_interpreter", "file_search", "code_execution")
"""Tools that OpenAI and Anthropic (with a date behind the name) run themselves and bill apart, by images, sessions and
calls that no price here is for: the tokens of the answer do not contain them. Searches of the web are counted."""
CLAUDE: Final = "claude"
"""In the names of models that think only where they are told to."""
_MAPS: Final = frozenset({"googleMaps", "google_maps"})
"""Keys of the tools with which LiteLLM has Gemini look at maps: no usage counts how often it did."""
_HOSTED: Final = "container"
"""How the environment of a shell begins that OpenAI runs, and bills as it bills the code interpreter."""
_MEDIA_OUT: Final = {"audio": "audio_out", "image": "image_out"}
"""Modality that an answer is asked to have → the kind of its tokens."""

Request = Mapping[str, Any]


def chat(request: Request) -> Ask:
    _refuse_unmetered_tools(request)
    name = model(request)
    asked = usage_asked(request)
    limits = [count(request, limit, TOKENS_ASKED_MAX) for limit in CHAT_LIMITS]
    thinking = request.get("thinking")  # Anthropic's field, which LiteLLM takes for others, too
    budget = _budget(thinking)
    return Ask(
        model=name,
        stream=flag(request, "stream"),
        usage_asked=asked,
        output_limit=limits[0] or limits[1],
        choices=count(request, "n", CHOICES_MAX) or 1,
        service_tier=text(request, "service_tier"),
        user=request.get("user"),
        least_output=budget + 1 if budget else 0,
        thinks=CLAUDE not in name or _thinks(thinking) or request.get("reasoning_effort") not in (None, "none"),
        searches=searches(request, name),
        kinds_out=_kinds_out(request.get("modalities")),
    )


def responses(request: Request) -> Ask:
    """An answer in the background would be fetched later, past the meter; a prompt that the provider keeps may bring
    tools along that are billed apart."""
    if flag(request, "background"):
        raise Refusal("invalid_field", field="background", reason="answers in the background cannot be metered")
    if request.get("prompt") is not None:
        raise Refusal("invalid_field", field="prompt", reason="the tools of a stored prompt cannot be seen here")
    _refuse_unmetered_tools(request)
    name = model(request)
    return Ask(
        model=name,
        stream=flag(request, "stream"),
        usage_asked=True,
        output_limit=count(request, "max_output_tokens", TOKENS_ASKED_MAX),
        choices=1,
        service_tier=text(request, "service_tier"),
        user=request.get("user"),
        searches=searches(request, name),
    )


def completions(request: Request) -> Ask:
    """`n` or `best_of` answers to each prompt: all that are made are billed, shown or not."""
    name = model(request)
    asked = usage_asked(request)
    each = max(count(request, "n", CHOICES_MAX), count(request, "best_of", CHOICES_MAX), 1)
    prompt = request.get("prompt")
    prompts = len(prompt) if isinstance(prompt, list) and not all(isinstance(one, int) for one in prompt) else 1
    if prompts > PROMPTS_MAX:
        raise Refusal("invalid_field", field="prompt", reason=f"at most {PROMPTS_MAX} prompts")
    return Ask(
        model=name,
        stream=flag(request, "stream"),
        usage_asked=asked,
        output_limit=count(request, "max_tokens", TOKENS_ASKED_MAX),
        choices=each * max(prompts, 1),
        service_tier="",
        user=request.get("user"),
    )


def messages(request: Request) -> Ask:
    """A budget of thought must fit into the answer's limit."""
    _refuse_unmetered_tools(request)
    thinking = request.get("thinking")
    budget = _budget(thinking)
    name = model(request)
    uplifts = [uplift for uplift, field in (("fast", "speed"), ("us", "inference_geo")) if request.get(field) == uplift]
    return Ask(
        model=name,
        stream=flag(request, "stream"),
        usage_asked=True,
        output_limit=count(request, "max_tokens", TOKENS_ASKED_MAX),
        choices=1,
        service_tier=f"@{','.join(uplifts)}" if uplifts else "",
        user=None,
        least_output=budget + 1 if budget else 0,
        thinks=CLAUDE not in name or _thinks(thinking),
        searches=searches(request, name),
    )


def embeddings(request: Request) -> Ask:
    return Ask(
        model=model(request),
        stream=False,
        usage_asked=True,
        output_limit=0,
        choices=1,
        service_tier="",
        user=request.get("user"),
        sold="input",
    )


def _thinks(thinking: object) -> bool:
    return isinstance(thinking, dict) and thinking.get("type") != "disabled"


def _budget(thinking: object) -> int:
    """Tokens of thought that are asked for: Anthropic wants a limit of the answer above them."""
    return count(thinking, "budget_tokens", TOKENS_ASKED_MAX) if isinstance(thinking, dict) else 0


def _refuse_unmetered_tools(request: Request) -> None:
    tools = request.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(tool, dict) and not _MAPS.isdisjoint(tool):
            raise Refusal("invalid_field", field="tools", reason="maps are billed apart and cannot be metered")
        if isinstance(kind, str) and (kind.startswith(UNMETERED_TOOLS) or _is_hosted(tool.get("environment"))):
            raise Refusal("invalid_field", field="tools", reason=f"{kind} is billed apart and cannot be metered")


def _is_hosted(environment: object) -> bool:
    kind = environment.get("type") if isinstance(environment, dict) else None
    return isinstance(kind, str) and kind.startswith(_HOSTED)


def _kinds_out(modalities: object) -> tuple[str, ...]:
    if not isinstance(modalities, list):
        return PLAIN_OUT
    return (*PLAIN_OUT, *(kind for name, kind in _MEDIA_OUT.items() if name in modalities))
