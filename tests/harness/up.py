"""`Up`: the whole chain as `make up` starts it, real LiteLLM and demo upstream included, driven from outside."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import openai

from tests.harness.stack import ROOT

START_S_MAX: Final = 180.0
BOOKED_S_MAX: Final = 30.0
POLL_S: Final = 0.05


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
        with self.log.open("ab") as log:
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
            time.sleep(POLL_S)

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

    def client(self, secret: str = "") -> openai.OpenAI:
        """OpenAI's client, with the demo key where no other is given."""
        env = self.env
        return openai.OpenAI(base_url=env["OPENAI_BASE_URL"], api_key=secret or env["OPENAI_API_KEY"], max_retries=0)

    def sundial(self, *arguments: str) -> Any:
        """What a command prints for programs; AssertionError where it fails."""
        done = self._run(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, **self.env, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "sundial", *arguments, "--json"]
        return subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)

    def usage(self, account: str, number: int) -> list[dict[str, Any]]:
        """The account's usage entries, the newest last, once there are so many."""
        until = time.monotonic() + BOOKED_S_MAX
        while True:
            entries = [e for e in self.sundial("statement", account)["entries"] if e["kind"] == "usage"]
            if len(entries) >= number:
                return entries
            assert time.monotonic() < until, f"{len(entries)} of {number} entries"

    def personal(self, user: str, credit: str) -> str:
        """The secret of a new personal key whose account holds so many credits, known to the gateway."""
        secret = str(self.sundial("key", "create", "--personal", user)["secret"])
        self.sundial("grant", user, credit)
        until = time.monotonic() + BOOKED_S_MAX
        while True:
            shown = self.sundial("account", "show", user)
            with contextlib.suppress(openai.AuthenticationError):
                if shown["balance"] == shown["ledger_balance"] and list(self.client(secret).models.list()):
                    return secret
            assert time.monotonic() < until, shown

    def receipt(self, event_id: str) -> dict[str, Any]:
        """`sundial charge`, once the call is booked."""
        until = time.monotonic() + BOOKED_S_MAX
        while True:
            done = self._run("charge", event_id)
            if done.returncode == 0:
                return dict(json.loads(done.stdout))
            assert time.monotonic() < until, done.stdout + done.stderr

    def served(self) -> list[dict[str, Any]]:
        """What the demo upstream says that it served, one line of its log for each call: family, model, usage,
        tokens_sent, and how it ended."""
        found = []
        for line in self.log.read_text(encoding="utf-8").splitlines():
            if '"tokens_sent"' in line or '"family"' in line:
                said = json.loads(line[line.index("{") :])
                if "usage" in said and "family" in said:
                    found.append(said)
        return found
