"""Print the QEMU command line that libvirt would start a guest with, as a dry run.

The document is defined first: defaults, controllers and addresses are filled in where they are missing.
Nothing is started, no file but FILE is read, and the result is the same on every machine – unless --qemu names a
binary of this machine: then it is asked what it can do, and the result is what libvirt prints here."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from qemushim.cli.common import (
    add_document,
    add_emulator,
    add_format,
    add_host,
    emulator_for,
    host_for,
    names_binary,
    note,
    read_document,
    schema_of,
)
from qemushim.command.layout import FORMATS

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host

EPILOG = """\
examples:
  qemushim argv web.xml                           for the newest QEMU known, ready to paste
  qemushim argv web.xml --qemu 6.2                for an older one
  virsh dumpxml web | qemushim argv - --json      from a pipe, as data
  qemushim argv web.xml --standalone > start.sh   to start it without libvirt

exit codes: 0, 1 where the guest is refused, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    add_emulator(parser)
    add_format(
        parser,
        tuple(FORMATS),
        f"shell: ready to paste, an option a line (default); lines: a token a line; {schema_of('argv')}",
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
    parser.add_argument(
        "--standalone",
        action="store_true",
        help="the same guest for a shell rather than libvirt: sockets below a folder of its own, user networking, "
        "secrets in the clear, a display that can be used; notes say what is otherwise, and what must be started first",
    )
    parser.add_argument(
        "--directory",
        metavar="DIR",
        default="",
        help="with --standalone: where its sockets are (default: NAME.run in the working directory)",
    )
    parser.add_argument(
        "--paused", action="store_true", help="with --standalone: wait for “cont” in the monitor"
    )


def run(options: argparse.Namespace) -> int:
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    host = host_for(options, emulator)
    if options.standalone:
        return _run_alone(options, guest, emulator, host)
    export = options.purpose == "export" if options.purpose else names_binary(options)
    command = guest.command(emulator, host, incoming=options.incoming, export=export)
    sys.stdout.write(FORMATS[options.format](command))
    return 0


def _run_alone(options: argparse.Namespace, guest: Guest, emulator: Emulator, host: Host) -> int:
    from qemushim.standalone import standalone

    alone = standalone(
        guest, emulator, host, options.directory, incoming=options.incoming, paused=options.paused
    )
    for line in alone.notes:
        note(line)
    shell = options.format == "shell"
    sys.stdout.write(alone.shell() if shell else FORMATS[options.format](alone.command))
    return 0
