"""Numbers that are given out before the first option is written.

Block nodes count through all disks, last disk first.  Images are kept for the length of one build.
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
from qemushim.devices.charsource import prepare_chardevs
from qemushim.errors import ConfigError

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.devices.disk import Disk
    from qemushim.document.node import Node


def prepare_devices(b: Build) -> None:
    """Block nodes and the fd sets of disks, then the fd sets of character devices, in libvirt's order."""
    settle_boot_order(b)
    nodes: dict[int, DiskNodes] = {}
    images: dict[int, Image] = {}
    b.notes["disk nodes"] = nodes
    b.notes["hostdev images"] = images
    number = 0
    disks: list[Disk] = b.domain.lists["disk"]  # type: ignore[assignment]
    for disk in reversed(disks):
        number = _prepare_disk(disk, nodes, number, b)
    for device in b.domain.lists["hostdev"]:
        if device.node.get("type") == "scsi":
            number += 1
            images[id(device.node)] = hostdev_image(device, f"libvirt-{number}-backend", b)
    prepare_chardevs(b)
    for found in reversed(nodes.values()):
        if found.image is not None and found.image.kind == "vhostvdpa":
            found.image.fd_set = b.new_fd_set()


def _prepare_disk(disk: Disk, nodes: dict[int, DiskNodes], number: int, b: Build) -> int:
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
    found = nodes[id(disk.node)] = DiskNodes(None)
    if kind == "vhostuser":
        return number
    image = disk_image(disk, kind, source)
    if not image.is_empty:
        found.image = image
    if disk.bus == "sd":
        # an SD card takes the old -drive, whose nodes have no names
        image.storage_name = disk.alias
        image.layered = False
        return number
    for part in image.chain():
        number += 1
        part.name = f"libvirt-{number}"
        prepare_image(part, b)
    for _ in disk.throttle_filters:
        number += 1
        found.filters.append(f"libvirt-{number}-filter")
    return number


def _may_be_missing(disk: Disk) -> bool:
    """Whether the guest may start without the image."""
    source: Node | None = disk.node.child("source")
    return source is not None and source.get("startupPolicy") == "optional"
