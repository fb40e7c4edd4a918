"""Sound cards, the watchdog, devices of the host, the balloon."""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.classic.context import QEMU_0_10, QEMU_0_11, Classic, ClassicBuild, Keys
from qemushim.classic.document import Hostdev, PciPlace, Sound, UsbPlace
from qemushim.classic.pci import BALLOON
from qemushim.command.option import Option
from qemushim.document.node import Node
from qemushim.errors import error

#: model → ``-device``
_SOUND_DRIVERS = {"es1370": "ES1370", "ac97": "AC97", "sb16": "sb16"}


# -- defaults ------------------------------------------------------------------------------------------------


def complete_extras(c: Classic) -> None:
    devices = c.domain.devices
    for watchdog in devices.watchdogs[1:]:
        raise error.xml("only a single watchdog device is supported", watchdog.node, "keep the first")
    for watchdog in devices.watchdogs:
        watchdog.action = watchdog.action
    for balloon in devices.balloons:
        balloon.model = balloon.model
    for hostdev in devices.hostdevs:
        hostdev.mode, hostdev.managed = hostdev.mode, hostdev.managed
        _check_source(hostdev)


def _check_source(hostdev: Hostdev) -> None:
    source = hostdev.node.child("source")
    address = source.child("address") if source is not None else None
    vendor = source.child("vendor") if source is not None else None
    if address is None and (hostdev.type == "pci" or vendor is None):
        raise error.xml(
            "Missing <source> address of a host device", hostdev.node, "<source><address …/></source>"
        )
    if address is not None and hostdev.type == "usb" and address.get("device") is None:
        raise error.xml("usb address needs device id", address, "<address bus='…' device='…'/>")


# -- arguments -----------------------------------------------------------------------------------------------


def sound_options(b: ClassicBuild) -> Iterator[Option]:
    """Sound cards: all in one option, or each a device; the PC's speaker is never one."""
    sounds = b.domain.devices.sounds
    for sound in sounds:
        if sound.model == "ac97":
            b.require(QEMU_0_10, "sound model 'ac97'", sound.node, "use es1370, sb16 or pcspk")
    if not b.has("device"):
        if sounds:
            yield b.option(
                "-soundhw", ",".join(s.model or "" for s in sounds), sounds[0].node, "the sound cards"
            )
        return
    for sound in sounds:
        yield _sound(b, sound)


def _sound(b: ClassicBuild, sound: Sound) -> Option:
    driver = _SOUND_DRIVERS.get(sound.model or "")
    if driver is None:
        return b.option("-soundhw", sound.model, sound.node, "the PC's speaker is no device")
    return b.device(driver, [("id", b.alias(sound)), *b.place(sound)], sound.node, "a sound card")


def watchdog_options(b: ClassicBuild) -> Iterator[Option]:
    for watchdog in b.domain.devices.watchdogs:
        model = watchdog.model or ""
        b.require(QEMU_0_11, "a watchdog", watchdog.node, "they came with QEMU 0.11")
        if b.has("device"):
            pairs = [("id", b.alias(watchdog)), *b.place(watchdog)]
            yield b.device(model, pairs, watchdog.node, "acts when the guest hangs")
        else:
            yield b.option("-watchdog", model, watchdog.node, "acts when the guest hangs")
        yield b.option("-watchdog-action", watchdog.action, watchdog.node, "what it does then")


def hostdev_options(b: ClassicBuild) -> Iterator[Option]:
    """Devices of the host that are handed to the guest, in the order of the document."""
    for hostdev in b.domain.devices.hostdevs:
        address = hostdev.node.find("source/address")
        if hostdev.type == "usb":
            yield _usb(b, hostdev, address)
        else:
            assert address is not None, "checked when the domain was read"
            yield _pci(b, hostdev, address)


def _usb(b: ClassicBuild, hostdev: Hostdev, address: Node | None) -> Option:
    place = UsbPlace(address) if address is not None else None
    if place is None or not (place.bus or place.device):
        raise error.internal(
            "USB host device is missing bus/device information",
            hostdev.node,
            "give <address bus='…' device='…'/>: who has a vendor and product is known to the host alone",
        )
    bus, device = f"{place.bus:03d}", f"{place.device:03d}"
    if not b.has("device"):
        return b.option("-usbdevice", f"host:{bus}.{device}", hostdev.node, "a USB device of the host")
    pairs: Keys = [("hostbus", bus), ("hostaddr", device), ("id", b.alias(hostdev))]
    return b.device("usb-host", pairs, hostdev.node, "a USB device of the host")


def _pci(b: ClassicBuild, hostdev: Hostdev, address: Node) -> Option:
    place = PciPlace(address).place
    host = f"{place.bus:02x}:{place.slot:02x}.{place.function:x}"
    if b.has("device"):
        pairs: Keys = [("host", host), ("id", b.alias(hostdev)), *b.place(hostdev)]
        return b.device("pci-assign", pairs, hostdev.node, "a PCI device of the host")
    if not b.has("pcidevice"):
        raise error.unsupported(
            "PCI device assignment is not supported by this version of qemu", hostdev.node, "qemu-kvm has it"
        )
    return b.option("-pcidevice", f"host={host}", hostdev.node, "a PCI device of the host")


def balloon_options(b: ClassicBuild) -> Iterator[Option]:
    """Every guest has a balloon, unless the document declines it."""
    balloon = next(iter(b.domain.devices.balloons), None)
    source = balloon.node if balloon is not None else None
    declined = balloon is not None and balloon.model == "none"
    rule = "memory can be taken back from the guest"
    if b.has("device"):
        if not declined:
            place = balloon.pci if balloon is not None and balloon.pci is not None else BALLOON
            pairs: Keys = [("id", "balloon0"), ("bus", "pci.0"), ("addr", f"{place.slot:#x}")]
            yield b.device("virtio-balloon-pci", pairs, source or b.domain.node, rule)
    elif b.has("balloon"):
        word = "none" if declined else "virtio"
        yield b.option("-balloon", word, source, "the document declines it" if declined else rule)
