"""What the guest would see of a change: the hardware of two definitions compared, in the order in which libvirt does.

libvirt stops at the first difference, and compares device by device in the order of the lists.  Here devices are
recognised first, and every difference is told, worst to least within a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qemushim.compare.checks import GUEST, NOMINAL, PLAIN, QUOTED, VOLATILE, Check, Difference
from qemushim.compare.devices import ADDRESSES, KINDS, NO_DRIVER, RULES, VIRTIO, Kind
from qemushim.compare.features import Compare, compare_features
from qemushim.compare.guestwide import (
    BACKING,
    SYSTEM,
    compare_cpu,
    compare_identity,
    compare_memory,
    compare_numa,
    compare_sysinfo,
    compare_timers,
    compare_vcpus,
    compared,
)
from qemushim.devices.address import Address
from qemushim.devices.base import Device
from qemushim.devices.pairing import pair_devices
from qemushim.document.node import Node
from qemushim.machine.domain import Domain


def differences(old: Domain, new: Domain) -> list[Difference]:
    """Everything that differs between two complete definitions, as far as the guest or libvirt can see it."""
    return [found for compare in _ORDER for found in compare(old, new)]


def breaks(found: list[Difference]) -> list[Difference]:
    """Those that keep the guest from being the same machine."""
    return [difference for difference in found if difference.severity == GUEST]


def refusals(found: list[Difference]) -> list[str]:
    """Why libvirt would not migrate the guest from one to the other; it would tell the first."""
    return list(dict.fromkeys(d.message for d in found if d.message and d.path != "currentMemory"))


# -- devices -------------------------------------------------------------------------------------------------


def _compare_devices(old: Domain, new: Domain) -> Iterator[Difference]:
    pairs = dict(pair_devices(new.lists, old.lists))
    for kind in KINDS:
        yield from _compare_kind(kind, old.lists[kind.tag], new.lists[kind.tag], pairs)


def _compare_kind(
    kind: Kind, old: list[Device], new: list[Device], pairs: dict[Device, Device]
) -> Iterator[Difference]:
    counted = kind.counted.format(what=kind.name, old=len(old), new=len(new))
    if len(old) == len(new):
        # as many as before: those that are not recognised are compared in turn, as libvirt does with all
        kept = {pairs[device] for device in new if device in pairs}
        others = iter([device for device in old if device not in kept])
        pairs = {device: pairs[device] if device in pairs else next(others) for device in new}
    kept = {pairs[device] for device in new if device in pairs}
    for number, before in enumerate(old):
        if before not in kept:
            yield Difference(_path(before, number), describe(before), "", counted)
    for number, after in enumerate(new):
        known = pairs.get(after)
        if known is None:
            yield Difference(_path(after, number), "", describe(after), counted)
        else:
            yield from _compare_device(kind, known, after, f"{_path(after, number)}/")


def _compare_device(kind: Kind, old: Device, new: Device, path: str) -> Iterator[Difference]:
    for check in kind.checks:
        yield from check.differs(old.node, new.node, path)
    if kind.virtio:
        yield from _compare_virtio(old.node, new.node, path)
    if kind.tag == "redirfilter":
        yield from _compare_rules(old.node, new.node, path)
    if kind.info:
        yield from _compare_info(old, new, path)


def _compare_virtio(old: Node, new: Node, path: str) -> Iterator[Difference]:
    """``<driver>``; libvirt minds whether there is one, whatever is in it."""
    found = [difference for check in VIRTIO for difference in check.differs(old, new, path)]
    missing = [node.child("driver") is None for node in (old, new)]
    if missing[0] == missing[1]:
        yield from found
        return
    real = [difference._replace(message=NO_DRIVER) for difference in found if difference.severity == GUEST]
    shown = ("" if missing[0] else "present", "" if missing[1] else "present")
    yield from real or [Difference(f"{path}driver", *shown, NO_DRIVER, NOMINAL)]


def _compare_rules(old: Node, new: Node, path: str) -> Iterator[Difference]:
    before, after = old.all("usbdev"), new.all("usbdev")
    if len(before) != len(after):
        text = PLAIN.format(what="USB redirection filter rule count", old=len(before), new=len(after))
        yield Difference(f"{path}usbdev", f"{len(before)} rules", f"{len(after)} rules", text)
        return
    for number, pair in enumerate(zip(before, after, strict=True)):
        for check in RULES:
            yield from check.differs(*pair, f"{path}usbdev[{number}]/")


def _compare_info(old: Device, new: Device, path: str) -> Iterator[Difference]:
    """The address, and what all devices have beside it."""
    before, after = old.address_type, new.address_type
    if before != after:
        text = PLAIN.format(what="device address type", old=before or "none", new=after or "none")
        yield Difference(f"{path}address/@type", place(old), place(new), text)
    elif place(old) != place(new):
        one, other = _libvirt_place(old), _libvirt_place(new)
        text = PLAIN.format(what=ADDRESSES[after], old=one, new=other) if one != other and after else ""
        yield Difference(f"{path}address", place(old), place(new), text)
    if before == after == "dimm":
        yield from Check("address/@base", "device dimm base address", QUOTED, value=_dimm_base).differs(
            old.node, new.node, path
        )
    yield from Check("acpi/@index", "ACPI index", QUOTED, "0").differs(old.node, new.node, path)
    if old.tag == "memory":
        words = "Target memory device {what} '{new}' doesn't match source {what} '{old}'"
        for found in Check("alias/@name", "alias", words).differs(old.node, new.node, path):
            yield found._replace(severity=NOMINAL)


def _dimm_base(node: Node) -> str:
    base = node.value("address/@base") or ""
    return f"{int(base, 16):x}" if base else ""


def _libvirt_place(device: Device) -> str:
    """An address as libvirt's messages have it; ``""`` of a kind that it does not compare."""
    node = device.node.child("address")
    if node is None or node.get("type") not in ADDRESSES:
        return ""
    address, kind = Address(node), node.get("type") or ""
    if kind == "drive":
        drive = address.drive
        return f"{drive.controller}:{drive.bus}:{drive.unit}"
    if kind == "isa":
        return f"{address.iobase or 0}:{address.irq or 0}"
    return place(device).rpartition(" ")[2]


