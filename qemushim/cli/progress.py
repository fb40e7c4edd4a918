"""A line that moves while binaries are asked, or guests are worked on; nothing where standard error is no terminal."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def asking(total: int, what: str = "asking QEMU") -> Iterator[Callable[[str], None]]:
    """What to call with the path of each binary (or whatever ``what`` is about) that is done with."""
    if not total or not sys.stderr.isatty():
        yield lambda path: None
        return
    # takes longer to load than everything else here together
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    columns = (
        SpinnerColumn(),
        TextColumn(what),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield lambda path: progress.update(task, advance=1, description=os.path.basename(path))
