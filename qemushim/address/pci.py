"""PCI: a tree of buses, each with slots of eight functions.  https://libvirt.org/pci-addresses.html

``PciTree`` knows only buses and slots.  Which device wants what is in ``needs``, and who comes first in
``pcilayout``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from qemushim.address.needs import ENDPOINTS, Kind, Need
from qemushim.devices.address import PciAddress
from qemushim.document.node import Node
from qemushim.errors import AddressError

ALL_FUNCTIONS = 0xFF
MOST_BUSES = 256


class BusKind(NamedTuple):
    """What one model of controller offers below itself."""

    accepts: frozenset[Kind]
    first: int
    last: int
    #: libvirt puts devices here that have no address
    automatic: bool = True
    hotplug: bool = True


_BRIDGED = frozenset({Kind.PCI, Kind.PCI_BRIDGE})
_PORT = frozenset({Kind.PCIE, Kind.SWITCH_UPSTREAM, Kind.PCIE_TO_PCI_BRIDGE})
_PCIE_ROOT = frozenset({Kind.PCIE, Kind.PCIE_ROOT_PORT, Kind.DMI_TO_PCI_BRIDGE, Kind.PCIE_EXPANDER})
_PCIE_EXPANDER = frozenset({Kind.PCIE_ROOT_PORT, Kind.DMI_TO_PCI_BRIDGE})
BUS_KINDS = {
    "dmi-to-pci-bridge": BusKind(_BRIDGED, 0, 31, automatic=False, hotplug=False),
    "pci-bridge": BusKind(_BRIDGED, 1, 31),
    "pci-expander-bus": BusKind(_BRIDGED, 0, 31),
    "pci-root": BusKind(_BRIDGED | {Kind.PCI_EXPANDER}, 1, 31),
    "pcie-expander-bus": BusKind(_PCIE_EXPANDER, 0, 31, automatic=False, hotplug=False),
    "pcie-root": BusKind(_PCIE_ROOT, 1, 31, automatic=False, hotplug=False),
    "pcie-root-port": BusKind(_PORT, 0, 0),
    "pcie-switch-downstream-port": BusKind(_PORT, 0, 0),
    "pcie-switch-upstream-port": BusKind(
        frozenset({Kind.SWITCH_DOWNSTREAM}), 0, 31, automatic=False, hotplug=False
    ),
    "pcie-to-pci-bridge": BusKind(_BRIDGED, 1, 31),
}


class Bus:
    """The slots below one PCI controller."""

    __slots__ = ("_low", "busy", "index", "isolation", "joinable", "kind", "locked", "model", "slots")

    def __init__(self, index: int, model: str, *, hotplug: bool = True) -> None:
        kind = BUS_KINDS[model]
        self.index = index
        self.model = model
        self.kind = kind if hotplug else kind._replace(hotplug=False)
        #: slot → mask of the functions in use
        self.slots = [0] * 32
        #: slots whose first occupant shares
        self.joinable: set[int] = set()
        #: slots in use within the range that devices may take
        self.busy = 0
        self.isolation = 0
        self.locked = False
        #: every slot below is in use
        self._low = kind.first

    @property
    def room(self) -> int:
        """How many slots that devices may take have nothing in them."""
        return self.kind.last - self.kind.first + 1 - self.busy

    @property
    def is_full(self) -> bool:
        return not self.room

    @property
    def is_empty(self) -> bool:
        return not any(self.slots)

    def take(self, slot: int, mask: int, *, joins: bool = False) -> None:
        if not self.slots[slot]:
            self.busy += self.kind.first <= slot <= self.kind.last
            if joins:
                self.joinable.add(slot)
        self.slots[slot] |= mask

    def give(self, slot: int, mask: int) -> None:
        if not self.slots[slot]:
            return
        self.slots[slot] &= ~mask
        if not self.slots[slot]:
            self.joinable.discard(slot)
            self.busy -= self.kind.first <= slot <= self.kind.last
            self._low = min(self._low, max(slot, self.kind.first))

    def find(self, *, joins: bool) -> tuple[int, int] | None:
        """The lowest slot with nothing in it, or one to share; and its function."""
        slots, slot, last = self.slots, self._low, self.kind.last
        while slot <= last and slots[slot]:
            slot += 1
        self._low = slot
        if joins:
            slot = min([s for s in self.joinable if slots[s] != ALL_FUNCTIONS and s < slot], default=slot)
        if slot > last:
            return None
        used = slots[slot]
        # the lowest bit that is not set
        return slot, (~used & (used + 1)).bit_length() - 1

    def drawing(self) -> str:
        """``bus 0 (pci-root): 01:0f 02``: the slots in use, with the functions where it is not 0 alone."""
        used = [
            f"{n:02x}" if mask == 1 else f"{n:02x}:{mask:02x}" for n, mask in enumerate(self.slots) if mask
        ]
        return f"bus {self.index} ({self.model}): {' '.join(used) if used else 'empty'}"


class Abilities(NamedTuple):
    """What a guest's buses may grow by."""

    #: several host bridges (pSeries)
    many_roots: bool = False
    pcie_to_pci_bridge: bool = False


