"""Every device gets its place: all devices of a definition, or one that joins it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qemushim.address.ccw import assign_ccw, occupied_ccw, wants_ccw
from qemushim.address.check import complete_written
from qemushim.address.dimm import assign_dimm, occupied_dimm, place_dimm
from qemushim.address.drive import drive_address, is_scsi, occupied_scsi
from qemushim.address.needs import Kind, is_virtio
from qemushim.address.pcigroups import host_group
from qemushim.address.pcilayout import PciLayout, assign_pci
from qemushim.address.pcioptions import complete_pci_options
from qemushim.address.spapr_vio import (
    assign_spapr_vio,
    occupied_spapr_vio,
    place_spapr_vio,
    spapr_vio_base,
)
from qemushim.address.usb import assign_usb, is_usb, join_usb
from qemushim.address.virtio import assign_virtio_mmio, prefers_mmio
from qemushim.address.virtio_serial import assign_virtio_serial, is_port, join_virtio_serial
from qemushim.address.walk import number, pci_address, wants_pci, write_pci
from qemushim.address.zpci import occupied_zpci
from qemushim.devices.base import Device
from qemushim.machine.order import insert_device

if TYPE_CHECKING:
    from qemushim.context import Define

#: the buses in the order in which addresses are given: the controllers that one adds are placed by the next
BUSES: tuple[Callable[[Define], None], ...] = (
    assign_virtio_serial,
    assign_spapr_vio,
    assign_ccw,
    assign_virtio_mmio,
    assign_pci,
    complete_pci_options,
    assign_usb,
    assign_dimm,
)


def assign_addresses(d: Define) -> None:
    """Give an address to every device that has none, and add the controllers and hubs that takes.

    Raises ``AddressError`` where an address is taken twice, or none is left.
    """
    complete_written(d)
    for assign in BUSES:
        assign(d)


def assign_one(device: Device, d: Define, *, hotplug: bool = True) -> None:
    """Give an address to one device that joins a complete definition; check the one that it has.

    ``hotplug``: the guest runs, so no bus can be added, and the slot must be one that takes devices while it
    does.  The device is left out of the definition.  Without it the device is put into the definition, which
    grows as it has to.  Raises ``AddressError`` where the address is taken or none is left.
    """
    if not hotplug:
        d.domain.node.ensure("devices").append(device.node)
        insert_device(d.domain.lists[device.tag], device)
        assign_addresses(d)
        return
    for belongs, join in _JOINS:
        if belongs(device, d):
            join(device, d)
            return


# -- one device, bus by bus --------------------------------------------------------------------------------


def _join_spapr_vio(device: Device, d: Define) -> None:
    places = occupied_spapr_vio(d)
    node = device.node.child("address")
    if node is not None and node.get("reg") is not None:
        places.reserve(number(node, "reg", base=16), device)
    else:
        place_spapr_vio(places, device)


def _join_ccw(device: Device, d: Define) -> None:
    places = occupied_ccw(d)
    node = device.node.child("address")
    if node is not None and node.get("devno") is not None:
        places.reserve(device)
    else:
        places.next(device)


def _join_mmio(device: Device, d: Define) -> None:
    device.set_address("virtio-mmio")


def _join_dimm(device: Device, d: Define) -> None:
    places = occupied_dimm(d)
    if places is None:
        return
    node = device.node.child("address")
    if node is not None and node.get("slot") is not None:
        places.reserve(number(node, "slot"), node)
    else:
        place_dimm(places, device)


def _join_scsi(device: Device, d: Define) -> None:
    if drive_address(device) is None:
        device.set_address("drive", **occupied_scsi(d).next()._asdict())


def _join_pci(device: Device, d: Define) -> None:
    layout = PciLayout(d)
    tree = layout.tree()
    layout.reserve_chipset(tree)
    group = (host_group(device, d) or 0) if d.board.is_pseries else 0
    need = layout.need(device)._replace(hotplug=True, isolation=group)
    place = pci_address(device)
    if place is not None:
        if need.kind is Kind.NONE:
            need = need._replace(kind=Kind.PCI)
        tree.reserve(place, need, device.node)
    elif need.kind is not Kind.NONE:
        write_pci(device, tree.next(need, device.node))
    if d.emulator.flag("zpci") and pci_address(device) is not None:
        occupied_zpci(d).join(device)


def _on(kind: str) -> Callable[[Device], bool]:
    """Whether a device has an address of that type, or none."""
    return lambda device: device.address_type in ("", kind)


_Test = Callable[[Device, "Define"], bool]
_Join = Callable[[Device, "Define"], None]
#: the buses that a device may join, the first that it belongs to
_JOINS: tuple[tuple[_Test, _Join], ...] = (
    (lambda device, d: is_port(device), join_virtio_serial),
    (lambda device, d: is_scsi(device) and device.tag == "hostdev", _join_scsi),
    (
        lambda device, d: (
            d.board.is_pseries and spapr_vio_base(device) is not None and _on("spapr-vio")(device)
        ),
        _join_spapr_vio,
    ),
    (lambda device, d: d.board.is_ccw and wants_ccw(device, d) and _on("ccw")(device), _join_ccw),
    (lambda device, d: not device.address_type and is_virtio(device, d) and prefers_mmio(d), _join_mmio),
    (lambda device, d: is_usb(device), join_usb),
    (
        lambda device, d: device.tag == "memory" and _on("dimm")(device) and not is_virtio(device, d),
        _join_dimm,
    ),
    (lambda device, d: d.board.has_pci and (wants_pci(device) or device.address_type == "pci"), _join_pci),
)
#: the kinds of address that these buses have
_KINDS = ("virtio-serial", "drive", "spapr-vio", "ccw", "virtio-mmio", "usb", "dimm", "pci")


def home_of(device: Device, d: Define) -> str:
    """The kind of address that a device without one is going to have; ``""``: none."""
    kind = next((kind for kind, (belongs, _) in zip(_KINDS, _JOINS, strict=True) if belongs(device, d)), "")
    if kind == "pci" and PciLayout(d).need(device).kind is Kind.NONE:
        return ""
    return kind
