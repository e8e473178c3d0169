"""From a request for text to everything that will be answered, before the first token is sent. Pure."""

import json
import zlib
from typing import Any, Final, Literal

import msgspec

from deploy.demo import answers
from deploy.demo.counting import TOKENS_PER_TOOL_CALL, PromptCache, Tokenizer, is_reasoning

CHOICES_MAX: Final = 16
COMPLETION_TOKENS: Final = 16
"""Tokens of an older completion that sets no limit."""
REASONING_TOKENS_LEAST: Final = 64
REASONING_TOKENS_SPAN: Final = 192
"""A reasoning model thinks for 64 to 255 hidden tokens."""


class BadRequestError(ValueError):
    """A request that OpenAI would refuse with 400; `param` names the field."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ToolCall(msgspec.Struct, frozen=True):
    name: str
    arguments: str


class Choice(msgspec.Struct, frozen=True):
    """One answer: text or a tool call, with the tokens it is billed at."""

    text: str
    finish: Literal["stop", "length", "tool_calls"]
    tokens: int
    reasoning: int = 0
    call: ToolCall | None = None


class Generation(msgspec.Struct, frozen=True):
    choices: tuple[Choice, ...]
    prompt_tokens: int
    cached_tokens: int
    question: str = ""
    """The last thing that the user said."""

    @property
    def completion_tokens(self) -> int:
        """All that was produced, hidden thought included."""
        return sum(choice.tokens + choice.reasoning for choice in self.choices)

    @property
    def reasoning_tokens(self) -> int:
        return sum(choice.reasoning for choice in self.choices)

    def usage(self) -> dict[str, Any]:
        """OpenAI's usage object."""
        completion = self.completion_tokens
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": self.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": self.reasoning_tokens,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def generate(body: dict[str, Any], tokenizer: Tokenizer, cache: PromptCache) -> Generation:
    """Raises BadRequestError for what OpenAI would refuse."""
    messages = _messages(body)
    count = body.get("n") or 1
    if not isinstance(count, int) or not 1 <= count <= CHOICES_MAX:
        raise BadRequestError(f"Invalid 'n': expected an integer from 1 to {CHOICES_MAX}.", "n")
    prompt = tokenizer.prompt(messages, body.get("tools"))
    return Generation(
        tuple(_choose(body, messages, tokenizer, turn) for turn in range(count)),
        len(prompt),
        cache.cached(prompt),
        _question(messages),
    )


def complete(body: dict[str, Any], tokenizer: Tokenizer) -> Generation:
    """The older completions: a text is continued, or several are; 16 tokens where no limit is given. Raises
    BadRequestError."""
    prompts = body.get("prompt")
    if isinstance(prompts, str) or (isinstance(prompts, list) and all(isinstance(one, int) for one in prompts)):
        prompts = [prompts]
    if not isinstance(prompts, list) or not all(isinstance(one, str | list) for one in prompts) or not prompts:
        raise BadRequestError("Invalid 'prompt': expected a text or a list.", "prompt")
    count = body.get("n") or 1
    if not isinstance(count, int) or not 1 <= count * len(prompts) <= CHOICES_MAX:
        raise BadRequestError(f"Invalid 'n': expected 1 to {CHOICES_MAX} answers in all.", "n")
    texts = [one if isinstance(one, str) else tokenizer.decode(one) for one in prompts]
    limit = _limit(body) or COMPLETION_TOKENS
    choices = []
    for text in texts:
        for turn in range(count):
            said = answers.answer(text, turn=turn)
            for end in _stops(body.get("stop")):
                said = said.partition(end)[0]
            kept, tokens, was_cut = tokenizer.cut(said, limit)
            choices.append(Choice(kept, "length" if was_cut else "stop", tokens))
    sizes = [tokenizer.count(one) if isinstance(one, str) else len(one) for one in prompts]
    return Generation(tuple(choices), sum(sizes), 0, texts[-1])


