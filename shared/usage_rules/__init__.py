"""From any provider's usage object to the one Usage: a table of shapes, and the arithmetic that makes kinds disjoint.

Providers differ in three things: the names of the fields; whether cached tokens are part of the input (OpenAI,
Gemini) or come beside it (Anthropic, Bedrock); and whether reasoning is part of the output (OpenAI) or beside it
(xAI). The names tell the shape. Where the shape leaves a doubt, `total_tokens` settles it: of the ways to add up, the
one that gives the total is the provider's. LiteLLM (1.106) renders every provider in OpenAI's shape, all inside.

Whatever comes in, nothing is raised and no count is negative. Flags say what is wrong with a usage:
`absurd`        a count was no number from 0 to COUNT_MAX, and was cut to that range;
`inconsistent`  a part was larger than its whole and was cut to it, or the total is no sum of its parts;
`by_total`      reasoning that only the total shows (Gemini's OpenAI endpoint) was counted as reasoning;
`tool_tokens`   a hosted tool used tokens of another model, which are not counted here;
`by_proxy`      LiteLLM may have counted it, by its own tokenizer: the provider gave totals alone, or nothing;
`unrecognised`  an object without any known count.
"""

from shared.usage_rules.counts import ABSURD
from shared.usage_rules.rules import Normalised, absurd, counts, credible, normalise, upstream_cost_nano
from shared.usage_rules.shapes import SHAPES, Shape

__all__ = ["ABSURD", "SHAPES", "Normalised", "Shape", "absurd", "counts", "credible", "normalise", "upstream_cost_nano"]
