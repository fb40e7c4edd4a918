"""What a Linux guest calls its network cards and disks.

systemd names network cards by what firmware says of them (``eno``), by hotplug slot (``ens``), else by the path to them
(``enp``); udev links disks below /dev/disk.  The rules are those of systemd's naming schemes v247 to v256:
https://www.freedesktop.org/software/systemd/man/latest/systemd.net-naming-scheme.html
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from qemushim.address.drive import drive_address
from qemushim.address.walk import index_of, number, pci_address
from qemushim.devices.address import Address
from qemushim.devices.base import Device
from qemushim.devices.pairing import pair_devices
from qemushim.document.node import Node
from qemushim.inspect.pcibus import GuestPci, guest_pci
from qemushim.inspect.survey import Survey, address_text, label

#: the longest name of a network interface
_LONGEST = 15
_BY_MAC = "its MAC address"
_UNNAMED = "no rule of systemd names it: it keeps the kernel's name (eth0 …)"
#: udev takes no serial number of more characters from a virtio disk
_SERIAL = 20


@dataclass(frozen=True, slots=True)
class Named:
    """One device and its names in the guest."""

    device: str
    alias: str
    #: ``interface`` or ``disk``
    kind: str
    #: the name of the card, the link of the disk; ``""`` where none can be told
    name: str
    #: other names that lead to it, surest first
    others: tuple[str, ...]
    #: what the name is made of, in a sentence
    rule: str
    #: where the guest sees it
    place: str


@dataclass(frozen=True, slots=True)
class Renamed:
    """A device before and after a change; ``None`` on the side where it is not."""

    old: Named | None
    new: Named | None

    @property
    def verdict(self) -> str:
        """``same``, ``renamed``, ``added``, ``gone``."""
        if self.old is None or self.new is None:
            return "added" if self.old is None else "gone"
        return "same" if self.old.name == self.new.name else "renamed"


def names(s: Survey) -> list[Named]:
    """Every network card and disk of a guest with the names that Linux gives it."""
    return list(_named(s).values())


def compare_names(old: Survey, new: Survey) -> list[Renamed]:
    """What a change does to the names: devices that are the same in both, then the others."""
    before, after = _named(old), _named(new)
    pairs = pair_devices(_lists(new), _lists(old))
    found = [Renamed(before[theirs], after[ours]) for ours, theirs in pairs]
    paired_new, paired_old = {id(a) for a, _ in pairs}, {id(b) for _, b in pairs}
    found += [Renamed(named, None) for device, named in before.items() if id(device) not in paired_old]
    found += [Renamed(None, named) for device, named in after.items() if id(device) not in paired_new]
    return found


def _lists(s: Survey) -> Mapping[str, list[Device]]:
    return {tag: s.domain.lists[tag] for tag in ("interface", "disk")}


def _named(s: Survey) -> dict[Device, Named]:
    pci = guest_pci(s)
    found: dict[Device, Named] = {}
    for device in s.domain.lists["interface"]:
        found[device] = _interface(device, pci, s)
    clashes = Counter(named.name for named in found.values() if named.name)
    for device, named in found.items():
        if clashes[named.name] > 1:
            rule = (
                f"{named.rule}; {clashes[named.name]} cards ask for this name, and the later ones get another"
            )
            found[device] = replace(named, rule=rule)
    for device in s.domain.lists["disk"]:
        found[device] = _disk(device, pci, s)
    return found


# -- network cards -----------------------------------------------------------------------------------------


def _interface(device: Device, pci: GuestPci, s: Survey) -> Named:
    """The name by NamePolicy=onboard slot path; the names that lose are alternative names of the card."""
    mac = (device.node.value("mac/@address") or "").replace(":", "")
    by_mac = [(f"enx{mac}", _BY_MAC)] if mac else []
    if device.address_type == "usb":
        # systemd's 73-usb-net-by-mac.link: a USB card is carried about
        candidates = by_mac + _usb_card(device, pci, s)
    else:
        candidates = _candidates(device, pci, s)
        candidates += by_mac if candidates else []
    candidates = [(name, rule) for name, rule in candidates if len(name) <= _LONGEST]
    name, rule = candidates[0] if candidates else ("", _UNNAMED)
    others = tuple(other for other, _ in candidates[1:])
    if not candidates and mac:
        others = (f"enx{mac}",)
    return Named(label(device.node), device.alias, "interface", name, others, rule, _place(device, pci))


def _candidates(device: Device, pci: GuestPci, s: Survey) -> list[tuple[str, str]]:
    """Names that systemd offers, the one that wins first, and what each is made of."""
    place = pci.place(device)
    if place is None:
        return _ccw(device)
    found = []
    index = pci.acpi_index(device)
    if index is not None:
        found.append((f"eno{index}", f"<acpi index='{index}'/>, wherever the card sits"))
    function = f"f{place.function}" if place.function or pci.is_shared(device) else ""
    slot = pci.slot_number(device)
    domain = f"P{place.domain}" if place.domain else ""
    if slot is not None:
        found.append((f"en{domain}s{slot}{function}", f"hotplug slot {slot} of its bus"))
    path = f"en{domain}p{place.bus}s{place.slot}{function}"
    which = f", function {place.function}" if function else ""
    found.append((path, f"PCI bus {place.bus}, slot {place.slot}{which}"))
    return found


def _usb_card(device: Device, pci: GuestPci, s: Survey) -> list[tuple[str, str]]:
    """The names of the USB controller, and the port that the card is in."""
    controller, port = _controller_of(device, "usb", s), device.node.value("address/@port")
    if controller is None or not port:
        return []
    ports = "".join(f"u{number_}" for number_ in port.split("."))
    return [
        (f"{name}{ports}", f"{rule}; USB port {port}")
        for name, rule in _candidates(controller, pci, s)
        if not name.startswith("eno")
    ]


def _ccw(device: Device) -> list[tuple[str, str]]:
    node = device.node.child("address")
    if node is None or node.get("type") != "ccw":
        return []
    bus_id = _bus_id(node)
    return [(f"enc{bus_id.lstrip('.0') or '0'}", f"the CCW device number {bus_id}")]


def _bus_id(node: Node) -> str:
    """``0.0.0001``: a CCW address as Linux writes it."""
    address = Address(node)
    return f"0.{address.ssid or 0:x}.{address.devno or 0:04x}"


def _place(device: Device, pci: GuestPci) -> str:
    place = pci.place(device)
    return f"pci {place}" if place is not None else address_text(device)


# -- disks -------------------------------------------------------------------------------------------------


def _disk(device: Device, pci: GuestPci, s: Survey) -> Named:
    bus = device.node.value("target/@bus") or ""
    way = _DISKS.get(bus, _no_path)(device, pci, s)
    path, rule = way if way is not None else ("", "no rule of udev links it by path")
    others = tuple(f"/dev/disk/by-id/{name}" for name in _by_id(device, bus, s))
    name = f"/dev/disk/by-path/{path}" if path else ""
    return Named(label(device.node), device.alias, "disk", name, others, rule, _place(device, pci))


Way = tuple[str, str] | None


def _no_path(device: Device, pci: GuestPci, s: Survey) -> Way:
    return None


def _root(device: Device, pci: GuestPci) -> str:
    """The device on which a path begins: ``pci-0000:01:00.0``, ``ccw-0.0.0001``."""
    place = pci.place(device)
    if place is not None:
        return f"pci-{place}"
    node = device.node.child("address")
    if node is not None and node.get("type") == "ccw":
        return f"ccw-{_bus_id(node)}"
    return ""


def _controller_of(device: Device, kind: str, s: Survey) -> Device | None:
    """The controller of the bus that a disk sits on."""
    place = drive_address(device)
    index = place.controller if place is not None else 0
    if kind == "usb":
        index = number(device.node.ensure("address"), "bus")
    found = [c for c in s.domain.lists["controller"] if c.node.get("type") == kind and index_of(c) == index]
    return found[0] if found else None


def _virtio_path(device: Device, pci: GuestPci, s: Survey) -> Way:
    root = _root(device, pci)
    return (root, "the address of the disk") if root else None


#: SCSI controllers of which udev makes a plain path: those with target and unit, and on which channel
_WIDE_SCSI = {
    "lsisas1078": 2,
    "virtio-non-transitional": 0,
    "virtio-scsi": 0,
    "virtio-transitional": 0,
    "vmpvscsi": 0,
}
#: parallel SCSI has the unit as target
_NARROW_SCSI = ("lsilogic", "buslogic", "am53c974", "dc390")


def _scsi_path(device: Device, pci: GuestPci, s: Survey) -> Way:
    controller, place = _controller_of(device, "scsi", s), drive_address(device)
    root = _root(controller, pci) if controller is not None else ""
    if controller is None or place is None or not root:
        return None
    model = controller.node.get("model") or ""
    rule = "the controller's address, and target and unit on its bus"
    # from 256 on a LUN has the flat format of the SCSI Architecture Model
    unit = place.unit if place.unit < 256 else place.unit | 0x4000
    if model in _WIDE_SCSI:
        return f"{root}-scsi-0:{_WIDE_SCSI[model]}:{place.target}:{unit}", rule
    if model in _NARROW_SCSI:
        return f"{root}-scsi-0:0:{place.unit}:0", rule
    return None


def _ata_path(kind: str) -> Callable[[Device, GuestPci, Survey], Way]:
    def path(device: Device, pci: GuestPci, s: Survey) -> Way:
        controller, place = _controller_of(device, kind, s), drive_address(device)
        root = _root(controller, pci) if controller is not None else ""
        if kind == "ide" and not root and s.d.board.is_i440fx:
            root = "pci-0000:00:01.1"
        if place is None or not root:
            return None
        port, drive = (place.unit, 0) if kind == "sata" else (place.bus, place.unit)
        return f"{root}-ata-{port + 1}.{drive}", f"the controller's address, port {port + 1}"

    return path


def _usb_path(device: Device, pci: GuestPci, s: Survey) -> Way:
    controller = _controller_of(device, "usb", s)
    port = device.node.value("address/@port")
    root = _root(controller, pci) if controller is not None else ""
    if not port or not root:
        return None
    return f"{root}-usb-0:{port}:1.0-scsi-0:0:0:0", f"the controller's address, USB port {port}"


_DISKS: dict[str, Callable[[Device, GuestPci, Survey], Way]] = {
    "ide": _ata_path("ide"),
    "sata": _ata_path("sata"),
    "scsi": _scsi_path,
    "usb": _usb_path,
    "virtio": _virtio_path,
}


def _by_id(device: Device, bus: str, s: Survey) -> list[str]:
    """Links by what the disk says of itself: they stay whatever moves."""
    wwn = (device.node.value("wwn") or "").lower().removeprefix("0x")
    by_serial = _SERIALS.get(bus, _no_serial)(device, s)
    if not wwn:
        return [by_serial] if by_serial else []
    # of SCSI disks udev takes the better of the two names
    return (
        [f"wwn-0x{wwn}", f"scsi-3{wwn}"] if bus == "scsi" else [f"wwn-0x{wwn}", *filter(None, (by_serial,))]
    )


def _serial(device: Device) -> str:
    """The serial number as the guest is given it: a space has a backslash before it."""
    return (device.node.value("serial") or "").replace(" ", "\\ ")


def _no_serial(device: Device, s: Survey) -> str:
    return ""


def _virtio_serial(device: Device, s: Survey) -> str:
    serial = _serial(device)[:_SERIAL]
    return f"virtio-{_linkable(serial)}" if serial else ""


def _ata_serial(device: Device, s: Survey) -> str:
    place = drive_address(device)
    serial = _serial(device)[:_SERIAL]
    if not serial and place is not None and not place.controller:
        # QEMU numbers the drives that its board has room for
        bus = device.node.value("target/@bus")
        if bus == "ide" and s.d.board.is_i440fx:
            serial = f"QM{place.bus * 2 + place.unit + 1:05d}"
        elif bus == "sata" and s.d.board.is_q35:
            serial = f"QM{place.unit * 2 + 1:05d}"
    kind = "DVD-ROM" if device.node.get("device") == "cdrom" else "HARDDISK"
    return f"ata-QEMU_{kind}_{_linkable(serial)}" if serial else ""


def _scsi_serial(device: Device, s: Survey) -> str:
    """Vendor, product and what libvirt calls the disk, as scsi_id puts them together."""
    kind = "CD-ROM" if device.node.get("device") == "cdrom" else "HARDDISK"
    vendor = (device.node.value("vendor") or "QEMU").ljust(8)
    product = (device.node.value("product") or f"QEMU {kind}").ljust(16)
    name = device.node.value("serial") or f"drive-{device.alias}"
    return f"scsi-0{_linkable('_'.join(f'{vendor}{product}{name}'.split()))}"


def _usb_serial(device: Device, s: Survey) -> str:
    serial = _serial(device)
    return f"usb-QEMU_QEMU_HARDDISK_{_linkable(serial)}-0:0" if serial else ""


_SERIALS: dict[str, Callable[[Device, Survey], str]] = {
    "ide": _ata_serial,
    "sata": _ata_serial,
    "scsi": _scsi_serial,
    "usb": _usb_serial,
    "virtio": _virtio_serial,
}


def _linkable(text: str) -> str:
    """As udev writes it into a link: what may not be there becomes ``_``."""
    return re.sub(r"[^\w#+\-.:=@/]", "_", text)


# -- data --------------------------------------------------------------------------------------------------


def _data(named: Named | None) -> dict[str, Any] | None:
    if named is None:
        return None
    return {
        "device": named.device,
        "alias": named.alias,
        "kind": named.kind,
        "name": named.name,
        "others": list(named.others),
        "rule": named.rule,
        "place": named.place,
    }


def names_data(found: list[Named]) -> dict[str, Any]:
    """Ready for JSON (docs/names.md has the schema)."""
    return {"schema": "qemushim.names/1", "names": [_data(named) for named in found]}


def change_data(found: list[Renamed]) -> dict[str, Any]:
    """The same for a change."""
    changes = [{"verdict": r.verdict, "old": _data(r.old), "new": _data(r.new)} for r in found]
    return {"schema": "qemushim.names-change/1", "changes": changes}


__all__ = ["Named", "Renamed", "change_data", "compare_names", "names", "names_data", "pci_address"]
