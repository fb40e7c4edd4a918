"""Start a guest on a QEMU of this machine, without libvirt.

The guest's definition is kept below the user's state folder ($XDG_STATE_HOME/qemushim); what FILE leaves out
(addresses, MACs, controllers …) stays as it was the last time.  The guest ends with this command: Ctrl-C shuts it
down, a second one ends it at once.  With --detach it goes on by itself.  “list”, “show”, “attach”, “detach”,
“pause”, “resume”, “log” and “stop” take it from there."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING

from qemushim.cli.common import note, printable, read_document
from qemushim.cli.guests import add_secrets, add_timeout, read_secrets, tell
from qemushim.errors import ConfigError, DriverError

if TYPE_CHECKING:
    from qemushim.driver.machine import Machine
    from qemushim.driver.process import Process
    from qemushim.guest import Guest


EPILOG = """\
examples:
  qemushim run web.xml                          until Ctrl-C
  qemushim run web.xml --detach                 and come back
  qemushim run web --paused --detach            a guest that was run before, by its name

exit codes: 0 the guest has ended or runs by itself, 1 refused, 2 wrong usage, 130 after Ctrl-C"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a domain document, - for standard input, or the name of a guest that was run before",
    ).complete = {"bash": "_shtab_compgen_files", "zsh": "_files", "tcsh": "f"}  # type: ignore[attr-defined]
    parser.add_argument(
        "--qemu", metavar="BINARY", default="", help="which QEMU (default: the document's <emulator>)"
    )
    parser.add_argument(
        "--legacy",
        action="store_true",
        help="by flags, as before -device: QEMU chooses the slots, and is asked for them",
    )
    parser.add_argument(
        "-d", "--detach", action="store_true", help="return when the guest runs, and let it go on"
    )
    parser.add_argument("--paused", action="store_true", help="stop before the guest's first instruction")
    add_timeout(parser)
    add_secrets(parser)


def run(options: argparse.Namespace) -> int:
    from qemushim.driver.machine import Machine

    interrupts = _Interrupts()
    machine = Machine.start(
        _document(options.file),
        binary=options.qemu,
        legacy=options.legacy,
        paused=options.paused,
        detached=options.detach,
        secrets=read_secrets(options.secret),
    )
    if options.detach:
        _report(machine)
        return 0
    try:
        interrupts.guest = machine.process
        return _watch(machine, options.timeout, interrupts)
    finally:
        machine.kill()


class _Interrupts:
    """Ctrl-C and its like: the first ends the waiting, the next ones the guest.

    The next ones raise nothing: nobody is stopped halfway, with a lock in hand.
    """

    def __init__(self) -> None:
        #: who is killed by the next ones; ``None`` while the guest is being started
        self.guest: Process | None = None
        self.first, self.killed = True, False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._happened)

    def _happened(self, number: int, frame: FrameType | None) -> None:
        if self.guest is None or self.first:
            self.first = self.guest is None
            raise KeyboardInterrupt
        self.killed = self.guest.signal(signal.SIGKILL) or self.killed


def _document(given: str) -> Guest:
    """A file's guest, or the stored one of that name."""
    if given == "-" or "/" in given or os.path.exists(given):
        return read_document(given)
    from qemushim.driver.machine import Machine
    from qemushim.guest import Guest

    known = Machine.names()
    if given in known:
        return Guest.from_xml(Machine.open(given).definition, file=given)
    hint = (
        f"guests that were run before: {', '.join(known)}"
        if known
        else "a domain document starts the first guest"
    )
    raise ConfigError(f"no file and no guest is called '{given}'", hint=hint)


def _report(machine: Machine) -> None:
    status = machine.status()
    print(printable(f"{machine.name}: {status.state}, process {status.pid}, {status.binary}"))
    for name, path in status.terminals:
        print(printable(f"  {name}: {path}"))
    for display in status.displays:
        print(printable(f"  {display}"))
    print(printable(f"  log: {machine.folder.log_path}"))
    for line in machine.differences:
        note(line)
    tell(machine)
    sys.stdout.flush()


def _watch(machine: Machine, timeout: float, interrupts: _Interrupts) -> int:
    """Say that the guest runs, and wait for its end; the exit code."""
    from qemushim.cli import REFUSED

    try:
        _report(machine)
        end = machine.wait()
    except KeyboardInterrupt:
        print(f"{printable(machine.name)}: shutting down (once more to end it at once)", file=sys.stderr)
        how = _shut_down(machine, timeout)
        print(printable(f"{machine.name}: {'killed' if interrupts.killed else how}"))
        return 130
    print(printable(f"{machine.name}: {end}"))
    if end is None or not end.crashed:
        return 0
    for line in end.words:
        print(printable(line), file=sys.stderr)
    return REFUSED


def _shut_down(machine: Machine, timeout: float) -> str:
    try:
        return machine.stop(timeout)
    except DriverError:
        if machine.process is not None:
            raise
        return "ended"  # before it could be asked to
