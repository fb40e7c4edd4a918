"""Print which guests can be run, as “virsh capabilities” tells it: architectures, machine types, domain types.

Without --qemu the binaries of this machine are asked (at once, and remembered in the user's cache); with it nothing of
this machine counts, unless it names a binary."""

from __future__ import annotations

import argparse
import sys

from qemushim.cli.common import complain, note
from qemushim.cli.progress import asking
from qemushim.emulator.model import Emulator
from qemushim.errors import EmulatorError
from qemushim.host import Host

EPILOG = """\
examples:
  qemushim capabilities                                  of the QEMUs of this machine
  qemushim capabilities --qemu 10.0 --qemu 8.2-aarch64   of others

What is printed is libvirt's XML (https://libvirt.org/formatcaps.html).

exit codes: 0, 1 where a QEMU does not answer, 2 for wrong usage"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--qemu",
        metavar="VERSION|PATH|SNAPSHOT",
        action="append",
        default=[],
        help="which QEMU, may be given several times (default: every binary of this machine)",
    )
    parser.add_argument(
        "--arch", metavar="ARCH", default="x86_64", help="architecture of the versions (default: x86_64)"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="ask binaries again, even where nothing has changed"
    )


def run(options: argparse.Namespace) -> int:
    from qemushim.capabilities.guests import capabilities
    from qemushim.capabilities.layout import text
    from qemushim.cli import REFUSED

    found, problems, live = _named(options) if options.qemu else _installed(options)
    for problem in problems:
        complain(problem)
    if not found:
        if not problems:
            hint = "install one, or name a version: qemushim capabilities --qemu latest"
            complain(EmulatorError("no QEMU is installed on this machine", hint=hint))
        return REFUSED
    host = Host.local() if live else Host.nominal(found[0].arch)
    sys.stdout.write(text(capabilities(found, host), spaced=True))
    return REFUSED if problems else 0


def _named(options: argparse.Namespace) -> tuple[list[Emulator], list[EmulatorError], bool]:
    """The emulators that were asked for, what is wrong with the others, and whether any is of this machine."""
    from qemushim.emulator.bundled import find_all, is_program

    programs = sum(map(is_program, options.qemu))
    with asking(programs) as done:
        answers = find_all(options.qemu, options.arch, refresh=options.refresh, say=note, done=done)
    found = [answer for answer in answers if isinstance(answer, Emulator)]
    return found, [answer for answer in answers if isinstance(answer, EmulatorError)], programs > 0


def _installed(options: argparse.Namespace) -> tuple[list[Emulator], list[EmulatorError], bool]:
    """The same for the binaries of this machine.  One binary may serve several architectures."""
    from qemushim.cli.binaries import by_architecture
    from qemushim.emulator.cache import probed_all
    from qemushim.local import local_arch

    binaries = by_architecture(local_arch())
    paths = list(dict.fromkeys(binaries.values()))
    with asking(len(paths)) as done:
        answers = dict(zip(paths, probed_all(paths, refresh=options.refresh, done=done), strict=True))
    found = []
    for arch, path in binaries.items():
        answer = answers[path]
        if isinstance(answer, Emulator):
            found.append(answer._replace(arch=arch))
    return found, [answer for answer in answers.values() if isinstance(answer, EmulatorError)], True
