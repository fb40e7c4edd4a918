"""Before a start: the slots that QEMU is going to choose itself."""

from __future__ import annotations

from qemushim.classic.command import command_classic
from qemushim.classic.document import Device, Domain
from qemushim.classic.slots import Card, Layout, family, layout, option_arguments
from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.devices.address import PciAddress
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.host import Host

#: cards that may be there for several elements at once
_SHARED = ("sound", "uhci")


def predict(root: Node, command: Command, emulator: Emulator) -> dict[Item, PciAddress]:
    """Device → the PCI address that it will have, for every device of the definition that QEMU places itself.

    These are no addresses of the definition: another release of QEMU chooses otherwise.  With ``-device`` the
    definition says every place, so there is none to predict.
    """
    domain = Domain(root)
    if "device" in emulator.flags or not domain.is_hvm:
        return {}
    cards = predict_layout(command, emulator)
    by_source: dict[Node, Card] = {}
    by_kind: dict[tuple[str, str], Card] = {}
    for card in cards.cards:
        if isinstance(card.source, Option) and card.source.source is not None and card.kind not in _SHARED:
            by_source[card.source.source] = card
        by_kind.setdefault((card.kind, card.detail), card)
    found: dict[Item, PciAddress] = {}
    for device in _asked(domain):
        found_card = by_source.get(device.node) or by_kind.pop(_kind(device), None)
        if found_card is not None:
            found[device] = PciAddress(0, 0, found_card.slot, found_card.function)
    return found


def predict_definition(root: Node, emulator: Emulator, host: Host) -> dict[Item, PciAddress]:
    """The same for a definition; nothing where this emulator could not be started with it."""
    try:
        command = command_classic(root, emulator, host)
    except ConfigError:
        return {}
    return predict(root, command, emulator)


def predict_layout(command: Command, emulator: Emulator) -> Layout:
    """The whole bus, with the cards that no element stands for, and what gets lost."""
    return layout(option_arguments(command.options), family(emulator))


def _asked(domain: Domain) -> list[Device]:
    """The devices that can be PCI cards, in the order of the document."""
    d = domain.devices
    return [*d.disks, *d.controllers, *d.interfaces, *d.sounds, *d.videos, *d.watchdogs, *d.balloons]


def _kind(device: Device) -> tuple[str, str]:
    """What a card is called that has no option of its own."""
    node = device.node
    if node.tag == "controller":
        kind, index = node.get("type") or "", node.get("index") or "0"
        return {"scsi": ("lsi", index), "ide": ("ide", "" if index == "0" else index)}.get(
            kind, (kind, index)
        )
    if node.tag == "sound":
        return "sound", node.get("model") or ""
    if node.tag == "video":
        words = {"cirrus": "cirrus", "vga": "std", "vmvga": "vmware", "qxl": "qxl"}
        return "vga", words.get(node.value("model/@type") or "", "")
    return {"memballoon": ("balloon", "")}.get(node.tag, (node.tag, ""))
