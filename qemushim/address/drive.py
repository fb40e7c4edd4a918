"""Drive addresses of SCSI host devices: which unit of which controller.  Disks know theirs by their name.

https://libvirt.org/formatdomain.html#usb-pci-scsi-devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.devices.address import DriveAddress, drive_place
from qemushim.devices.base import Device
from qemushim.devices.disk import drive_address_of

if TYPE_CHECKING:
    from qemushim.context import Define


class ScsiUnits:
    """The SCSI addresses in use."""

    def __init__(self) -> None:
        self._used: set[DriveAddress] = set()
        #: every address of a lower number is in use
        self._low = 0

    def reserve(self, place: DriveAddress) -> None:
        """Note an address.  Whether two devices have the same is checked with the disks and host devices."""
        self._used.add(place)

    def next(self) -> DriveAddress:
        """Take the lowest unit that nobody has; there is always one more controller."""
        place = next(self.free())
        self._used.add(place)
        return place

    def release(self, place: DriveAddress) -> None:
        self._used.discard(place)
        self._low = 0

    def free(self) -> Iterator[DriveAddress]:
        """The free addresses of controllers in order, without end."""
        index = self._low
        while True:
            place = drive_address_of("scsi", index)
            assert place is not None
            if place not in self._used:
                self._low = index
                yield place
            index += 1


def drive_address(device: Device) -> DriveAddress | None:
    """The drive address that a device has."""
    node = device.node.child("address")
    return drive_place(node) if node is not None and node.get("type") == "drive" else None


def is_scsi(device: Device) -> bool:
    """A disk or host device on a SCSI bus of the guest."""
    kind = device.node.value("target/@bus") if device.tag == "disk" else device.node.get("type")
    return kind == "scsi"


def occupied_scsi(d: Define) -> ScsiUnits:
    """The SCSI addresses that devices of the definition have."""
    units = ScsiUnits()
    for device in (*d.domain.lists["disk"], *d.domain.lists["hostdev"]):
        place = drive_address(device) if is_scsi(device) else None
        if place is not None:
            units.reserve(place)
    return units


def assign_scsi_hostdevs(d: Define) -> None:
    """The lowest free units for SCSI host devices that have no address."""
    open_ = [device for device in d.domain.lists["hostdev"] if is_scsi(device) and not device.address_type]
    if open_:
        units = occupied_scsi(d)
        for device in open_:
            device.set_address("drive", **units.next()._asdict())
