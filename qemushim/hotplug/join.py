"""A device joins the document of a guest that runs: its defaults, its place, its id, and whether it can be had."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.address.assign import assign_one
from qemushim.address.check import check_addresses, complete_written
from qemushim.address.walk import pci_address
from qemushim.devices.alias import assign_alias
from qemushim.devices.base import Device
from qemushim.devices.bootindex import check_boot_order
from qemushim.devices.chardev import Console
from qemushim.devices.controller import Controller
from qemushim.devices.disk import Disk
from qemushim.devices.disks_together import check_drive_addresses
from qemushim.devices.hostdev_check import check_hostdevs_together
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned
from qemushim.errors import error
from qemushim.hotplug.live import write_aliases
from qemushim.machine.order import insert_device
from qemushim.machine.pluggable import check_memory_devices

if TYPE_CHECKING:
    from qemushim.context import Define

#: kinds that QEMU can not be given while it runs
FIXED = frozenset(
    (
        *("audio", "crypto", "graphics", "hub", "iommu", "memballoon", "nvram", "panic", "pstore"),
        *("redirfilter", "smartcard", "sound", "tpm", "video"),
    )
)


def join(node: Node, d: Define) -> list[Device]:
    """Put a device into the definition, with a place and an id.

    Returns what is new: the controllers that it takes, and then the device.
    """
    require_pluggable(node)
    device = complete_new(node, d)
    check = _POSSIBLE.get(device.tag)
    if check is not None:
        check(device, d)
    d.domain.remove(device)
    added = [_seat(controller, d) for controller in _missing_controllers(device, d)]
    _seat(device, d)
    for new in (*added, device):
        new.check(d)
    check_addresses(d)
    _check_together(device, d)
    return [*added, device]


def require_pluggable(node: Node) -> None:
    """Raise ``ConfigError`` where no running guest can be given such a device."""
    if node.tag in FIXED:
        raise error.not_supported(
            f"live attach of device '{node.tag}' is not supported",
            node,
            "change the definition, and start the guest anew",
        )


def complete_new(node: Node, d: Define) -> Device:
    """Take in the element of a device, with its own defaults."""
    device = d.domain.adopt(node)
    if not (d.live or device.user_alias):
        node.discard("alias")
    for tag in device.unused:
        node.discard(tag)
    device.check_document(d)
    device.complete(d)
    complete_written(d)
    return device


def _seat(device: Device, d: Define) -> Device:
    """Give a device that is not in the definition its place and its id, and put it there."""
    known = len(d.domain.lists["controller"])
    place = pci_address(device)
    if place is not None and place.function:
        raise error.not_supported(
            "Only PCI device addresses with function=0 are supported",
            device.node.child("address"),
            "the guest looks at a slot when its function 0 comes",
        )
    assign_one(device, d)
    if len(d.domain.lists["controller"]) != known:
        raise error.failed(
            f"{device.tag} needs a virtio-serial controller, and the guest has no free port of one",
            device.node,
            "add <controller type='virtio-serial'/> to the stored definition and restart the guest",
        )
    d.domain.node.ensure("devices").append(device.node)
    insert_device(d.domain.lists[device.tag], device)
    assign_alias(device, d)
    write_aliases((device,))
    return device


def _missing_controllers(device: Device, d: Define) -> Iterator[Device]:
    """The SCSI controllers that an address names and the guest has not; they are like the one that it has."""
    address = device.node.child("address")
    bus = device.node.value("target/@bus") if device.tag == "disk" else device.node.get("type")
    if bus != "scsi" or address is None or address.get("type") != "drive":
        return
    for index in range(parse_unsigned(address.get("controller") or "0") + 1):
        known = [c for c in d.domain.all(Controller) if c.type == "scsi"]
        if any(c.number == index for c in known):
            continue
        attributes = {"type": "scsi", "index": str(index)}
        if known and known[-1].model:
            attributes["model"] = known[-1].model
        controller = Controller(Node("controller", attributes, line=device.node.line))
        controller.complete(d)
        yield controller


# -- what can be had -----------------------------------------------------------------------------------------


def _disk_possible(disk: Device, d: Define) -> None:
    assert isinstance(disk, Disk)
    if disk.bus not in ("scsi", "usb", "virtio"):
        raise error.not_supported(f"disk bus '{disk.bus}' cannot be hotplugged.", disk.node, "bus='virtio'")
    if any(other.target == disk.target and other is not disk for other in d.domain.all(Disk)):
        raise error.failed(f"target {disk.target} already exists", disk.node.child("target"), "another name")


def _controller_possible(controller: Device, d: Define) -> None:
    assert isinstance(controller, Controller)
    kind, number = controller.type, controller.number
    if kind != "scsi":
        raise error.not_supported(
            f"'{kind}' controller cannot be hot plugged.",
            controller.node,
            "change the definition, and start the guest anew",
        )
    twins = [c for c in d.domain.all(Controller) if c.type == kind and c.number == number]
    if len(twins) > 1:
        raise error.failed(f"target {kind}:{number} already exists", controller.node, "another index")


def _input_possible(device: Device, d: Define) -> None:
    bus = device.node.get("bus")
    if bus not in (None, "usb", "virtio"):
        raise error.not_supported(
            f"input device on bus '{bus}' cannot be hot plugged.",
            device.node,
            "change the definition, and start the guest anew",
        )


def _filesystem_possible(device: Device, d: Define) -> None:
    if device.node.value("driver/@type") != "virtiofs":
        raise error.not_supported(
            "only virtiofs filesystems can be hotplugged", device.node, "<driver type='virtiofs'/>"
        )


def _single_possible(device: Device, d: Define) -> None:
    if len(d.domain.lists[device.tag]) > 1:
        raise error.failed(f"the domain already has a {device.tag} device", device.node, "a guest has one")


def _parallel_possible(device: Device, d: Define) -> None:
    raise error.not_supported(
        f"attaching {device.tag} console is not supported", device.node, "a channel, or the definition"
    )


def _console_possible(device: Device, d: Define) -> None:
    assert isinstance(device, Console)
    if device.kind == "serial":
        raise error.unsupported(
            "Only the first console can be a serial port", device.node, "<target type='virtio'/>"
        )
    device.set_default_port(d)


def _serial_possible(device: Device, d: Define) -> None:
    kind = device.node.value("target/@type")
    if kind not in ("pci-serial", "usb-serial"):
        raise error.not_supported(
            f"attaching serial console is not supported for target type '{kind}'",
            device.node,
            "type='pci-serial'",
        )


_POSSIBLE: dict[str, Callable[[Device, Define], None]] = {
    "console": _console_possible,
    "controller": _controller_possible,
    "disk": _disk_possible,
    "filesystem": _filesystem_possible,
    "input": _input_possible,
    "parallel": _parallel_possible,
    "serial": _serial_possible,
    "vsock": _single_possible,
}


def _check_together(device: Device, d: Define) -> None:
    """What is wrong with a device only because of the others."""
    if device.node.child("boot") is not None:
        check_boot_order(d)
    if device.tag in ("disk", "hostdev"):
        check_drive_addresses(d)
        check_hostdevs_together(d)
    if device.tag == "memory":
        check_memory_devices(d)
