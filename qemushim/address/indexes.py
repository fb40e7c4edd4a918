"""Indexes of controllers that have none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.pcilayout import USB2_FUNCTIONS
from qemushim.address.walk import number
from qemushim.devices.base import Device
from qemushim.machine.order import insert_device

if TYPE_CHECKING:
    from qemushim.context import Define


#: libvirt that puts all controllers in order again once a part of a USB 2 controller has got its index (9.0 does not,
#: 11.3 does)
_REORDERS = 9_001_000


def assign_controller_indexes(d: Define) -> None:
    """The lowest unused index of the type; parts of one USB 2 controller share theirs."""
    controllers = d.domain.lists["controller"]
    if all(controller.node.get("index") is not None for controller in controllers):
        return
    used: dict[str, set[int]] = {}
    for controller in controllers:
        if controller.node.get("index") is not None:
            used.setdefault(_type(controller), set()).add(number(controller.node, "index"))
    low: dict[str, int] = {}
    previous: Device | None = None
    reorders = d.host.libvirt >= _REORDERS and any(map(_is_usb2_without_index, controllers[1:]))
    for controller in controllers:
        kind = _type(controller)
        if controller.node.get("index") is None:
            index = _shared_index(controller, previous, controllers)
            if index is None:
                taken = used.setdefault(kind, set())
                index = low.get(kind, 0)
                while index in taken:
                    index += 1
                low[kind] = index
                taken.add(index)
            controller.node.set("index", index)
        if kind == "usb":
            previous = controller
    if reorders:
        found, controllers[:] = controllers[:], []
        for controller in found:
            insert_device(controllers, controller)


def _is_usb2_without_index(controller: Device) -> bool:
    return controller.node.get("index") is None and controller.node.get("model") in USB2_FUNCTIONS


def _type(controller: Device) -> str:
    return controller.node.get("type") or "ide"


def _shared_index(part: Device, previous: Device | None, controllers: list[Device]) -> int | None:
    """The index of the USB 2 controller that this is one more part of."""
    model = part.node.get("model")
    if model not in USB2_FUNCTIONS or previous is None or previous.node.get("model") not in USB2_FUNCTIONS:
        return None
    index = number(previous.node, "index")
    twin = any(
        other.node.get("model") == model and other.node.get("index") == str(index) for other in controllers
    )
    return None if twin else index
