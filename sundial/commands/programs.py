"""`sundial up`, `gateway`, `meter`, `migrate`: the programs themselves, started in the foreground."""

import os
import signal
from pathlib import Path

import click

from sundial.hindrances import border
from sundial.options import database_settings, debug_option, output_options, settings
from sundial.problems import NegativeError


def _end_at_once_on_sigterm() -> None:
    """Until a program has its own way to stop: nothing is open yet, and a stop that was asked for is no failure.

    The imports take a second, and an init process (a container's first) would not even be ended by the signal.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


@click.command()
@debug_option
def up() -> int:
    """Run everything on this machine, until Ctrl-C.

    It is what `make up` runs: embedded PostgreSQL and Redis with their data under SUNDIAL_HOME (.sundial), a LiteLLM
    proxy and a demo model behind it; with OPENAI_API_KEY set, OpenAI's models instead.

    A gateway or meter that ends is started again. Where another part ends, everything ends with 1, and the last lines
    of that part say why. A second Ctrl-C ends the wait for running answers (SUNDIAL_DRAIN_S, 60 s); what it cuts is
    booked at the next start.

    \b
    Example:
      sundial up
    """
    from deploy import up as deployment

    with border("chain", Path(os.environ.get("SUNDIAL_HOME") or ".sundial")):
        return deployment.main()


@click.command()
@debug_option
def gateway() -> int:
    """Run the gateway: it decides, forwards, measures.

    It needs Redis and the upstream, never Postgres.

    With SUNDIAL_GATEWAY_WORKERS above 1 so many processes share the port, one core each; one that dies is started
    again, and its successor books the calls that ran in it.

    Settings: SUNDIAL_REDIS_URL, SUNDIAL_UPSTREAM_URL, SUNDIAL_GATEWAY_PORT (8080) and more, all reported if wrong.

    \b
    Example:
      SUNDIAL_REDIS_URL=redis://127.0.0.1:6379/0 SUNDIAL_UPSTREAM_URL=http://127.0.0.1:4000/v1 sundial gateway
    """
    _end_at_once_on_sigterm()
    chosen = settings("GatewaySettings")
    with border("gateway", chosen.home, chosen, ("gateway", "gateway_metrics")):
        if chosen.gateway_workers > 1:
            from gateway import workers

            return workers.run(chosen)
        from gateway import app

        return app.run(chosen)


@click.command()
@debug_option
def meter() -> int:
    """Run the meter: it books usage and orders.

    It writes the books in Postgres and keeps Redis up to date with them.

    Settings: SUNDIAL_DATABASE_URL, SUNDIAL_REDIS_URL, SUNDIAL_SHARDS (0-15) and more, all reported if wrong.

    \b
    Example:
      SUNDIAL_SHARDS=0-7 sundial meter
    """
    _end_at_once_on_sigterm()
    chosen = settings("MeterSettings")
    from meter import app

    with border("meter", chosen.home, chosen, ("meter_metrics",)):
        return app.run(chosen)


@click.command()
@output_options
def migrate(as_json: bool) -> None:
    """Bring the database schema up to date. Safe to run again, and from several places at once.

    \b
    Example:
      SUNDIAL_DATABASE_URL=postgresql://owner@127.0.0.1/sundial sundial migrate
    """
    url = database_settings().database_url
    from meter import migrate as migration
    from sundial import database, output

    try:
        with database.border(url):
            ran = migration.run(url)
    except migration.MigrationError as error:
        raise NegativeError(str(error)) from error
    if as_json:
        output.print_json({"migrations": ran})
    elif ran:
        click.echo("\n".join(f"Ran {name}." for name in ran))
    else:
        click.echo("The database is up to date.")
