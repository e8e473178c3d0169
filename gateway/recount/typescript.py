"""How OpenAI shows tools to its models: JSON schemas written as TypeScript types.

The text itself is never sent anywhere; its tokens are what a tool costs. Measured on recorded calls, and in line with
the published renderer of the gpt-oss models (github.com/openai/harmony, `json_schema_to_typescript`):

    # Tools

    ## functions

    namespace functions {

    // Get the weather
    type get_weather = (_: {
    // Title
    //
    // The description of a parameter
    city: string,
    unit?: "celsius" | "fahrenheit", // default: "celsius"
    }) => any;

    type next = (_: { plain: string, counted?: number }) => any;

    type ping = () => any;

    } // namespace functions

An object without a single comment stands on one line. Arrays of objects are `Array<…>`, others `x[]`. Alternatives with
comments stand one a line behind ` | `. Limits such as `minimum` or `pattern` do not appear.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

DEPTH_MAX: Final = 24
"""Nested schemas that are written out; below stands `any`. References may be circular."""

NODES_MAX: Final = 5_000
"""Schemas written out for one request; the rest stand as `any`. References may multiply without end."""

CHARACTERS_MAX: Final = 16 * 1024 * 1024
"""Characters of comments and values written out for one request; further ones are left out. A reference repeats what it
points to, a list of types its description, so that a body of some megabytes may stand for a thousand times as much."""

Schema = Mapping[str, Any]

_PLAIN: Final = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean", "null": "null"}


def render_tools(functions: Iterable[Schema]) -> str:
    """The section of the system message that declares `functions`: each with name, description, parameters."""
    lines = ["# Tools", "", "## functions", "", "namespace functions {", ""]
    writer = _Writer()
    for function in functions:
        lines += writer.comment(function.get("description"))
        parameters = function.get("parameters")
        lines += [writer.declaration(str(function.get("name", "")), parameters), ""]
    lines.append("} // namespace functions")
    return "\n".join(lines)


class _Writer:
    """Writes schemas of one request; counts them, so that no request can ask for endless work."""

    def __init__(self) -> None:
        self._nodes_left = NODES_MAX
        self._characters_left = CHARACTERS_MAX
        self._root: Schema = {}

    def declaration(self, name: str, parameters: object) -> str:
        if not isinstance(parameters, Mapping) or not _mapping(parameters.get("properties")):
            return f"type {name} = () => any;"
        self._root = parameters
        head = "".join(f" {line}\n" for line in self._headline(parameters))
        return f"type {name} = (_:{head or ' '}{self._object(parameters, 0)}) => any;"

    def _type(self, schema: object, depth: int) -> str:
        self._nodes_left -= 1
        if not isinstance(schema, Mapping) or depth > DEPTH_MAX or self._nodes_left < 0:
            return "any"
        if "$ref" in schema:
            return self._type(self._resolved(schema), depth + 1)
        kinds = schema.get("type")
        values = schema.get("enum")
        if isinstance(values, list) and values:
            return self._within(" | ".join(json.dumps(value, ensure_ascii=False) for value in values))
        if "const" in schema:
            return self._within(json.dumps(schema["const"], ensure_ascii=False))
        for union in ("anyOf", "oneOf"):
            if isinstance(schema.get(union), list):
                return self._union(schema[union], depth)
        if isinstance(kinds, list):
            return self._union([{**schema, "type": kind} for kind in kinds], depth)
        if kinds == "array":
            return self._array(schema, depth)
        if kinds == "object" or "properties" in schema:
            return self._object(schema, depth + 1) if _mapping(schema.get("properties")) else "object"
        return _PLAIN.get(kinds, "any") if isinstance(kinds, str) else "any"

    def _resolved(self, schema: object) -> object:
        """What a `$ref` points to, with what stands beside it; one step, for references may be circular."""
        if not isinstance(schema, Mapping) or not isinstance(schema.get("$ref"), str):
            return schema
        found: object = self._root
        for step in schema["$ref"].removeprefix("#").strip("/").split("/"):
            found = found.get(step) if isinstance(found, Mapping) else None
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return {**found, **beside} if isinstance(found, Mapping) else None

    def _array(self, schema: Schema, depth: int) -> str:
        items = schema.get("items")
        if items is None:
            return "any[]"
        item = self._type(items, depth + 1)
        if "\n" not in item:
            return f"{item}[]"
        items = self._resolved(items)
        head = "".join(f"{line}\n" for line in self._headline(items)) if isinstance(items, Mapping) else ""
        return f"Array<\n{head}{item}\n>"

    def _union(self, variants: list[object], depth: int) -> str:
        written = [
            (self._headline(variant) if isinstance(variant, Mapping) else [], self._type(variant, depth + 1))
            for variant in variants
        ]
        if not any(comments or "\n" in text for comments, text in written):
            return " | ".join(text for _, text in written)
        lines = [line for comments, text in written for line in (*comments, f" | {text}")]
        return "\n" + "\n".join(lines) + "\n"

    def _object(self, schema: Schema, depth: int) -> str:
        """`{ a: string, b?: number }`, or with a line each where anything in it has a comment."""
        required = schema.get("required")
        needed = frozenset(name for name in required if isinstance(name, str)) if isinstance(required, list) else ()
        lines: list[str] = []
        plain: list[str] = []
        commented = False
        for name, child in schema["properties"].items():
            child = self._resolved(child)
            comments = self._headline(child) if isinstance(child, Mapping) else []
            text = self._type(child, depth)
            label = f"{name}{'' if name in needed else '?'}:"
            entry = f"{label}{text}" if text.startswith("\n") else f"{label} {text}"
            tail = (
                self._within(f" // default: {json.dumps(child['default'])}")
                if isinstance(child, Mapping) and "default" in child
                else ""
            )
            commented = commented or bool(comments or tail or "\n" in text)
            lines += [*comments, f"{entry},{tail}"]
            plain.append(entry)
        if commented:
            return "{\n" + "\n".join(lines) + "\n}"
        return "{ " + ", ".join(plain) + " }"

    def _headline(self, schema: Schema) -> list[str]:
        """Title and description as comment lines, an empty comment between them."""
        title = self.comment(schema.get("title"))
        description = self.comment(schema.get("description"))
        return [*title, "//", *description] if title and description else title + description

    def comment(self, text: object) -> list[str]:
        """A text as comment lines; none where it is no text."""
        if not isinstance(text, str) or not self._within(text):
            return []
        return [f"// {line.strip()}".rstrip() for line in text.split("\n")]

    def _within(self, text: str) -> str:
        """`text` where there is room for it, else nothing."""
        self._characters_left -= len(text)
        return text if self._characters_left >= 0 else ""


def _mapping(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value)
