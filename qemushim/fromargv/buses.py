"""The buses of a guest, by the names that QEMU's devices call them."""

from __future__ import annotations

from dataclasses import dataclass, field

from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument


@dataclass
class Buses:
    """The controllers of a guest: by the name that QEMU's devices call their bus."""

    #: name of a bus → (type, index)
    names: dict[str, tuple[str, int]] = field(default_factory=dict)
    #: indexes that are taken, by type
    taken: dict[str, set[int]] = field(default_factory=dict)
    #: SCSI controllers that know targets alone
    narrow: set[int] = field(default_factory=set)
    #: PCI buses by index → model of the controller
    models: dict[int, str] = field(default_factory=dict)

    #: a controller's argument → its index
    indexes: dict[int, int] = field(default_factory=dict)
    #: id of a device → its zPCI ids
    zpci: dict[str, dict[str, str]] = field(default_factory=dict)
    #: PCI devices that QEMU itself finds a slot for: element, index of the bus, multifunction
    unplaced: list[tuple[Node, int, bool | None]] = field(default_factory=list)
    #: those that come with the board, before any ``-device``: rank, element
    waiting: list[tuple[int, Node]] = field(default_factory=list)
    #: those of them that no element says: what stands for them, and their argument
    kept: list[tuple[Node, Argument]] = field(default_factory=list)
    #: how many devices sit on USB
    usb_devices: int = 0
    #: units that are taken: bus, number
    ports: set[tuple[str, int]] = field(default_factory=set)
    #: drives of ``if=scsi``, which need a controller
    scsi_drives: int = 0
    #: names of disks so far, and the last number of each bus
    disk_names: set[str] = field(default_factory=set)
    last_disk: dict[str, int] = field(default_factory=dict)
    #: network cards that QEMU gives a MAC address
    cards: int = 0
    has_serial: bool = False

    def give(self, kind: str, name: str, prefix: str, *, least: int = 0) -> int:
        """The index of a controller: the one that its id says, else the next free."""
        taken = self.taken.setdefault(kind, set())
        digits = name.removeprefix(prefix)
        number = least
        if name == "usb" and kind == "usb":
            number = 0
        elif name.startswith(prefix) and digits.isdigit() and len(digits) < 5 and int(digits) not in taken:
            number = max(int(digits), least)
        while number in taken:
            number += 1
        taken.add(number)
        return number

    def of(self, name: str | None, kind: str) -> int | None:
        """The index of the controller that gives a bus; ``None`` where there is no such bus of the type."""
        found = self.names.get(name or "")
        return found[1] if found is not None and found[0] == kind else None

    def wait_for_slot(self, node: Node, rank: int) -> None:
        """A PCI device that comes with the board: 0 the graphics card, 1 network cards, 2 what else."""
        self.waiting.append((rank, node))

    def next_port(self, bus: str) -> int:
        """The first unit of a bus that no drive has."""
        number = 0
        while (bus, number) in self.ports:
            number += 1
        self.ports.add((bus, number))
        return number

    def generated_mac(self) -> str:
        """QEMU's own MAC of its first, second … card: 52:54:00:12:34:56 and up."""
        number = self.cards
        self.cards += 1
        return f"52:54:00:12:34:{(0x56 + number) & 0xFF:02x}"
