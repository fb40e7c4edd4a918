"""A guest on another machine type."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.errors import ConfigError
from qemushim.guest import Guest

if TYPE_CHECKING:
    from qemushim.document.node import Node
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host

#: types of controllers that belong to a board rather than to the user
_CONTROLLERS = ("pci", "usb", "ide", "sata", "fdc")
#: addresses that mean something on one board alone
_PLACES = ("pci", "usb", "drive", "ccw", "isa")


def other_machine(
    guest: Guest, defined: Guest, machine: str, emulator: Emulator, host: Host
) -> tuple[Guest, bool]:
    """A guest with another machine type, and whether its addresses had to go for that.

    ``defined``: its definition, whose addresses stay where the other machine has the same buses.  Raises what
    ``Guest.define`` raises where the guest can not be had on that machine in either way.
    """
    twin = _on(defined, machine)
    try:
        twin.define(emulator, host, update=False)
    except ConfigError:
        return _without_addresses(_on(guest, machine)), True
    return twin, False


def _on(guest: Guest, machine: str) -> Guest:
    twin = guest.copy()
    twin.domain.node.ensure("os/type").set("machine", machine)
    return twin


def _without_addresses(guest: Guest) -> Guest:
    """The guest as if nobody had placed anything: no addresses, and nothing that belongs to the board."""
    root = guest.domain.node.copy()
    devices = root.ensure("devices")
    devices.children = [node for node in devices.children if not _is_of_the_board(node)]
    for node in devices.children:
        address = node.child("address")
        if address is not None and address.get("type") in _PLACES:
            node.children = [child for child in node.children if child is not address]
    return Guest(root, guest.file)


def _is_of_the_board(node: Node) -> bool:
    if node.tag == "controller":
        return node.get("type") in _CONTROLLERS
    return node.tag == "watchdog" and node.get("model") == "itco"
