"""Print what a guest can have, as “virsh domcapabilities” tells it: firmware, CPU models, devices, features.

Of a QEMU that is known by a recording nothing of this machine is mixed in: no firmware, no swtpm, no KVM of its own."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import add_emulator, note
from qemushim.cli.progress import asking
from qemushim.errors import error
from qemushim.host import Host

EPILOG = """\
examples:
  qemushim domcapabilities                               of the newest QEMU known
  qemushim domcapabilities --qemu 6.2 --machine q35 --virttype kvm

What is printed is libvirt's XML (https://libvirt.org/formatdomaincaps.html).

exit codes: 0, 1 where there is no such QEMU or machine, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_emulator(parser)
    parser.add_argument(
        "--machine", metavar="MACHINE", default="", help="machine type or alias (default: the architecture's)"
    )
    parser.add_argument(
        "--virttype",
        choices=("kvm", "qemu", "hvf"),
        default="",
        help="domain type (default: the fastest that the emulator has)",
    )
    parser.add_argument(
        "--refresh", action="store_true", help="ask a binary again, even where nothing has changed"
    )


def run(options: argparse.Namespace) -> int:
    from qemushim.capabilities.domain import check_virt, domain_capabilities
    from qemushim.capabilities.guests import domain_types
    from qemushim.capabilities.layout import text
    from qemushim.emulator.bundled import find_all, is_program

    live = is_program(options.qemu)
    with asking(int(live)) as done:
        [emulator] = find_all(
            [options.qemu], options.arch or "x86_64", refresh=options.refresh, say=note, done=done
        )
    if isinstance(emulator, Exception):
        raise emulator
    if options.arch and options.arch != emulator.arch:
        given = f"doesn't match given architecture '{options.arch}'"
        raise error.argument(
            f"architecture from emulator '{emulator.arch}' {given}", hint=f"--arch {emulator.arch}"
        )
    host = Host.local() if live else Host.nominal(emulator.arch)
    virt = options.virttype
    if live and virt:
        check_virt(emulator, virt, options.qemu)
    elif virt and virt not in domain_types(emulator):
        note(f"this QEMU was recorded without {virt}")
    root = domain_capabilities(emulator, host, machine=options.machine, virt=virt)
    sys.stdout.write(text(root))
    return 0
