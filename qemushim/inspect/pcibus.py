"""PCI as a guest sees it: the bus numbers that its firmware gives out, and which slots its kernel knows by number.

libvirt numbers controllers; firmware numbers buses as it finds them, depth first, so the two can differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from qemushim.address.pci import BUS_KINDS
from qemushim.address.walk import devices_in_order, index_of, number, pci_address
from qemushim.devices.address import PciAddress
from qemushim.devices.base import Device
from qemushim.inspect.survey import Survey

_EXPANDERS = ("pci-expander-bus", "pcie-expander-bus")
#: bridges to conventional PCI that cards can be plugged into while the guest runs
_PLUGGABLE = ("pci-bridge", "pcie-to-pci-bridge")
#: the machine version from which a Q35 lets ACPI plug cards into bridges
_Q35_ACPI = (6, 1)
#: the machine version from which an i440FX does so below bridges, and the one with bridges whose tables show no slots
_I440FX_BRIDGES, _I440FX_MUTE = (2, 0), (2, 0)

#: the QEMU from which ACPI tells of cards that stay in their slots, and of every function
_ALL_ACPI = (8, 0)


class GuestPlace(PciAddress):
    """Where a guest finds a PCI device, by the numbers that its firmware gives."""

    __slots__ = ()


@dataclass(frozen=True)
class GuestPci:
    """The PCI buses of a guest, as its kernel numbers them."""

    #: index of a controller → number of the bus that it gives
    buses: dict[int, int]
    #: pSeries: index of a controller → PCI domain of its host bridge
    domains: dict[int, int]
    #: (index of a bus, slot) → the number under which the kernel has it in /sys/bus/pci/slots
    slots: dict[tuple[int, int], int]
    #: slots of libvirt's addresses that have several functions
    shared: frozenset[tuple[int, int]]
    #: (index of a bus, slot, function) → the index by which ACPI tells of the card
    indexes: dict[tuple[int, int, int], int]

    def place(self, device: Device) -> GuestPlace | None:
        """Where the guest sees a device; ``None`` for one that is no PCI device."""
        address = pci_address(device)
        if address is None:
            return None
        bus = self.buses.get(address.bus, address.bus)
        return GuestPlace(self.domains.get(address.bus, 0), bus, address.slot, address.function)

    def slot_number(self, device: Device) -> int | None:
        """The hotplug slot that a device is in, by its number."""
        address = pci_address(device)
        return self.slots.get((address.bus, address.slot)) if address is not None else None

    def acpi_index(self, device: Device) -> int | None:
        """The number of the card that the guest's firmware tells of."""
        address = pci_address(device)
        return (
            self.indexes.get((address.bus, address.slot, address.function)) if address is not None else None
        )

    def is_shared(self, device: Device) -> bool:
        address = pci_address(device)
        return address is not None and (address.bus, address.slot) in self.shared


def guest_pci(s: Survey) -> GuestPci:
    """The buses of a guest as its kernel is going to number them."""
    controllers = {index_of(c): c for c in s.pci_controllers()}
    buses, domains = _number_buses(s, controllers)
    slots, indexes = _hotplug_slots(s, controllers, buses), _indexes(s, controllers)
    return GuestPci(buses, domains, slots, _shared(s), indexes)


def _number_buses(s: Survey, controllers: dict[int, Device]) -> tuple[dict[int, int], dict[int, int]]:
    """Depth first, in the order of slots and functions; expanders begin where their <busNr> says."""
    below: dict[int, list[tuple[int, int, int]]] = {}
    for index, controller in controllers.items():
        place = pci_address(controller)
        if place is not None:
            below.setdefault(place.bus, []).append((place.slot, place.function, index))
    buses: dict[int, int] = {}
    domains: dict[int, int] = {}

    def visit(index: int, bus: int, domain: int) -> int:
        """Number a bus and those below; the next free number."""
        buses[index], domains[index] = bus, domain
        following = bus + 1
        for _slot, _function, child in sorted(below.get(index, ())):
            if controllers[child].node.get("model") not in _EXPANDERS:
                following = visit(child, following, domain)
        return following

    roots = [i for i, c in controllers.items() if pci_address(c) is None]
    for root in roots:
        host_bridge = number(controllers[root].node.ensure("target"), "index") if s.d.board.is_pseries else 0
        visit(root, 0, host_bridge)
    for index, controller in controllers.items():
        if controller.node.get("model") in _EXPANDERS:
            first = int(controller.node.value("target/@busNr") or index)
            # a conventional expander holds a bridge of its own, and the cards are behind that
            visit(index, first + (controller.node.get("model") == "pci-expander-bus"), 0)
    return buses, domains


def _shared(s: Survey) -> frozenset[tuple[int, int]]:
    """Slots whose function 0 says that there are more."""
    found = set()
    for device in devices_in_order(s.domain):
        place, node = pci_address(device), device.node.child("address")
        if place is not None and node is not None and (place.function or node.get("multifunction") == "on"):
            found.add((place.bus, place.slot))
    return frozenset(found)


