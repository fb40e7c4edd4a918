"""The buses of a guest as a tree: who sits where, what is free, and what can be plugged while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from qemushim.address.ccw import DEVNO_COUNT
from qemushim.address.dimm import occupied_dimm
from qemushim.address.drive import drive_address
from qemushim.address.pci import PciTree
from qemushim.address.pcilayout import PciLayout
from qemushim.address.usb import is_usb, occupied_usb
from qemushim.address.virtio_serial import FIRST_CHANNEL_PORT, is_port, occupied_virtio_serial
from qemushim.address.walk import devices_in_order, index_of, number, pci_address
from qemushim.devices.address import Address
from qemushim.devices.base import Device
from qemushim.inspect.survey import Survey, label

#: the chipset's own, on boards of the PC
_CHIPSET = "chipset"
#: slot and function of the PIIX3 and the ICH9 → what is there
_BOARD_FUNCTIONS = {
    (0x01, 0): "ISA bridge",
    (0x01, 3): "power management",
    (0x1F, 0): "ISA bridge",
    (0x1F, 3): "SMBus",
}
#: an address that places are sorted by
At = tuple[int, ...]


@dataclass(slots=True)
class Place:
    """A slot, port or unit with somebody in it; or some that are free, one after the other."""

    #: ``02.1``, ``port 3``, ``unit 0``; of a run of free ones the first
    name: str
    #: who sits there, ``""`` for nobody
    device: str = ""
    alias: str = ""
    #: the tag of the device (``disk``), ``chipset`` for what belongs to the board, ``""`` for nobody
    kind: str = ""
    #: line of the device in the document, 0 where it was added
    line: int = 0
    #: how many free places this stands for, and the name of the last
    free: int = 0
    last: str = ""
    #: buses that begin at this device
    buses: list[Bus] = field(default_factory=list)

    @property
    def names(self) -> str:
        """``04–1e``, ``port 2–6``: the name, or the first and the last."""
        if self.free < 2:
            return self.name
        word = self.name.rpartition(" ")[0]
        return f"{self.name}–{self.last.removeprefix(f'{word} ')}"


@dataclass(slots=True)
class Bus:
    """One bus: a room with places."""

    #: QEMU's name of it: ``pcie.0``
    name: str
    #: ``pci``, ``usb``, ``ide``, ``sata``, ``scsi``, ``virtio-serial``, ``ccw``, ``dimm``, ``board``
    type: str
    #: what gives the bus: ``pcie-root-port``
    model: str
    places: list[Place] = field(default_factory=list)
    #: whether something can be plugged in while the guest runs
    hotplug: bool = False
    #: NUMA cell of the guest that it belongs to, ``None`` for none
    node: int | None = None

    @property
    def words(self) -> str:
        """What gives the bus, where its name does not say it already: ``pcie-expander-bus, NUMA node 1``."""
        model = "" if self.model in (self.name, self.type) else self.model
        node = "" if self.node is None else f"NUMA node {self.node}"
        return ", ".join(filter(None, (model, node)))

    @property
    def free(self) -> int:
        return sum(place.free for place in self.places)

    @property
    def used(self) -> int:
        return sum(1 for place in self.places if not place.free)


@dataclass(frozen=True, slots=True)
class Topology:
    """All buses of a guest; those that hang below a device of another are found there."""

    name: str
    machine: str
    arch: str
    buses: tuple[Bus, ...]

    def every(self) -> Iterator[Bus]:
        """Every bus, from the top down."""
        waiting = list(self.buses)
        while waiting:
            bus = waiting.pop(0)
            yield bus
            waiting[:0] = [below for place in bus.places for below in place.buses]


def hotplugs_pci(s: Survey) -> bool:
    """Whether PCI cards can be plugged in at all while the guest runs: an i440FX does it by ACPI alone."""
    return not s.d.board.is_i440fx or s.domain.node.find("features/acpi") is not None


def topology(s: Survey) -> Topology:
    """The buses of a guest."""
    return _Builder(s).build()


class _Builder:
    def __init__(self, s: Survey) -> None:
        self.s = s
        self.tree: PciTree | None = None
        if s.d.board.has_pci and any(s.pci_controllers()):
            layout = PciLayout(s.d)
            self.tree = layout.tree()
            layout.reserve_chipset(self.tree)
        self.below: dict[int, list[Bus]] = {}
        self.seated: set[int] = set()
        #: place → who sits there
        self.devices: dict[int, Device] = {}

    def build(self) -> Topology:
        roots: list[Bus] = []
        for make in (self._usb, self._drives, self._virtio_serial, self._ccid):
            for controller, bus in make():
                self.below.setdefault(id(controller), []).append(bus)
        for controller, bus in reversed(list(self._pci())):
            place = pci_address(controller)
            if place is None or place.bus == index_of(controller):
                roots.insert(0, bus)
            else:
                self.below.setdefault(id(controller), []).append(bus)
        self._hang(roots)
        roots += [*self._ccw(), *self._dimm(), *self._rest()]
        self._hang(roots)
        domain = self.s.domain
        return Topology(domain.name, domain.machine_type, domain.arch, tuple(roots))

    def _hang(self, buses: list[Bus]) -> None:
        """Put every bus below the device that gives it, however deep that is."""
        for bus in buses:
            for place in bus.places:
                device = self.devices.get(id(place))
                if device is not None and not place.buses:
                    place.buses = self.below.pop(id(device), [])
                self._hang(place.buses)

    def _seat(self, name: str, device: Device) -> Place:
        """The place of a device."""
        self.seated.add(id(device))
        origin = device.node.origin
        place = Place(
            name, label(device.node), device.alias, device.tag, device.node.line if origin >= 0 else 0
        )
        self.devices[id(place)] = device
        return place

    def _in_order(
        self, seats: dict[At, Device], free: list[At], name: Callable[[At], str]
    ) -> Iterator[Place]:
        """Who sits where and what is free between them, by place."""
        run: list[str] = []
        for at in sorted([*seats, *free]):
            if at in seats:
                yield from _run(run)
                run = []
                yield self._seat(name(at), seats[at])
            else:
                run.append(name(at))
        yield from _run(run)

    # -- PCI -----------------------------------------------------------------------------------------------

    def _pci(self) -> Iterator[tuple[Device, Bus]]:
        seats: dict[int, list[tuple[int, int, Device]]] = {}
        for device in devices_in_order(self.s.domain):
            place = pci_address(device)
            if place is not None:
                seats.setdefault(place.bus, []).append((place.slot, place.function, device))
        for controller in self.s.pci_controllers() if self.tree is not None else ():
            index = index_of(controller)
            self.seated.add(id(controller))
            yield controller, self._pci_bus(controller, index, seats.get(index, []))

    def _pci_bus(self, controller: Device, index: int, seats: list[tuple[int, int, Device]]) -> Bus:
        assert self.tree is not None
        slots = self.tree.buses[index]
        hotplug = slots.kind.hotplug and hotplugs_pci(self.s)
        bus = Bus(controller.alias, "pci", controller.node.get("model") or "", hotplug=hotplug)
        node = controller.node.value("target/node")
        bus.node = int(node) if node is not None else None
        by_slot: dict[int, list[tuple[int, Device]]] = {}
        for slot, function, device in seats:
            by_slot.setdefault(slot, []).append((function, device))
        free: list[str] = []
        for slot in range(slots.kind.last + 1):
            if by_slot.get(slot) or slots.slots[slot]:
                bus.places += _run(free)
                free = []
                bus.places += self._slot(slot, by_slot.get(slot, []), slots.slots[slot])
            elif slot >= slots.kind.first:
                free.append(f"{slot:02x}")
        bus.places += _run(free)
        return bus

    def _slot(self, slot: int, devices: list[tuple[int, Device]], mask: int) -> Iterator[Place]:
        """The functions of a slot: devices of the definition, and those of the chipset."""
        known = dict(devices)
        for function in range(8):
            if function in known:
                yield self._seat(f"{slot:02x}.{function:x}", known[function])
            elif mask >> function & 1:
                what = _BOARD_FUNCTIONS.get((slot, function), "of the board")
                yield Place(f"{slot:02x}.{function:x}", what, kind=_CHIPSET)

    # -- buses below controllers ---------------------------------------------------------------------------

    def _controllers(self, kind: str) -> Iterator[Device]:
        yield from (c for c in self.s.domain.lists["controller"] if c.node.get("type") == kind)

    def _usb(self) -> Iterator[tuple[Device, Bus]]:
        places = occupied_usb(self.s.d)
        free = list(places.free())
        for controller in self._controllers("usb"):
            index = index_of(controller)
            hub = places.buses.pop(index, None)
            if hub is None:
                continue
            users = [d for d in devices_in_order(self.s.domain) if is_usb(d) and _usb_bus(d) == index]
            bus = Bus(f"{controller.alias}.0", "usb", controller.node.get("model") or "usb", hotplug=True)
            seats: dict[At, Device] = {_path(device): device for device in users}
            open_ = [path for number_, path in free if number_ == index]
            bus.places = list(self._in_order(seats, open_, _usb_name))
            yield controller, bus

    def _drives(self) -> Iterator[tuple[Device, Bus]]:
        for kind in ("ide", "sata", "scsi", "fdc"):
            for controller in self._controllers(kind):
                index = index_of(controller)
                users = [d for d in self._drive_users(kind) if _drive(d)[0] == index]
                bus = Bus(
                    f"{controller.alias}.0",
                    kind,
                    controller.node.get("model") or kind,
                    hotplug=kind == "scsi",
                )
                seats: dict[At, Device] = {_drive(d)[1:]: d for d in users}
                open_ = [at for at in _GEOMETRY[kind](controller) if at not in seats]
                bus.places = list(self._in_order(seats, open_, _DRIVE_NAMES[kind]))
                yield controller, bus

    def _drive_users(self, kind: str) -> Iterator[Device]:
        for disk in self.s.domain.lists["disk"]:
            if disk.node.value("target/@bus") == kind and drive_address(disk) is not None:
                yield disk
        if kind == "scsi":
            found = (h for h in self.s.domain.lists["hostdev"] if h.node.get("type") == "scsi")
            yield from (h for h in found if drive_address(h) is not None)

    def _virtio_serial(self) -> Iterator[tuple[Device, Bus]]:
        free = list(occupied_virtio_serial(self.s.d).free())
        users = [d for tag in ("console", "channel") for d in self.s.domain.lists[tag] if is_port(d)]
        for controller in self._controllers("virtio-serial"):
            index = index_of(controller)
            mine = [d for d in users if number(d.node.child("address") or d.node, "controller") == index]
            bus = Bus(f"{controller.alias}.0", "virtio-serial", "virtio-serial", hotplug=True)
            seats: dict[At, Device] = {(number(d.node.child("address") or d.node, "port"),): d for d in mine}
            open_: list[At] = [(port,) for at, port in free if at == index and port >= FIRST_CHANNEL_PORT]
            bus.places = list(self._in_order(seats, open_, lambda at: f"port {at[0]}"))
            yield controller, bus

    def _ccid(self) -> Iterator[tuple[Device, Bus]]:
        for controller in self._controllers("ccid"):
            cards = ((c, c.node.child("address")) for c in self.s.domain.lists["smartcard"])
            mine = [
                c for c, at in cards if at is not None and number(at, "controller") == index_of(controller)
            ]
            bus = Bus(f"{controller.alias}.0", "ccid", "ccid")
            bus.places = [self._seat(f"slot {d.node.value('address/@slot') or '0'}", d) for d in mine]
            yield controller, bus

    # -- buses without a controller ------------------------------------------------------------------------

    def _ccw(self) -> Iterator[Bus]:
        users = [d for d in devices_in_order(self.s.domain) if d.address_type == "ccw"]
        if not self.s.d.board.is_ccw:
            return
        bus = Bus("ccw", "ccw", "channel subsystem", hotplug=True)
        for device in sorted(users, key=_ccw_number):
            bus.places.append(self._seat(_ccw_name(_ccw_number(device)), device))
        taken = {_ccw_number(device) for device in users}
        low = next(n for n in range(DEVNO_COUNT) if n not in taken)
        free = DEVNO_COUNT - len(taken)
        bus.places.append(Place(_ccw_name(low), free=free, last=_ccw_name(DEVNO_COUNT - 1)))
        yield bus

    def _dimm(self) -> Iterator[Bus]:
        slots = occupied_dimm(self.s.d)
        if slots is None or slots.last < 0:
            return
        bus = Bus("dimm", "dimm", "memory slots", hotplug=True)
        users = [d for d in self.s.domain.lists["memory"] if d.address_type == "dimm"]
        seats: dict[At, Device] = {(_dimm_slot(device),): device for device in users}
        bus.places = list(
            self._in_order(seats, [(slot,) for slot in slots.free()], lambda at: f"slot {at[0]}")
        )
        yield bus

    def _rest(self) -> Iterator[Bus]:
        """What sits on no bus that has places: ISA, the board's own, and their buses."""
        bus = Bus("board", "board", "on the board")
        skipped = ("graphics", "audio", "redirfilter", "lease")
        for device in devices_in_order(self.s.domain):
            if id(device) in self.seated or device.tag in skipped or device.node.get("model") == "none":
                continue
            bus.places.append(self._seat(_board_name(device), device))
        if bus.places:
            yield bus


