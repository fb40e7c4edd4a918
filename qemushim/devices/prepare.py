"""Numbers that are given out before the first option is written.

Block nodes count through all disks, last disk first.  Images are kept for the length of one build; the numbers are
written into the document too (``index``), which is how the nodes of a guest that runs are known later.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.block_image import (
    DiskNodes,
    Image,
    disk_image,
    hostdev_image,
    prepare_image,
)
from qemushim.devices.block_volume import resolve_source
from qemushim.devices.bootindex import settle_boot_order
from qemushim.devices.charsource import prepare_chardev, prepare_chardevs
from qemushim.errors import ConfigError

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.devices.base import Device
    from qemushim.devices.disk import Disk
    from qemushim.document.node import Node


def prepare_devices(b: Build) -> None:
    """Block nodes and the fd sets of disks, then the fd sets of character devices, in libvirt's order."""
    settle_boot_order(b)
    number = 0
    for disk in reversed(b.domain.lists["disk"]):
        number = _number_nodes(disk, number, b)
    for device in b.domain.lists["hostdev"]:
        number = _number_nodes(device, number, b)
    prepare_chardevs(b)
    for found in reversed(_disk_nodes(b).values()):
        _prepare_vdpa(found, b)


def prepare_device(device: Device, b: Build, number: int) -> int:
    """The same for one device that joins a guest, with its block nodes numbered behind ``number``; the last number."""
    last = _number_nodes(device, number, b)
    prepare_chardev(device, b)
    for found in _disk_nodes(b).values():
        _prepare_vdpa(found, b)
    return last


def recall_device(device: Device, b: Build) -> bool:
    """The same for one device of a guest that runs: its block nodes have the numbers that the document tells.

    False where it has nodes, but the document does not tell which.
    """
    index = device.node.value("source/@index") or ""
    if not index.isdecimal() and _has_nodes(device):
        return False
    _number_nodes(device, int(index or 1) - 1, b)
    prepare_chardev(device, b)
    return True


def _has_nodes(device: Device) -> bool:
    node = device.node
    if device.tag == "disk":
        return not device.is_empty and node.get("type") != "vhostuser"  # type: ignore[attr-defined]
    return device.tag == "hostdev" and node.get("type") == "scsi"


def _disk_nodes(b: Build) -> dict[int, DiskNodes]:
    found: dict[int, DiskNodes] = b.notes.setdefault("disk nodes", {})
    return found


def _number_nodes(device: Device, number: int, b: Build) -> int:
    """Number the block nodes of one device behind ``number``, and give the last number back."""
    if device.tag == "disk":
        return _prepare_disk(device, number, b)  # type: ignore[arg-type]
    if device.tag != "hostdev" or device.node.get("type") != "scsi":
        return number
    number += 1
    images: dict[int, Image] = b.notes.setdefault("hostdev images", {})
    images[id(device.node)] = hostdev_image(device, f"libvirt-{number}-backend", b)
    device.node.ensure("source").set("index", number)
    return number


def _prepare_vdpa(found: DiskNodes, b: Build) -> None:
    if found.image is not None and found.image.kind == "vhostvdpa" and not b.alone:
        found.image.fd_set = b.new_fd_set()


def _prepare_disk(disk: Disk, number: int, b: Build) -> int:
    """Number the nodes of one disk behind ``number``, and give the last number back."""
    try:
        kind, source = resolve_source(disk, b)
    except ConfigError:
        if not _may_be_missing(disk):
            raise
        if disk.device not in ("cdrom", "floppy"):
            b.domain.remove(disk)
            return number
        kind, source = "file", None
    found = _disk_nodes(b)[id(disk.node)] = DiskNodes()
    if kind == "vhostuser":
        return number
    image = disk_image(disk, kind, source)
    if not image.is_empty:
        found.image = image
    if disk.node.value("target/@bus") == "sd":
        # an SD card takes the old -drive, whose nodes have no names
        image.storage_name = disk.alias
        image.layered = False
        return number
    for part in image.chain():
        number += 1
        part.name = f"libvirt-{number}"
        # of a volume the document has another source than QEMU
        (disk.node.ensure("source") if part is image else part.source).set("index", number)
        prepare_image(part, b)
    if disk.node.child("throttlefilters") is None:
        return number
    for _ in disk.throttle_filters:
        number += 1
        found.filters.append(f"libvirt-{number}-filter")
    return number


def _may_be_missing(disk: Disk) -> bool:
    """Whether the guest may start without the image."""
    source: Node | None = disk.node.child("source")
    return source is not None and source.get("startupPolicy") == "optional"
