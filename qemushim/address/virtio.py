"""virtio-mmio or PCI: boards that could do without PCI put virtio devices on memory-mapped transports."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.needs import is_virtio
from qemushim.address.walk import devices_in_order

if TYPE_CHECKING:
    from qemushim.context import Define

#: kinds that libvirt never puts on virtio-mmio by itself
_PCI_ALONE = frozenset({"filesystem", "vsock"})


def assign_virtio_mmio(d: Define) -> None:
    """``<address type='virtio-mmio'/>`` for virtio devices of a board that has no use for PCI.

    A guest that has a virtio-mmio device already stays with them.
    """
    if not prefers_mmio(d):
        return
    for device in devices_in_order(d.domain):
        if not device.address_type and device.tag not in _PCI_ALONE and is_virtio(device, d):
            device.set_address("virtio-mmio")


def prefers_mmio(d: Define) -> bool:
    """Whether virtio devices of the guest go to virtio-mmio, where they may choose."""
    board = d.board
    is_vexpress = board.is_arm and board.machine.startswith("vexpress-")
    if not (board.is_arm_virt or board.is_riscv_virt or is_vexpress):
        return False
    express = any(controller.node.get("model") == "pcie-root" for controller in d.domain.lists["controller"])
    if not express or not d.emulator.flag("pcie-root-port"):
        return True
    return any(device.address_type == "virtio-mmio" for device in devices_in_order(d.domain))
