"""``Survey``: a guest with every device in its place and by its name, as it would be started."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qemushim.address.assign import assign_addresses
from qemushim.address.walk import index_of, pci_address
from qemushim.context import Define
from qemushim.devices.address import PciAddress
from qemushim.devices.alias import assign_aliases
from qemushim.devices.base import Device
from qemushim.document.keep import as_utf8, places
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host
    from qemushim.machine.domain import Domain


@dataclass(frozen=True)
class Survey:
    """A definition, complete with aliases, and what it was made for."""

    guest: Guest
    d: Define

    @property
    def domain(self) -> Domain:
        return self.d.domain

    def pci_controllers(self) -> Iterator[Device]:
        """The controllers that give a PCI bus, by the number of that bus."""
        found = (c for c in self.domain.lists["controller"] if c.node.get("type") == "pci")
        yield from sorted(found, key=index_of)


def survey(guest: Guest, emulator: Emulator, host: Host, *, update: bool = True) -> Survey:
    """Define a guest and give its devices their aliases; the guest is left as it is.

    ``update`` is that of ``Guest.define``.  Raises what ``define`` raises, and ``ConfigError`` for a QEMU that is known
    by its help text: it has no buses that a definition could speak of.
    """
    if emulator.classic:
        version = ".".join(map(str, emulator.version))
        raise error.not_supported(
            f"QEMU {version} places most devices itself, so there is no tree of buses to look at",
            hint="take a QEMU from 1.3 on, or “qemushim argv” for its command line",
        )
    defined = guest.define(emulator, host, update=update)
    d = Define(defined.domain, emulator, host, update=False, start=True)
    assign_addresses(d)
    assign_aliases(d)
    return Survey(defined, d)


# -- names for people --------------------------------------------------------------------------------------

#: tag → where a device of that kind says what tells it from others; the first that is there counts
_NAMES: dict[str, tuple[str, ...]] = {
    "channel": ("target/@name", "target/@type"),
    "console": ("target/@type",),
    "controller": ("@model", "@type"),
    "disk": ("target/@dev",),
    "filesystem": ("target/@dir",),
    "graphics": ("@type",),
    "hostdev": ("alias/@name", "@type"),
    "input": ("@type",),
    "interface": ("mac/@address",),
    "memory": ("@model",),
    "shmem": ("@name",),
    "smartcard": ("@mode",),
    "sound": ("@model",),
    "tpm": ("@model",),
    "video": ("model/@type",),
    "watchdog": ("@model",),
}


def label(node: Node) -> str:
    """``disk vda``, ``controller pcie-root-port 3``: an element in a few words."""
    words = [node.tag]
    name = next(filter(None, map(node.value, _NAMES.get(node.tag, ()))), "")
    if name:
        words.append(name)
    if node.tag == "controller":
        words.append(node.get("index") or "")
    return " ".join(filter(None, words))


def address_text(device: Device) -> str:
    """``pci 0000:01:00.0``, ``usb 0:1.2``: where a device is, ``""`` where it has no address."""
    place = pci_address(device)
    if place is not None:
        return f"pci {place}"
    node = device.node.child("address")
    if node is None or node.get("type") in (None, "none", "pci"):
        return ""
    parts = [
        str(_plain(value)) for name, value in node.attrib.items() if name not in ("type", "multifunction")
    ]
    return f"{node.get('type')} {':'.join(parts)}"


def _plain(value: str) -> str:
    return value.removeprefix("0x")


def lines_of(guest: Guest) -> dict[int, tuple[int, int]]:
    """Number of an element (``Node.origin``) → its first and last line in the user's text."""
    text = as_utf8(guest.text)
    ends: dict[int, tuple[int, int]] = {}
    position, line = 0, 1
    marks = sorted({mark for place in places(text) for mark in (place.start, place.end - 1)})
    at: dict[int, int] = {}
    for mark in marks:
        line += text.count(b"\n", position, mark)
        position = mark
        at[mark] = line
    for number, place in enumerate(places(text)):
        ends[number] = (at[place.start], at[place.end - 1])
    return ends


__all__ = ["PciAddress", "Survey", "address_text", "label", "lines_of", "survey"]
