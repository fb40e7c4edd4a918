"""Count how many more devices can be plugged: at the next start (cold) and while the guest runs (hot).

With --want: the controllers to add so that all that is wanted can be plugged into the running guest, as XML to paste
below <devices>; with --apply they are written into FILE, whose layout and comments stay."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

from qemushim.cli.common import (
    add_document,
    add_emulator,
    add_format,
    add_host,
    as_json,
    emulator_for,
    host_for,
    note,
    read_document,
    schema_of,
    write_file,
)
from qemushim.cli.table import print_table
from qemushim.inspect.slots import (
    BY_NAME,
    MOST,
    SORTS,
    Count,
    Plan,
    counts,
    counts_data,
    plan,
    plan_cold,
    plan_data,
)

EPILOG = f"""\
kinds: {", ".join(sort.name for sort in SORTS)}

examples:
  qemushim slots web.xml                               how many more of each kind
  qemushim slots web.xml --want 4 nic                  what to add so that 4 can be plugged while it runs
  qemushim slots web.xml --want 4 nic --want 2 disk --apply

exit codes: 0, 1 where no controller makes enough room (or the guest is refused), 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    parser.add_argument(
        "--want",
        nargs=2,
        metavar=("N", "KIND"),
        action="append",
        default=[],
        help="N more of a kind shall be pluggable while the guest runs; may be given several times",
    )
    parser.add_argument(
        "--cold", action="store_true", help="with --want: at the next start is enough; say whether they fit"
    )
    parser.add_argument(
        "--apply", action="store_true", help="write what --want needs into FILE (-: to stdout)"
    )
    add_format(parser, ("text", "json"), f"text (default); {schema_of('slots', 'slots-plan')}")
    add_emulator(parser)
    add_host(parser)
    parser.set_defaults(usage_error=parser.error)


def run(options: argparse.Namespace) -> int:
    wanted = list(_wanted(options))
    if options.apply and not wanted:
        options.usage_error("--apply needs --want")
    if options.cold and not wanted:
        options.usage_error("--cold needs --want")
    if options.apply and options.format == "json":
        options.usage_error("--apply and --json do not go together")
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    host = host_for(options, emulator)
    if not wanted:
        found = counts(guest, emulator, host)
        print(as_json(counts_data(found))) if options.format == "json" else _show(found)
        return 0
    made = (plan_cold if options.cold else plan)(guest, wanted, emulator, host)
    if options.apply:
        _apply(options.file, made)
    elif options.format == "json":
        print(as_json(plan_data(made)))
    elif made.add:
        print("\n".join(made.add))
    else:
        note("nothing is needed: there is room for them already")
    return 0


def _wanted(options: argparse.Namespace) -> Iterator[tuple[int, str]]:
    for number, name in options.want:
        if name not in BY_NAME:
            options.usage_error(f"--want {number} {name}: no such kind; one of {', '.join(BY_NAME)}")
        if not number.isdecimal() or not 0 < int(number) <= MOST:
            options.usage_error(f"--want {number} {name}: a number from 1 to {MOST} is needed")
        yield int(number), name


def _number(count: int) -> str:
    return f"{MOST}+" if count == MOST else str(count)


def _show(found: list[Count]) -> None:
    rows = [(c.sort, c.words, _number(c.cold), _number(c.hot), c.more or c.why) for c in found]
    headings = ("KIND", "", "COLD", "HOT", "FOR MORE WHILE IT RUNS, ADD BEFORE IT STARTS")
    print_table(headings, rows, whole=headings[:4], right=("COLD", "HOT"))


def _apply(path: str, made: Plan) -> None:
    """Write the document with the controllers in it."""
    text = made.guest.to_xml("keep")
    if path == "-":
        sys.stdout.write(text)
        return
    if not made.add:
        note("nothing is needed: there is room for them already")
        return
    write_file(path, text, "the document")
    note(
        f"{len(made.add)} controllers added to {path}"
        if len(made.add) > 1
        else f"a controller added to {path}"
    )