def place(device: Device) -> str:
    """Where a device sits, as people write it: ``0000:01:00.0``, ``usb 0:1.2``, ``drive 0:0:0:1``; ``""``: nowhere."""
    node = device.node.child("address")
    if node is None or not node.get("type"):
        return ""
    address, kind = Address(node), node.get("type") or ""
    forms: dict[str, Callable[[], str]] = {
        "pci": lambda: str(address.pci),
        "drive": lambda: f"drive {':'.join(map(str, address.drive))}",
        "usb": lambda: f"usb {address.drive_bus}:{address.usb_port or ''}",
        "virtio-serial": lambda: (
            f"virtio-serial {address.controller}:{address.drive_bus}:{address.serial_port}"
        ),
        "ccid": lambda: f"ccid {address.controller}:{address.ccid_slot}",
        "ccw": lambda: f"ccw {address.cssid or 0:x}.{address.ssid or 0:x}.{address.devno or 0:04x}",
        "dimm": lambda: f"dimm {address.dimm_slot}",
        "isa": lambda: f"isa {address.iobase or 0:#x}",
        "spapr-vio": lambda: f"spapr-vio {address.reg or 0:#x}",
    }
    return forms[kind]() if kind in forms else kind


#: tag → what people know one of that kind by
_KNOWN_BY: dict[str, tuple[str, ...]] = {
    "channel": ("target/@name",),
    "controller": ("@type", "@index", "@model"),
    "disk": ("target/@dev",),
    "filesystem": ("target/@dir",),
    "hostdev": ("@type",),
    "input": ("@type", "@bus"),
    "interface": ("mac/@address",),
    "memory": ("@model",),
    "shmem": ("@name",),
    "video": ("model/@type",),
}


def describe(device: Device) -> str:
    """``disk vda``, ``interface 52:54:00:…``, ``controller pci 1 pcie-root-port``: what people know a device by."""
    paths = _KNOWN_BY.get(device.tag, ("@model", "model/@type"))
    words = [word for word in (device.node.value(path) for path in paths) if word]
    return " ".join([device.tag, *words])


def _path(device: Device, number: int) -> str:
    _, _, known_by = describe(device).partition(" ")
    return f"devices/{device.tag}[{known_by or number}]"


_ORDER: tuple[Compare, ...] = (
    compare_identity,
    compare_memory,
    compare_numa,
    compare_vcpus,
    compared(SYSTEM),
    compare_features,
    compare_timers,
    compare_cpu,
    compare_sysinfo,
    _compare_devices,
    compared(BACKING),
)

__all__ = [
    "GUEST",
    "NOMINAL",
    "VOLATILE",
    "Difference",
    "breaks",
    "describe",
    "differences",
    "place",
    "refusals",
]
