"""What is wrong with an address in itself, whoever else is on the bus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.spapr_vio import LAST
from qemushim.address.walk import number
from qemushim.devices.base import Device
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define

#: address type → the numbers that are 0 where the document leaves them out
_ZEROES = {
    "ccid": ("controller", "slot"),
    "drive": ("controller", "bus", "target", "unit"),
    "pci": ("domain", "bus", "slot", "function"),
    "usb": ("bus",),
    "virtio-serial": ("controller", "bus", "port"),
}
_LAST_UID = 0xFFFF


def complete_written(d: Define) -> None:
    """Write the zeroes that users leave out.  ``<address type='pci'/>`` stays: its place is open."""
    for device in d.domain.every():
        node = device.node.child("address")
        if node is None:
            continue
        attributes = node.attrib
        names = _ZEROES.get(attributes.get("type", ""), ())
        if names and not _is_open(attributes, names):
            for name in names:
                attributes.setdefault(name, "0")


def _is_open(attributes: dict[str, str], names: tuple[str, ...]) -> bool:
    return attributes["type"] in ("pci", "usb") and not any(name in attributes for name in names)


def check_addresses(d: Define) -> None:
    """Raise ``ConfigError`` for numbers that their kind of address does not have."""
    for device in d.domain.every():
        node = device.node.child("address")
        if node is None:
            continue
        kind = node.get("type")
        if kind == "ccw" and not d.board.is_ccw and device.tag != "smartcard":
            message = f"CCW addresses are not supported by machine type '{d.domain.machine_type}'"
            raise error.unsupported(message, node, "leave the address out")
        if kind == "unassigned" and device.tag != "hostdev":
            message = "address of type 'unassigned' is supported only for hostdevs"
            raise error.unsupported(message, node, "leave the address out")
        if kind == "spapr-vio" and number(node, "reg", base=16) > LAST:
            raise error.unsupported(
                f"spapr-vio reg='{number(node, 'reg', base=16):#x}' exceeds maximum possible value ({LAST:#x})",
                node,
                "leave the number out: a free one is found",
            )
        zpci = node.child("zpci") if kind == "pci" else None
        if zpci is not None:
            _check_zpci(device, zpci, d)


def check_slot_options(device: Device) -> None:
    """Raise ``ConfigError`` for what only a device in a PCI slot can be told, where it sits elsewhere."""
    if device.address_type in ("", "none", "pci", "unassigned"):
        return
    node = device.node
    if node.child("rom") is not None and node.child("rom").attrib and "rom" not in device.unused:  # type: ignore[union-attr]
        raise error.unsupported(
            "ROM tuning is only supported for PCI devices", node.child("rom"), "drop <rom>"
        )
    if node.child("acpi") is not None and device.acpi_index:
        raise error.unsupported(
            "ACPI index is only supported for PCI devices", node.child("acpi"), "drop <acpi>"
        )


def _check_zpci(device: Device, zpci: Node, d: Define) -> None:
    if zpci.get("uid") is None and zpci.get("fid") is None:
        return
    if not d.emulator.flag("zpci"):
        raise error.unsupported("This QEMU binary doesn't support zPCI", zpci, "leave out <zpci>")
    uid = number(zpci, "uid", base=0)
    if not 0 < uid <= _LAST_UID:
        raise error.xml(
            f"Invalid PCI address uid='0x{uid:04x}', must be > 0x0000 and <= 0x{_LAST_UID:x}",
            zpci,
            "leave the number out: a free one is found",
        )
