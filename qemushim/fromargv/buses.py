"""The buses of a guest, by the names that QEMU's devices call them."""

from __future__ import annotations

from dataclasses import dataclass, field


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
