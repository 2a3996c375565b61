"""How far long work is: bars on a terminal, a line now and then elsewhere, both with rate and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.text import Text

LINE_EVERY = 10.0  # Seconds between lines where there is no terminal

Listener = Callable[[str, int, int], None]  # Is told what is being done, how much of it is done, and of how much


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f}/s" if task.speed else "")


@contextmanager
def progress(
    screen: Console, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic
) -> Iterator[Listener]:
    """A listener that draws bars on a screen that is a terminal, and else says lines at once."""
    if not screen.is_terminal:
        yield _lines(say, clock)
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), _Rate()
    with Bars(*columns, TimeRemainingColumn(elapsed_when_finished=True), console=screen, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def draw(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield draw


def _lines(say: Callable[[str], None], clock: Callable[[], float]) -> Listener:
    started: dict[str, float] = {}
    last = clock()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal last
        now = clock()
        began = started.setdefault(what, now)
        if now - last < LINE_EVERY:
            return
        last = now
        rate = done / (now - began) if now > began else 0.0
        left = f", {rate:.1f}/s, {timedelta(seconds=round((total - done) / rate))} left" if rate else ""
        say(f"{what}: {done} of {total}{left}")

    return tell
