"""``info pci`` as data, in the shapes of every QEMU from 0.9.1 to today's.

https://www.qemu.org/docs/master/system/monitor.html
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from qemushim.devices.address import PciAddress

_HEADER = re.compile(r" +Bus +(\d+), device +(\d+), function +(\d+):")
_CLASS = re.compile(r" +(?P<name>.*?): PCI device (?P<ids>[0-9a-fA-F]{4}:[0-9a-fA-F]{4})\b")
_SUBSYSTEM = re.compile(r" +PCI subsystem ([0-9a-fA-F]{4}:[0-9a-fA-F]{4})")
_IRQ = re.compile(r" +IRQ (\d+)")
_ID = re.compile(r' +id "(.*)"')
_BAR = re.compile(
    r" +BAR(?P<number>\d): (?:(?P<io>I/O)|(?P<bits>\d+) bit (?P<prefetch>prefetchable )?memory)"
    r" at 0x(?P<base>[0-9a-fA-F]+) \[0x(?P<last>[0-9a-fA-F]+)\]"
)
#: what QEMU prints for a region that the guest has not placed: up to 0.11, and since
_UNPLACED = {0xFFFFFFFF: 1 << 32, 0xFFFFFFFFFFFFFFFF: 1 << 64}

_PCI_ADDED = re.compile(r"OK (?:domain (\d+), )?bus (\d+), slot (\d+)")
_DRIVE_ADDED = re.compile(r"OK (?:bus (\d+), )?unit (\d+)")


@dataclass(frozen=True, slots=True)
class Bar:
    """One region of a card; sizes and addresses in bytes."""

    number: int
    io: bool
    bits: int
    prefetchable: bool
    #: ``None`` where the guest has not placed it
    base: int | None
    size: int


@dataclass(frozen=True, slots=True)
class PciRecord:
    """One card that a running QEMU tells of."""

    bus: int
    slot: int
    function: int
    #: ``SCSI controller``, or ``Class 0880`` where QEMU has no word for it
    class_name: str
    #: ``vendor:product``, four hexadecimal digits each
    ids: str
    subsystem: str = ""
    irq: int | None = None
    bars: tuple[Bar, ...] = ()
    #: what ``-device id=`` said; ``""`` for legacy options, and before 0.11
    id: str = ""

    @property
    def address(self) -> PciAddress:
        return PciAddress(0, self.bus, self.slot, self.function)


def read_pci(text: str) -> list[PciRecord]:
    """The cards of an ``info pci`` reply, in its order; reading ends at the first that is not complete."""
    records = []
    for lines in _split(text.replace("\r", "")):
        record = _record(lines)
        if record is None:
            break
        records.append(record)
    return records


def _split(text: str) -> list[list[str]]:
    """The lines of each card, its header first."""
    found: list[list[str]] = []
    for line in text.split("\n"):
        if line.lstrip().startswith("Bus "):
            found.append([line])
        elif found:
            found[-1].append(line)
    return found


def _record(lines: list[str]) -> PciRecord | None:
    header = _HEADER.match(lines[0])
    kind = next(filter(None, map(_CLASS.match, lines[1:])), None)
    if header is None or kind is None:
        return None
    subsystem = next(filter(None, map(_SUBSYSTEM.match, lines)), None)
    irq = next(filter(None, map(_IRQ.match, lines)), None)
    name = next(filter(None, map(_ID.match, lines)), None)
    bus, slot, function = map(int, header.groups())
    return PciRecord(
        bus,
        slot,
        function,
        class_name=kind["name"],
        ids=kind["ids"].lower(),
        subsystem=subsystem[1].lower() if subsystem else "",
        irq=int(irq[1]) if irq else None,
        bars=tuple(_bar(match) for match in map(_BAR.match, lines) if match),
        id=name[1] if name else "",
    )


def _bar(match: re.Match[str]) -> Bar:
    base, last = int(match["base"], 16), int(match["last"], 16)
    unplaced = base in _UNPLACED
    size = (last - base + 1) % _UNPLACED.get(base, 1 << 64)
    bits = int(match["bits"]) if match["bits"] else 0
    return Bar(
        int(match["number"]),
        bool(match["io"]),
        bits,
        bool(match["prefetch"]),
        None if unplaced else base,
        size,
    )


def read_pci_added(reply: str) -> PciAddress | None:
    """Where ``pci_add`` has put a card; ``None`` where it did not."""
    match = _PCI_ADDED.search(reply)
    if match is None:
        return None
    return PciAddress(int(match[1] or 0), int(match[2]), int(match[3]), 0)


def read_drive_added(reply: str) -> tuple[int, int] | None:
    """Bus and unit that ``drive_add`` has given; ``None`` where it did not."""
    match = _DRIVE_ADDED.search(reply)
    return (int(match[1] or 0), int(match[2])) if match else None
