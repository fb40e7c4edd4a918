"""Devices that join, change or leave a guest: what each of its documents gets, worked out before libvirt is asked.

A guest has up to two documents, the stored one and, while it runs, the live one.  A device that joins both gets the
same place in both; one that joins only one of them leaves the places of the other free.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from qemushim.address.assign import assign_one, home_of
from qemushim.address.needs import Kind
from qemushim.address.past import add_supports
from qemushim.address.pci import BUS_KINDS
from qemushim.address.pcilayout import PciLayout
from qemushim.address.usb import is_usb
from qemushim.address.walk import index_of
from qemushim.compare.abi import describe, place
from qemushim.context import Define
from qemushim.devices import BY_TAG
from qemushim.devices.base import Device
from qemushim.devices.pairing import find_devices, pair_devices, place_of
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.document.units import format_set
from qemushim.document.writer import keep
from qemushim.driver.plan import only_in
from qemushim.driver.site import Site
from qemushim.emulator.model import Emulator
from qemushim.errors import AddressError, ConfigError, error
from qemushim.guest import Guest
from qemushim.hotplug.join import require_pluggable
from qemushim.machine.domain import Domain
from qemushim.machine.implicit import add_implicit_controllers

#: places that are tried before it is given up to find one that both documents have free
_TRIES = 512


@dataclass
class Joining:
    """What a guest gets with a device."""

    #: XML of the devices that the running guest gets, controllers first
    live: list[str] = field(default_factory=list)
    #: the same of the stored definition
    config: list[str] = field(default_factory=list)
    #: the stored definition with them; ``None`` where it stays as it is
    definition: Guest | None = None


def plan_joining(text: str, site: Site, stored: Guest | None, live: Guest | None, *, into: str) -> Joining:
    """Find the place of a device that joins a guest.  ``into``: ``config``, ``live`` or ``both``.

    Raises ``ConfigError`` where it can not be had, ``AddressError`` where there is no place; the message of that says
    what is full, and what to add.
    """
    guest = stored or live
    assert guest is not None
    node = parse(text)
    _give_mac(node, site)
    emulator = site.emulator(guest)
    if into != "config":
        require_pluggable(node)
    if into == "config" or live is None:
        assert stored is not None
        beside = only_in(live, stored) if live is not None else []
        definition, device = _join_config(stored, node, site, emulator, beside=beside)
        return Joining(config=_texts(stored, definition, device, node), definition=definition)
    occupied = only_in(stored, live) if stored is not None else []
    for _ in range(_TRIES):
        devices = join_live(live, node, site, emulator, beside=occupied, like=stored)
        joining = Joining(live=[*map(_as_written, devices[:-1]), _with_address(node, devices[-1])])
        if into == "live" or stored is None:
            return joining
        try:
            definition, device = _join_config(stored, node, site, emulator, like=(devices, live))
        except AddressError:
            if place_of(devices[-1]) in (None, place_of(_device_of(node))):
                raise
            # free in the running guest alone: leave it out, and look on
            occupied = [*occupied, devices[-1]]
            continue
        joining.config = _texts(stored, definition, device, node)
        joining.definition = definition
        return joining
    raise AddressError(
        f"operation failed: no place is free for {describe(devices[-1])} in the running guest and its definition alike",
        hint="attach it to one of them only, or give it an address",
    )


def _give_mac(node: Node, site: Site) -> None:
    """Both documents get the same."""
    if node.tag == "interface" and node.value("mac/@address") is None:
        node.ensure("mac").set("address", site.host.new_mac("interface that is attached"))


# -- the stored definition -----------------------------------------------------------------------------------


def _join_config(
    stored: Guest,
    node: Node,
    site: Site,
    emulator: Emulator,
    *,
    beside: Sequence[Device] = (),
    like: tuple[Sequence[Device], Guest] | None = None,
) -> tuple[Guest, Device]:
    """The definition with a device more.  ``like``: the devices that the running guest gets, and its document."""
    draft = stored.copy()
    real = site.disguise(draft)
    text = keep(node)
    if like is not None:
        devices, live = like
        add_supports(draft.domain, devices[-1], _joined(live, devices).domain)
        text = _with_address(node, devices[-1])
    try:
        definition, device = draft.joined(text, emulator, site.host, beside=beside)
        if home_of(device, d := Define(definition.domain, emulator, site.host)) == "usb":
            _plug_usb(device, d)
    except AddressError as problem:
        d = Define(draft.domain, emulator, site.host)
        raise _no_room(problem, _device_of(node), d) from problem
    definition.domain.node.set("type", real)
    site.trim(definition)
    return definition, device


def _plug_usb(device: Device, d: Define) -> None:
    """A port for a USB device, which a definition that exists does not give by itself.

    Where the others have none either, all are decided when the guest starts.
    """
    others = [other for other in d.domain.every() if is_usb(other) and other is not device]
    if place_of(device) is None and all(place_of(other) is not None for other in others):
        d.domain.remove(device)
        assign_one(device, d, hotplug=True)
        d.domain.adopt(device.node)


def _device_of(node: Node) -> Device:
    return BY_TAG[node.tag](node)


def _texts(stored: Guest, definition: Guest, device: Device, node: Node) -> list[str]:
    """XML of what a definition has more than the stored one: controllers, and then the device."""
    paired = {new for new, _ in pair_devices(definition.domain.lists, stored.domain.lists)}
    added = [c for c in definition.domain.lists["controller"] if c not in paired and c is not device]
    return [*map(_as_written, added), _with_address(node, device)]


def _as_written(device: Device) -> str:
    return keep(device.node)


def _with_address(node: Node, device: Device) -> str:
    """The user's own XML with the address that the device got."""
    address = device.node.child("address")
    if address is None:
        return keep(node)
    twin = node.copy()
    twin.discard("address")
    twin.append(address.copy())
    return keep(twin)


