"""Isolation groups: on pSeries, devices of different IOMMU groups of the host need a host bridge each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.needs import host_address
from qemushim.address.walk import is_hostdev_interface
from qemushim.devices.interface import Interface

if TYPE_CHECKING:
    from qemushim.context import Define

#: groups of devices that the host has yet to choose count down from here
_LAST_GROUP = 0xFFFFFFFF


def isolation_groups(d: Define) -> dict[int, int]:
    """``id`` of a device → its group; those that are not in it are emulated (group 0)."""
    groups: dict[int, int] = {}
    unknown = _LAST_GROUP
    for device in d.domain.all(Interface):
        if is_hostdev_interface(device):
            _add_host_group(d, groups, id(device), host_address(device.node))
        elif device.is_hostdev(d.host):
            groups[id(device)] = unknown
            unknown -= 1
    for hostdev in d.domain.lists["hostdev"]:
        if hostdev.node.get("type") == "pci":
            _add_host_group(d, groups, id(hostdev), host_address(hostdev.node))
    return groups


def _add_host_group(d: Define, groups: dict[int, int], key: int, address: str) -> None:
    known = d.host.pci.get(address)
    if known is not None and known.iommu_group >= 0:
        groups[key] = known.iommu_group + 1
