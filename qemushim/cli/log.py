"""Print what the QEMU of a guest has said, with the command line of every start (lines that begin with #)."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.guests import add_guest, opened
from qemushim.errors import DriverError

EPILOG = """\
examples:
  qemushim log web
  qemushim log web | grep -v '^#'               without the command lines

exit codes: 0, 1 where there is no such guest, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_guest(parser)


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    try:
        with open(machine.folder.log_path, encoding="utf-8", errors="replace") as log:
            for line in log:
                sys.stdout.write(line)
    except FileNotFoundError:
        raise DriverError(f"guest '{machine.name}' has no log yet") from None
    return 0
