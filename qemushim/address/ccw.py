"""CCW: the channel subsystem of s390, in which every virtio device is a subchannel."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.address.needs import is_virtio
from qemushim.address.numbers import Numbers
from qemushim.address.walk import devices_in_order, number
from qemushim.devices.base import Device

if TYPE_CHECKING:
    from qemushim.context import Define

#: the subchannel set that virtual devices are in
CSSID = 0xFE
SSID_COUNT = 4
DEVNO_COUNT = 0x10000


def _text(cssid: int, place: int) -> str:
    return f"{cssid:x}.{place // DEVNO_COUNT:x}.{place % DEVNO_COUNT:04x}"


class CcwPlaces:
    """Who has which device number; numbers of another channel subsystem than 0xfe are told apart by it."""

    def __init__(self) -> None:
        self._systems: dict[int, Numbers] = {}

    def _of(self, cssid: int) -> Numbers:
        if cssid not in self._systems:
            last = SSID_COUNT * DEVNO_COUNT - 1
            self._systems[cssid] = Numbers(
                0,
                last,
                lambda n: f"XML error: The CCW devno '{_text(cssid, n)}' is in use already",
                "internal error: There are no more free CCW devnos.",
            )
        return self._systems[cssid]

    def reserve(self, device: Device) -> None:
        """Take the number that a device gives.  Raises ``AddressError`` where it is taken."""
        node = device.node.ensure("address")
        place = number(node, "ssid", base=0) * DEVNO_COUNT + number(node, "devno", base=0)
        self._of(number(node, "cssid", CSSID, base=0)).reserve(place, node)

    def next(self, device: Device) -> None:
        """Give a device the lowest free number."""
        place = self._of(CSSID).next(device.node)
        device.set_address(
            "ccw",
            cssid=f"0x{CSSID:x}",
            ssid=f"0x{place // DEVNO_COUNT:x}",
            devno=f"0x{place % DEVNO_COUNT:04x}",
        )

    def release(self, device: Device) -> None:
        node = device.node.ensure("address")
        place = number(node, "ssid", base=0) * DEVNO_COUNT + number(node, "devno", base=0)
        self._of(number(node, "cssid", CSSID, base=0)).release(place)

    def free(self) -> Numbers:
        """The numbers of the virtual channel subsystem."""
        return self._of(CSSID)


def wants_ccw(device: Device, d: Define) -> bool:
    """Whether a device without an address of its own becomes a subchannel."""
    if device.tag == "hostdev" and device.node.get("type") == "mdev":
        return device.node.get("model") == "vfio-ccw" and d.emulator.flag("vfio-ccw")
    return is_virtio(device, d)


def occupied_ccw(d: Define) -> CcwPlaces:
    """The numbers that devices of the definition have."""
    places = CcwPlaces()
    for device in devices_in_order(d.domain):
        node = device.node.child("address")
        if node is not None and node.get("type") == "ccw" and node.get("devno") is not None:
            places.reserve(device)
    return places


def assign_ccw(d: Define) -> None:
    """Device numbers for all devices that want one."""
    if not d.board.is_ccw:
        return
    places = occupied_ccw(d)
    for device in devices_in_order(d.domain):
        node = device.node.child("address")
        bare = node is not None and node.get("type") == "ccw" and node.get("devno") is None
        if bare or (node is None and wants_ccw(device, d)):
            places.next(device)