def machine_version(name: str) -> tuple[int, int]:
    """``pc-q35-6.2`` → (6, 2); a name without a number is as new as can be."""
    found = re.search(r"-(?:rhel)?(\d+)\.(\d+)(?:\.\d+)?$", name)
    return (int(found[1]), int(found[2])) if found else (999, 0)


# -- hotplug slots -----------------------------------------------------------------------------------------


def _hotplug_slots(
    s: Survey, controllers: dict[int, Device], buses: dict[int, int]
) -> dict[tuple[int, int], int]:
    """The slots that the kernel knows by number: a number that is taken already has no plain name again.

    Those that ACPI tells of come first, bus by bus; then those of bridges that have a hotplug controller of their own.
    """
    found: dict[tuple[int, int], int] = {}
    taken: set[int] = set()
    fixed = _fixed_slots(s)
    order = sorted(buses, key=lambda i: buses[i])
    by_acpi = [i for i in order if _has_acpi_slots(s, controllers[i])]
    by_bridge = [i for i in order if i not in by_acpi and _has_own_slots(s, controllers[i])]
    for index in (*by_acpi, *by_bridge):
        kind = BUS_KINDS[controllers[index].node.get("model") or "pci-root"]
        for slot in range(max(kind.first, 1), kind.last + 1):
            if slot not in taken and not (index in by_acpi and (index, slot) in fixed):
                taken.add(slot)
                found[index, slot] = slot
    return found


def _has_acpi(s: Survey) -> bool:
    return s.domain.node.find("features/acpi") is not None


def _has_acpi_slots(s: Survey, controller: Device) -> bool:
    """Whether ACPI tells of numbered slots on the bus of a controller.

    A root port has one slot, which is number 0 and so has no name.
    """
    model, board = controller.node.get("model") or "", s.d.board
    if controller.node.value("target/@hotplug") == "off" or not _has_acpi(s):
        return False
    version = machine_version(board.machine)
    if board.is_i440fx:
        if version == _I440FX_MUTE and any(c.node.get("model") in _PLUGGABLE for c in s.pci_controllers()):
            return False
        return model == "pci-root" or (model in _PLUGGABLE and version >= _I440FX_BRIDGES)
    return board.is_q35 and model in (*_PLUGGABLE, "dmi-to-pci-bridge") and version >= _Q35_ACPI


def _has_own_slots(s: Survey, controller: Device) -> bool:
    """Whether a bridge has a hotplug controller (SHPC) that the kernel drives itself."""
    if controller.node.value("target/@hotplug") == "off" or controller.node.get("model") not in _PLUGGABLE:
        return False
    return s.d.board.is_i440fx or (s.d.board.is_q35 and _has_acpi(s))


def _indexes(s: Survey, controllers: dict[int, Device]) -> dict[tuple[int, int, int], int]:
    """The ``<acpi index=>`` that reach the guest: not those of slots that ACPI does not speak of.

    Of a slot with several functions the last index is told, before QEMU 8.0 of function 0 alone.
    """
    found: dict[tuple[int, int, int], int] = {}
    last: dict[tuple[int, int], tuple[int, int]] = {}
    cards = []
    for device in devices_in_order(s.domain):
        place = pci_address(device)
        if place is None or not device.acpi_index or not _tells_index(s, controllers.get(place.bus)):
            continue
        cards.append(place)
        last[place.bus, place.slot] = max(
            last.get((place.bus, place.slot), (0, 0)), (place.function, int(device.acpi_index))
        )
    for place in cards:
        if not place.function or s.d.emulator.version >= _ALL_ACPI:
            found[place.bus, place.slot, place.function] = last[place.bus, place.slot][1]
    return found


def _tells_index(s: Survey, controller: Device | None) -> bool:
    """Whether ACPI tells of the cards on the bus of a controller."""
    if controller is None or not _has_acpi(s):
        return False
    if _has_acpi_slots(s, controller):
        return True
    model = controller.node.get("model") or ""
    plugged = BUS_KINDS[model or "pci-root"].hotplug and controller.node.value("target/@hotplug") != "off"
    board = s.d.board
    if plugged:
        # somebody else than ACPI plugs cards there, unless this is the port of a newer Q35
        return board.is_q35 and machine_version(board.machine) >= _Q35_ACPI
    return (board.is_q35 or board.is_i440fx) and s.d.emulator.version >= _ALL_ACPI


#: devices that can not be pulled out of their slot while the guest runs
def _fixed_slots(s: Survey) -> set[tuple[int, int]]:
    """Slots with a device that stays: the chipset, the primary graphics card, bridges."""
    found = {(0, 1)} if s.d.board.is_i440fx else set()
    for device in _staying(s):
        place = pci_address(device)
        if place is not None:
            found.add((place.bus, place.slot))
    return found


def _staying(s: Survey) -> Iterator[Device]:
    yield from s.domain.lists["video"]
    yield from s.pci_controllers()


__all__ = ["GuestPci", "GuestPlace", "guest_pci", "machine_version"]
