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
    board = d.board
    if not (
        board.is_arm_virt or board.is_riscv_virt or (board.is_arm and board.machine.startswith("vexpress-"))
    ):
        return
    controllers = d.domain.lists["controller"]
    express = any(controller.node.get("model") == "pcie-root" for controller in controllers)
    devices = list(devices_in_order(d.domain))
    if (
        express
        and d.emulator.flag("pcie-root-port")
        and not any(device.address_type == "virtio-mmio" for device in devices)
    ):
        return
    for device in devices:
        if not device.address_type and device.tag not in _PCI_ALONE and is_virtio(device, d):
            device.set_address("virtio-mmio")
