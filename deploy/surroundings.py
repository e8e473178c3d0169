"""The environment that each part of the chain is started with. Pure.

Nobody gets more than they need: the gateway no database, the meter its own database user, LiteLLM none of our
addresses (it would take DATABASE_URL or REDIS_HOST for its own).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

OPENAI_URL: Final = "https://api.openai.com/v1"

_COMMON: Final = (
    *("PATH", "HOME", "USER", "TMPDIR", "LANG", "LC_ALL", "TZ", "TERM", "LD_LIBRARY_PATH", "PYTHONPATH"),
    *("SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "TIKTOKEN_CACHE_DIR"),
)
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
_SERVERS: Final = ("SUNDIAL_DATABASE_URL", "SUNDIAL_REDIS_URL", "SUNDIAL_UPSTREAM_URL", "SUNDIAL_UPSTREAM_KEY")


class Addresses(msgspec.Struct, frozen=True, kw_only=True):
    """Where everything is, once it is known."""

    home: Path
    owner_database_url: str
    """As the user who may migrate."""
    meter_database_url: str
    console_database_url: str
    redis_url: str
    upstream_url: str
    upstream_key: str
    gateway_host: str
    gateway_port: int
    gateway_metrics_port: int
    meter_metrics_port: int

    @property
    def gateway_url(self) -> str:
        """Base URL for OpenAI clients on this machine."""
        host = "127.0.0.1" if self.gateway_host in ("0.0.0.0", "::") else self.gateway_host  # noqa: S104 - compared
        return f"http://{f'[{host}]' if ':' in host else host}:{self.gateway_port}/v1"


def common(environment: Mapping[str, str], log: str) -> dict[str, str]:
    kept = {name: environment[name] for name in _COMMON if name in environment}
    return {**kept, "SUNDIAL_LOG": log, "PYTHONUNBUFFERED": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def of_ours(environment: Mapping[str, str], log: str, addresses: Addresses) -> dict[str, str]:
    """For gateway, meter and commands: every setting of the operator's but the servers, which each is given below."""
    wishes = {
        name: value
        for name, value in environment.items()
        if name.startswith("SUNDIAL_") and name.removesuffix("_FILE") not in _SERVERS
    }
    return {**common(environment, log), **wishes, "SUNDIAL_LOG": log, "SUNDIAL_HOME": str(addresses.home)}


def gateway(environment: Mapping[str, str], log: str, addresses: Addresses) -> dict[str, str]:
    return {
        "SUNDIAL_DRAIN_GRACE_S": "0",  # no load balancer is to notice
        **of_ours(environment, log, addresses),
        "SUNDIAL_REDIS_URL": addresses.redis_url,
        "SUNDIAL_UPSTREAM_URL": addresses.upstream_url,
        "SUNDIAL_UPSTREAM_KEY": addresses.upstream_key,
        "SUNDIAL_GATEWAY_PORT": str(addresses.gateway_port),
        "SUNDIAL_GATEWAY_METRICS_PORT": str(addresses.gateway_metrics_port),
    }


def meter(environment: Mapping[str, str], log: str, addresses: Addresses) -> dict[str, str]:
    return {
        **of_ours(environment, log, addresses),
        "SUNDIAL_DATABASE_URL": addresses.meter_database_url,
        "SUNDIAL_REDIS_URL": addresses.redis_url,
        "SUNDIAL_METER_METRICS_PORT": str(addresses.meter_metrics_port),
    }


def command(
    environment: Mapping[str, str], log: str, addresses: Addresses, *, as_owner: bool = False
) -> dict[str, str]:
    """For a `sundial` command; only migrations run as the owner."""
    return {
        **of_ours(environment, log, addresses),
        "SUNDIAL_DATABASE_URL": addresses.owner_database_url if as_owner else addresses.console_database_url,
        "SUNDIAL_REDIS_URL": addresses.redis_url,
    }


def demo(environment: Mapping[str, str], log: str, key: str) -> dict[str, str]:
    return {**common(environment, log), "SUNDIAL_DEMO_KEY": key}


def litellm(environment: Mapping[str, str], log: str, master_key: str, demo_url: str, demo_key: str) -> dict[str, str]:
    """For the proxy: with OPENAI_API_KEY in the environment it speaks to OpenAI, else to the demo upstream."""
    ours = {
        "LITELLM_MASTER_KEY": master_key,
        "LITELLM_MODE": "PRODUCTION",  # else it would read a .env file
        "LITELLM_TELEMETRY": "False",
        "DISABLE_ADMIN_UI": "True",
        "LITELLM_LOG": environment.get("LITELLM_LOG", "WARNING"),
    }
    if key := environment.get("OPENAI_API_KEY"):
        proxies = {name: environment[name] for name in _PROXIES if name in environment}
        url = environment.get("OPENAI_BASE_URL", OPENAI_URL)
        return {**common(environment, log), **proxies, **ours, "OPENAI_API_KEY": key, "SUNDIAL_OPENAI_URL": url}
    origin = demo_url.removesuffix("/v1")  # to which LiteLLM adds Anthropic's path
    demos = {"SUNDIAL_DEMO_URL": demo_url, "SUNDIAL_DEMO_ORIGIN": origin, "SUNDIAL_DEMO_KEY": demo_key}
    return {**common(environment, log), **ours, **demos}


def for_shells(addresses: Addresses, demo_key: str, service_key: str) -> dict[str, str]:
    """What `.sundial/env` says."""
    return {
        "OPENAI_BASE_URL": addresses.gateway_url,
        "OPENAI_API_KEY": demo_key,
        "SUNDIAL_SERVICE_KEY": service_key,
        "SUNDIAL_GATEWAY_METRICS_URL": f"http://127.0.0.1:{addresses.gateway_metrics_port}",
        "SUNDIAL_METER_METRICS_URL": f"http://127.0.0.1:{addresses.meter_metrics_port}",
        "SUNDIAL_DATABASE_URL": addresses.console_database_url,
        "SUNDIAL_REDIS_URL": addresses.redis_url,
        "SUNDIAL_UPSTREAM_URL": addresses.upstream_url,
        "SUNDIAL_UPSTREAM_KEY": addresses.upstream_key,
    }
