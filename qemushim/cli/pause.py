"""Stop the processors of a guest that “qemushim run” has started, until “qemushim resume”."""

from __future__ import annotations

import argparse

from qemushim.cli.common import printable
from qemushim.cli.guests import add_guest, opened, tell

EPILOG = """\
examples:
  qemushim pause web

exit codes: 0 done, 1 refused, 2 wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add_guest(parser)


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    machine.pause()
    tell(machine)
    print(printable(f"{machine.name}: {machine.status().state}"))
    return 0
