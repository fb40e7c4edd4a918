"""Print the document of a guest that “qemushim run” has started: the live one while it runs, else its definition."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.guests import add_guest, opened

EPILOG = """\
examples:
  qemushim show web                             as it runs
  qemushim show web --config > web.xml          as it will start
  qemushim show web --verify                    are the devices where they should be?

exit codes: 0, 1 where there is no such guest, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_guest(parser)
    parser.add_argument("--config", action="store_true", help="the definition, also of a guest that runs")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="ask QEMU where the devices are, and say which are not where they should be",
    )


def run(options: argparse.Namespace) -> int:
    from qemushim.cli import REFUSED

    machine = opened(options.guest)
    if options.verify:
        wrong = machine.verify()
        for line in wrong:
            print(line)
        if not wrong:
            counts = ", ".join(f"{kind} {number}" for kind, number in sorted(machine.checked.items()))
            print(f"every device is where it was planned to be: {counts or 'those that QEMU tells of'}")
        return REFUSED if wrong else 0
    sys.stdout.write(machine.definition if options.config or machine.running is None else machine.live)
    return 0
