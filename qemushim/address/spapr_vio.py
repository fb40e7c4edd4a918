"""spapr-vio: the paravirtual bus of pSeries, on which a device is known by its register number."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.address.walk import devices_in_order, number
from qemushim.devices.base import Device
from qemushim.errors import AddressError

if TYPE_CHECKING:
    from qemushim.context import Define

STEP = 0x1000
#: the largest register number
LAST = 0xFFFFFFFF


def _is_spapr_serial(device: Device) -> bool:
    return device.node.value("target/@type") == "spapr-vio-serial"


#: which devices are on this bus, and where their numbers start; in the order in which they get them
_BASES: tuple[tuple[str, Callable[[Device], bool], int], ...] = (
    ("interface", lambda device: device.node.value("model/@type") == "spapr-vlan", 0x1000),
    ("controller", lambda device: device.node.get("model") == "ibmvscsi", 0x2000),
    ("serial", _is_spapr_serial, 0x30000000),
    ("nvram", lambda device: True, 0x3000),
    ("tpm", lambda device: device.node.get("model") != "spapr-tpm-proxy", 0x4000),
)


#: kinds whose model alone puts them on this bus, whatever the machine
_ANYWHERE = frozenset({"controller", "interface"})


class SpaprVioPlaces:
    """The register numbers in use."""

    def __init__(self) -> None:
        self._used: set[int] = set()
        #: base → the first number that may be free
        self._low: dict[int, int] = {}

    def reserve(self, reg: int, device: Device) -> None:
        """Take a number.  Raises ``AddressError`` where it is taken."""
        if reg in self._used:
            raise AddressError(
                f"XML error: spapr-vio address {reg:#x} already in use",
                element=device.node,
                hint=self.drawing(),
            )
        self._used.add(reg)

    def next(self, base: int, device: Device) -> int:
        """Take the lowest free number in steps from ``base``."""
        reg = self._low.get(base, base)
        while reg in self._used:
            reg += STEP
        if reg > LAST:
            raise AddressError("internal error: No more free spapr-vio addresses", element=device.node)
        self._low[base] = reg
        self._used.add(reg)
        return reg

    def release(self, reg: int) -> None:
        self._used.discard(reg)
        self._low.clear()

    def free(self, base: int) -> Iterator[int]:
        """The free numbers from ``base``, lowest first."""
        return (reg for reg in range(base, LAST + 1, STEP) if reg not in self._used)

    def drawing(self) -> str:
        return "in use: " + ", ".join(f"{reg:#x}" for reg in sorted(self._used))


def spapr_vio_base(device: Device) -> int | None:
    """Where the numbers of a device start; ``None`` for one that is not on this bus."""
    return next((base for tag, want, base in _BASES if tag == device.tag and want(device)), None)


def occupied_spapr_vio(d: Define) -> SpaprVioPlaces:
    """The numbers that devices of the definition have."""
    places = SpaprVioPlaces()
    for device in devices_in_order(d.domain):
        node = device.node.child("address")
        if node is not None and node.get("type") == "spapr-vio" and node.get("reg") is not None:
            places.reserve(number(node, "reg", base=16), device)
    return places


def place_spapr_vio(places: SpaprVioPlaces, device: Device) -> None:
    """Give a device its number, if it is on this bus and has none."""
    base = spapr_vio_base(device)
    node = device.node.child("address")
    if base is None or (
        node is not None and (node.get("type") != "spapr-vio" or node.get("reg") is not None)
    ):
        return
    device.set_address("spapr-vio", reg=f"0x{places.next(base, device):08x}")


def assign_spapr_vio(d: Define) -> None:
    """Register numbers for all devices that want one."""
    places = occupied_spapr_vio(d)
    for tag, _, _ in _BASES:
        if not d.board.is_pseries and tag not in _ANYWHERE:
            continue
        for device in d.domain.lists[tag]:
            place_spapr_vio(places, device)
