"""Shut a guest down that “qemushim run” has started.

Its power button is pressed; when it does not follow in time, QEMU is told to quit, and at last killed."""

from __future__ import annotations

import argparse

from qemushim.cli.common import printable
from qemushim.cli.guests import add_guest, add_timeout, opened, tell

EPILOG = """\
examples:
  qemushim stop web                             as its power button does
  qemushim stop web --timeout 10                and after ten seconds without asking
  qemushim stop web --force                     at once

exit codes: 0, 1 where there is no such guest, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_guest(parser)
    add_timeout(parser)
    parser.add_argument("--force", action="store_true", help="end QEMU without asking the guest")


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    how = machine.stop(options.timeout, force=options.force)
    tell(machine)
    print(printable(f"{machine.name}: {how}"))
    return 0