# -- the running guest ---------------------------------------------------------------------------------------


def join_live(
    live: Guest,
    node: Node,
    site: Site,
    emulator: Emulator,
    *,
    beside: Sequence[Device] = (),
    like: Guest | None = None,
) -> list[Device]:
    """The devices that a running guest gets: the controllers that are missing, then the device itself.

    ``like``: the stored definition; a controller that it has keeps its place.  Raises ``AddressError`` where nothing is
    free, ``ConfigError`` where the device can not be had.
    """
    draft = live.copy()
    site.disguise(draft)
    domain = draft.domain
    d = Define(domain, emulator, site.host, update=True)
    known = {id(device.node) for device in domain.every()}
    device = domain.adopt(node.copy())
    device.complete(d)
    add_implicit_controllers(d)
    missing = [c for c in domain.lists["controller"] if id(c.node) not in known and c is not device]
    for new in (*missing, device):
        domain.remove(new)
    _require_known_controllers(device, missing)
    for controller in missing:
        _place_like(controller, like)
    for new in (*missing, device):
        try:
            _seat(new, d, beside)
        except AddressError as problem:
            raise _no_room(problem, new, d) from problem
        domain.adopt(new.node)
    device.check(d)
    return [*missing, device]


def _require_known_controllers(device: Device, missing: Sequence[Device]) -> None:
    """Of controllers a running guest can be given only those of SCSI disks."""
    for controller in missing:
        kind = controller.node.get("type") or ""
        if kind != "scsi":
            more = _MORE.get(kind, f"<controller type='{kind}'/>")
            raise AddressError(
                f"operation failed: the running guest has no {kind} controller with a place for {describe(device)}, "
                f"and can not be given one; add {more} to the stored definition and start the guest anew",
                element=device.node,
                hint="VIR_DOMAIN_AFFECT_CONFIG adds the controller by itself",
            )


def _seat(device: Device, d: Define, beside: Sequence[Device]) -> None:
    lists = d.domain.lists
    for other in beside:
        lists[other.tag].append(other)
    try:
        assign_one(device, d, hotplug=True)
    finally:
        for other in beside:
            lists[other.tag].remove(other)


def _place_like(controller: Device, stored: Guest | None) -> None:
    """The place that the stored definition has for a controller."""
    for other in find_devices(controller, stored.domain.lists["controller"]) if stored is not None else ():
        address = other.node.child("address")
        if address is not None and controller.node.child("address") is None:
            controller.node.append(address.copy())


def _joined(live: Guest, devices: Sequence[Device]) -> Guest:
    """The live document with the devices in it."""
    guest = live.copy()
    for device in devices:
        guest.domain.adopt(device.node.copy())
    return guest


# -- no room ---------------------------------------------------------------------------------------------------

