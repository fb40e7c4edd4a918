"""List the guests that “qemushim run” has started: those that run, and those whose definition is kept."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from qemushim.cli.common import add_format, as_json, complain, printable, schema_of
from qemushim.cli.guests import tell
from qemushim.errors import ShimError

if TYPE_CHECKING:
    from qemushim.driver.machine import Status

EPILOG = """\
examples:
  qemushim list                                 all of them
  qemushim list --running --json | jq -r '.[].name'

exit codes: 0, 1 where the state of one can not be read, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--running", action="store_true", help="only those that run")
    add_format(parser, ("table", "json"), f"a table (default); {schema_of('list')}")


def run(options: argparse.Namespace) -> int:
    from qemushim.cli import REFUSED
    from qemushim.driver.machine import Machine

    found: list[Status] = []
    problems: list[ShimError] = []
    for name in Machine.names():
        try:
            machine = Machine.open(name)
            tell(machine)
            found.append(machine.status())
        except ShimError as refusal:
            problems.append(refusal)
    if options.running:
        found = [status for status in found if status.state != "off"]
    if options.format == "json":
        print(as_json([asdict(status) for status in found]))
    else:
        _print_table(found)
    for problem in problems:
        complain(problem)
    return REFUSED if problems else 0


def _print_table(found: list[Status]) -> None:
    rows = [("ID", "GUEST", "STATE", "PROCESS", "")]
    for status in found:
        on = status.state != "off"
        rows.append(
            (
                str(status.id) if on else "-",
                printable(status.name),
                status.state,
                str(status.pid) if on else "-",
                printable(
                    " ".join((*status.displays, *(f"{name}={path}" for name, path in status.terminals)))
                    if status.defined
                    else f"never ran: qemushim log {status.name}"
                ),
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    for row in rows:
        sys.stdout.write(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n"
        )
