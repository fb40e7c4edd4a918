"""``Plan``: what would be defined, before anything is."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

from qemushim.compare.abi import Difference, breaks, describe, differences, place
from qemushim.devices.base import Device
from qemushim.devices.pairing import pair_devices, place_of
from qemushim.document.node import COMMENT, Node
from qemushim.document.parse import parse
from qemushim.document.writer import keep
from qemushim.driver.site import Site
from qemushim.errors import AddressError, ConfigError
from qemushim.guest import Guest
from qemushim.machine.domain import DEVICE_ORDER

#: what libvirt chooses of a firmware by itself, for the host that it is on (security labels likewise)
_FIRMWARE = ("firmware", "loader", "nvram", "varstore")
#: verdicts
NEW, SAME, COMPATIBLE, INCOMPATIBLE = "new", "unchanged", "compatible", "incompatible"


@dataclass(frozen=True)
class Plan:
    """What would become of a document.  Nothing has been changed."""

    #: the definition, in the user's own text: this is what libvirt is handed
    xml: str
    guest: Guest
    #: the definition so far, ``None`` for a guest that is new
    stored: Guest | None
    #: what the document left open and is new, a line each
    added: tuple[str, ...]
    #: what it left open and stays as the guest had it
    kept: tuple[str, ...]
    #: everything that the guest would see of the change
    changes: tuple[Difference, ...]

    @property
    def diff(self) -> str:
        """The difference to the stored definition as a unified diff, both in libvirt's style."""
        old = _styled(self.stored) if self.stored is not None else ""
        lines = difflib.unified_diff(
            old.splitlines(), _styled(self.guest).splitlines(), "stored", "planned", lineterm=""
        )
        return "".join(f"{line}\n" for line in lines)

    @property
    def breaks(self) -> tuple[Difference, ...]:
        """The changes that make another machine of the guest (an operating system may ask to be activated anew)."""
        return tuple(breaks(list(self.changes)))

    def require_same_machine(self) -> None:
        """Raise ``ConfigError`` where the guest would see other hardware; it names every change."""
        if self.breaks:
            named = "; ".join(map(str, self.breaks))
            raise ConfigError(
                f"unsupported configuration: guest '{self.guest.name}' would be another machine: {named}",
                hint="define it without strict, or attach and detach devices",
            )

    @property
    def verdict(self) -> str:
        """``new``, ``unchanged``, ``compatible`` (the guest sees the same hardware) or ``incompatible``."""
        if self.stored is None:
            return NEW
        if self.breaks:
            return INCOMPATIBLE
        return COMPATIBLE if self.diff else SAME

    def __str__(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.guest.name}: {self.verdict}"
        for title, entries in (("added", self.added), ("kept", self.kept)):
            yield from (f"  {title}: {entry}" for entry in entries)
        yield from (f"  the guest sees: {change}" for change in self.changes)


def parsed(text: str) -> Guest:
    """A document that libvirt gave: it may say what is newer than what is known here, so nothing is checked."""
    guest = Guest(parse(text))
    guest._text = text
    return guest


def make_plan(guest: Guest, site: Site, stored: Guest | None = None, live: Guest | None = None) -> Plan:
    """Define a document for a connection.  ``stored``: the definition so far; ``live``: what runs.

    Raises ``ConfigError``, ``AddressError``, ``EmulatorError``.
    """
    definition = define(guest, site, stored, live)
    text = definition.to_xml("keep")
    before = stored or live
    changes = differences(before.domain, definition.domain) if before is not None else []
    told = list(_told(guest, definition, before))
    return Plan(
        xml=text,
        guest=definition,
        stored=before,
        added=tuple(line for kept, line in told if not kept),
        kept=tuple(line for kept, line in told if kept),
        changes=tuple(changes),
    )


# -- the definition ------------------------------------------------------------------------------------------


def define(guest: Guest, site: Site, stored: Guest | None = None, live: Guest | None = None) -> Guest:
    """The definition of a document, by our rules, as the connection's libvirt can take it."""
    draft = guest.copy()
    past = [known for known in (stored, live) if known is not None]
    for known in past[:1]:
        _keep_firmware(draft.domain.node, known.domain.node)
    hidden = _Hidden(draft, site)
    emulator = site.emulator(guest, past[0] if past else None)
    beside = _live_alone(draft, stored, live)
    try:
        definition = draft.define(emulator, site.host, past=past, beside=beside)
    except AddressError:
        if not beside:
            raise
        # what runs may be in the way of what the document says itself
        definition = draft.define(emulator, site.host, past=past)
    hidden.restore(definition)
    site.trim(definition)
    return definition


class _Hidden:
    """What of a document is not ours to define: taken out before, and put back behind."""

    def __init__(self, guest: Guest, site: Site) -> None:
        root = guest.domain.node
        self.type = site.disguise(guest)
        os = root.child("os")
        self.firmware = os.attrib.pop("firmware", None) if os is not None else None
        self.nodes = [node for node in os.children if node.tag in _FIRMWARE] if os is not None else []
        for node in self.nodes:
            assert os is not None
            os.remove(node)
        self.labels = root.all("seclabel")
        for node in self.labels:
            root.remove(node)

    def restore(self, guest: Guest) -> None:
        root = guest.domain.node
        if self.type:
            root.set("type", self.type)
        os = root.ensure("os")
        if self.firmware is not None:
            os.set("firmware", self.firmware)
        os.children += self.nodes
        root.children += self.labels


