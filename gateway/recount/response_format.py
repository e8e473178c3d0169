"""How a JSON schema that the answer must follow is shown to the model."""

import json
from collections.abc import Mapping
from typing import Any, Final

DEPTH_MAX: Final = 64
"""Nesting of a schema that is shown; below it nothing is."""

NAME_CHARACTERS_MAX: Final = 64
"""Characters of a name that are shown; OpenAI takes no longer ones, and a name may be repeated for each past answer."""

_UNSAID: Final = frozenset(
    {"required", "additionalProperties", "default", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"}
    | {"multipleOf", "minItems", "maxItems", "uniqueItems", "minLength", "maxLength", "pattern", "format"}
    | {"minProperties", "maxProperties", "examples", "$schema"}
)
"""Keywords that bind the decoder and are not shown."""

_NAMING: Final = ("properties", "$defs", "definitions")
"""Keywords below which the keys are names of the user's, not keywords."""


def schema_format(value: object) -> Mapping[str, Any] | None:
    """The JSON schema in a response format: name, description, schema, strict. None for text and json_object.

    Chat completions nest it in `json_schema`; Responses do not.
    """
    if not isinstance(value, Mapping) or value.get("type") != "json_schema":
        return None
    inner = value.get("json_schema")
    return inner if isinstance(inner, Mapping) else value


def render_format(response_format: Mapping[str, Any]) -> str:
    """The section of the system message: a heading, the description, and the schema as compact ASCII JSON."""
    lines = ["# Response Formats", "", f"## {response_format.get('name', '')}", ""]
    if isinstance(response_format.get("description"), str):
        lines.append(f"// {response_format['description']}")
    lines.append(json.dumps(_shown(response_format.get("schema")), separators=(",", ":")))
    return "\n".join(lines)


def _shown(schema: object, names: bool = False, depth: int = 0) -> object:
    if depth > DEPTH_MAX:
        return None
    if isinstance(schema, Mapping):
        return {
            key: _shown(value, not names and key in _NAMING, depth + 1)
            for key, value in schema.items()
            if names or key not in _UNSAID
        }
    if isinstance(schema, list):
        return [_shown(value, depth=depth + 1) for value in schema]
    return schema
