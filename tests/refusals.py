"""Refused documents: ``golden/refused/ELEMENT.txt`` holds one fragment after the other, each with what is said of it.

A case is a fragment of a domain document (an element of ``<devices>``, or one beside it), the message behind ``!``
and the hint behind ``?``; ``@ MACHINE TYPE`` above it names another machine and domain type than ``pc qemu``.  A whole
``<domain>`` stands for itself.  Blank lines are between cases, ``#`` begins a remark.  Every message was compared with
what libvirt 11.3.0 says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from qemushim.devices import BY_TAG
from qemushim.emulator.bundled import find
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.goldens import GOLDEN

FOLDER = GOLDEN / "refused"
QEMU = "10.0"
_FIRST_TAG = re.compile(r"<([\w:]+)")


@dataclass(frozen=True)
class Refusal:
    """One fragment and what is said of it."""

    name: str
    fragment: str
    machine: str = "pc"
    virt: str = "qemu"
    message: str = ""
    hint: str = ""

    @property
    def document(self) -> str:
        """The fragment in a guest that has nothing else."""
        found = _FIRST_TAG.match(self.fragment)
        tag = found.group(1) if found else ""
        if tag == "domain":
            return self.fragment
        boards = f"<os><type arch='x86_64' machine='{self.machine}'>hvm</type></os>"
        memory = "<memory unit='MiB'>256</memory>"
        outside, inside = (self.fragment, "") if tag not in BY_TAG else ("", self.fragment)
        if tag == "os":
            boards = ""
        if tag == "memory" and "<memory>" in self.fragment:
            memory, outside, inside = "", self.fragment, ""
        return (
            f"<domain type='{self.virt}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>g</name>"
            f"<uuid>5d0c1d9e-0000-4000-8000-00000000ffff</uuid>{memory}{boards}{outside}"
            f"<devices>{inside}</devices></domain>"
        )

    def judged(self) -> Refusal:
        """The same, with what is said now; no message where it is accepted."""
        try:
            Guest.from_xml(self.document).define(find(QEMU), Host.nominal())
        except ShimError as problem:
            return replace(self, message=problem.message, hint=problem.hint)
        return replace(self, message="", hint="")

    def __str__(self) -> str:
        head = "" if (self.machine, self.virt) == ("pc", "qemu") else f"@ {self.machine} {self.virt}\n"
        return f"{head}{self.fragment}\n! {self.message}\n? {self.hint}\n"


def read(path: Path) -> Iterator[Refusal]:
    """The cases of a file, in order."""
    blocks = [block for block in re.split(r"\n\s*\n", path.read_text()) if block.strip()]
    for number, block in enumerate(blocks, 1):
        lines = [line for line in block.splitlines() if not line.startswith("#")]
        if not lines:
            continue
        case = Refusal(f"{path.stem}-{number}", "")
        fragment = []
        for line in lines:
            mark, rest = line[:2], line[2:]
            if mark == "@ ":
                machine, virt = rest.split()
                case = replace(case, machine=machine, virt=virt)
            elif mark == "! ":
                case = replace(case, message=rest)
            elif mark == "? ":
                case = replace(case, hint=rest)
            else:
                fragment.append(line)
        yield replace(case, fragment="\n".join(fragment))


def write(path: Path, cases: list[Refusal]) -> None:
    """A file of these cases, behind the remark that it begins with."""
    remark = [line for line in path.read_text().splitlines() if line.startswith("#")] if path.exists() else []
    path.write_text("\n".join([*remark, *([""] if remark else []), *map(str, cases)]))


def files() -> list[Path]:
    return sorted(FOLDER.glob("*.txt"))
