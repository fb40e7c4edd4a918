"""The devices in the order in which addresses are looked up and given."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from qemushim.devices.address import PciAddress, pci_place
from qemushim.devices.base import Device
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned
from qemushim.machine.domain import DEVICE_ORDER

if TYPE_CHECKING:
    from qemushim.machine.domain import Domain

#: graphics, audio and leases have no address
_ADDRESSED = DEVICE_ORDER[: DEVICE_ORDER.index("graphics")]


def is_hostdev_interface(device: Device) -> bool:
    """An interface that is an assigned PCI device."""
    return device.tag == "interface" and device.node.get("type") == "hostdev"


def devices_in_order(domain: Domain) -> Iterator[Device]:
    """Every device that may have an address.

    Interfaces that are assigned PCI devices come with the assigned devices, ahead of them; a first console
    that is the serial port by another name is left out.
    """
    lists = domain.lists
    for tag in _ADDRESSED:
        listed = lists[tag]
        if tag == "interface":
            yield from (device for device in listed if not is_hostdev_interface(device))
        elif tag == "console":
            yield from listed[1:] if listed and is_shadow(listed[0]) else listed
        elif tag == "hostdev":
            yield from (device for device in lists["interface"] if is_hostdev_interface(device))
            yield from listed
        elif listed:
            yield from listed


def is_shadow(console: Device) -> bool:
    """A console that stands for the first serial port."""
    return (console.node.value("target/@type") or "serial") in ("serial", "none")


def number(node: Node, name: str, default: int = 0, base: int = 10) -> int:
    """A number that the element's schema has already found to be one."""
    raw = node.attrib.get(name)
    return default if raw is None else parse_unsigned(raw, base)


def index_of(controller: Device) -> int:
    """A controller's index; 0 where it has none yet."""
    return number(controller.node, "index")


def pci_address(device: Device) -> PciAddress | None:
    """The PCI address that a device has; ``None`` where it has none, or leaves the place open."""
    node = device.node.child("address")
    return None if node is None else _given_place(node)


def _given_place(address: Node) -> PciAddress | None:
    if address.attrib.get("type") != "pci":
        return None
    place = pci_place(address)
    return place if place.domain or place.bus or place.slot else None


def wants_pci(device: Device) -> bool:
    """No address at all, or ``<address type='pci'/>`` that leaves the place open."""
    node = device.node.child("address")
    return node is None or (node.attrib.get("type") == "pci" and _given_place(node) is None)


@lru_cache(4096)
def _written(place: PciAddress) -> dict[str, str]:
    """How an address is written: to be copied, because guests have the same few places over and over."""
    return {
        "type": "pci",
        "domain": f"0x{place.domain:04x}",
        "bus": f"0x{place.bus:02x}",
        "slot": f"0x{place.slot:02x}",
        "function": f"0x{place.function:x}",
    }


def write_pci(device: Device, place: PciAddress, *, multifunction: bool = False) -> None:
    """Write a PCI address, keeping what else the element says (zPCI ids, ``multifunction``)."""
    node = device.node.child("address")
    if node is None:
        node = device.node.add("address")
    given = node.attrib.get("multifunction")
    node.attrib = _written(place).copy()
    if given is not None:
        node.attrib["multifunction"] = given
    if multifunction:
        node.attrib["multifunction"] = "on"
