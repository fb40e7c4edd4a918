"""From a user's document to the definition that libvirt 0.8.0 would store."""

from __future__ import annotations

from collections.abc import Callable

from qemushim.classic.chardevs import complete_chardevs, normalize_types
from qemushim.classic.context import Classic
from qemushim.classic.defaults import complete_domain
from qemushim.classic.disks import complete_controllers, complete_disks
from qemushim.classic.display import complete_graphics, complete_inputs
from qemushim.classic.document import Domain
from qemushim.classic.extras import complete_extras
from qemushim.classic.later import settle_later
from qemushim.classic.nics import complete_interfaces
from qemushim.classic.pci import assign_pci, check_places
from qemushim.document.item import check
from qemushim.document.node import Node
from qemushim.document.writer import write
from qemushim.emulator.model import Emulator
from qemushim.host import Host

Step = Callable[[Classic], None]

#: from the document to the definition, in order
STEPS: tuple[Step, ...] = (
    complete_domain,
    complete_disks,
    complete_interfaces,
    complete_chardevs,
    complete_inputs,
    complete_extras,
    complete_graphics,
    complete_controllers,
    check_places,
)


def define_classic(root: Node, emulator: Emulator, host: Host) -> Node:
    """The definition as a new tree: machine type, defaults, drive addresses, controllers, PCI slots.

    Slots are given only where the emulator has ``-device``.  A definition comes out as it went in.  Raises
    ``ConfigError`` where the document can not be defined for this emulator, ``AddressError`` where an address
    is taken or none is left.
    """
    tree = root.copy()
    settle_later(tree, emulator)
    devices = tree.ensure("devices")
    _drop_live(devices)
    check(tree, Domain.schema)
    c = Classic(Domain(tree), emulator, host)
    if devices.child("emulator") is None and emulator.binary:
        devices.add("emulator", text=emulator.binary)
    for step in STEPS:
        step(c)
    if c.has("device"):
        assign_pci(c)
    return tree


def _drop_live(devices: Node) -> None:
    """What only a running guest has, and words of character devices that nobody knows."""
    for node in devices.children:
        node.discard("alias")
        if node.tag in ("serial", "parallel", "console", "channel"):
            normalize_types(node)


def to_xml(root: Node) -> str:
    """A definition in the order and the style of libvirt 0.8.0."""
    return write(root, Domain.schema)
