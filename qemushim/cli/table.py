"""Rows in columns: as they are in a pipe; on a terminal in colours, and folded within their column."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Sequence

from qemushim.cli.common import printable

Row = Sequence[str]


def print_table(
    headings: Row,
    rows: Sequence[Row],
    *,
    style: Callable[[Row], str] = lambda row: "",
    whole: Collection[str] = (),
    right: Collection[str] = (),
) -> None:
    """Print a table.

    ``style``: the colour of a row's first cell; ``whole``: columns that are not folded on a narrow terminal; ``right``:
    those of numbers.
    """
    if sys.stdout.isatty():
        _draw(headings, rows, style, whole, right)
        return
    everything = [headings, *rows]
    widths = [max(len(printable(row[column])) for row in everything) for column in range(len(headings))]
    for row in everything:
        cells = [
            f"{printable(cell):>{width}}" if heading in right else f"{printable(cell):{width}}"
            for cell, width, heading in zip(row, widths, headings, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _draw(
    headings: Row,
    rows: Sequence[Row],
    style: Callable[[Row], str],
    whole: Collection[str],
    right: Collection[str],
) -> None:
    # takes longer to load than everything else together
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        justify = "right" if heading in right else "left"
        table.add_column(heading, no_wrap=heading in whole, overflow="fold", justify=justify)  # type: ignore[arg-type]
    for row in rows:
        first, *others = map(printable, row)
        table.add_row(Text(first, style=style(row)), *map(Text, others))
    Console(highlight=False).print(table)
