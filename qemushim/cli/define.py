"""Print the definition of a guest: machine type made canonical, defaults, missing controllers and every address.

What is printed is what libvirt would store; feed it back and it does not change."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import (
    add_document,
    add_emulator,
    add_format,
    add_host,
    as_json,
    emulator_for,
    host_for,
    read_document,
    schema_of,
)

EPILOG = """\
examples:
  qemushim define web.xml > defined.xml             give every device an address, for ever
  qemushim define web.xml --style keep              only add to what you wrote
  qemushim define old.xml --existing --qemu 10.0    a guest that exists, with the defaults of its time

exit codes: 0, 1 where the guest is refused, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_document(parser)
    add_emulator(parser)
    add_host(parser)
    parser.add_argument(
        "--existing",
        action="store_true",
        help="the guest exists already: keep its hardware, take no newer defaults",
    )
    parser.add_argument(
        "--style",
        choices=("libvirt", "keep"),
        default="libvirt",
        help="libvirt: its order and layout (default); keep: your layout, comments and order, only added to",
    )

    add_format(parser, ("xml", "json"), f"xml: the document (default); {schema_of('define')}")


def run(options: argparse.Namespace) -> int:
    guest = read_document(options.file)
    emulator = emulator_for(guest, options)
    defined = guest.define(emulator, host_for(options, emulator), update=not options.existing)
    text = defined.to_xml(options.style)
    sys.stdout.write(as_json({"xml": text}) + "\n" if options.format == "json" else text)
    return 0
