"""What the demo model says. Pure: the same question has the same answer."""

import json
import re
import tomllib
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

Language = Literal["pt", "en"]

COUNT_MAX: Final = 2_000
"""The demo counts no further, however far it is asked to."""

_TEXTS: Final = tomllib.loads(Path(__file__).with_name("texts.toml").read_text(encoding="utf-8"))
_WORDS: Final = {name: frozenset(_TEXTS[name]["words"].split()) for name in ("pt", "en")}
_STOP_WORDS: Final = frozenset(["user", "assistant", "usuário", "content"]).union(*_WORDS.values())
_TITLE: Final = re.compile(r"\b(title|t[íi]tulo)\b", re.IGNORECASE)
_CONVERSATION: Final = re.compile(r"\b(conversation|conversa|chat|message)", re.IGNORECASE)
_VIOLENCE: Final = re.compile(r"\b(?:kill|murder|bomb|matar|assassinar|bomba)\b", re.IGNORECASE)
_SUM: Final = re.compile(r"(-?\d{1,9})\s*([-+*x×/÷])\s*(-?\d{1,9})")
_COUNT: Final = re.compile(r"\b(?:count|conte|contar)\b\D*(\d{1,6})", re.IGNORECASE)

_TOLD: Final = re.compile(r"#usage(?=[{\[\"0-9n-])")
_LONG: Final = re.compile(r"hist[óo]ria|conto\b|reda[çc][ãa]o|longo|story|essay|long\b|article|artigo", re.IGNORECASE)


def language_of(text: str) -> Language:
    """Portuguese where its common words or letters outweigh the English ones."""
    words = re.findall(r"[a-zà-ÿ]+", text.lower())
    portuguese = sum(word in _WORDS["pt"] for word in words) + 2 * len(re.findall(r"[ãõçáéíóúâêô]", text.lower()))
    return "pt" if portuguese > sum(word in _WORDS["en"] for word in words) else "en"


def is_title_request(text: str, streamed: bool) -> bool:
    """Whether the call asks for a conversation's title, as chat programs do beside the first answer."""
    return not streamed and bool(_TITLE.search(text)) and bool(_CONVERSATION.search(text))


def words_of(content: Any) -> str:
    """The words of a content, which is a text or a list of parts."""
    if isinstance(content, list):
        return " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    return str(content or "")


def is_to_fail(question: str) -> bool:
    """Whether the question asks for a failure: then a stream breaks half-way, and a whole answer is an error."""
    return "#fail" in question


def told_usage(question: str, usage: Mapping[str, Any]) -> Any:
    """The usage that an answer tells: the true one, or what stands as JSON behind `#usage` in the question, where an
    object goes over the true one: `#usage{"prompt_tokens":-5}`."""
    found = _TOLD.search(question)
    if found is None:
        return usage
    try:
        told, _ = json.JSONDecoder().raw_decode(question, found.end())
    except ValueError:
        return usage
    return {**usage, **told} if isinstance(told, dict) else told


def is_violent(text: str) -> bool:
    return _VIOLENCE.search(text) is not None


def title(text: str) -> str:
    """A few words of what the user said."""
    said = re.search(r"(?:user|usu[áa]rio)\s*:\s*(.+)", text, re.IGNORECASE)
    words = _keywords(said.group(1) if said else text)
    words = [word for word in words if not _TITLE.fullmatch(word) and not _CONVERSATION.match(word)]
    return " ".join(word.capitalize() for word in words[:4]) or "Sundial"


def answer(question: str, *, turn: int = 0) -> str:
    """The answer to the last thing a user said; `turn` varies it, for a second choice of the same call."""
    texts = _TEXTS[language_of(question)]
    if count := _COUNT.search(question):
        return " ".join(str(number) for number in range(1, min(int(count.group(1)), COUNT_MAX) + 1))
    if found := _SUM.search(question):
        return _signed(_calculate(found, texts["division"]), texts)
    if _LONG.search(question):
        return _signed(texts["story"].strip(), texts)
    for topic in _TEXTS["topics"]:
        if re.search(topic["pattern"], question, re.IGNORECASE):
            said = topic[language_of(question)].strip()
            return f"{said} {texts['about'].strip()}" if topic.get("about") else _signed(said, texts)
    openers = texts["openers"]
    chosen = openers[(zlib.crc32(question.encode("utf-8", "replace")) + turn) % len(openers)]
    topic = " ".join(_keywords(question)[:3]) or texts["it"]
    return _signed(chosen.replace("{topic}", f"“{topic}”"), texts)


def answer_to_tool(question: str, result: str) -> str:
    """The answer after a tool was called: it repeats what the tool said."""
    texts = _TEXTS[language_of(question)]
    return _signed(f"{texts['tool']}: {result.strip()[:400]}", texts)


def transcript(prompt: str, seconds: float) -> str:
    """What the demo says that it heard, in the language of the prompt, else in Portuguese."""
    language = language_of(prompt) if prompt else "pt"
    return str(_TEXTS[language]["heard"]).replace("{seconds}", f"{seconds:.1f}")


def wants_weather(question: str) -> bool:
    return re.search(r"weather|forecast|clima|tempo|previs[ãa]o", question, re.IGNORECASE) is not None


def fill(schema: Any, question: str) -> Any:
    """A believable value of a JSON schema: its first enum, a place named in the question, else something plain."""
    if not isinstance(schema, dict):
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    kind = schema.get("type")
    kind = next((each for each in kind if each != "null"), None) if isinstance(kind, list) else kind
    if kind == "object" or "properties" in schema:
        return {name: fill(part, question) for name, part in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [fill(schema.get("items"), question)]
    return {"integer": 1, "number": 1.0, "boolean": True, "null": None}.get(str(kind), _place(question))


def _place(question: str) -> str:
    """The place after `in`, `em`, `no`, `na`, `for`, else São Paulo."""
    found = re.search(r"\b(?:in|em|no|na|for)\s+((?:[A-ZÀ-Ý][\wà-ÿ]+)(?:\s+(?:d[aeo]\s+)?[A-ZÀ-Ý][\wà-ÿ]+)*)", question)
    return found.group(1) if found else "São Paulo"


def _keywords(text: str) -> list[str]:
    return [word for word in re.findall(r"[^\W\d_]{3,}", text) if word.lower() not in _STOP_WORDS]


def _signed(text: str, texts: dict[str, Any]) -> str:
    return f"{text}\n\n{texts['signature']}"


def _calculate(found: re.Match[str], by_zero: str) -> str:
    left, sign, right = int(found.group(1)), found.group(2), int(found.group(3))
    if sign in "/÷":
        return f"{found.group(0)} = {left / right:.6g}" if right else by_zero
    result = {"+": left + right, "-": left - right}.get(sign, left * right)
    return f"{found.group(0)} = {result}"
