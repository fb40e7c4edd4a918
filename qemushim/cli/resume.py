"""Let a guest go on that was started with --paused, or paused."""

from __future__ import annotations

import argparse

from qemushim.cli.guests import add_guest, opened, report_state

EPILOG = """\
examples:
  qemushim resume web

exit codes: 0 done, 1 refused, 2 wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    add_guest(parser)


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    machine.resume()
    report_state(machine)
    return 0
