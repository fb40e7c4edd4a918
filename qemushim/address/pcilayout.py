"""Which device sits in which PCI slot: the chipset's own, the user's, and then the rest in a fixed order.

It is worked out twice.  The first time is a dry run, in which buses are added as they are needed; then the
controllers that give those buses are written into the definition; the second time addresses are written.  For most
guests it can be counted what a dry run would add.
https://libvirt.org/pci-addresses.html
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from qemushim.address.chipset import Chipset, chipset_of
from qemushim.address.needs import Kind, Need, is_foreign, pci_need
from qemushim.address.pci import MOST_BUSES, Abilities, PciTree
from qemushim.address.pcigroups import isolation_groups
from qemushim.address.walk import (
    devices_in_order,
    index_of,
    is_hostdev_interface,
    pci_address,
    wants_pci,
    write_pci,
)
from qemushim.address.zpci import assign_zpci
from qemushim.devices.address import PciAddress
from qemushim.devices.base import Device
from qemushim.devices.controller import Controller
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.machine.domain import Domain

#: a function each for the parts of an ICH9 USB 2 controller, which share a slot
USB2_FUNCTIONS = {"ich9-ehci1": 7, "ich9-uhci1": 0, "ich9-uhci2": 1, "ich9-uhci3": 2}


def _is_primary_ide(device: Device) -> bool:
    return device.node.get("type") == "ide" and index_of(device) == 0


#: the order in which devices without an address get one; which of a kind, where it is not all of them
_ORDER: tuple[tuple[str, Callable[[Device], bool] | None], ...] = (
    ("controller", lambda device: device.node.attrib.get("type") == "pci"),
    ("filesystem", None),
    ("interface", lambda device: not is_hostdev_interface(device)),
    ("sound", None),
    ("controller", lambda device: device.node.attrib.get("type") != "pci" and not _is_primary_ide(device)),
    ("disk", None),
    ("interface", is_hostdev_interface),
    *((tag, None) for tag in (
        *("hostdev", "memballoon", "rng", "watchdog", "video", "shmem", "input", "serial", "iommu", "vsock"),
        *("memory", "crypto", "panic", "pstore"),
    )),
)  # fmt: skip


def open_devices(domain: Domain) -> list[Device]:
    """The devices that may want an address, in the order in which they get it."""
    found: list[Device] = []
    for tag, want in _ORDER:
        listed = domain.lists[tag]
        if listed:
            found += filter(wants_pci, listed if want is None else filter(want, listed))
    return found


class PciLayout:
    """One round of giving out PCI addresses."""

    def __init__(self, d: Define) -> None:
        self.d = d
        self.domain = d.domain
        self.controllers = pci_controllers(d.domain)
        self.board = d.board
        self.express = any(c.node.get("model") == "pcie-root" for c in self.controllers)
        self.abilities = Abilities(self.board.is_pseries, d.emulator.flag("pcie-pci-bridge"))
        self.groups = isolation_groups(d) if self.board.is_pseries else {}
        self._needs: dict[int, Need] = {}
        #: the devices that have an address, kept up as addresses are given; and those that may want one
        placed = ((device, pci_address(device)) for device in devices_in_order(d.domain))
        self.places: list[tuple[Device, PciAddress]] = [
            (device, place) for device, place in placed if place is not None
        ]
        self.open = open_devices(d.domain)

    def need(self, device: Device) -> Need:
        key = id(device)
        found = self._needs.get(key)
        if found is None:
            group = self.groups.get(key, 0) if self.groups else 0
            found = pci_need(device, self.d, express=self.express, isolation=group)
            self._needs[key] = found
        return found

    # -- a tree with everything that has its place -----------------------------------------------------------

    def tree(self, *, growing: bool = False) -> PciTree:
        """The buses, with the devices that have an address in them."""
        tree = self.bare_tree(growing=growing)
        for device, place in self.places:
            if not _is_built_in(device, place):
                need = self.need(device)
                if need.kind is Kind.NONE:
                    need = need._replace(kind=Kind.PCI)
                tree.reserve(place, need, device.node)
        return tree

    def bare_tree(self, *, growing: bool = False) -> PciTree:
        """The buses with nothing in them.  A number that is left out gets the bus that would be added."""
        tree = PciTree(self.abilities, growing=growing)
        known = {index_of(controller): controller for controller in self.controllers}
        filler = (
            "pci-root" if self.abilities.many_roots else "pcie-root-port" if self.express else "pci-bridge"
        )
        last = max(known, default=-1)
        if last >= MOST_BUSES:
            raise error.xml(
                f"PCI controller index {last} too high, maximum is {MOST_BUSES - 1}",
                known[last].node,
                "buses are numbered from 0 without gaps",
            )
        for number in range(last + 1):
            controller = known.get(number)
            if controller is None:
                tree.add(filler if number else _ROOT_MODELS[self.express])
            else:
                target = controller.node.child("target")
                hotplug = target is None or target.get("hotplug") != "off"
                tree.add(_model(controller), hotplug=hotplug)
        return tree

    # -- the two rounds --------------------------------------------------------------------------------------

    def is_complete(self) -> bool:
        """Whether every PCI device has its place, and every place its bus: nothing could be added then."""
        buses = len(self.controllers)
        if buses <= max(map(index_of, self.controllers), default=-1):
            return False
        if any(place.bus >= buses for _, place in self.places):
            return False
        return all(self.need(device).kind is Kind.NONE for device in self.open)

    def grow(self) -> PciTree | None:
        """Find out how many buses there must be, and add the controllers that give them.

        Where none is added, the tree comes back, with everything in it that has its place.
        """
        tree = self.tree(growing=True)
        self.reserve_chipset(tree)
        lacking = self.ports_lacking(tree)
        if lacking is None:
            self.dry_run(tree)
        else:
            for number in range(len(tree.buses), len(tree.buses) + lacking):
                self.add_controller(number, "pcie-root-port")
        if lacking == 0 and not any(map(wants_pci, self.domain.lists["video"])):
            # a graphics card that did not get the chipset's slot for it has been tried elsewhere
            tree.growing = False
            return tree
        self.controllers = pci_controllers(self.domain)
        self.open = open_devices(self.domain)
        return None

    def ports_lacking(self, tree: PciTree) -> int | None:
        """How many root ports have to be added, where that can be counted; ``None`` where only a dry run tells.

        It can be where the open devices find a slot each on conventional buses that are there; and where each takes a
        port of its own, for which the root bus has room.
        """
        if self.abilities.many_roots or len(tree.buses) != len(self.controllers):
            return None
        needs = [self.need(device) for device in self.open if wants_pci(device)]
        kinds = Counter(need.kind for need in needs if need.kind is not Kind.NONE)
        if any(need.integrated for need in needs):
            return None
        if not self.express:
            # one is kept for a bridge, see ``dry_run``
            room = sum(
                bus.room for bus in tree.buses if bus.kind.automatic and bus.kind.accepts >= _CONVENTIONAL
            )
            return 0 if kinds.keys() <= _CONVENTIONAL and kinds.total() < room else None
        free = sum(bus.is_empty for bus in tree.buses if bus.model in _PORTS)
        lacking = max(kinds[Kind.PCIE] - free, 0)
        if lacking and len(tree.buses) == 1:
            # an empty port for a device plugged in later
            lacking += 1
        fits = (
            kinds.keys() <= _PORT_OR_BEHIND
            and kinds[Kind.PCIE_ROOT_PORT] + lacking <= _FUNCTIONS * tree.buses[0].room
            and len(tree.buses) + lacking <= MOST_BUSES
        )
        return lacking if fits else None

    def dry_run(self, tree: PciTree) -> None:
        """Place the open devices in a tree that grows, and add the controllers of the buses that it has grown by."""
        explicit = max((index_of(controller) for controller in self.controllers), default=-1)
        if not self.express and not all(bus.is_full for bus in tree.buses):
            # room for a bridge that a device plugged in later may need
            tree.next(Need(Kind.PCI))
        self.place_all(tree, write=False)
        if self.express and explicit <= 0 and len(tree.buses) > explicit + 1:
            # an empty port for a device plugged in later
            tree.next(Need(Kind.PCIE, automatic=False, hotplug=True))
        self.add_controllers(tree)

    def add_controllers(self, tree: PciTree) -> None:
        """A controller for each bus that has none.  Its own slot may take one more bus."""
        known = {index_of(controller) for controller in self.controllers}
        number = 1
        while number < len(tree.buses):
            if number not in known:
                controller = self.add_controller(number, tree.buses[number].model)
                need = self.need(controller)
                if need.kind is not Kind.NONE and number not in tree.seated:
                    tree.next(need, controller.node)
            number += 1

    def add_controller(self, number: int, model: str) -> Controller:
        return self.domain.add(Controller, {"type": "pci", "index": str(number), "model": model})

    def real_run(self, tree: PciTree | None = None, *, place: bool = True) -> PciTree:
        """Check what has its place, unless it is in ``tree`` already; ``place`` the rest."""
        if tree is None:
            tree = self.tree()
            self.reserve_chipset(tree)
        if place:
            self.place_all(tree, write=True)
        if self.d.emulator.flag("zpci"):
            assign_zpci(self.d)
        return tree

    def reserve_chipset(self, tree: PciTree) -> None:
        chipset: Chipset | None = chipset_of(self.board)
        if chipset is not None and tree.buses:
            chipset.reserve(self, tree)

    def place_all(self, tree: PciTree, *, write: bool) -> None:
        for device in self.open:
            if wants_pci(device):
                self.place(tree, device, write=write)

    def place(self, tree: PciTree, device: Device, *, write: bool) -> None:
        """Find a slot for one device, if it is a PCI device at all."""
        need = self.need(device)
        if need.kind is Kind.NONE:
            return
        function = None
        if device.tag == "controller":
            function = USB2_FUNCTIONS.get(device.node.attrib.get("model", ""))
        if function is None:
            place = tree.next(need, device.node)
        else:
            beside = self.usb2_slot(device)
            if beside is None:
                place = tree.next(need, device.node, function=function)
            else:
                place = beside._replace(function=function)
                tree.reserve(place, need, device.node)
        if write:
            # function 0 is the part that the others of a USB 2 controller are beside
            self.write(device, place, multifunction=function == 0)

    def write(self, device: Device, place: PciAddress, *, multifunction: bool = False) -> None:
        """Give a device its address, for good."""
        write_pci(device, place, multifunction=multifunction)
        self.places.append((device, place))

    def usb2_slot(self, part: Device) -> PciAddress | None:
        """Where another part of the same USB 2 controller sits."""
        for other in self.domain.lists["controller"]:
            if other.node.get("model") in USB2_FUNCTIONS and index_of(other) == index_of(part):
                place = pci_address(other)
                if place is not None:
                    return place
        return None


#: what any conventional bus takes
_CONVENTIONAL = frozenset({Kind.PCI, Kind.PCI_BRIDGE})
#: what a root bus of PCI Express takes without limits worth the name, and what goes behind that
_PORT_OR_BEHIND = frozenset({Kind.PCIE_ROOT_PORT, Kind.PCIE})
#: models of controllers with a slot for one device
_PORTS = frozenset({"pcie-root-port", "pcie-switch-downstream-port"})
_FUNCTIONS = 8
#: whether there is PCI Express → model of the root
_ROOT_MODELS = {True: "pcie-root", False: "pci-root"}


def _model(controller: Device) -> str:
    model = controller.node.get("model")
    if model is None:
        raise error.internal("PCI controller model was not set correctly", controller.node, "give it a model")
    return model


def pci_controllers(domain: Domain) -> list[Device]:
    """The PCI buses and bridges, in libvirt's order."""
    return [device for device in domain.lists["controller"] if device.node.attrib.get("type") == "pci"]


