"""Print the QEMU command line that libvirt would start a guest with, as a dry run.

The document is defined first: defaults, controllers and addresses are filled in where they are missing.
Nothing is started, no file but FILE is read, and the result is the same on every machine – unless --qemu names a
binary of this machine: then it is asked what it can do, and the result is what libvirt prints here."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from qemushim.cli.common import add_document, add_emulator, emulator_for, read_document
from qemushim.command.layout import FORMATS
from qemushim.host import Host

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator


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
    parser.add_argument(
        "--host",
        choices=("nominal", "local"),
        help="nominal: a host that is the same everywhere; local: the facts of this machine (huge pages, NUMA nodes, "
        "firmware, environment, qemu.conf).  Default: local where --qemu is a binary of this machine, else nominal",
    )
    parser.add_argument(
        "--as",
        dest="purpose",
        choices=("start", "export"),
        help="start: what libvirt starts the guest with; export: what “virsh domxml-to-native” prints, with nothing of "
        "the host prepared (every interface a bare tap, no TPM emulator).  Default: export where --qemu is a binary of "
        "this machine, so that the two can be compared, else start",
    )


def host_for(options: argparse.Namespace, emulator: Emulator, local: bool) -> Host:
    """The host that ``--host`` names, or that fits the emulator."""
    if options.host == "local" or (options.host is None and local):
        return Host.local()
    return Host.nominal(options.arch or emulator.arch)


def run(options: argparse.Namespace) -> int:
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    local = os.access(options.qemu, os.X_OK) and not os.path.isdir(options.qemu)
    host = host_for(options, emulator, local)
    export = options.purpose == "export" if options.purpose else local
    command = guest.command(emulator, host, incoming=options.incoming, export=export)
    sys.stdout.write(FORMATS[options.format](command))
    return 0
