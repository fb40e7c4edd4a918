"""Remove what is kept of a guest that is off: its definition, its firmware's variables, its log.  Disk images stay."""

from __future__ import annotations

import argparse

from qemushim.cli.common import printable
from qemushim.cli.guests import add_guest, opened


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_guest(parser)


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    machine.forget()
    print(printable(f"{machine.name}: forgotten"))
    return 0
