"""Memory that is plugged in: whether a guest may have it, and whether the pieces fit beside one another.

https://libvirt.org/formatdomain.html#memory-devices
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.alias import SLOTTED_MEMORY
from qemushim.errors import error
from qemushim.machine.numa import cells_of

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.devices.memory import MemoryDevice

#: models that a NUMA cell of the guest must be named for
_NEED_CELL = SLOTTED_MEMORY | {"virtio-mem"}


def check_memory_devices(d: Define) -> None:
    """Cells, slots and addresses of all memory devices together."""
    domain = d.domain
    devices = domain.memory_devices
    cells = len(cells_of(domain))
    slotted = sum(device.model in SLOTTED_MEMORY for device in devices)
    # ppc64 plugs memory into the board, s390 into the channel subsystem: neither needs a cell
    if devices and not domain.max_memory:
        raise error.unsupported(
            "cannot use/hotplug a memory device when domain 'maxMemory' is not defined",
            devices[0].node,
            "<maxMemory slots='16' unit='GiB'>…",
        )
    wanted = bool(domain.max_memory or slotted) and not (d.board.is_ppc64 or d.board.is_ccw)
    if wanted and not cells:
        raise error.unsupported(
            "At least one numa node has to be configured when enabling memory hotplug",
            domain.node.child("maxMemory"),
            "<cpu><numa><cell id='0' …/></numa></cpu>",
        )
    if not devices:
        return
    for device in devices:
        _check_cell(device, cells)
    last = domain.max_memory_slots or 0
    for device in devices:
        address = device.address if device.model in SLOTTED_MEMORY else None
        if address is not None and address.type == "dimm" and (address.dimm_slot or 0) >= last:
            raise error.unsupported(
                f"memory device slot '{address.dimm_slot}' exceeds slots count '{last}'",
                device.node,
                "a lower slot, or more slots=",
            )
    if slotted > (domain.max_memory_slots or 0):
        raise error.unsupported(
            f"memory device count '{slotted}' exceeds slots count '{domain.max_memory_slots or 0}'",
            devices[0].node,
            "more slots=",
        )
    _check_overlap(devices)


def _check_cell(device: MemoryDevice, cells: int) -> None:
    if device.cell is None:
        if device.model in _NEED_CELL and cells:
            raise error.unsupported(
                "target NUMA node needs to be specified for memory device",
                device.node,
                "<target><node>0</node>",
            )
        return
    if device.cell >= cells:
        raise error.plain(
            f"can't add memory backend for guest node '{device.cell}' as the guest has only '{cells}' NUMA "
            "nodes configured",
            device.node,
            "the id of a <cell>",
        )


def _check_overlap(devices: list[MemoryDevice]) -> None:
    """Virtio memory that is told where to be in guest-physical memory; what sits in slots is left to QEMU."""
    placed = [
        (device.base, device) for device in devices if device.base and device.model not in SLOTTED_MEMORY
    ]
    for number, (base, device) in enumerate(placed):
        end = base + device.size * 1024
        for other, neighbour in placed[number + 1 :]:
            if base < other + neighbour.size * 1024 and other < end:
                raise error.unsupported(
                    f"memory device address [0x{base:x}:0x{end:x}] overlaps with other memory device "
                    f"(0x{other:x})",
                    device.node,
                    "leave the address out",
                )
