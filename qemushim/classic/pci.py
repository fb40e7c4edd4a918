"""The slots of the one PCI bus of a PC, as libvirt 0.8.0 hands them out when QEMU has ``-device``.

Slot 0 is the host bridge, 1 the ISA bridge with IDE, 2 the graphics card, 3 the balloon; the free ones begin
at 4.
"""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.classic.context import Classic
from qemushim.classic.document import Device, Disk, Domain, Hostdev
from qemushim.devices.address import PciAddress
from qemushim.document.units import format_set
from qemushim.errors import AddressError

SLOTS = 32
IDE = PciAddress(0, 0, 1, 1)
VIDEO = PciAddress(0, 0, 2, 0)
BALLOON = PciAddress(0, 0, 3, 0)

#: what the first slots are for, whether it is there or not
_CHIPSET = {0: "the host bridge", 1: "ISA and IDE", 2: "the video card", 3: "the balloon"}
#: sound cards that are no PCI cards
_ISA_SOUND = ("sb16", "pcspk")


class Slots:
    """Who sits in which slot; a function does not count, a slot is given as a whole."""

    def __init__(self) -> None:
        self.used: dict[int, str] = {}
        #: where the search for a free slot begins; it never goes back
        self.next = 0

    def reserve(self, slot: int, who: str, device: Device | None = None) -> None:
        """Take a slot.  Raises ``AddressError`` where it is taken, with the slots as they are."""
        if slot in self.used:
            raise self._error(
                f"unable to reserve PCI address 0:0:{slot} for {who}: it is used by {self.used[slot]}", device
            )
        self.used[slot] = who
        if slot > self.next:
            self.next = slot + 1

    def take(self, who: str, device: Device | None = None) -> int:
        """The next free slot.  Raises ``AddressError`` where none is left."""
        for slot in range(self.next, SLOTS):
            if slot not in self.used:
                self.used[slot] = who
                self.next = slot + 1
                return slot
        raise self._error(f"no more PCI slots are free for {who}", device)

    def _error(self, message: str, device: Device | None) -> AddressError:
        return AddressError(
            f"internal error: {message}", element=device.node if device is not None else None, hint=self.map()
        )

    def map(self) -> str:
        """The bus in one line: ``0 the host bridge, 2 video cirrus, 4 interface 52:54:…; free: 5-31``."""
        taken = {**_CHIPSET, **self.used}
        free = format_set(slot for slot in range(SLOTS) if slot not in taken)
        return f"slots: {', '.join(f'{s} {who}' for s, who in sorted(taken.items()))}; free: {free or 'none'}"


def assign_pci(c: Classic) -> None:
    """Give every PCI device of the domain a slot that it keeps.  Raises ``AddressError``."""
    domain = c.domain
    slots = Slots()
    fixed = _collect(domain, slots)
    slots.reserve(0, "the host bridge")
    _place_balloon(domain, slots)
    for device in _before_video(domain):
        _give(device, slots)
    _place_video(domain, slots, fixed)
    _place_controllers(domain, slots, fixed)
    for watchdog in domain.devices.watchdogs:
        # an ISA card has no slot; libvirt 0.8.0 gave it one, and QEMU refused that
        if watchdog.model != "ib700" or c.letter:
            _give(watchdog, slots)


def check_places(c: Classic) -> None:
    """The PCI addresses of the document are possible, and written in full.  Raises ``AddressError``."""
    for device in every_device(c.domain):
        place = device.pci
        if place is None:
            continue
        if place.slot >= SLOTS or place.function > 7 or not (place.domain or place.bus or place.slot):
            raise AddressError(
                f"XML error: invalid PCI address {place}",
                element=device.node,
                hint="slot 0x01-0x1f (slot 0 is the host bridge), function 0-7",
            )
        device.pci = place


def name(device: Device) -> str:
    """What to call a device on the map of the bus."""
    node = device.node
    detail = node.value("target/@dev") if isinstance(device, Disk) else node.value("mac/@address")
    detail = detail or node.get("model") or node.value("model/@type") or node.get("type") or ""
    return f"{node.tag} {detail}".strip()


def every_device(domain: Domain) -> Iterator[Device]:
    """Everything that can have an address, kind by kind."""
    d = domain.devices
    for kind in (d.disks, d.interfaces, d.sounds, d.hostdevs, d.videos, d.controllers, d.inputs, d.parallels):
        yield from kind
    for kind in (d.serials, d.channels, d.watchdogs, d.balloons):
        yield from kind


def _collect(domain: Domain, slots: Slots) -> dict[Device, PciAddress]:
    """The addresses that the document gives; they stay."""
    fixed = {}
    for device in every_device(domain):
        place = device.pci
        if place is None:
            continue
        if place.domain or place.bus:
            raise AddressError(
                f"internal error: Only PCI domain 0 and bus 0 are available, not {place}",
                element=device.node,
                hint="the machines of this QEMU have one PCI bus",
            )
        pointer = slots.next
        slots.reserve(place.slot, name(device), device)
        slots.next = pointer
        fixed[device] = place
    return fixed


def _give(device: Device, slots: Slots) -> None:
    if device.node.child("address") is None:
        device.pci = PciAddress(0, 0, slots.take(name(device), device), 0)


def _place_balloon(domain: Domain, slots: Slots) -> None:
    """The balloon's slot is kept for it, whether the document has the element or not."""
    balloon = next(iter(domain.devices.balloons), None)
    if balloon is not None and balloon.model == "none":
        slots.next = max(slots.next, BALLOON.slot + 1)
    elif balloon is None or balloon.pci is None:
        slots.reserve(BALLOON.slot, "the balloon")
        if balloon is not None:
            balloon.pci = BALLOON
    slots.next = max(slots.next, BALLOON.slot + 1)


def _before_video(domain: Domain) -> Iterator[Device]:
    d = domain.devices
    yield from (disk for disk in d.disks if disk.bus == "virtio")
    yield from d.interfaces
    yield from (sound for sound in d.sounds if sound.model not in _ISA_SOUND)
    yield from (hostdev for hostdev in d.hostdevs if _is_pci(hostdev))


def _is_pci(hostdev: Hostdev) -> bool:
    return hostdev.type == "pci"


def _place_video(domain: Domain, slots: Slots, fixed: dict[Device, PciAddress]) -> None:
    for number, video in enumerate(domain.devices.videos):
        if video.model == "none":
            continue
        if number:
            _give(video, slots)
        else:
            _pin(video, VIDEO, "Primary video card", slots, fixed)


def _place_controllers(domain: Domain, slots: Slots, fixed: dict[Device, PciAddress]) -> None:
    for controller in domain.devices.controllers:
        if controller.type == "fdc":
            continue
        if controller.type == "ide" and controller.index == 0:
            _pin(controller, IDE, "Primary IDE controller", slots, fixed)
        else:
            _give(controller, slots)


def _pin(
    device: Device, place: PciAddress, words: str, slots: Slots, fixed: dict[Device, PciAddress]
) -> None:
    """A device that the chipset puts where it is."""
    given = fixed.get(device)
    if given is None:
        slots.reserve(place.slot, name(device), device)
        device.pci = place
    elif given != place:
        raise AddressError(
            f"unsupported configuration: {words} must have PCI address 0:0:{place.slot}.{place.function}",
            element=device.node,
            hint=slots.map(),
        )
