"""What disks can not have in common: targets and places.  Refused in libvirt's words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.address import drive_place
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.devices.disk import Disk


def check_disks_together(d: Define) -> None:
    """No two disks under one target name.  Raises ``ConfigError``."""
    targets: dict[str, Disk] = {}
    disks: list[Disk] = d.domain.lists["disk"]  # type: ignore[assignment]
    for disk in disks:
        other = targets.setdefault(disk.target, disk)
        if other is not disk:
            raise error.xml(
                f"target '{disk.target}' duplicated for disk sources '{_path(other)}' and '{_path(disk)}'",
                disk.node.child("target"),
                "give each its own target",
            )


def _path(disk: Disk) -> str:
    return disk.shown_path or "<null>"


def check_drive_addresses(d: Define) -> None:
    """No two drives of one bus at one address.  Raises ``ConfigError``."""
    taken: dict[tuple[object, ...], Disk] = {}
    disks: list[Disk] = d.domain.lists["disk"]  # type: ignore[assignment]
    for disk in disks:
        address = disk.node.child("address")
        if address is None or address.attrib.get("type") != "drive":
            continue
        place = drive_place(address)
        first = taken.setdefault((disk.node.value("target/@bus"), place), disk)
        if first is not disk:
            raise error.unsupported(
                f"Found duplicate drive address for disk with target name '{first.target}' "
                f"controller='{place.controller}' bus='{place.bus}' target='{place.target}' "
                f"unit='{place.unit}'",
                disk.node.child("address"),
                "give each its own unit",
            )
