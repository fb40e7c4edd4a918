"""Say where every argument of the QEMU command line comes from, or what a line of the document does.

Of each argument: the lines of the document (or why it is there without any), what it is for, which values were filled
in, and which abilities of the QEMU were looked at.  With --line the other way round: the arguments that a line is
behind, and what changes when it is taken out."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from qemushim.cli.common import (
    add_document,
    add_emulator,
    add_format,
    add_host,
    as_json,
    complain,
    emulator_for,
    host_for,
    printable,
    read_document,
    schema_of,
)
from qemushim.errors import ConfigError
from qemushim.inspect.explain import (
    ADDED,
    DOCUMENT,
    Argument,
    Explanation,
    LineMeaning,
    explain,
    explain_line,
    explanation_data,
    line_data,
)

if TYPE_CHECKING:
    from rich.console import Console

EPILOG = """\
examples:
  qemushim explain web.xml                     every argument
  qemushim explain web.xml net0                the arguments about net0, with everything that is known
  qemushim explain web.xml '^-machine'         a regular expression, upper and lower case alike
  qemushim explain web.xml --line 42           what line 42 does
  qemushim explain web.xml --json | jq '.arguments[] | select(.origin == "added") | .element'

exit codes: 0, 1 where nothing matches or the guest is refused, 2 for wrong usage"""

#: origin → its colour on a terminal, where a table needs so many columns
_COLOURS, _TABLE_WIDTH = {DOCUMENT: "green", ADDED: "yellow"}, 100
#: changes that are shown of a line that is taken out
_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    parser.add_argument(
        "pattern", metavar="PATTERN", nargs="?", help="only arguments whose text, element or alias has this"
    )
    parser.add_argument("--line", metavar="N", type=int, help="what line N of the document does")
    add_format(parser, ("text", "json"), f"text (default); {schema_of('explain', 'explain-line')}")
    add_emulator(parser)
    add_host(parser)
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    if options.line is not None and options.pattern is not None:
        options.usage_error("--line and PATTERN do not go together")
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    host = host_for(options, emulator)
    if options.line is not None:
        meaning = explain_line(guest, options.line, emulator, host)
        if options.format == "json":
            return _dump(line_data(meaning))
        return _print(_line_text(meaning))
    explanation = explain(guest, emulator, host)
    found = list(explanation.arguments)
    if options.pattern is not None:
        found = explanation.matching(_pattern(options.pattern))
    if options.format == "json":
        _dump(explanation_data(found))
    elif sys.stdout.isatty() and options.pattern is None:
        _table(found)
    else:
        _print(_blocks(explanation, found, whole=options.pattern is not None))
    if not found:
        complain(ConfigError(f"no argument has '{options.pattern}'", file=guest.file))
    return 0 if found else 1


def _pattern(text: str) -> re.Pattern[str]:
    """A regular expression, or where it is none the text as it is."""
    try:
        return re.compile(text, re.IGNORECASE | re.MULTILINE)
    except re.error:
        return re.compile(re.escape(text), re.IGNORECASE)


def _dump(data: object) -> int:
    print(as_json(data))
    return 0


def _print(lines: Iterable[str]) -> int:
    for line in lines:
        print(printable(line))
    return 0


def _where(a: Argument) -> str:
    """``line 17-21, disk vda``"""
    if a.element == "domain":
        return "the domain as a whole"
    if a.origin == DOCUMENT:
        span = f"line {a.line}" if a.line == a.end else f"lines {a.line}-{a.end}"
        return f"{span}, {a.element}"
    return f"added: {a.element}" if a.origin == ADDED else "always"


def _blocks(explanation: Explanation, found: Iterable[Argument], *, whole: bool) -> Iterator[str]:
    """An argument in full and, indented below it, what is known; ``whole``: everything."""
    for number, a in enumerate(found):
        if whole and number:
            yield ""
        yield a.text
        yield f"    {_where(a)}: {a.rule}"
        if a.origin == ADDED and a.reason:
            yield f"    because {a.reason}"
        yield from _filled(a)
        if whole:
            yield from (f"    asked: {question}" for question in a.asked)
            if a.element != "domain":
                yield from (f"    {line:5} | {text}" for line, text in explanation.excerpt(a))


def _filled(a: Argument) -> Iterator[str]:
    """What the document leaves open: the address in one piece, the rest value by value."""
    if any(filled.path.startswith("address/") for filled in a.filled):
        yield f"    filled in: address {a.place}"
    for filled in a.filled:
        if not filled.path.startswith("address/"):
            was = f" (the document has '{filled.was}')" if filled.was is not None else ""
            yield f"    filled in: {filled.path} = '{filled.value}'{was}"


def _line_text(meaning: LineMeaning) -> Iterator[str]:
    span = (
        f"line {meaning.first}" if meaning.first == meaning.last else f"lines {meaning.first}-{meaning.last}"
    )
    yield f"{span}: {', '.join(meaning.elements)}"
    if meaning.arguments:
        yield "makes:"
        for a in meaning.arguments:
            yield f"  {a.text}"
            yield f"      {a.rule}"
    elif meaning.around:
        whole = meaning.around[0].element.partition(" <")[0]
        yield f"is part of {whole}, which makes:"
        yield from (f"  {a.text}" for a in meaning.around)
    if meaning.refusal:
        yield f"without it the guest is refused: {meaning.refusal}"
    elif not (meaning.removed or meaning.added):
        yield "without it the command line is the same"
    else:
        yield "without it:"
        changes = [f"  - {text}" for text in meaning.removed] + [f"  + {text}" for text in meaning.added]
        yield from changes if len(changes) <= _SHOWN else _summary(meaning)


def _summary(meaning: LineMeaning) -> Iterator[str]:
    """Many changes are mostly devices that move: the first, and how many there are."""
    half = _SHOWN // 2
    yield from (f"  - {text}" for text in meaning.removed[:half])
    yield from (f"  + {text}" for text in meaning.added[:half])
    yield f"  … {len(meaning.removed)} arguments go and {len(meaning.added)} come (--json has them all)"


def _brief(a: Argument) -> str:
    """What an argument is about, in the width of a column: what it makes, and by which name."""
    value = a.value or ""
    if not value.startswith("{"):
        return value
    given = json.loads(value)
    kind = next((given[key] for key in ("driver", "qom-type", "type") if key in given), "")
    name = next((given[key] for key in ("id", "node-name") if key in given), "")
    return " ".join(str(word) for word in (kind, name) if word)


def _coloured(console: Console, found: Iterable[Argument]) -> None:
    """Where a table has no room: each argument in full, and what is known below it."""
    from rich.padding import Padding
    from rich.text import Text

    for a in found:
        # as it is: a terminal breaks it, and gives it back in one piece
        console.print(Text.assemble((a.flag, "bold cyan"), " ", printable(a.value or "")), soft_wrap=True)
        why = f"{a.rule} – {a.reason}" if a.origin == ADDED and a.reason else a.rule
        where = Text.assemble((printable(_where(a)), _COLOURS.get(a.origin, "dim")), f": {why}")
        console.print(Padding(where, (0, 0, 0, 4)))


def _table(found: Iterable[Argument]) -> None:
    """For a terminal."""
    # takes longer to load than the rest of the work takes
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    if console.width < _TABLE_WIDTH:
        _coloured(console, found)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", expand=True)
    table.add_column("LINE", justify="right", no_wrap=True)
    table.add_column("FROM", no_wrap=True, ratio=2)
    table.add_column("ARGUMENT", no_wrap=True, ratio=5)
    table.add_column("WHY", ratio=5)
    for a in found:
        colour = _COLOURS.get(a.origin, "dim")
        why = f"{a.rule} – {a.reason}" if a.origin == ADDED and a.reason else a.rule
        argument = Text.assemble((a.flag, "bold cyan"), " ", printable(_brief(a)))
        line = str(a.line) if a.line else {ADDED: "+"}.get(a.origin, "·")
        origin = "always there" if not a.element else printable(a.element)
        table.add_row(Text(line, colour), Text(origin, colour), argument, Text(why))
    console.print(table)
    console.print(
        Text.assemble(
            ("+", "yellow"), " added to the document   ", ("·", "dim"), " always there   ",
            "“qemushim explain FILE PATTERN” says more of those that match",
        )
    )  # fmt: skip