def _is_built_in(device: Device, place: PciAddress) -> bool:
    """The IDE and USB functions of the PIIX chip, which the chipset reserves."""
    if device.tag != "controller" or index_of(device):
        return False
    kind, model = device.node.get("type"), device.node.get("model")
    if kind == "ide":
        return place == PciAddress(0, 0, 1, 1)
    return kind == "usb" and model in (None, "piix3-uhci") and place == PciAddress(0, 0, 1, 2)


def assign_pci(d: Define) -> None:
    """PCI addresses for all devices that want one; controllers for the buses that they need."""
    if not d.board.has_pci:
        return
    layout = PciLayout(d)
    first = d.domain.lists["video"][:1] if chipset_of(d.board) is not None else []
    for device in layout.open if layout.controllers else ():
        # the chipset has a slot for the first graphics card, whatever that is
        if is_foreign(device) and device not in first:
            raise error.internal(
                "Cannot automatically add a new PCI bus for a device with connect flags 00",
                device.node,
                "remove the controller",
            )
    complete = bool(layout.controllers) and layout.is_complete()
    if complete and d.start:
        return  # the definition was complete, and was checked when it was made
    tree = layout.grow() if layout.controllers and not complete else None
    layout.real_run(tree, place=not complete)
    set_multifunction(layout.places)
    for controller in pci_controllers(d.domain):
        place = pci_address(controller)
        if controller.node.get("model") == "pci-bridge" and place is not None:
            _check_below(controller, place)


def set_multifunction(places: Iterable[tuple[Device, PciAddress]]) -> None:
    """Function 0 of a slot says so where there are more functions."""
    first: dict[tuple[int, ...], Device] = {}
    shared: set[tuple[int, ...]] = set()
    for device, place in places:
        if place.function:
            shared.add(place[:3])
        else:
            first[place[:3]] = device
    for slot in shared & first.keys():
        node = first[slot].node.ensure("address")
        node.attrib.setdefault("multifunction", "on")


def _check_below(bridge: Device, place: PciAddress) -> None:
    """A bridge is found by the guest behind a bus of a lower number only."""
    index = index_of(bridge)
    if index <= place.bus:
        raise error.unsupported(
            f"PCI controller at index {index} (0x{index:02x}) has bus='0x{place.bus:02x}', "
            "but index must be larger than bus",
            bridge.node,
            "give the bridge a higher index, or a place on a bus of a lower number",
        )
