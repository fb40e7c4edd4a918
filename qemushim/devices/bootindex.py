"""Which device boots first.  https://libvirt.org/formatdomain.html#bios-bootloader

A guest says it in one of two styles: kinds of devices in ``<os><boot dev=>``, or a number on each device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.devices.base import Device
    from qemushim.machine.domain import Domain

#: ``<boot dev=>`` → the kinds of disks that it means
_DISKS = {"cdrom": ("cdrom",), "fd": ("floppy",), "hd": ("disk", "lun")}


def boot_index(device: Device, b: Build) -> int | None:
    """The place of a device in the order of booting, counted from 1; ``None``: it does not boot."""
    found = settle_boot_order(b).get(id(device.node))
    if found is None and device.node.child("boot") is not None:
        found = device.boot_order
    return found or None


def boot_loadparm(device: Device, b: Build) -> str | None:
    """The boot parameter of an s390 device, where this QEMU takes one per device."""
    if not device.loadparm or not b.emulator.device_property("virtio-blk-ccw", "loadparm"):
        return None
    return device.loadparm


def settle_boot_order(b: Build) -> dict[int, int]:
    """Work out once what ``<os><boot dev=>`` means, by the identity of the devices' elements."""
    return b.once("boot indexes", lambda: _indexes(b.domain))


def _indexes(domain: Domain) -> dict[int, int]:
    """What ``<os><boot dev=>`` means: the first device of each kind, by the identity of its element."""
    found: dict[int, int] = {}
    os = domain.node.child("os")
    for number, boot in enumerate(os.all("boot") if os is not None else (), 1):
        device = _first(domain, boot.get("dev") or "")
        if device is not None:
            found[id(device.node)] = number
    return found


def _first(domain: Domain, kind: str) -> Device | None:
    if kind == "network":
        return next(iter(domain.lists["interface"]), None)
    kinds = _DISKS.get(kind, ())
    return next((disk for disk in domain.lists["disk"] if (disk.node.get("device") or "disk") in kinds), None)


def check_boot_order(d: Define) -> None:
    """Boot order is given in one style only, without doubles.  Raises ``ConfigError``."""
    seen: set[int] = set()
    for device in d.domain.every():
        boot = device.node.child("boot")
        if boot is None:
            continue
        order = device.boot_order
        if order is None:
            raise error.xml("Missing required attribute 'order' in element 'boot'", boot, "order='1'")
        if order == 0:
            raise error.xml(
                "Invalid value for attribute 'order' in element 'boot': Zero is not permitted",
                boot,
                "number them from 1",
            )
        device.loadparm = device.loadparm
        if order in seen:
            raise error.unsupported(
                f"boot order '{order}' used for more than one device", boot, "number them 1, 2, 3, …"
            )
        seen.add(order)
    os = d.domain.node.child("os")
    if seen and os is not None and os.child("boot") is not None:
        raise error.unsupported(
            "per-device boot elements cannot be used together with os/boot elements",
            os.child("boot"),
            "order all devices by <boot order=> in each, or by <boot dev=> in <os>",
        )