def _keep_firmware(root: Node, old: Node) -> None:
    """The images that libvirt has chosen before, where the document lets it choose: variables are lost with them."""
    new_os, old_os = root.child("os"), old.child("os")
    if new_os is None or old_os is None:
        return
    same = new_os.get("firmware") == old_os.get("firmware")
    if not same or new_os.value("loader") != (old_os.value("loader") if new_os.child("loader") else None):
        return
    if new_os.get("firmware") is None and new_os.child("loader") is None:
        return
    for tag in ("loader", "nvram", "firmware"):
        given, known = new_os.child(tag), old_os.child(tag)
        if given is None and known is not None:
            copy = known.copy()
            for node in copy.iter():
                node.origin = -1
            new_os.append(copy)
    given, known = new_os.child("nvram"), old_os.child("nvram")
    if given is not None and known is not None and not (given.text.strip() or given.children):
        given.text = known.text


def _live_alone(guest: Guest, stored: Guest | None, live: Guest | None) -> list[Device]:
    """The running guest's devices that neither document has, where what they sit on is stored too."""
    if live is None or stored is None:
        return []
    known = {old for _, old in pair_devices(guest.domain.lists, live.domain.lists)}
    return [device for device in only_in(live, stored) if device not in known]


def only_in(one: Guest, other: Guest) -> list[Device]:
    """The devices of one document that are not in another, and sit where the other one has nothing but a place."""
    known = {device for device, _ in pair_devices(one.domain.lists, other.domain.lists)}
    taken = {place_of(device) for device in other.domain.every()}
    controllers = {_controller(device) for device in other.domain.lists["controller"]}
    found = []
    for tag in DEVICE_ORDER:
        for device in one.domain.lists[tag] if tag != "hub" else ():
            if (
                device in known
                or place_of(device) is None
                or place_of(device) in taken
                or device.node.get("type") == "pci"
            ):
                continue
            if _seat(device) in controllers or device.address_type in ("ccw", "dimm", "spapr-vio"):
                found.append(device)
    return found


def _controller(device: Device) -> tuple[str, str]:
    return device.node.get("type") or "", str(int(device.node.get("index") or "0"))


def _seat(device: Device) -> tuple[str, str]:
    """Type and index of the controller that the address of a device speaks of."""
    address = device.node.child("address")
    kind = device.address_type
    if address is None:
        return "", ""
    name = "bus" if kind in ("pci", "usb") else "controller"
    bus = device.node.value("target/@bus") or "scsi" if kind == "drive" else kind
    if kind == "usb" and "." in (address.get("port") or ""):
        return "", ""  # behind a hub
    return bus, str(int(address.get(name) or "0", 0))


# -- what is new ---------------------------------------------------------------------------------------------


def _told(guest: Guest, definition: Guest, before: Guest | None) -> Iterator[tuple[bool, str]]:
    """What the document left open, a line each, and whether the guest had it already."""
    given = {node.origin: node for node in guest.domain.node.iter() if node.origin >= 0}
    old = _Had(before, definition)
    for child in definition.domain.node.children:
        if child.origin < 0 and child.tag not in ("devices", COMMENT):
            text = " ".join(child.text.split())
            yield old.has(child), f"<{child.tag}> {text}".rstrip()
    machine = definition.domain.machine_type
    if machine != guest.domain.machine_type:
        yield old.says("os/type/@machine") == machine, f"machine type {machine}"
    for device in definition.domain.every():
        where = place_of(device)
        if device.node.origin < 0:
            at = f" at {place(device)}" if place(device) else ""
            kept = (where, device.tag) in old.places if where is not None else device in old.paired
            yield kept, f"{describe(device)}{at}"
            continue
        user = given[device.node.origin]
        mac = device.node.value("mac/@address")
        if mac and user.value("mac/@address") is None:
            yield mac in old.macs, f"MAC address {mac}"
        if where is not None and where != place_of(type(device)(user)):
            yield (where, device.tag) in old.places, f"{describe(device)}: {place(device)}"


class _Had:
    """What a guest had so far."""

    def __init__(self, guest: Guest | None, definition: Guest) -> None:
        self.guest = guest
        pairs = pair_devices(definition.domain.lists, guest.domain.lists) if guest is not None else ()
        self.paired = {device for device, _ in pairs}
        devices = list(guest.domain.every()) if guest is not None else []
        self.places = {(place_of(device), device.tag) for device in devices if place_of(device) is not None}
        self.macs = {device.node.value("mac/@address") for device in devices}

    def has(self, node: Node) -> bool:
        """The same element, whatever its layout."""
        every = self.guest.domain.node.all(node.tag) if self.guest is not None else ()
        return any(_shape(other) == _shape(node) for other in every)

    def says(self, path: str) -> str | None:
        return self.guest.domain.node.value(path) if self.guest is not None else None


def _shape(node: Node) -> Hashable:
    children = tuple(_shape(child) for child in node.children if child.tag != COMMENT)
    return node.tag, frozenset(node.attrib.items()), node.text.strip(), children


def _styled(guest: Guest) -> str:
    """In libvirt's style; as it is where it says what is not known here."""
    try:
        return guest.domain.to_xml()
    except (ValueError, ConfigError):
        return keep(guest.domain.node)


def whole(guest: Guest) -> str:
    """A document of libvirt's own with what was changed in it, everything else as it is."""
    return keep(guest.domain.node)


__all__ = ["Plan", "define", "make_plan", "only_in", "parsed", "whole"]
