"""Every device gets its place: all devices of a definition, or one that is added to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qemushim.address.ccw import assign_ccw
from qemushim.address.check import complete_written
from qemushim.address.dimm import assign_dimm
from qemushim.address.pcilayout import assign_pci
from qemushim.address.pcioptions import complete_pci_options
from qemushim.address.spapr_vio import assign_spapr_vio
from qemushim.address.usb import assign_usb
from qemushim.address.virtio import assign_virtio_mmio
from qemushim.address.virtio_serial import assign_virtio_serial

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
