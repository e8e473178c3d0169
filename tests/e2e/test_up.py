"""`make up` as a newcomer meets it: the whole chain with the real LiteLLM proxy, and the README's own commands."""

import os
import re
import subprocess
from typing import Any, Final

from tests.harness.stack import ROOT
from tests.harness.up import Up

COMMANDS_S_MAX: Final = 180.0
MESSAGES: Any = [{"role": "user", "content": "Por que o relógio de sol não atrasa?"}]


def test_through_the_real_litellm(up: Up) -> None:
    """Streamed and plain, with usage asked for and not: LiteLLM's own usage is booked to the token."""
    client = up.client()
    before = len(up.usage("demo", 0))
    asked = list(
        client.chat.completions.create(
            model="gpt-4o-mini", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
        )
    )
    told = asked[-1].usage
    assert told is not None
    silent = list(client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True))
    assert not any(chunk.usage for chunk in silent)
    assert silent[-1].choices[0].finish_reason == "stop"
    plain = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES)
    assert plain.usage is not None
    entries = up.usage("demo", before + 3)[before:]
    assert (entries[0]["tokens_in"], entries[0]["tokens_out"]) == (told.prompt_tokens, told.completion_tokens)
    told = plain.usage
    assert (entries[2]["tokens_in"], entries[2]["tokens_out"]) == (told.prompt_tokens, told.completion_tokens)
    assert {entry["evidence"] for entry in entries} == {"provider"}
    assert entries[0]["tokens_in"] == entries[1]["tokens_in"] == entries[2]["tokens_in"]


def test_a_client_that_leaves_stops_the_chain(up: Up) -> None:
    """Through LiteLLM too a client that leaves in mid-stream is charged for what came, and the demo model stops."""
    before = len(up.usage("demo", 0))
    stream = up.client().chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True, max_tokens=400)
    text = ""
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if len(text) > 60:
            break
    stream.close()
    entry = up.usage("demo", before + 1)[-1]
    assert entry["outcome"] == "client_gone"
    assert entry["evidence"] == "recounted"
    assert 5 <= entry["tokens_out"] <= 60


def run_commands(up: Up, page: str, heading: str, before: str = "") -> list[str]:
    """What each block of commands below this heading of a page says, run as it stands there, one after the other."""
    text = (ROOT / page).read_text(encoding="utf-8")
    section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    blocks = [before, *re.findall(r"```sh\n(.*?)```", section, re.DOTALL)]
    script = "set -euo pipefail\n" + "\n".join(f"echo; echo '== {n}'\n{block}" for n, block in enumerate(blocks))
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=up.folder,
        env={"PATH": os.environ["PATH"], "HOME": str(up.folder), "PYTHONPATH": str(ROOT), "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        timeout=COMMANDS_S_MAX,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return re.split(r"^== \d+\n", done.stdout, flags=re.MULTILINE)[2:]


def test_the_commands_of_the_readme(up: Up) -> None:
    """Every command under "Try it" in the README."""
    said = run_commands(up, "README.md", "Try it")
    assert len(said) == 8
    assert said[1].rstrip().endswith("data: [DONE]")
    assert "CompletionUsage" in said[2]
    assert "gpt-4o-mini" in said[3]
    assert "65f0c0ffee" in said[4]
    assert "71aadecade" in said[4]
    assert '"code":"credit_exhausted"' in said[6]
    assert "1 2 3" in said[7]
    assert "whisper-1" in said[7]


def test_the_commands_for_other_endpoints(up: Up) -> None:
    """Those in docs/endpoints.md, each family's own client or curl."""
    said = run_commands(up, "docs/endpoints.md", "Trying them without a provider", "set -a; . .sundial/env; set +a\n")
    assert len(said) == 1
    assert '"type":"message"' in said[0]
    assert '"audio_tokens"' in said[0]


def test_the_second_start_finds_everything(up: Up) -> None:
    """Ctrl-C and `make up` again: the same keys, and yesterday's balance."""
    before, keys = up.sundial("account", "show", "demo"), up.env
    assert up.stop() == 0
    up.start()
    assert up.sundial("account", "show", "demo")["ledger_balance"] == before["ledger_balance"]
    for name in ("OPENAI_API_KEY", "SUNDIAL_SERVICE_KEY"):
        assert up.env[name] == keys[name]
    assert list(up.client().models.list())
    assert up.sundial("audit")["ok"]
