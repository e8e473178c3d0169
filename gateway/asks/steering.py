"""Fields with which a request would steer the proxy behind the gateway: they are refused. Pure.

LiteLLM takes them out of a body for itself. Tried with 1.106: `extra_body` replaces the model in Responses and
Messages, and no answer says so; `fallbacks` runs a model that the plan need not allow, with messages of its own;
`num_retries` makes one call several; `additional_drop_params` takes out the limit that the gateway set;
`router_settings_override` has fallbacks within it; `timeout` ends a call as an error that the provider goes on with and
bills. The others were found by reading which fields it knows (`all_litellm_params`, the router, the proxy). No client
of OpenAI's or Anthropic's sends any of them: their `extra_body` and `timeout` are arguments, never on the wire.
"""

from collections.abc import Mapping
from typing import Any, Final

from gateway.refusals import Refusal

STEERING: Final = frozenset(
    {
        *("extra_body", "extra_query", "extra_headers", "headers", "provider_specific_header"),  # another request
        *("fallbacks", "context_window_fallbacks", "context_window_fallback_dict", "content_policy_fallbacks"),
        *("router_settings_override", "routing_strategy", "routing_strategy_args", "model_group_retry_policy"),
        *("model_list", "model_info", "model_config", "model_alias_map", "model_id", "user_config", "deployment"),
        *("deployment_id", "specific_deployment", "custom_llm_provider", "silent_model", "fastest_response"),
        *("tags", "tag_regex", "enable_tag_filtering", "allowed_model_region", "region_name"),  # another model
        *("api_base", "base_url", "api_key", "api_version", "organization", "use_litellm_proxy"),  # another place
        *("litellm_credential_name", "litellm_params", "litellm_settings", "proxy_server_request"),
        *("prompt_id", "litellm_system_prompt", "search_tool_name", "max_agentic_loops"),  # more than is seen
        *("num_retries", "max_retries", "retry_policy", "retry_strategy", "max_fallbacks"),  # more often than once
        *("timeout", "stream_timeout", "request_timeout", "force_timeout", "client_side_timeout"),
        *("timeout_by_service_tier", "stream_timeout_by_service_tier"),  # given up before it is told, and billed
        "additional_drop_params",  # less than was asked for
        "enable_json_schema_validation",  # made, billed, and thrown away
    }
)
"""Names of fields."""
PREFIXES: Final = ("_", "mock_", "aws_", "azure_", "vertex_", "input_cost_per_", "output_cost_per_")
"""How names of others begin: LiteLLM's own, answers that are made up, credentials and places, prices."""


def steers(name: str) -> bool:
    return name in STEERING or name.startswith(PREFIXES)


def refuse_steering(request: Mapping[str, Any]) -> None:
    """Raises Refusal `invalid_field` for the first field that steers and says anything."""
    for name in request:
        if (name in STEERING or name.startswith(PREFIXES)) and request[name] is not None:
            raise refusal(name)


def refusal(name: str) -> Refusal:
    return Refusal("invalid_field", field=name, reason="it would steer the proxy behind the gateway")
