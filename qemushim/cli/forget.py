"""Remove what is kept of a guest that is off: its definition, its firmware's variables, its log.  Disk images stay."""

from __future__ import annotations

import argparse

from qemushim.cli.common import printable
from qemushim.cli.guests import add_guest, opened

EPILOG = """\
examples:
  qemushim forget web

exit codes: 0, 1 where there is no such guest or it runs, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_guest(parser)


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    machine.forget()
    print(printable(f"{machine.name}: forgotten"))
    return 0
