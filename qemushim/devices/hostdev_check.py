"""What a device of the host can not be, alone or beside others.  Refused in libvirt's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qemushim.devices.storage_check import KNOWN_SECRETS
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.devices.hostdev import Hostdev


def _check_pci(device: Hostdev, d: Define) -> None:
    source = device.source
    if source is not None and source.write_filtering is not None:
        raise error.unsupported(
            "Write filtering of PCI device configuration space is not supported by qemu",
            source.node,
            "drop writeFiltering=",
        )
    kind = device.address_type
    if kind and kind not in ("pci", "unassigned", "none"):
        raise error.unsupported(
            "PCI host devices must use 'pci' or 'unassigned' address type",
            device.node,
            "<address type='pci'/>, or none",
        )


def _check_ramfb(device: Hostdev, d: Define) -> None:
    if not device.ramfb:
        return
    if "display" not in device.node.attrib:
        raise error.unsupported("attribute 'ramfb' requires attribute 'display'", device.node, "display='on'")
    others = [h for h in d.domain.lists["hostdev"] if h.node.get("ramfb") == "on"]
    if len(others) > 1 and others[0] is not device:
        raise error.unsupported(
            "Only one vgpu device can have 'ramfb' enabled", device.node, "ramfb='on' for one of them"
        )


def _check_scsi(device: Hostdev, d: Define) -> None:
    secret = device.node.find("source/auth/secret")
    if secret is not None:
        given = secret.get("type", "(null)")
        if given not in KNOWN_SECRETS:
            raise error.unsupported(f"invalid secret type {given}", secret, "type='iscsi'")
        if given != "iscsi":
            raise error.internal(f"hostdev invalid secret type '{given}'", secret, "type='iscsi'")
    kind = device.address_type
    if kind and kind != "drive":
        raise error.unsupported(
            "SCSI host device must use 'drive' address type", device.node, "<address type='drive'/>, or none"
        )


def _check_scsi_host(device: Hostdev, d: Define) -> None:
    if device.boot_order:
        raise error.unsupported(
            "booting from assigned devices is not supported by vhost SCSI devices",
            device.node.child("boot"),
            "drop <boot>",
        )


def _check_mdev(device: Hostdev, d: Define) -> None:
    if device.boot_order and device.model != "vfio-ccw":
        raise error.unsupported(
            f"booting from assigned devices is not supported by mediated devices of model {device.model}",
            device.node.child("boot"),
            "drop <boot>",
        )
    needed = {"vfio-ap": "VFIO AP", "vfio-ccw": "VFIO CCW"}.get(device.model or "")
    if needed is not None and not d.emulator.has_device(device.model or ""):
        message = f"{needed} device assignment is not supported by this version of QEMU"
        raise error.unsupported(message, device.node, "a QEMU for s390x")
    rivals = [h for h in d.domain.lists["hostdev"] if h.node.get("model") == "vfio-ap"]
    if device.model == "vfio-ap" and len(rivals) > 1:
        raise error.unsupported("Only one hostdev of model vfio-ap is supported", device.node, "keep one")
    _check_ramfb(device, d)


def _check_usb(device: Hostdev, d: Define) -> None:
    if device.address_type not in ("", "usb"):
        raise error.unsupported(
            "USB host device must use 'usb' address type", device.node, "<address type='usb'/>, or none"
        )


#: type → what a device of it can not be
CHECKS: dict[str, Callable[[Hostdev, Define], None]] = {
    "usb": _check_usb,
    "pci": _check_pci,
    "scsi": _check_scsi,
    "scsi_host": _check_scsi_host,
    "mdev": _check_mdev,
}


def check_hostdevs_together(d: Define) -> None:
    """No device of the host is given twice, and no two sit at one place.  Raises ``ConfigError``."""
    seen: set[tuple[object, ...]] = set()
    hostdevs: list[Hostdev] = d.domain.lists["hostdev"]  # type: ignore[assignment]
    for device in hostdevs:
        identity = _identity(device)
        if identity in seen:
            raise error.xml(
                "Hostdev already exists in the domain configuration", device.node, "keep one of the two"
            )
        seen.add(identity)
    _check_scsi_addresses(hostdevs)


def _identity(device: Hostdev) -> tuple[object, ...]:
    """What makes two elements speak of one device of the host."""
    source, where = device.source, device.where
    if device.type == "pci":
        return "pci", where.domain, where.bus, where.slot, where.function
    if device.type == "mdev":
        return "mdev", where.uuid
    if source is None:
        return ("", id(device))
    if device.type == "usb":
        return "usb", where.usb_bus, where.device, source.vendor, source.product
    if device.type == "scsi_host":
        return "scsi_host", source.wwpn
    if source.protocol == "iscsi":
        return "iscsi", source.name_, tuple((s.name, s.port) for s in source.servers)
    return "scsi", source.adapter, where.bus_number, where.target, where.unit


def _check_scsi_addresses(hostdevs: list[Hostdev]) -> None:
    """No two SCSI devices of the host sit at one address.  Raises ``ConfigError``."""
    taken: set[tuple[int, int, int, int]] = set()
    for device in hostdevs:
        address = device.address if device.node.get("type") == "scsi" else None
        if address is None or address.type != "drive":
            continue
        place = address.drive
        if place in taken:
            raise error.unsupported(
                f"SCSI host address controller='{place.controller}' bus='{place.bus}' "
                f"target='{place.target}' unit='{place.unit}' in use by another SCSI host device",
                address.node,
                "give each its own unit",
            )
        taken.add(place)
