"""Take a device from a guest that “qemushim run” has started.

A running guest is asked to let go of it; when it does not in time, nothing is changed, and it may still do so later."""

from __future__ import annotations

import argparse

from qemushim.cli.common import printable
from qemushim.cli.guests import add_documents, add_guest, device_name, opened, tell

EPILOG = """\
examples:
  qemushim detach web vdb                       by target
  qemushim detach web 52:54:00:0a:03:10         by MAC address
  qemushim detach web ua-scratch --live         by alias, until it stops

exit codes: 0, 1 where it is refused or the guest does not let go, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_guest(parser)
    parser.add_argument(
        "device", metavar="DEVICE", help="alias, target or MAC of the device, its XML, or a file with it"
    )
    add_documents(parser)
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=float,
        default=5.0,
        help="what the guest has to let go (default: 5)",
    )


def run(options: argparse.Namespace) -> int:
    machine = opened(options.guest)
    try:
        what = machine.detach(
            device_name(options.device),
            live=not options.config,
            config=not options.live,
            patience=options.timeout,
        )
    finally:
        tell(machine)
    print(printable(f"{machine.name}: {what} is gone"))
    return 0