class PciTree:
    """The buses of a guest by number, and who sits where.

    ``growing``: missing buses are added as they are needed (a dry run that finds out how many there must be).
    """

    def __init__(self, abilities: Abilities, *, growing: bool = False) -> None:
        self.buses: list[Bus] = []
        self.abilities = abilities
        self.growing = growing
        #: numbers of the bridges that were added together with the slot they sit in
        self.seated: set[int] = set()
        #: need → number of the first bus that may have room for it
        self._start: dict[Need, int] = {}

    # -- the verbs -------------------------------------------------------------------------------------------

    def reserve(
        self, address: PciAddress, need: Need, node: Node | None = None, *, explicit: bool = True
    ) -> None:
        """Take one function.  ``explicit``: the user wrote the address.

        Raises ``AddressError`` where it is taken, out of range, or on a bus that takes no such device.
        """
        if self.growing and address.bus >= len(self.buses):
            self._grow(need, node, upto=address.bus)
        bus = self._checked(address, need, node, explicit=explicit)
        mask = 1 << address.function
        if bus.slots[address.slot] & mask:
            prefix = "XML error" if explicit else "internal error"
            raise self._error(f"{prefix}: Attempted double use of PCI Address {address}", node)
        self._isolate(bus, need, node, explicit=explicit)
        bus.take(address.slot, mask, joins=need.joins)

    def next(self, need: Need, node: Node | None = None, *, function: int | None = None) -> PciAddress:
        """Take the lowest free slot that serves; ``function`` where it shall not be 0.

        Raises ``AddressError`` where there is none and none can be added.
        """
        address = self.find(need, node)
        if address is None:
            if not self.growing:
                raise self._error("internal error: No more available PCI slots", node)
            bus = self._grow(need, node)
            found = bus.find(joins=need.joins)
            assert found is not None
            address = PciAddress(0, bus.index, *found)
        else:
            bus = self.buses[address.bus]
        if function is not None:
            address = address._replace(function=function)
        if bus.isolation != need.isolation and bus.is_empty and not bus.locked:
            bus.isolation = need.isolation
        bus.take(address.slot, 1 << address.function, joins=need.joins)
        return address

    def release(self, address: PciAddress) -> None:
        """Give one function back; one that is not taken is no mistake."""
        if address.bus < len(self.buses):
            self.buses[address.bus].give(address.slot, 1 << address.function)
            self._start.clear()

    def free(self) -> Iterator[PciAddress]:
        """The slots with nothing in them, in order."""
        for bus in self.buses:
            for slot in range(bus.kind.first, bus.kind.last + 1):
                if not bus.slots[slot]:
                    yield PciAddress(0, bus.index, slot, 0)

    # -- finding ---------------------------------------------------------------------------------------------

    def find(self, need: Need, node: Node | None = None) -> PciAddress | None:
        """The lowest slot for a need, taken by no one yet: on a bus of its group, else on an empty bus."""
        if not self.buses:
            raise self._error("XML error: No PCI buses available", node)
        first = self._start.get(need, 0)
        for number in range(first, len(self.buses)):
            bus = self.buses[number]
            if bus.isolation == need.isolation and serves(bus, need):
                found = bus.find(joins=need.joins)
                if found is not None:
                    self._start[need] = number
                    return PciAddress(0, number, *found)
        self._start[need] = len(self.buses)
        return self._elsewhere(need) if self.abilities.many_roots else None

    def _elsewhere(self, need: Need) -> PciAddress | None:
        """A bus of another group serves while nothing is on it."""
        for bus in self.buses:
            if bus.is_empty and not bus.locked and serves(bus, need):
                found = bus.find(joins=need.joins)
                if found is not None:
                    bus.isolation = need.isolation
                    self._start.clear()
                    return PciAddress(0, bus.index, *found)
        return None

    def is_free(self, slot: int) -> bool:
        """Whether nothing is in a slot of bus 0."""
        return not self.buses[0].slots[slot]

    # -- checks ----------------------------------------------------------------------------------------------

    def _checked(self, address: PciAddress, need: Need, node: Node | None, *, explicit: bool) -> Bus:
        prefix = "XML error" if explicit else "internal error"
        if not self.buses:
            raise self._error("XML error: No PCI buses available", node)
        wrong = ""
        if address.domain:
            wrong = "Only PCI domain 0 is available"
        elif address.bus >= len(self.buses):
            wrong = f"Only PCI buses up to {len(self.buses) - 1} are available"
        if wrong:
            raise self._error(f"{prefix}: Invalid PCI address {address}. {wrong}", node)
        bus = self.buses[address.bus]
        if not serves(bus, need, explicit=explicit):
            raise self._mismatch(bus, address, need, node, prefix)
        if address.slot < bus.kind.first:
            wrong = f"slot must be >= {bus.kind.first}"
        elif address.slot > bus.kind.last:
            wrong = f"slot must be <= {bus.kind.last}"
        if wrong:
            raise self._error(f"{prefix}: Invalid PCI address {address}. {wrong}", node)
        return bus

    def _mismatch(
        self, bus: Bus, address: PciAddress, need: Need, node: Node | None, prefix: str
    ) -> AddressError:
        """Why a device can not be on a bus."""
        if need.integrated and bus.index:
            why = f"The device at PCI address {address} needs to be an integrated device (bus=0)"
        elif need.hotplug and not bus.kind.hotplug:
            why = (
                f"The device at PCI address {address} requires hotplug capability, but the PCI controller "
                f"with index='{bus.index}' doesn't support hotplug"
            )
        else:
            why = (
                f"The device at PCI address {address} cannot be plugged into the PCI controller with "
                f"index='{bus.index}'. It requires a controller that accepts a {need.kind}."
            )
        return self._error(f"{prefix}: {why}", node)

    def _isolate(self, bus: Bus, need: Need, node: Node | None, *, explicit: bool) -> None:
        """A bus takes the group of its first device; a user may mix groups, and then the bus has none."""
        if bus.isolation == need.isolation:
            return
        if bus.is_empty and not bus.locked:
            bus.isolation = need.isolation
        elif explicit:
            bus.isolation = 0
            self._start.clear()
        else:
            why = f"PCI bus {bus.index} accepts devices from isolation group {bus.isolation} alone"
            raise self._error(f"internal error: {why}", node)

    def _error(self, message: str, node: Node | None) -> AddressError:
        hint = "taken so far: " + ("; ".join(bus.drawing() for bus in self.buses) or "there are no PCI buses")
        return AddressError(message, element=node, hint=hint)

    # -- growing ---------------------------------------------------------------------------------------------

    def add(self, model: str, *, hotplug: bool = True) -> Bus:
        """Append a bus.  The first host bridge of a pSeries guest is for emulated devices alone."""
        bus = Bus(len(self.buses), model, hotplug=hotplug)
        if model == "pci-root" and bus.index == 0 and self.abilities.many_roots:
            bus.locked = True
        self.buses.append(bus)
        return bus

    def _grow(self, need: Need, node: Node | None, upto: int | None = None) -> Bus:
        """Add what a need asks for: one bus, or every missing one up to a number.  Returns the last."""
        models = self._growth(need, node)
        last = max(len(self.buses) + len(models) - 1, upto or 0)
        if last >= MOST_BUSES:
            raise self._error("internal error: No more available PCI slots", node)
        lowest = len(self.buses)
        for model in models[:-1]:
            self.add(model)
        while len(self.buses) <= last:
            self.add(models[-1])
        if models[-1] == "pcie-to-pci-bridge":
            # the port was added for the bridge: nothing else may have it
            self.buses[lowest].take(0, 1)
            self.seated.add(lowest + 1)
        return self.buses[-1]

    def _growth(self, need: Need, node: Node | None) -> tuple[str, ...]:
        """Models to add, upper first, so that a device of this need finds a slot below the last."""
        if need.kind in _BRIDGED:
            if self.abilities.many_roots:
                return ("pci-root",)
            if any(Kind.PCI_BRIDGE in bus.kind.accepts for bus in self.buses):
                return ("pci-bridge",)
            if self.abilities.pcie_to_pci_bridge:
                return ("pcie-root-port", "pcie-to-pci-bridge")
            return ("dmi-to-pci-bridge", "pci-bridge")
        if need.kind in (Kind.PCIE, Kind.SWITCH_UPSTREAM):
            return ("pcie-root-port",)
        raise self._error(
            "internal error: a PCI slot is needed to connect a PCI controller "
            f"model='{need.kind}', but none is available, and it cannot be automatically added",
            node,
        )


def serves(bus: Bus, need: Need, *, explicit: bool = False) -> bool:
    """Whether a bus takes a device of this need.  An address that the user wrote is held to less."""
    accepts, kind = bus.kind.accepts, need.kind
    if need.integrated:
        return bus.index == 0 and not accepts.isdisjoint(ENDPOINTS)
    if need.hotplug and not bus.kind.hotplug:
        return False
    if not explicit:
        return kind in accepts and (bus.kind.automatic or not need.automatic)
    if kind in ENDPOINTS:
        return not accepts.isdisjoint(ENDPOINTS)
    return kind in accepts or (kind is Kind.PCI_BRIDGE and Kind.PCI in accepts)
