"""Give a guest that “qemushim run” has started one device more, at the same address in the running guest and its
definition.

DEVICE is its XML, or a file with it.  What is printed is the device with the place that it got."""

from __future__ import annotations

import argparse

from qemushim.cli.guests import add_documents, add_guest, add_secrets, device_text, opened, read_secrets, tell

EPILOG = """\
examples:
  qemushim attach web disk.xml                  a file with a device
  qemushim attach web "<interface type='user'><model type='virtio'/></interface>"
  qemushim attach web - --config < disk.xml     for the next start

exit codes: 0, 1 where it is refused, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_guest(parser)
    parser.add_argument(
        "device", metavar="DEVICE", help="XML of the device, a file with it, or - for standard input"
    )
    add_documents(parser)
    add_secrets(parser)


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    text = device_text(options.device)
    try:
        found = machine.attach(
            text, live=not options.config, config=not options.live, secrets=read_secrets(options.secret)
        )
    finally:
        tell(machine)
    print(found)
    return 0
