"""`sundial doctor`: look at every part and say what is wrong and what to do."""

from typing import Any

import click

from sundial.options import output_options, run


@click.command()
@output_options
def doctor(as_json: bool) -> None:
    """Look at every part and say what to do.

    Settings, servers, programs, clocks, prices and queues; and the table of endpoints with their treatment, those that
    SUNDIAL_FORWARDED_PATHS lists among them, where it is set here as it is for the gateway.

    Exits with 1 where something fails. Warnings do not change the exit code.

    \b
    Examples:
      sundial doctor
      sundial doctor --json
    """
    from shared.settings import CommandSettings, SettingsError, load
    from sundial import checks
    from sundial.problems import NegativeError, WrongUsageError

    try:
        settings = load(CommandSettings)
    except SettingsError as error:
        report = [checks.Check("settings", "fail", line, "load .sundial/env") for line in str(error).splitlines()]
        _tell(report, as_json, families())
        raise WrongUsageError("the settings are wrong; the rest was not looked at.") from None
    from sundial.probes import all_checks

    report = [checks.Check("settings", "ok", "complete"), *run(all_checks(settings))]
    try:
        endpoints = families(settings.forwarded_paths)
    except ValueError as error:
        report.append(checks.Check("forwarded paths", "fail", str(error), "correct SUNDIAL_FORWARDED_PATHS"))
        endpoints = families()
    _tell(report, as_json, endpoints)
    failed = sum(check.state == "fail" for check in report)
    if failed:
        raise NegativeError(f"{failed} of {len(report)} checks failed.")


def families(listed: str = "") -> list[dict[str, Any]]:
    """The gateway's declared endpoints, and what an operator `listed`. Raises ValueError for what is no list."""
    import msgspec

    from gateway.families import BASE_PATH, FAMILIES, forwarded

    found = (*FAMILIES, *forwarded(listed))
    return [msgspec.to_builtins(family) | {"path": BASE_PATH + family.path} for family in found]


def _tell(report: list[Any], as_json: bool, endpoints: list[dict[str, Any]]) -> None:
    import msgspec
    from rich.text import Text

    from sundial import checks, output

    if as_json:
        page = {"state": checks.worst(report), "checks": msgspec.to_builtins(report), "families": endpoints}
        output.print_json(page)
        return
    styles = {"ok": "green", "warn": "yellow", "fail": "bold red"}
    rows = [(Text(check.state, style=styles[check.state]), check.name, check.found, check.advice) for check in report]
    output.print_rich(output.table("", ("", "What", "Found", "Do"), rows))
    paths = [(f"{family['method']} {family['path']}", family["treatment"], family["name"]) for family in endpoints]
    paths.append(("everything else", "refused", ""))
    output.print_rich(output.table("Endpoints", ("Path", "Treatment", "Family"), paths))
