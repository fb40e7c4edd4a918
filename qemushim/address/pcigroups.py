"""Isolation groups: on pSeries, devices of different IOMMU groups of the host need a host bridge each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.needs import host_address
from qemushim.address.walk import is_hostdev_interface
from qemushim.devices.base import Device
from qemushim.devices.interface import Interface

if TYPE_CHECKING:
    from qemushim.context import Define

#: groups of devices that the host has yet to choose count down from here
_LAST_GROUP = 0xFFFFFFFF


def isolation_groups(d: Define) -> dict[int, int]:
    """``id`` of a device → its group; those that are not in it are emulated (group 0)."""
    groups: dict[int, int] = {}
    unknown = _LAST_GROUP
    for device in (*d.domain.lists["interface"], *d.domain.lists["hostdev"]):
        group = host_group(device, d)
        if group is not None:
            groups[id(device)] = group
        elif isinstance(device, Interface) and device.is_hostdev(d.host):
            groups[id(device)] = unknown
            unknown -= 1
    return groups


def host_group(device: Device, d: Define) -> int | None:
    """The group of a device of the host, numbered from 1; ``None`` where the host knows none."""
    if not is_hostdev_interface(device) and (device.tag != "hostdev" or device.node.get("type") != "pci"):
        return None
    known = d.host.pci.get(host_address(device.node))
    return known.iommu_group + 1 if known is not None and known.iommu_group >= 0 else None
