"""Command lines for tests: goldens read back, and what may differ between a command and the one made from it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from qemushim.command.layout import shell
from qemushim.emulator.bundled import find
from qemushim.emulator.model import Emulator
from qemushim.fromargv import Reading, read_command, words_of
from qemushim.guest import Guest
from qemushim.host import Host
from tests.goldens import GOLDEN, Golden, cases

HOST = Host.nominal()
LATEST = find("latest", "x86_64")

#: a secret that is encrypted for one running guest: which secret of the host it was can not be told from it
_ENCRYPTED = re.compile(r'("qom-type":"secret","id":"[^"]*","data":")[^"]*(","keyid")')

#: goldens that come back otherwise, and why
OTHERWISE = {
    "classic-boot-on.kvm-83": "no word of a graphics card: there is one",
    "classic-shareable.0.10.5": "cache=off is what cache=none was called",
    "classic-shareable.qemu-kvm-0.12.3": "cache=off is what cache=none was called",
    "classic-virtio-disks.qemu-kvm-0.12.3": "disks come in the order of their names",
    "namespace-qemu.10.0": "properties of <qemu:override> come in another order",
}


@dataclass(frozen=True)
class RoundTrip:
    """A command, what was read from it, and the command that is made of that."""

    before: str
    reading: Reading
    after: str


def round_trip(
    text: str, emulator: Emulator, host: Host, *, update: bool = True, incoming: str = ""
) -> RoundTrip:
    """argv → XML → argv, through the text of the document."""
    reading = read_command(words_of(text), emulator, host)
    guest = Guest.from_xml(reading.to_xml()).define(emulator, host, update=update)
    command = guest.command(emulator, host, update=False, incoming=incoming)
    return RoundTrip(masked(text), reading, masked(shell(command)))


def masked(text: str) -> str:
    return _ENCRYPTED.sub(r"\1\2", text)


def goldens() -> list[Golden]:
    """The golden command lines of every QEMU."""
    return [case for case in cases() if case.file("args").exists()]


#: command lines as people write them
WRITTEN = sorted((GOLDEN / "from-argv").glob("*.sh"))


def read(text: str, emulator: Emulator = LATEST) -> Reading:
    return read_command(words_of(text), emulator, HOST)


def told(reading: Reading) -> str:
    """The notes as the command prints them."""
    return "".join(f"{note.kind}: {note.message}\n" for note in reading.notes)
