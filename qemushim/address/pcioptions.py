"""What QEMU must be told of each PCI controller: its model name there, chassis, port and bus numbers.

The numbers are visible to the guest, so they are written into the definition when it is made.
https://libvirt.org/formatdomain.html#controllers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.pcilayout import pci_controllers
from qemushim.address.walk import index_of, number, pci_address
from qemushim.devices.base import Device
from qemushim.document.node import Node
from qemushim.document.units import parse_integer
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define

#: model → QEMU's name of the device (the roots but pSeries' are part of the machine)
MODEL_NAMES = {
    "dmi-to-pci-bridge": "i82801b11-bridge",
    "pci-bridge": "pci-bridge",
    "pci-expander-bus": "pxb",
    "pcie-expander-bus": "pxb-pcie",
    "pcie-root-port": "pcie-root-port",
    "pcie-switch-downstream-port": "xio3130-downstream",
    "pcie-switch-upstream-port": "x3130-upstream",
    "pcie-to-pci-bridge": "pcie-pci-bridge",
}
EXPANDERS = frozenset({"pci-expander-bus", "pcie-expander-bus"})
#: bus numbers of expanders count down from here, two at a time (one for a bridge behind it)
_LAST_BUS_NUMBER = 256
_LAST_TARGET_INDEX = 31


def complete_pci_options(d: Define) -> None:
    """Fill in what the definition leaves out; check what needs the whole guest to be checked."""
    controllers = pci_controllers(d.domain)
    lowest = min(_given(controllers, "busNr"), default=_LAST_BUS_NUMBER)
    indexes = _given(controllers, "index")
    for controller in controllers:
        model = controller.node.attrib.get("model", "")
        name = _model_name(d, model)
        if name:
            _child(controller, "model").attrib.setdefault("name", name)
        if model in EXPANDERS:
            lowest = _complete_expander(d, controller, lowest)
        elif model == "pci-root" and d.board.is_pseries:
            _complete_target_index(controller, indexes)
        else:
            _complete_numbers(controller, model)


def _given(controllers: list[Device], name: str) -> set[int]:
    """The values that documents give in ``<target>``."""
    targets = (controller.node.child("target") for controller in controllers)
    return {number(target, name) for target in targets if target is not None and target.get(name) is not None}


def _model_name(d: Define, model: str) -> str:
    if model == "pci-root":
        return "spapr-pci-host-bridge" if d.board.is_pseries else ""
    if model == "pcie-root-port" and not d.emulator.flag("pcie-root-port"):
        return "ioh3420"
    return MODEL_NAMES.get(model, "")


#: model → what ``<target>`` says of it
_NUMBERS = {
    "pci-bridge": ("chassisNr",),
    "pcie-root-port": ("chassis", "port"),
    "pcie-switch-downstream-port": ("chassis", "port"),
}


def _complete_numbers(controller: Device, model: str) -> None:
    names = _NUMBERS.get(model)
    if names is None:
        return
    target = _child(controller, "target").attrib
    for name in names:
        if name not in target:
            target[name] = _port(controller, model) if name == "port" else str(index_of(controller))


def _port(controller: Device, model: str) -> str:
    """The number of a port is where it sits; a root port can be one of the functions of a slot."""
    place = pci_address(controller)
    slot, function = (place.slot, place.function) if place is not None else (0, 0)
    return f"{slot * 8 + function:#x}" if model == "pcie-root-port" else f"{slot:#x}"


def _child(controller: Device, tag: str) -> Node:
    """A child element, made where it is missing."""
    node = controller.node.child(tag)
    return node if node is not None else controller.node.add(tag)


def _complete_expander(d: Define, controller: Device, lowest: int) -> int:
    """The number of an expander's bus, two below the lowest in use; which is returned."""
    target = controller.node.ensure("target")
    index = index_of(controller)
    if target.get("busNr") is None:
        if lowest <= 2:
            raise error.internal(
                "No free busNr lower than current lowest busNr is available to auto-assign to bus "
                f"{index}. Must be manually assigned",
                controller.node,
                "give the expander buses a busNr each, further apart",
            )
        lowest -= 2
        target.set("busNr", lowest)
    numa = d.domain.node.find("cpu/numa")
    cells = len(numa.all("cell")) if numa is not None else 0
    node = target.value("node")
    if node and parse_integer(node) >= cells:
        raise error.xml(
            f"{controller.node.get('model')} with index {index} is configured for a NUMA node ({node}) "
            f"not present in the domain's <cpu><numa> array ({cells})",
            controller.node,
            "define the NUMA node in <cpu><numa>",
        )
    return lowest


def _complete_target_index(controller: Device, used: set[int]) -> None:
    """pSeries tells its host bridges apart by a number of their own; 0 is the one that is always there."""
    target = controller.node.ensure("target")
    if target.get("index") is not None:
        return
    index = 0
    if index_of(controller):
        index = next((i for i in range(1, _LAST_TARGET_INDEX) if i not in used), -1)
        if index < 0:
            raise error.internal(
                f"No usable target index found for {_LAST_TARGET_INDEX}",
                controller.node,
                "there are at most 31",
            )
    used.add(index)
    target.set("index", index)
