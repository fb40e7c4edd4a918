"""zPCI: an s390 guest knows a PCI device by a uid and a fid.  https://libvirt.org/pci-addresses.html#zpci-addresses"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.numbers import Numbers
from qemushim.address.walk import devices_in_order, number, pci_address
from qemushim.devices.base import Device
from qemushim.document.node import Node

if TYPE_CHECKING:
    from qemushim.context import Define

#: serial devices are no zPCI devices, wherever they sit
_WITHOUT = frozenset({"channel", "console", "parallel", "serial"})


class ZpciIds:
    """The uids and fids of one guest."""

    def __init__(self) -> None:
        # libvirt prints these numbers in octal
        self.uids = Numbers(
            1,
            0xFFFF,
            lambda n: f"internal error: zPCI uid {n:o} is already reserved",
            "internal error: There is no more free uid.",
        )
        self.fids = Numbers(
            0,
            0xFFFFFFFF,
            lambda n: f"internal error: zPCI fid {n:o} is already reserved",
            "internal error: There is no more free fid.",
        )

    def reserve(self, zpci: Node) -> None:
        """Take the ids that an element gives, and complete the half that it leaves out.

        Raises ``AddressError`` where one is taken; then neither is.
        """
        uid, fid = zpci.get("uid"), zpci.get("fid")
        if uid is not None:
            self.uids.reserve(number(zpci, "uid", base=0), zpci)
        if fid is not None:
            try:
                self.fids.reserve(number(zpci, "fid", base=0), zpci)
            except Exception:
                if uid is not None:
                    self.uids.release(number(zpci, "uid", base=0))
                raise
        self.next(zpci)

    def next(self, zpci: Node) -> None:
        """The lowest free ids, for what the element leaves out."""
        if zpci.get("uid") is None:
            zpci.set("uid", f"0x{self.uids.next(zpci):04x}")
        if zpci.get("fid") is None:
            zpci.set("fid", f"0x{self.fids.next(zpci):08x}")

    def join(self, device: Device) -> None:
        """The ids of one device: those it gives, else the lowest free ones."""
        given = zpci_of(device)
        if given is not None:
            self.reserve(given)
        else:
            self.next(device.node.ensure("address/zpci"))

    def release(self, zpci: Node) -> None:
        self.uids.release(number(zpci, "uid", base=0))
        self.fids.release(number(zpci, "fid", base=0))


def zpci_devices(d: Define) -> list[Device]:
    """The devices of an s390 guest that are on PCI, and so have a zPCI number each."""
    return [
        device for device in devices_in_order(d.domain) if device.tag not in _WITHOUT and pci_address(device)
    ]


def zpci_of(device: Device) -> Node | None:
    """The element with the ids of a device; ``None`` where it gives none."""
    zpci = device.node.find("address/zpci")
    return zpci if zpci is not None and (zpci.get("uid") or zpci.get("fid")) else None


def occupied_zpci(d: Define) -> ZpciIds:
    """The ids that devices of the definition have."""
    ids = ZpciIds()
    for device in zpci_devices(d):
        given = zpci_of(device)
        if given is not None:
            ids.reserve(given)
    return ids


def assign_zpci(d: Define) -> None:
    """Ids for every PCI device of the guest, those that the user gave first."""
    ids = occupied_zpci(d)
    for device in zpci_devices(d):
        if zpci_of(device) is None:
            ids.next(device.node.ensure("address/zpci"))
