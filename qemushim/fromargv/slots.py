"""PCI slots of devices that name none: QEMU takes the first free one, in the order in which devices come to be.

First the board's own (graphics card, then network cards of ``-nic`` and ``-net``), then every ``-device`` in order,
then the drives of ``if=virtio``.
"""

from __future__ import annotations

from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line
from qemushim.fromargv.nics import CARDS
from qemushim.fromargv.places import split_driver

#: slots that the board itself has: of i440fx host bridge and PIIX, of q35 host bridge and chipset
_BOARDS: dict[str, frozenset[int]] = {
    "i440fx": frozenset({0, 1}),
    "q35": frozenset({0, 0x1F}),
    "virt": frozenset({0}),
}


#: QEMU's devices on PCI that libvirt does not know, or that may be kept for what it does not know of them
_OTHERS = frozenset(
    (
        "ati-vga",
        "edu",
        "igb",
        "nvme",
        "pci-serial-2x",
        "pci-serial-4x",
        "pci-testdev",
        "sdhci-pci",
        "secondary-vga",
    )
)


def wait_kept(line: Line, argument: Argument) -> None:
    """A PCI device that stays in ``<qemu:commandline>``: it gets the slot that it had, before libvirt's take it."""
    bag = argument.bag
    driver = bag.peek("driver") or ""
    base, kind, _ = split_driver(driver)
    virtio = (
        base.startswith("virtio-") and kind in ("", "pci") and line.board.has_pci and not line.board.is_ccw
    )
    on_pci = virtio or driver in _OTHERS or (driver in CARDS and driver not in ("usb-net", "ne2k_isa"))
    if on_pci and not bag.is_json and not bag.has("addr") and not bag.has("bus"):
        node = Node("kept")
        line.buses.unplaced.append((node, 0, None))
        line.buses.kept.append((node, argument))


def _say_kept(line: Line) -> None:
    """The slots of such devices, into their words."""
    for node, argument in line.buses.kept:
        slot = node.value("address/@slot")
        if slot is not None:
            argument.root.tokens[-1] += f",addr={int(slot, 16):#x}"


def place_rest(line: Line) -> None:
    """Give every PCI device that has no address the one that QEMU would."""
    board = line.board
    _usb_controller(line)
    _scsi_controller(line)
    key = "i440fx" if board.is_i440fx else "q35" if board.is_q35 else "virt" if board.is_arm_virt else ""
    waiting = [node for _, node in sorted(line.buses.waiting, key=lambda pair: pair[0])]
    if not key:
        # boards whose order is not known: libvirt chooses
        return
    taken: dict[int, set[int]] = {0: set(_BOARDS[key])}
    for node in line.devices.children:
        address = node.child("address")
        if address is not None and address.get("type") == "pci":
            bus, slot = int(address.get("bus") or "0", 16), int(address.get("slot") or "0", 16)
            taken.setdefault(bus, set()).add(slot)
    for node in waiting:
        _place(node, 0, None, taken, line)
    for node, bus, many in line.buses.unplaced:
        _place(node, bus, many, taken, line)
    _say_kept(line)


def _place(node: Node, bus: int, many: bool | None, taken: dict[int, set[int]], line: Line) -> None:
    if node.child("address") is not None:
        return
    used = taken.setdefault(bus, set())
    model = line.buses.models.get(bus, "")
    first = 1 if model in ("pci-bridge", "pcie-to-pci-bridge", "dmi-to-pci-bridge") else 0
    slot = next((number for number in range(first, 32) if number not in used), None)
    if slot is None:
        line.note("lost", f"PCI bus {bus} has no free slot: libvirt chooses")
        return
    used.add(slot)
    address = {
        "type": "pci",
        "domain": "0x0000",
        "bus": f"{bus:#04x}",
        "slot": f"{slot:#04x}",
        "function": "0x0",
    }
    if many is not None:
        address["multifunction"] = "on" if many else "off"
    node.add("address", address)


def _usb_controller(line: Line) -> None:
    """``-usb``: the controller of the chipset."""
    if not line.chipset.usb or any(c.get("type") == "usb" for c in line.devices.all("controller")):
        return
    if line.board.is_i440fx:
        node = line.devices.add("controller", {"type": "usb", "index": "0", "model": "piix3-uhci"})
        node.add("address", {"type": "pci", "domain": "0", "bus": "0", "slot": "0x01", "function": "0x2"})
    elif line.board.is_q35:
        for model, function in (("ich9-ehci1", 7), ("ich9-uhci1", 0), ("ich9-uhci2", 1), ("ich9-uhci3", 2)):
            node = line.devices.add("controller", {"type": "usb", "index": "0", "model": model})
            place = {"type": "pci", "domain": "0", "bus": "0", "slot": "0x1d", "function": hex(function)}
            if function:
                node.add("address", place)
            else:
                node.add("address", {**place, "multifunction": "on"})
            if model != "ich9-ehci1":
                node.add("master", {"startport": str(function * 2)})


def _scsi_controller(line: Line) -> None:
    """``if=scsi``: QEMU brings an LSI controller for each seven drives."""
    if line.buses.scsi_drives and not any(c.get("type") == "scsi" for c in line.devices.all("controller")):
        node = line.devices.add("controller", {"type": "scsi", "index": "0", "model": "lsilogic"})
        line.buses.waiting.append((2, node))
