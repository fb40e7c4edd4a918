"""Print the QEMU command line that libvirt would start a guest with, as a dry run.

The document is defined first: defaults, controllers and addresses are filled in where they are missing.
Nothing is started, no file but FILE is read, and the result is the same on every machine – unless --qemu names a
binary of this machine: then it is asked what it can do, and the result is what libvirt prints here."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import (
    add_document,
    add_emulator,
    add_host,
    emulator_for,
    host_for,
    names_binary,
    read_document,
)
from qemushim.command.layout import FORMATS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    add_emulator(parser)
    parser.add_argument(
        "--format",
        choices=tuple(FORMATS),
        default="shell",
        help="shell: ready to paste, an option a line (default); lines: a token a line; json: data",
    )
    parser.add_argument(
        "--incoming", metavar="URI", default="", help="wait for a migration (tcp:HOST:PORT, fd:N, …)"
    )
    add_host(parser)
    parser.add_argument(
        "--as",
        dest="purpose",
        choices=("start", "export"),
        help="start: what libvirt starts the guest with; export: what “virsh domxml-to-native” prints, with nothing of "
        "the host prepared (every interface a bare tap, no TPM emulator).  Default: export where --qemu is a binary of "
        "this machine, so that the two can be compared, else start",
    )


def run(options: argparse.Namespace) -> int:
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    host = host_for(options, emulator)
    export = options.purpose == "export" if options.purpose else names_binary(options)
    command = guest.command(emulator, host, incoming=options.incoming, export=export)
    sys.stdout.write(FORMATS[options.format](command))
    return 0
