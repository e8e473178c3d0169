"""`make up` as a newcomer meets it: the whole chain with the real LiteLLM proxy, and the README's own commands."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import openai
import pytest

from tests.harness.stack import ROOT

START_S_MAX: Final = 180.0
COMMANDS_S_MAX: Final = 180.0
MESSAGES: Any = [{"role": "user", "content": "Por que o relógio de sol não atrasa?"}]


class Up:
    """`sundial up` in a folder of its own, all ports chosen by the machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "up.log"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / ".venv").symlink_to(ROOT / ".venv")

    def start(self) -> None:
        """Start it and wait for its summary; AssertionError with its output where it does not come."""
        ports = ("GATEWAY", "GATEWAY_METRICS", "METER_METRICS", "LITELLM", "DEMO", "POSTGRES", "REDIS")
        environment = {k: value for k, value in os.environ.items() if not k.startswith(("SUNDIAL_", "OPENAI_"))}
        environment |= {f"SUNDIAL_{name}_PORT": "0" for name in ports}
        env = self.folder / ".sundial" / "env"
        env.unlink(missing_ok=True)
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sundial", "up"],
                cwd=self.folder,
                env={**environment, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        until = time.monotonic() + START_S_MAX
        while not env.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"the chain did not start:\n{self.log.read_text()}")
            time.sleep(0.1)

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        return self._process.wait(60)

    @property
    def env(self) -> dict[str, str]:
        """What `.sundial/env` sets."""
        script = "set -a; . .sundial/env; env -0"
        out = subprocess.run(["sh", "-c", script], cwd=self.folder, env={}, capture_output=True, check=True).stdout
        return dict(line.split("=", 1) for line in out.decode().split("\0") if "=" in line)

    def client(self) -> openai.OpenAI:
        env = self.env
        return openai.OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=env["OPENAI_API_KEY"], max_retries=0)

    def sundial(self, *arguments: str) -> Any:
        environment = {**os.environ, **self.env, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "sundial", *arguments, "--json"]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The chain, running. It is stopped at the end, and must have left nothing behind."""
    chain = Up(tmp_path_factory.mktemp("up"))
    try:
        chain.start()
        yield chain
    finally:
        with contextlib.suppress(ProcessLookupError):
            assert chain.stop() == 0, chain.log.read_text()
    assert "Everything has ended." in chain.log.read_text()


def _usage(chain: Up, account: str, number: int) -> list[dict[str, Any]]:
    """The account's usage entries, the newest last, once there are so many."""
    until = time.monotonic() + 10
    while True:
        entries = [e for e in chain.sundial("statement", account)["entries"] if e["kind"] == "usage"]
        if len(entries) >= number:
            return entries
        assert time.monotonic() < until, f"{len(entries)} of {number} entries"


def test_through_the_real_litellm(up: Up) -> None:
    """Streamed and plain, with usage asked for and not: LiteLLM's own usage is booked to the token."""
    client = up.client()
    before = len(_usage(up, "demo", 0))
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
    entries = _usage(up, "demo", before + 3)[before:]
    assert (entries[0]["tokens_in"], entries[0]["tokens_out"]) == (told.prompt_tokens, told.completion_tokens)
    told = plain.usage
    assert (entries[2]["tokens_in"], entries[2]["tokens_out"]) == (told.prompt_tokens, told.completion_tokens)
    assert {entry["evidence"] for entry in entries} == {"provider"}
    assert entries[0]["tokens_in"] == entries[1]["tokens_in"] == entries[2]["tokens_in"]


def test_a_client_that_leaves_stops_the_chain(up: Up) -> None:
    """Through LiteLLM too a client that leaves in mid-stream is charged for what came, and the demo model stops."""
    before = len(_usage(up, "demo", 0))
    stream = up.client().chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, stream=True, max_tokens=400)
    text = ""
    for chunk in stream:
        text += chunk.choices[0].delta.content or ""
        if len(text) > 60:
            break
    stream.close()
    entry = _usage(up, "demo", before + 1)[-1]
    assert entry["outcome"] == "client_gone"
    assert entry["evidence"] == "recounted"
    assert 5 <= entry["tokens_out"] <= 60


def test_the_commands_of_the_readme(up: Up) -> None:
    """Every command under "Try it" in the README runs as it stands there, one after the other."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## Try it")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.DOTALL)
    assert len(blocks) >= 8
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
    said = re.split(r"^== \d+\n", done.stdout, flags=re.MULTILINE)[1:]
    assert said[1].rstrip().endswith("data: [DONE]")
    assert "CompletionUsage" in said[2]
    assert "gpt-4o-mini" in said[3]
    assert "65f0c0ffee" in said[4]
    assert "71aadecade" in said[4]
    assert '"code":"credit_exhausted"' in said[6]
    assert "1 2 3" in said[7]
    assert "whisper-1" in said[7]


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
