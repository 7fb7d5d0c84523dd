"""What a long measurement shows while it runs: a bar on a terminal, one line per step elsewhere."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

Show = Callable[[str], AbstractContextManager[None]]
"""Names the step that its context lasts."""


@contextmanager
def steps(console: Console, total: int) -> Iterator[Show]:
    """Shows a run of `total` steps."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=total)

        @contextmanager
        def show(text: str) -> Iterator[None]:
            progress.update(task, description=text)
            if not console.is_terminal:
                console.print(text)
            yield
            progress.advance(task)

        yield show
