"""The command's form: help, exit codes and what it does not load, without any server."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import click
import pytest

from sundial import checks
from sundial.__main__ import command, run
from sundial.accounts import choose
from sundial.commands.money import end_of_day
from sundial.problems import NegativeError, WrongUsageError
from sundial.projection import projected

PROGRAMS = {"up", "gateway", "meter"}
HEAVY = ("litellm", "asyncpg", "aiohttp", "redis", "pydantic", "rich", "tiktoken", "msgspec")


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    for name, part in group.commands.items():
        if isinstance(part, click.Group):
            yield from leaves(part, (*path, name))
        else:
            yield (*path, name), part


LEAVES = dict(leaves(command))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "UPSTREAM_URL", "TIMEZONE", "LANGUAGE"):
        monkeypatch.delenv(f"SUNDIAL_{name}", raising=False)


@pytest.mark.parametrize("path", LEAVES, ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Each command's help has a sentence and an example that begins with its own name; all but programs print JSON."""
    assert run([*path, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"sundial {' '.join(path)}" in text.split("Example", 1)[1]
    assert "--debug" in text
    assert ("--json" in text) == (path[0] not in PROGRAMS)


def test_help_is_light() -> None:
    """Help and wrong usage load nothing heavy: what a command needs is imported when it runs."""
    script = "import sys; from sundial.__main__ import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert not loaded & set(HEAVY)


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    """A closed pipe, as `head` leaves behind, ends the command quietly with 0."""
    with subprocess.Popen(
        [sys.executable, "-m", "sundial", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["account", "show"],
        ["grant", "maria", "many"],
        ["grant", "maria", "0"],
        ["grant", "maria", "-5"],
        ["grant", "maria", "1.2345"],
        ["grant", "maria", "1", "--expires", "2001-01-01"],
        ["adjust", "maria", "0", "--memo", "x"],
        ["adjust", "maria", "5"],
        ["adjust", "maria", "5", "--memo", " "],
        ["grant", "maria", "50.000"],
        ["account", "floor", "maria", "-5.000"],
        ["account", "floor", "maria", "100"],
        ["account", "list", "--offset", "9" * 20],
        ["checkpoint", "list", "--limit", "9" * 20],
        ["key", "create", "--personal", "a", "--expires", "2020-01-01"],
        ["key", "create", "--service", "a", "--expires", "2020-01-01"],
        ["plan", "set", "p", "--allowance", "2.000"],
        ["plan", "set", "p", "--model", ""],
        ["plan", "set", "p", "--model", "gpt-4o", "--model", " "],
        ["adjust", "maria", "-5", "--memo", "x" * 501],
        ["statement", "maria", "--month", "2026-13"],
        ["key", "create"],
        ["key", "create", "--personal", "a", "--service", "b"],
        ["price", "set", "m", "--input", "0.1"],
        ["price", "set", "m"],
        ["price", "set", "m", "--input", "cheap", "--output", "1"],
        ["plan", "set", "p", "--allowance", "-1"],
        ["charge", "not-an-id"],
    ],
    ids=" ".join,
)
def test_wrong_usage_ends_with_two(
    arguments: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be meant is refused before any server is asked: code 2, a line on stderr, nothing on stdout."""
    monkeypatch.setenv("SUNDIAL_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert run(arguments) == 2
    said = capsys.readouterr()
    assert said.err
    assert not said.out


def test_missing_settings_are_all_named_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    """Without settings a command says every variable it lacks and how to load them, with code 2."""
    assert run(["account", "show", "maria"]) == 2
    said = capsys.readouterr().err
    assert "SUNDIAL_DATABASE_URL" in said
    assert "SUNDIAL_REDIS_URL" in said
    assert ".sundial/env" in said


def test_a_server_that_is_away_ends_with_three(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A closed port is one line that names host and port, what to do, and never the password; code 3."""
    monkeypatch.setenv("SUNDIAL_DATABASE_URL", "postgresql://meter:geheim@127.0.0.1:1/sundial")
    assert run(["account", "list"]) == 3
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "127.0.0.1:1/sundial" in said
    assert "SUNDIAL_DATABASE_URL" in said
    assert "geheim" not in said
    assert "Traceback" not in said


@pytest.fixture
def _away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings of servers that are not there."""
    monkeypatch.setenv("SUNDIAL_DATABASE_URL", "postgresql://127.0.0.1:1/books")
    monkeypatch.setenv("SUNDIAL_REDIS_URL", "redis://127.0.0.1:1/0")


@pytest.mark.usefixtures("_away")
def test_an_audit_names_the_server_that_is_away(capsys: pytest.CaptureFixture[str]) -> None:
    """Postgres where it is Postgres, which is asked first."""
    assert run(["audit"]) == 3
    said = capsys.readouterr().err
    assert "Postgres at 127.0.0.1:1/books is not reachable" in said
    assert "Redis" not in said


@pytest.mark.usefixtures("_away")
def test_an_audit_of_no_journals_proves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a journal is a mistake, not a pass: 2."""
    assert run(["audit", "--journal", str(tmp_path)]) == 2
    assert f"no journals under {tmp_path}" in capsys.readouterr().err


@pytest.mark.usefixtures("_away")
def test_a_checkpoint_that_is_none_is_named_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's name, and why it cannot be read."""
    monkeypatch.setenv("SUNDIAL_CHECKPOINT_PUBLIC_KEY", "A" * 43 + "=")
    file = tmp_path / "x.json"
    file.write_text("{}")
    assert run(["audit", "--checkpoint", str(file)]) == 1
    said = capsys.readouterr().err
    assert said.count(str(file)) == 1
    assert "cannot be read as a checkpoint" in said


@pytest.mark.usefixtures("_away")
def test_a_checkpoint_needs_a_place(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set is not the folder where one happens to be."""
    monkeypatch.setenv("SUNDIAL_CHECKPOINT_KEY", "A" * 43 + "=")
    assert run(["checkpoint", "create", ""]) == 2
    assert "name a file or a folder" in capsys.readouterr().err


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """--debug adds where a fault came from, before or after the command's name, and keeps the exit code."""
    monkeypatch.setenv("SUNDIAL_DATABASE_URL", "postgresql://127.0.0.1:1/sundial")
    for arguments in (["--debug", "account", "list"], ["account", "list", "--debug"]):
        assert run(arguments) == 3
        assert "Traceback" in capsys.readouterr().err


def test_doctor_reports_wrong_settings_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    """`sundial doctor --json` is JSON also where the settings are wrong."""
    assert run(["doctor", "--json"]) == 2
    report = json.loads(capsys.readouterr().out)
    assert report["state"] == "fail"
    assert {check["name"] for check in report["checks"]} == {"settings"}


def test_every_command_is_documented() -> None:
    """docs/commands.md has a heading for each command and names each of its options."""
    page = (Path(__file__).parents[2] / "docs" / "commands.md").read_text(encoding="utf-8")
    for path, leaf in LEAVES.items():
        heading = f"\n### sundial {' '.join(path)}\n"
        assert heading in page, " ".join(path)
        section = page.split(heading, 1)[1].split("\n### ", 1)[0].split("\n## ", 1)[0]
        for parameter in leaf.params:
            if isinstance(parameter, click.Option) and parameter.name != "as_json" and "--debug" not in parameter.opts:
                assert parameter.opts[0] in section, f"{' '.join(path)} {parameter.opts[0]}"


def row(account: UUID, directory: str) -> dict[str, Any]:
    return {"account_id": account, "directory": directory, "external_id": "maria"}


def test_an_account_is_found_by_either_id() -> None:
    """One match is the account; an account id wins over another account's external id of the same text."""
    one, other = uuid4(), uuid4()
    assert choose([row(one, "a")], "maria", None)["account_id"] == one
    assert choose([row(one, "a"), row(other, "b")], str(one), None)["account_id"] == one


def test_an_ambiguous_external_id_lists_the_choices() -> None:
    """An external id in two directories is wrong usage, and the text names both; none at all is a negative answer."""
    with pytest.raises(WrongUsageError, match=r"(?s)--directory a .*--directory b "):
        choose([row(uuid4(), "a"), row(uuid4(), "b")], "maria", None)
    with pytest.raises(NegativeError, match="in directory c"):
        choose([], "maria", "c")


def test_a_grant_lasts_to_the_end_of_its_day() -> None:
    """A grant that expires on 31 December ends at São Paulo's midnight, three hours after UTC's."""
    end = end_of_day(datetime(2026, 12, 31, tzinfo=UTC), ZoneInfo("America/Sao_Paulo"))
    assert end == datetime(2027, 1, 1, 3, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["America/Sao_Paulo", "Etc/GMT+12", "Pacific/Kiritimati"])
def test_a_day_beyond_all_calendars_is_wrong_usage(zone: str) -> None:
    """The last day that can be said has an end in every zone; later ones are refused, and the last one is named."""
    assert end_of_day(datetime(9998, 12, 31, tzinfo=UTC), ZoneInfo(zone)).year >= 9998
    with pytest.raises(click.BadParameter, match="9998-12-31"):
        end_of_day(datetime(9999, 12, 31, tzinfo=UTC), ZoneInfo(zone))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["grant", "ana", "5", "--expires", "9999-12-31"], "9998-12-31"),
        (["key", "create", "--personal", "ana", "--expires", "9999-12-31"], "9998-12-31"),
        (["price", "set", "m", "--input", "1e999999", "--output", "0"], "largest price"),
        (["price", "set", "m", "--input", "1e5000", "--output", "0"], "largest price"),
    ],
)
def test_numbers_without_end_are_wrong_usage(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a server is asked: exit 2, and what is allowed."""
    monkeypatch.setenv("SUNDIAL_DATABASE_URL", "postgresql://127.0.0.1:1/x")
    assert run(arguments) == 2
    assert says in capsys.readouterr().err


def test_spendable_is_what_the_reserve_script_sees() -> None:
    """balance − floor − held − unposted, with absent fields as zero; no balance means that Redis has no account."""
    live = projected({"balance": "1000", "held": "300", "unposted": "50", "floor": "-200", "seq": "4"})
    assert live is not None
    assert live.spendable_mc == 850
    assert projected({"held": "3"}) is None


def test_doctor_tells_good_from_bad() -> None:
    """Each verdict turns at its limit, and the worst of them is the report's."""
    now = datetime(2026, 11, 23, tzinfo=UTC)
    old = now - timedelta(days=checks.PRICES_AGE_DAYS + 1)
    judged = {
        checks.postgres_version(140_000): "fail",
        checks.postgres_version(180_001): "ok",
        checks.migrations(["0002_x.sql"]): "fail",
        checks.migrations([]): "ok",
        checks.redis_version("6.2.12"): "warn",
        checks.redis_version("7.0.15"): "ok",
        checks.redis_memory("allkeys-lru"): "fail",
        checks.redis_memory(None): "warn",
        checks.redis_memory("noeviction"): "ok",
        checks.redis_persistence("no"): "warn",
        checks.redis_persistence("yes"): "ok",
        checks.epochs([True] * 16): "ok",
        checks.epochs([True] * 15 + [False]): "fail",
        checks.catalog(None): "fail",
        checks.clock("Redis", -checks.CLOCK_FAIL_S): "fail",
        checks.clock("Redis", checks.CLOCK_WARN_S): "warn",
        checks.clock("Redis", 0.1): "ok",
        checks.prices(None, "", None, now, ""): "fail",
        checks.prices(3, "litellm 1.0", now, now, "1.1"): "warn",
        checks.prices(3, "litellm 1.1", old, now, "1.1"): "warn",
        checks.prices(3, "litellm 1.1", now, now, "1.1"): "ok",
        checks.queue("orders", 1, checks.QUEUE_AGE_S + 1): "warn",
        checks.queue("orders", 0, 0): "ok",
        checks.dead_letters(1): "warn",
        checks.upstream("http://u/v1", None, 0, "refused"): "fail",
        checks.upstream("http://u/v1", 401, 0, ""): "warn",
        checks.upstream("http://u/v1", 404, 0, ""): "fail",
        checks.upstream("http://u/v1", 200, 3, ""): "ok",
        checks.program("gateway", "http://g", 503, ""): "warn",
        checks.program("gateway", "http://g", 200, "", "ready, 1 of 2 workers"): "warn",
        checks.program("gateway", "http://g", 200, "", "ready, 2 of 2 workers"): "ok",
        checks.program("meter", "http://m", None, "refused"): "fail",
        checks.roles(["sundial_meter"], "x", member=True): "fail",
        checks.roles([], "x", member=False): "warn",
    }
    assert {check: check.state for check in judged} == judged
    for check in judged:
        assert bool(check.advice) == (check.state != "ok"), check
    assert checks.worst(list(judged)) == "fail"
    assert checks.worst([check for check in judged if check.state != "fail"]) == "warn"


def test_a_wrong_key_may_look_like_a_wrong_address() -> None:
    """LiteLLM says 400 to a wrong key: the doctor names both settings, and the address alone where it is that."""
    assert "SUNDIAL_UPSTREAM_KEY" in checks.upstream("http://u/v1", 400, 0, "").advice
    assert "SUNDIAL_UPSTREAM_URL" in checks.upstream("http://u/v1", 400, 0, "").advice
    assert "SUNDIAL_UPSTREAM_KEY" not in checks.upstream("http://u", 404, 0, "").advice