#: kind of place → what gives more of it
_MORE = {
    "conventional": "<controller type='pci' model='pcie-to-pci-bridge'/>",
    "dimm": "more slots: <maxMemory slots='…'>",
    "drive": "<controller type='scsi' model='virtio-scsi'/>",
    "express": "<controller type='pci' model='pcie-root-port'/>",
    "pci": "<controller type='pci' model='pci-bridge'/>",
    "pseries": "<controller type='pci' model='pci-root'/>",
    "usb": "<controller type='usb' model='qemu-xhci'/> or <hub type='usb'/>",
    "virtio-serial": "<controller type='virtio-serial'/>",
}
#: words of a message → the kind of place that it speaks of
_WORDS = (
    ("No more available PCI slots", "pci"),
    ("No free USB ports", "usb"),
    ("virtio-serial port", "virtio-serial"),
    ("empty memory slot", "dimm"),
    ("SCSI", "drive"),
)


def _no_room(problem: AddressError, device: Device, d: Define) -> AddressError:
    """The same error; where everything is taken, with what is full and what to add in its message."""
    kind = next((kind for words, kind in _WORDS if words in problem.message), "")
    if not kind:
        return problem
    full = f"full: {problem.hint}"
    if kind == "pci":
        layout = PciLayout(d)
        need = layout.need(device).kind
        express = "express" if need is Kind.PCIE else "conventional"
        kind = "pseries" if d.board.is_pseries else express if layout.express else "pci"
        full = _full_buses(d.domain, need)
    text = f"{problem.message} for {describe(device)}; {full}; add {_MORE[kind]} to the stored definition"
    text += " and start the guest anew"
    if kind == "conventional" and device.tag == "interface":
        text += ", or take a model that is PCI Express (virtio, e1000e)"
    return AddressError(text, hint=problem.hint, element=problem.element)


def _full_buses(domain: Domain, need: Kind) -> str:
    """``full: bus 1-6 (pcie-root-port)``: the buses that take such devices while the guest runs."""
    models: dict[str, list[int]] = {}
    for controller in domain.lists["controller"]:
        bus = BUS_KINDS.get(controller.node.get("model") or "")
        if controller.node.get("type") == "pci" and bus is not None and bus.hotplug and need in bus.accepts:
            models.setdefault(controller.node.get("model") or "", []).append(index_of(controller))
    full = ", ".join(f"bus {format_set(indexes)} ({model})" for model, indexes in models.items())
    return f"full: {full}" if full else f"no bus takes a {need}"


# -- changing and leaving ------------------------------------------------------------------------------------


def the_device(text: str, guest: Guest) -> Device:
    """The device of a guest that an XML describes.  Raises ``ConfigError`` where it is none, or not clear."""
    node = parse(text)
    wanted = Guest(Node("domain")).domain.adopt(node)
    found = find_devices(wanted, guest.domain.lists[wanted.tag])
    if len(found) == 1:
        return found[0]
    what = describe(wanted)
    if found:
        raise error.failed(
            f"multiple devices matching {what} found", hint="say more: an alias, a MAC, a target, an address"
        )
    raise ConfigError(
        f"device not found: no {what} in guest '{guest.name}'", hint="say its alias, MAC, target or address"
    )


def without(guest: Guest, device: Device) -> Guest:
    """The document without a device of it; everything else stays in place."""
    twin = guest.copy()
    twin.domain.remove(_twin(guest, twin, device))
    return twin


def completed(text: str, guest: Guest) -> tuple[str, str]:
    """The XML of a changed device as it is to be handed on: with the address of the one that it changes.

    Also that address alone, in a form that can be compared.
    """
    node, device = parse(text), the_device(text, guest)
    address = device.node.child("address")
    if node.child("address") is None and address is not None:
        node.append(address.copy())
    return keep(node), place(device)


def replaced(guest: Guest, text: str) -> Guest:
    """The document with a device changed into what the XML says, in its place."""
    device = the_device(text, guest)
    node = parse(completed(text, guest)[0])
    for element in node.iter():
        element.origin = -1
    mac = device.node.value("mac/@address")
    if mac and node.value("mac/@address") is None:
        node.ensure("mac").set("address", mac)
    twin = guest.copy()
    old = _twin(guest, twin, device)
    siblings = twin.domain.node.ensure("devices").children
    siblings[next(i for i, child in enumerate(siblings) if child is old.node)] = node
    known = twin.domain.lists[device.tag]
    known[known.index(old)] = type(device)(node)
    return twin


def _twin(guest: Guest, copy: Guest, device: Device) -> Device:
    return copy.domain.lists[device.tag][guest.domain.lists[device.tag].index(device)]
