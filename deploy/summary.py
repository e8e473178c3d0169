"""What a person reads when the chain runs: where everything is, and what to try first."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.text import Text

from deploy.surroundings import Addresses
from shared.settings import UpSettings

LABEL_WIDTH = 13


def summary(
    addresses: Addresses,
    settings: UpSettings,
    env: Path,
    demo_key: str,
    service_key: str,
    running: Mapping[str, int],
) -> list[Text]:
    """Lines, not to be wrapped: keys and commands are copied from them. `running`: process ids by part."""
    keys = {"Demo key": (demo_key, "account `demo`"), "Service key": (service_key, "may name users")}
    return [
        Text("\nSundial is running\n", style="bold yellow"),
        *_rows(_places(addresses, settings, running)),
        Text(),
        *_rows(keys),
        Text("\nTry it in another terminal:\n", style="bold"),
        *(Text(f"  {line}", style="cyan") for line in first_steps(env)),
        Text("\nCtrl-C ends everything. The ledger stays; the next start finds it again.\n", style="dim"),
    ]


def first_steps(env: Path) -> list[str]:
    """Commands to copy, each on a line of its own."""
    folder = _short(Path(sys.executable).parent)
    body = '{"model":"gpt-4o-mini","stream":true,"messages":[{"role":"user","content":"O que é um relógio de sol?"}]}'
    python = (
        "from openai import OpenAI; "
        'print(OpenAI().chat.completions.create(model="gpt-4o-mini", '
        'messages=[{"role": "user", "content": "Quanto é 17 * 23?"}]).choices[0].message.content)'
    )
    return [
        f"set -a; . {_short(env)}; set +a",
        'curl -N "$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" \\',
        f"     -H 'Content-Type: application/json' -d '{body}'",
        f"{folder}/python -c '{python}'",
        f"{folder}/sundial statement demo",
    ]


def _places(addresses: Addresses, settings: UpSettings, running: Mapping[str, int]) -> dict[str, tuple[str, str]]:
    behind = "as SUNDIAL_UPSTREAM_URL says"
    if "demo" in running:
        behind = "LiteLLM, a demo model behind it (set OPENAI_API_KEY for real ones)"
    elif "litellm" in running:
        behind = "LiteLLM, OpenAI behind it"
    return {
        "Gateway": (addresses.gateway_url, "for OpenAI clients and LibreChat"),
        "Upstream": (addresses.upstream_url, behind),
        "Ledger": (_place(addresses.console_database_url), "PostgreSQL"),
        "Holds": (_place(addresses.redis_url), "Redis"),
        "Metrics": (f"http://127.0.0.1:{addresses.gateway_metrics_port}/metrics", "of the gateway"),
        "": (f"http://127.0.0.1:{addresses.meter_metrics_port}/metrics", "of the meter"),
        "Data": (_short(settings.home), "remove it to begin anew"),
        "Processes": (", ".join(f"{name} {pid}" for name, pid in running.items()), ""),
    }


def _rows(rows: Mapping[str, tuple[str, str]]) -> list[Text]:
    return [
        Text.assemble((f"  {name:<{LABEL_WIDTH}}", "dim"), what, ("  " + remark, "dim"))
        for name, (what, remark) in rows.items()
    ]


def _place(url: str) -> str:
    """A server's URL without user and password."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def _short(path: Path) -> str:
    """Relative to the working directory where that is shorter."""
    absolute = path.absolute()
    relative = os.path.relpath(absolute)
    return relative if len(relative) < len(str(absolute)) else str(absolute)