# -- places by name ----------------------------------------------------------------------------------------


def _run(names: list[str]) -> list[Place]:
    """One place that stands for several free ones."""
    return [Place(names[0], free=len(names), last=names[-1])] if names else []


def _usb_bus(device: Device) -> int:
    node = device.node.child("address")
    return number(node, "bus") if node is not None else 0


def _path(device: Device) -> tuple[int, ...]:
    return tuple(map(int, (device.node.value("address/@port") or "0").split(".")))


def _usb_name(path: tuple[int, ...]) -> str:
    return f"port {'.'.join(map(str, path))}"


def _drive(device: Device) -> At:
    """Controller, bus, target, unit."""
    place = drive_address(device)
    return tuple(place) if place is not None else (0, 0, 0, 0)


def _narrow(controller: Device) -> list[At]:
    return [(0, 0, unit) for unit in range(7)]


def _scsi_units(controller: Device) -> list[At]:
    """virtio-scsi and SAS have a target for each disk, parallel SCSI a unit."""
    model = controller.node.get("model") or ""
    if model.startswith("virtio"):
        return [(0, target, 0) for target in range(256)]
    return _narrow(controller)


_GEOMETRY: dict[str, Callable[[Device], list[At]]] = {
    "fdc": lambda controller: [(0, 0, unit) for unit in range(2)],
    "ide": lambda controller: [(bus, 0, unit) for bus in range(2) for unit in range(2)],
    "sata": lambda controller: [(0, 0, unit) for unit in range(6)],
    "scsi": _scsi_units,
}


