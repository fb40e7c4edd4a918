"""What a guest was so far: a document that leaves things out gets what the guest has, not what a new one would get.

libvirt itself takes each document as it is: one without addresses gets new ones.  Here a device that is recognised
(``devices.pairing``) keeps its address and MAC, the guest its UUID and version of the machine type.  What the document
does say is law.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from qemushim.address.assign import home_of
from qemushim.address.needs import is_virtio
from qemushim.devices.base import Device
from qemushim.devices.disk import default_bus
from qemushim.devices.pairing import pair_devices, place_of
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.machine.domain import Domain

#: type of an address → type of the controller that it speaks of; of a drive it is the bus of the disk
_CONTROLLERS = {"ccid": "ccid", "pci": "pci", "usb": "usb", "virtio-serial": "virtio-serial"}
#: where a virtio device may sit; which of these a new one gets is a matter of the time
_VIRTIO = frozenset({"ccw", "pci", "virtio-mmio"})
#: addresses that say no place, so that many devices have the same
_SHARED = frozenset({"unassigned", "virtio-mmio"})
#: addresses that are decided with the defaults of the device, so kept before them
_EARLY = frozenset({"ccid", "drive"})


class Past:
    """The documents of a guest so far, the one to be relied on first."""

    def __init__(self, documents: tuple[Domain, ...]) -> None:
        self.documents = documents
        #: for each of them: device of the new document → device of that one
        self.pairs: list[dict[Device, Device]] = []

    def __iter__(self) -> Iterator[tuple[Domain, dict[Device, Device]]]:
        return zip(self.documents, self.pairs, strict=True)


# -- the guest -----------------------------------------------------------------------------------------------


def keep_identity(d: Define) -> None:
    """UUID, generation ID, architecture, and the version of the machine type, where the document leaves them open."""
    if d.past is None:
        return
    old = d.past.documents[0]
    kind = d.domain.node.find("os/type")
    if kind is None:
        return
    told = [table.uuid for table in d.domain.sysinfo if table.uuid]
    if d.domain.uuid is None and not told:
        d.domain.uuid = old.uuid
    genid = d.domain.node.child("genid")
    if genid is not None and not genid.text.strip():
        genid.text = old.genid or ""
    if not kind.get("arch") and old.arch:
        kind.set("arch", old.arch)
    if kind.get("arch") == old.arch and _is_open(kind.get("machine"), old.machine_type, d):
        kind.set("machine", old.machine_type)


def _is_open(machine: str | None, old: str, d: Define) -> bool:
    """Whether the new document lets the guest keep its machine type: it names none, or only the family."""
    if not old or (d.emulator.accelerators and d.emulator.machine(old, d.domain.virt) is None):
        return False
    if not machine:
        return True
    canonical = d.emulator.canonical_machine(machine, d.domain.virt)
    return canonical != machine and _family(canonical) == _family(old)


def _family(machine: str) -> str:
    """``pc-i440fx`` of ``pc-i440fx-7.2``; a name without a version is a family itself."""
    family, _, version = machine.rpartition("-")
    return family if family and version[:1].isdigit() else machine


# -- before the defaults of devices --------------------------------------------------------------------------


def keep_devices(d: Define) -> None:
    """MAC addresses, controllers, and the addresses that are decided with the defaults of a device."""
    past = d.past
    if past is None:
        return
    past.pairs = [dict(pair_devices(d.domain.lists, old.lists)) for old in past.documents]
    for _, pairs in past:
        for new, old in pairs.items():
            _keep_mac(new, old)
    if not all(_same_board(document, d) for document in past.documents):
        # other buses: no address means there what it meant here
        d.past = None
        return
    keeper = _Keeper(d.domain, _recognised(past))
    keeper.adopt(_unsaid_controllers(d.domain, past.documents[0]))
    for document, pairs in past:
        for new, old in pairs.items():
            if old.address_type in _EARLY and _same_bus(new, old):
                keeper.keep(new, old, document)
            elif old.address_type != "pci" and place_of(new) is None:
                keeper.support(old, document)


def _unsaid_controllers(new: Domain, old: Domain) -> list[Device]:
    """The controllers that a document says nothing of: all of them, or those of PCI where it names the root at most."""
    given, known = new.lists["controller"], old.lists["controller"]
    if not given:
        return known
    if any(c.node.get("type") == "pci" and _number(c.node, "index") for c in given):
        return []
    return [c for c in known if c.node.get("type") == "pci" and _number(c.node, "index")]


def _same_board(old: Domain, d: Define) -> bool:
    machine = d.emulator.canonical_machine(old.machine_type, d.domain.virt)
    return old.arch == d.domain.arch and _family(machine) == _family(d.domain.machine_type)


def _keep_mac(new: Device, old: Device) -> None:
    mac = old.node.value("mac/@address")
    if new.tag == "interface" and mac and new.node.value("mac/@address") is None:
        new.node.ensure("mac").set("address", mac)


def _same_bus(new: Device, old: Device) -> bool:
    """Whether a drive or smartcard hangs on the same kind of bus; where it does not say, on its default one."""
    if new.tag != "disk":
        return new.node.get("type") == old.node.get("type")
    bus = new.node.value("target/@bus")
    bus = bus or default_bus(new.node.get("device") or "disk", new.node.value("target/@dev") or "")
    return bus == old.node.value("target/@bus")


# -- behind the defaults, before addresses are given ---------------------------------------------------------


def keep_addresses(d: Define) -> None:
    """Every address that the document leaves open and the guest has, with the controllers that it takes."""
    past = d.past
    if past is None:
        return
    for document, pairs in past:
        known = set(pairs.values())
        # what the guest has without being asked for was not there to be recognised before
        rest = {tag: [x for x in devices if x not in pairs] for tag, devices in d.domain.lists.items()}
        others = {tag: [x for x in devices if x not in known] for tag, devices in document.lists.items()}
        pairs.update(pair_devices(rest, others))
    keeper = _Keeper(d.domain, _recognised(past))
    for document, pairs in past:
        for new, old in pairs.items():
            if _may_sit(new, old, d):
                keeper.keep(new, old, document)


def _may_sit(new: Device, old: Device, d: Define) -> bool:
    """Whether a device that has no address may have the kind of address that it had."""
    kind, given = old.address_type, new.address_type
    if not kind or place_of(new) is not None or (given and given != kind):
        return False
    if kind == "isa":
        return new.node.get("model") == old.node.get("model")
    home = given or home_of(new, d)
    return home == kind or ({home, kind} <= _VIRTIO and is_virtio(new, d) and is_virtio(old, d))


def _recognised(past: Past) -> set[Device]:
    return {old for _, pairs in past for old in pairs.values()}


class _Keeper:
    """Writes old addresses into a new document, with what they stand on."""

    def __init__(self, domain: Domain, known: Collection[Device] = ()) -> None:
        """``known``: old devices that the domain has already, wherever they are going to sit."""
        self.domain = domain
        self.known = known
        self.taken = {place_of(device) for device in self.domain.every()}
        self.controllers = {_controller_key(device) for device in self.domain.lists["controller"]}

    def keep(self, new: Device, old: Device, document: Domain) -> None:
        """Write the address of an old device, unless the document has given the place to another."""
        address, place = old.node.child("address"), place_of(old)
        if address is None or place is None or place_of(new) is not None:
            return
        if place in self.taken and place[0] not in _SHARED:
            return
        new.node.discard("address")
        new.node.append(_fresh(address))
        self.taken.add(place)
        self.support(old, document)

    def support(self, device: Device, document: Domain) -> None:
        """The controllers and hubs that the address of an old device speaks of, where there are none."""
        for support in _supports(device, document):
            if support in self.known:
                continue
            if support.tag == "hub":
                missing = place_of(support) not in self.taken
            else:
                missing = _controller_key(support) not in self.controllers
            if missing:
                self.adopt([support])
                self.support(support, document)

    def adopt(self, devices: Iterable[Device]) -> None:
        """Copies of old devices; without their address where another device of the document has it."""
        for device in devices:
            node, place = _fresh(device.node), place_of(device)
            if place is not None and place in self.taken:
                node.discard("address")
            self.taken.add(place)
            if device.tag == "controller":
                self.controllers.add(_controller_key(device))
            self.domain.adopt(node)


def add_supports(domain: Domain, device: Device, document: Domain) -> None:
    """What the address of a device of ``document`` speaks of, where a domain lacks it."""
    _Keeper(domain).support(device, document)


def _supports(device: Device, document: Domain) -> Iterator[Device]:
    """What the address of a device speaks of."""
    address = device.node.child("address")
    if address is None:
        return
    kind = address.get("type") or ""
    wanted = _CONTROLLERS.get(kind) or (device.node.value("target/@bus") or "scsi" if kind == "drive" else "")
    index = _number(
        address, "bus" if kind in ("pci", "usb") else "controller", base=0 if kind == "pci" else 10
    )
    for controller in document.lists["controller"]:
        own = _number(controller.node, "index")
        # buses are numbered without gaps: with one come all below it
        if controller.node.get("type") == wanted and (own == index or (wanted == "pci" and own < index)):
            yield controller
    above = (address.get("port") or "").rpartition(".")[0] if kind == "usb" else ""
    for hub in document.lists["hub"] if above else ():
        place = hub.node.child("address")
        if place is not None and (place.get("bus"), place.get("port")) == (address.get("bus"), above):
            yield hub


def _controller_key(controller: Device) -> tuple[str | None, int, str | None]:
    node = controller.node
    return node.get("type"), _number(node, "index"), node.value("master/@startport")


def _number(node: Node, name: str, base: int = 10) -> int:
    try:
        return parse_unsigned(node.get(name) or "0", base)
    except ValueError:
        return -1


def _fresh(node: Node) -> Node:
    """A copy that is no part of the user's text, nor of what runs."""
    copy = node.copy()
    for element in copy.iter():
        element.origin = -1
        element.line = 0
    copy.discard("alias")
    return copy


__all__ = ["Past", "add_supports", "keep_addresses", "keep_devices", "keep_identity"]
