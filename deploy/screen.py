"""What `sundial up` shows: progress, a summary, then every part's lines. Plain lines where there is no terminal."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

COLOURS: Final = {
    "gateway": "yellow",
    "meter": "cyan",
    "litellm": "magenta",
    "demo": "green",
    "redis": "red",
    "postgres": "blue",
}
NAME_WIDTH: Final = 8
REFRESHES_PER_S: Final = 8


class Screen:
    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self._errors = Console(highlight=False, stderr=True)
        self.relaying = False
        """Whether the parts' lines are shown; while the chain starts they are only kept to explain a failure."""
        self._steps: dict[str, tuple[float, float, str]] = {}
        self._spinner = Spinner("dots", style="yellow")
        self._live: Live | None = None

    @property
    def is_terminal(self) -> bool:
        return self.console.is_terminal

    @contextmanager
    def progress(self, title: str) -> Iterator[None]:
        """While open, `begin` and `done` show living lines on a terminal."""
        self.console.print(Text(title, style="bold"))
        self._steps.clear()
        if not self.is_terminal:
            yield
            return
        with Live(get_renderable=self._table, console=self.console, refresh_per_second=REFRESHES_PER_S) as live:
            self._live = live
            try:
                yield
            finally:
                self._live = None

    def begin(self, step: str) -> None:
        self._steps[step] = (time.monotonic(), 0.0, "")

    def done(self, step: str, note: str = "") -> None:
        began = self._steps[step][0]
        took = time.monotonic() - began
        self._steps[step] = (began, took, note)
        if self._live is None:
            self.console.print(Text(f"  {step}: ready after {took:.1f} s{', ' + note if note else ''}"))

    def line(self, part: str, text: str) -> None:
        """One line of a part's output, whatever is in it: colours are kept, markup is not interpreted."""
        if self.relaying:
            head = (f"{part:<{NAME_WIDTH}} │ ", COLOURS.get(part, "white"))
            self.console.print(Text.assemble(head, Text.from_ansi(text)), soft_wrap=True)

    def say(self, text: str, style: str = "") -> None:
        self.console.print(Text(text, style=style), soft_wrap=True)

    def fail(self, text: str) -> None:
        """To stderr, as every command says what is wrong."""
        for line in text.splitlines():
            self._errors.print(Text(f"sundial: {line}", style="bold red"), soft_wrap=True)

    def show(self, lines: list[Text]) -> None:
        for line in lines:
            self.console.print(line, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        now = time.monotonic()
        for step, (began, took, note) in list(self._steps.items()):
            mark: RenderableType = Text("✓", style="green") if took else self._spinner
            table.add_row(" ", mark, step, Text(f"{took or now - began:.1f} s", style="dim"), Text(note, style="dim"))
        return table
