"""Fields with which a request would steer the proxy behind the gateway: they are refused. Pure.

LiteLLM takes them out of a body for itself. Tried with 1.106: `extra_body` replaces the model in Responses and
Messages, and no answer says so; `fallbacks` runs a model that the plan need not allow, with messages of its own;
`num_retries` makes one call several; `additional_drop_params` takes out the limit that the gateway set. No client of
OpenAI's or Anthropic's sends any of them: their `extra_body` and `extra_headers` are arguments, never on the wire.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.refusals import Refusal

STEERING: Final = frozenset(
    {
        *("extra_body", "extra_query", "extra_headers", "headers"),  # another request
        *("fallbacks", "context_window_fallbacks", "context_window_fallback_dict", "content_policy_fallbacks"),
        *("model_list", "user_config", "deployment_id", "custom_llm_provider"),  # another model
        *("api_base", "base_url"),  # another place
        *("num_retries", "max_retries", "retry_policy", "retry_strategy"),  # more often than once
        "additional_drop_params",  # less than was asked for
        "enable_json_schema_validation",  # made, billed, and thrown away
    }
)


def refuse_steering(request: Mapping[str, Any]) -> None:
    """Raises Refusal `invalid_field` for the first of STEERING that says anything."""
    for name in request:
        if name in STEERING and request[name] is not None:
            raise refusal(name)


def refusal(name: str) -> Refusal:
    return Refusal("invalid_field", field=name, reason="it would steer the proxy behind the gateway")
