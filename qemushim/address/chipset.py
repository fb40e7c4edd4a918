"""Slots that a board's chipset has for itself, and for the devices that its firmware expects there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from qemushim.address.needs import PCI, Kind, Need
from qemushim.address.pci import PciTree
from qemushim.address.walk import index_of, pci_address, wants_pci
from qemushim.devices.address import PciAddress
from qemushim.devices.base import Device
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.address.pcilayout import PciLayout
    from qemushim.board import Board


class Chipset(Protocol):
    """What ``reserve`` takes out of the hands of everybody else; it writes the addresses that it gives."""

    def reserve(self, layout: PciLayout, tree: PciTree) -> None: ...


def chipset_of(board: Board) -> Chipset | None:
    """What is soldered to the board of a PC; ``None`` for others."""
    if board.is_i440fx:
        return I440fx()
    return Q35() if board.is_q35 else None


def _at(slot: int, function: int = 0) -> PciAddress:
    return PciAddress(0, 0, slot, function)


def _put(
    layout: PciLayout,
    tree: PciTree,
    device: Device,
    place: PciAddress,
    need: Need,
    *,
    multifunction: bool = False,
) -> None:
    tree.reserve(place, need, device.node)
    if pci_address(device) is None:
        layout.write(device, place, multifunction=multifunction)


def _put_video(layout: PciLayout, tree: PciTree, slot: int) -> None:
    """The first video device has a slot of its own, if nobody else took that."""
    videos = layout.domain.lists["video"]
    if not videos or videos[0].node.value("model/@type") in ("none", "ramfb") or not wants_pci(videos[0]):
        return
    video = videos[0]
    if tree.is_free(slot):
        need = layout.need(video)
        _put(layout, tree, video, _at(slot), PCI if need.kind is Kind.NONE else need)
    else:
        layout.place(tree, video, write=not tree.growing)


class I440fx:
    """i440FX with a PIIX3: ISA bridge, IDE, USB and power management are the functions of slot 1."""

    def reserve(self, layout: PciLayout, tree: PciTree) -> None:
        for controller in layout.domain.lists["controller"]:
            if index_of(controller) == 0:
                self._built_in(controller, layout, tree)
        for function in (0, 3):
            tree.reserve(_at(1, function), PCI)
        _put_video(layout, tree, 2)

    def _built_in(self, controller: Device, layout: PciLayout, tree: PciTree) -> None:
        kind, model = controller.node.get("type"), controller.node.get("model")
        if kind == "ide":
            place, name = _at(1, 1), "Primary IDE controller must have PCI address 0:0:1.1"
        elif kind == "usb" and model in (None, "piix3-uhci"):
            place, name = _at(1, 2), "PIIX3 USB controller at index 0 must have PCI address 0:0:1.2"
        else:
            return
        given = pci_address(controller)
        if given is not None and given != place:
            raise error.xml(name, controller.node, "leave out its <address>")
        _put(layout, tree, controller, place, PCI)


class Q35:
    """Q35 with an ICH9: SATA, USB, sound and the bridge to PCI have fixed places at the end of bus 0."""

    def reserve(self, layout: PciLayout, tree: PciTree) -> None:
        for controller in layout.domain.lists["controller"]:
            self._built_in(controller, layout, tree)
        for function in (0, 3):
            tree.reserve(_at(0x1F, function), PCI)
        _put_video(layout, tree, 1)
        sounds = (s for s in layout.domain.lists["sound"] if s.node.get("model") == "ich9")
        sound = next((s for s in sounds if wants_pci(s)), None)
        if sound is not None and tree.is_free(0x1B):
            _put(layout, tree, sound, _at(0x1B), layout.need(sound))

    def _built_in(self, controller: Device, layout: PciLayout, tree: PciTree) -> None:
        kind, model = controller.node.get("type"), controller.node.get("model")
        given = pci_address(controller)
        if kind == "sata" and index_of(controller) == 0:
            if given is None:
                _put(layout, tree, controller, _at(0x1F, 2), PCI)
            elif given != _at(0x1F, 2):
                raise error.xml(
                    "Primary SATA controller must have PCI address 0:0:1f.2",
                    controller.node,
                    "leave out its <address>",
                )
        elif not wants_pci(controller):
            return
        elif model == "ich9-uhci1":
            free = next((slot for slot in (0x1D, 0x1A) if tree.is_free(slot)), None)
            if free is not None:
                _put(layout, tree, controller, _at(free), layout.need(controller), multifunction=True)
        elif model == "dmi-to-pci-bridge" and tree.is_free(0x1E):
            _put(layout, tree, controller, _at(0x1E), layout.need(controller))