def _scsi_name(at: At) -> str:
    """Only the numbers that tell units apart: virtio has targets, parallel SCSI units."""
    channel, target, unit = at
    head = f"channel {channel} " if channel else ""
    if not target:
        return f"{head}unit {unit}"
    return f"{head}target {target}" + (f" unit {unit}" if unit else "")


_DRIVE_NAMES: dict[str, Callable[[At], str]] = {
    "fdc": lambda at: f"drive {at[2]}",
    "ide": lambda at: f"{('primary', 'secondary')[at[0] & 1]} {('master', 'slave')[at[2] & 1]}",
    "sata": lambda at: f"port {at[2]}",
    "scsi": _scsi_name,
}


def _ccw_number(device: Device) -> int:
    return Address(device.node.ensure("address")).devno or 0


def _ccw_name(devno: int) -> str:
    return f"{devno:04x}"


def _dimm_slot(device: Device) -> int:
    return number(device.node.ensure("address"), "slot")


def _board_name(device: Device) -> str:
    kind = device.address_type
    if kind == "isa":
        return f"isa {device.node.value('address/@iobase') or ''}".strip()
    if kind == "spapr-vio":
        return f"vio {device.node.value('address/@reg') or ''}".strip()
    return device.node.get("bus") or kind or device.node.value("target/@type") or "board"


# -- data --------------------------------------------------------------------------------------------------


def topology_data(found: Topology) -> dict[str, Any]:
    """Ready for JSON (docs/topology.md has the schema)."""
    return {
        "schema": "qemushim.topology/1",
        "name": found.name,
        "machine": found.machine,
        "arch": found.arch,
        "buses": [_bus_data(bus) for bus in found.buses],
    }


def _bus_data(bus: Bus) -> dict[str, Any]:
    return {
        "name": bus.name,
        "type": bus.type,
        "model": bus.model,
        "hotplug": bus.hotplug,
        "node": bus.node,
        "used": bus.used,
        "free": bus.free,
        "places": [_place_data(place) for place in bus.places],
    }


def _place_data(place: Place) -> dict[str, Any]:
    if place.free:
        return {"name": place.name, "last": place.last, "free": place.free}
    return {
        "name": place.name,
        "device": place.device,
        "alias": place.alias,
        "kind": place.kind,
        "line": place.line or None,
        "buses": [_bus_data(bus) for bus in place.buses],
    }
