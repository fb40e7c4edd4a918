"""Print the QEMU command line that libvirt would start a guest with, as a dry run.

The document is defined first: defaults, controllers and addresses are filled in where they are missing.
Nothing is started, no file but FILE is read, and the result is the same on every machine."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import add_document, add_emulator, emulator_for, read_document
from qemushim.command.layout import FORMATS
from qemushim.host import Host


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    add_emulator(parser)
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="shell",
        help="shell: ready to paste, an option a line (default); lines: a token a line; json: data",
    )
    parser.add_argument("--incoming", metavar="URI", default="", help="wait for a migration (tcp:HOST:PORT, fd:N, …)")


def run(options: argparse.Namespace) -> int:
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    command = guest.command(emulator, Host.nominal(options.arch or emulator.arch), incoming=options.incoming)
    sys.stdout.write(FORMATS[options.format](command))
    return 0