def text_of(message: dict[str, Any]) -> str:
    """The words of a message, whichever way its content is written."""
    return answers.words_of(message.get("content"))


def _messages(body: dict[str, Any]) -> list[dict[str, Any]]:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("Missing required parameter: 'messages'.", "messages")
    for place, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise BadRequestError(f"Invalid value for 'messages[{place}]': it has no role.", f"messages[{place}].role")
    return messages


def _question(messages: list[dict[str, Any]]) -> str:
    return next((text_of(each) for each in reversed(messages) if each["role"] == "user"), text_of(messages[-1]))


def _choose(body: dict[str, Any], messages: list[dict[str, Any]], tokenizer: Tokenizer, turn: int) -> Choice:
    question = _question(messages)
    after_tool = messages[-1]["role"] in ("tool", "function")
    if not after_tool and (function := _function_to_call(body, question)):
        arguments = json.dumps(answers.fill(function.get("parameters"), question), ensure_ascii=False)
        call = ToolCall(str(function.get("name")), "{}" if arguments == "null" else arguments)
        tokens = TOKENS_PER_TOOL_CALL + tokenizer.count(call.name) + tokenizer.count(call.arguments)
        return Choice("", "tool_calls", tokens, call=call)

    whole = " ".join(text_of(each) for each in messages)
    if after_tool:
        text = answers.answer_to_tool(question, text_of(messages[-1]))
    elif answers.is_title_request(whole, bool(body.get("stream"))):
        text = answers.title(whole)
    else:
        text = answers.answer(question, turn=turn)
    text = _formatted(text, body.get("response_format"), question)
    for end in _stops(body.get("stop")):
        text = text.partition(end)[0]

    limit = _limit(body)
    reasoning = 0
    if is_reasoning(str(body.get("model"))):
        reasoning = REASONING_TOKENS_LEAST + zlib.crc32(question.encode()) % REASONING_TOKENS_SPAN
        if limit is not None and reasoning >= limit:
            return Choice("", "length", 0, reasoning=limit)
        limit = None if limit is None else limit - reasoning
    if limit is None:
        return Choice(text, "stop", tokenizer.count(text), reasoning)
    kept, tokens, was_cut = tokenizer.cut(text, limit)
    return Choice(kept, "length" if was_cut else "stop", tokens, reasoning)


def _function_to_call(body: dict[str, Any], question: str) -> dict[str, Any] | None:
    """The function that the answer calls: the forced one; else, asked about the weather, the one that knows it."""
    wanted = body.get("tool_choice")
    functions = [tool.get("function") or {} for tool in body.get("tools") or [] if isinstance(tool, dict)]
    if wanted == "none" or not functions:
        return None
    if isinstance(wanted, dict):
        name = (wanted.get("function") or {}).get("name")
        return next((each for each in functions if each.get("name") == name), None)
    if answers.wants_weather(question):
        return next((each for each in functions if answers.wants_weather(str(each.get("name")))), functions[0])
    return functions[0] if wanted == "required" else None


def _formatted(text: str, wanted: Any, question: str) -> str:
    kind = wanted.get("type") if isinstance(wanted, dict) else None
    if kind == "json_object":
        return json.dumps({"answer": text}, ensure_ascii=False)
    if kind == "json_schema":
        return json.dumps(answers.fill((wanted.get("json_schema") or {}).get("schema"), question), ensure_ascii=False)
    return text


def _stops(stop: Any) -> list[str]:
    return [each for each in ([stop] if isinstance(stop, str) else stop or []) if isinstance(each, str) and each]


def _limit(body: dict[str, Any]) -> int | None:
    for name in ("max_completion_tokens", "max_tokens"):
        limit = body.get(name)
        if limit is None:
            continue
        if not isinstance(limit, int) or limit < 1:
            raise BadRequestError(f"Invalid '{name}': integer below minimum value. Expected at least 1.", name)
        return limit
    return None
