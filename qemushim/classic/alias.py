"""The names by which devices are known to QEMU and in a live document."""

from __future__ import annotations

from collections.abc import Sequence

from qemushim.classic.context import Classic
from qemushim.classic.disks import SHAPES, disk_index
from qemushim.classic.document import Device, Disk
from qemushim.document.node import Node


def assign_aliases(c: Classic) -> dict[Node, str]:
    """Element → alias, for those that have one with what this QEMU can.

    Each kind is numbered by the place in its own list, devices without a name of their own included.
    """
    devices = c.domain.devices
    found = {disk.node: disk_alias(c, disk) for disk in devices.disks}
    if c.has("device") or c.has("0-10"):
        found |= _numbered("net", devices.interfaces)
    if not c.has("device"):
        return found
    for word, kind in (
        ("sound", devices.sounds),
        ("hostdev", devices.hostdevs),
        ("video", devices.videos),
        ("input", devices.inputs),
        ("parallel", devices.parallels),
        ("serial", devices.serials),
        ("channel", devices.channels),
        ("watchdog", devices.watchdogs),
        ("balloon", devices.balloons),
    ):
        found |= _numbered(word, kind)
    found |= {one.node: f"{one.type}{one.index}" for one in devices.controllers}
    return found


def _numbered(word: str, devices: Sequence[Device]) -> dict[Node, str]:
    return {device.node: f"{word}{number}" for number, device in enumerate(devices)}


def disk_alias(c: Classic, disk: Disk) -> str:
    """A disk's alias: by its target, by its number, or by its address, as this QEMU speaks of drives."""
    if not c.has("drive"):
        return "cdrom" if disk.device == "cdrom" and disk.target == "hdc" else disk.target
    index = disk_index(disk.target)
    if c.has("device"):
        drive = disk.drive
        if drive is not None:
            return f"{disk.bus}{drive.controller}-{drive.bus}-{drive.unit}"
        return f"{disk.bus}-disk{index}" if index is not None else disk.target
    if index is None:
        return disk.target
    letters = "hd" if disk.device == "disk" else "cd"
    if disk.bus in ("ide", "scsi"):
        bus, unit = divmod(index, SHAPES[disk.bus].units)
        return f"{disk.bus}{bus}-{letters}{unit}"
    return {"fdc": "floppy", "xen": "xenblk"}.get(disk.bus, disk.bus) + str(index)
