"""DIMM slots: https://libvirt.org/formatdomain.html#memory-devices"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.numbers import Numbers
from qemushim.address.walk import number
from qemushim.devices.base import Device
from qemushim.document.units import parse_unsigned

if TYPE_CHECKING:
    from qemushim.context import Define

#: models that sit in a slot; the others are PCI or CCW devices, or enclaves
MODELS = frozenset({"dimm", "nvdimm"})


def occupied_dimm(d: Define) -> Numbers | None:
    """The slots of the guest; ``None`` where it has none (no ``<maxMemory>``)."""
    if d.domain.node.child("maxMemory") is None:
        return None
    slots = parse_unsigned(d.domain.node.value("maxMemory/@slots") or "0")
    places = Numbers(
        0,
        slots - 1,
        lambda slot: (
            f"unsupported configuration: memory device slot '{slot}' is already being used by another "
            "memory device"
        ),
        "internal error: failed to find an empty memory slot",
    )
    for device in d.domain.lists["memory"]:
        node = device.node.child("address")
        if node is None or node.get("type") != "dimm" or device.node.get("model") not in MODELS:
            continue
        if node.get("slot") is not None and number(node, "slot") not in places:
            places.reserve(number(node, "slot"), node)
    return places


def place_dimm(places: Numbers, device: Device) -> None:
    """Give a memory device the lowest free slot, if it needs one."""
    if device.node.get("model") not in MODELS:
        return
    node = device.node.child("address")
    if node is None or node.get("type") != "dimm":
        device.set_address("dimm", slot=places.next(device.node))
    elif node.get("slot") is None:
        node.set("slot", places.next(device.node))


def assign_dimm(d: Define) -> None:
    """Slots for all memory devices that need one."""
    if not d.domain.lists["memory"]:
        return
    places = occupied_dimm(d)
    for device in d.domain.lists["memory"] if places is not None else ():
        assert places is not None
        place_dimm(places, device)
