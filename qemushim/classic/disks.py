"""Disks and the controllers that they sit on: defaults, drive addresses, and their arguments."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from qemushim.classic.context import QEMU_0_10, Classic, ClassicBuild, Keys
from qemushim.classic.document import Controller, Disk, Domain, DrivePlace
from qemushim.command.option import Option, Value
from qemushim.document.node import Node
from qemushim.errors import AddressError, error

#: prefix of a target name → the bus that it stands for
_PREFIX_BUSES = {"fd": "fdc", "hd": "ide", "sd": "scsi", "vd": "virtio", "xvd": "xen", "ubd": "uml"}
_HARD_DISKS = ("hd", "sd", "vd", "xvd", "ubd")
_NAME = re.compile(r"(?:fd|hd|vd|sd|xvd)([a-z]+)([0-9]*)")
_SOURCES = {"file": "file", "block": "dev", "dir": "dir"}
_SAFE_SERIAL = re.compile(r"[A-Za-z0-9_-]*")


class Shape(NamedTuple):
    """How many units a bus has, and how many buses a controller."""

    units: int
    buses: int = 1

    def place(self, index: int) -> tuple[int, int, int]:
        """Controller, bus and unit of the disk of that number."""
        controller, rest = divmod(index, self.units * self.buses)
        return (controller, *divmod(rest, self.units))


#: buses whose disks have drive addresses
SHAPES = {"ide": Shape(2, 2), "scsi": Shape(7), "fdc": Shape(2)}
#: the controllers that libvirt adds, in its order
_ADDED = ("scsi", "fdc", "ide")

#: what may be set apart on a bus that QEMU builds without being asked
_LIMITS = {"ide": ("controller",), "fdc": ("controller", "bus"), "scsi": ("bus",)}


def disk_index(target: str) -> int | None:
    """The number that a target name stands for: ``hda`` is 0, ``sdaa`` 26.  ``None`` where it has none.

    Digits behind the letters count as one more letter would, as they did in libvirt 0.8.0.
    """
    match = _NAME.fullmatch(target)
    if match is None:
        return None
    index = 0
    for letter in match[1]:
        index = index * 26 + ord(letter) - ord("a") + 1
    return index * 26 if match[2] else index - 1


# -- defaults ------------------------------------------------------------------------------------------------


def complete_disks(c: Classic) -> None:
    """Every disk's defaults and drive address.  Raises ``ConfigError``."""
    seen: dict[str, Disk] = {}
    places: dict[tuple[str, int, int, int], Disk] = {}
    for disk in c.domain.devices.disks:
        _complete_disk(disk)
        if disk.target in seen:
            raise error.xml(
                f"target '{disk.target}' duplicated", disk.node, "each disk needs a target of its own"
            )
        seen[disk.target] = disk
        drive = disk.drive
        if drive is None or disk.bus not in SHAPES:
            continue
        key = (disk.bus, drive.controller, drive.bus, drive.unit)
        if key in places:
            raise AddressError(
                f"XML error: Found duplicate drive address for disk with target name '{disk.target}'",
                element=disk.node,
                hint=f"'{places[key].target}' is at controller {key[1]}, bus {key[2]}, unit {key[3]}",
            )
        places[key] = disk


def _complete_disk(disk: Disk) -> None:
    node = disk.node
    disk.type, disk.device = disk.type, disk.device
    _complete_source(disk)
    target = disk.target.removeprefix("ioemu:")
    if not target:
        raise error.xml("missing target information for a disk", node, "<target dev='hda'/>")
    disk.target = target
    _check_target(disk, target)
    _complete_bus(disk, target)
    driver = node.child("driver")
    if driver is not None and not (driver.get("name") or driver.get("type") or driver.get("cache")):
        node.remove(driver)
    if disk.cache == "default" and driver is not None:
        driver.drop("cache")
    if disk.device == "cdrom":
        disk.readonly = True
    _complete_place(disk, target)


def _complete_source(disk: Disk) -> None:
    """The source that the type calls for, and no other; an empty one is no medium."""
    source = disk.node.child("source")
    if source is not None:
        wanted = _SOURCES[disk.type]
        source.attrib = {wanted: source.attrib[wanted]} if source.get(wanted) else {}
        source.children.clear()
        if not source.attrib:
            disk.node.remove(source)
    if not disk.source and disk.device == "disk":
        raise error.xml(
            f"no source for disk '{disk.target}'", disk.node, f"<source {_SOURCES[disk.type]}='…'/>"
        )


def _check_target(disk: Disk, target: str) -> None:
    if disk.device == "floppy" and not target.startswith("fd"):
        raise error.xml(f"Invalid floppy device name: {target}", disk.node, "fda or fdb")
    if disk.device == "disk" and not target.startswith(_HARD_DISKS):
        raise error.xml(f"Invalid harddisk device name: {target}", disk.node, "hda, sda, vda, xvda or ubda")


def _complete_bus(disk: Disk, target: str) -> None:
    if disk.node.value("target/@bus") is None:
        prefix = next((p for p in _PREFIX_BUSES if target.startswith(p)), "hd")
        disk.bus = "fdc" if disk.device == "floppy" else _PREFIX_BUSES[prefix]
        if disk.device != "floppy" and disk.bus == "fdc":
            disk.bus = "ide"
    if (disk.device == "floppy") != (disk.bus == "fdc"):
        raise error.xml(
            f"Invalid bus type '{disk.bus}' for {disk.device} disk",
            disk.node,
            "a floppy goes on bus 'fdc', and only a floppy does",
        )


def _complete_place(disk: Disk, target: str) -> None:
    """Where on its controller the disk is: by the number of its name, unless the document says it."""
    shape = SHAPES.get(disk.bus)
    address = disk.node.child("address")
    if address is not None and address.get("type") == "drive":
        # the number of a target came later, and there is but one
        address.drop("target")
        place = DrivePlace(address)
        place.controller, place.bus, place.unit = place.controller, place.bus, place.unit
    if shape is None or address is not None:
        return
    index = disk_index(target)
    if index is None:
        raise error.internal(
            f"Unknown disk name '{target}' and no address specified", disk.node, "hda, sda, vda …"
        )
    controller, bus, unit = shape.place(index)
    disk.node.add(
        "address", {"type": "drive", "controller": str(controller), "bus": str(bus), "unit": str(unit)}
    )


def complete_controllers(c: Classic) -> None:
    """The controllers that the document has, then those that its devices need."""
    domain = c.domain
    seen: set[tuple[str, int]] = set()
    for controller in domain.devices.controllers:
        key = (controller.type, controller.index)
        if key in seen:
            raise error.xml(
                f"Multiple '{key[0]}' controllers with index '{key[1]}'",
                controller.node,
                "give each its own index",
            )
        seen.add(key)
        controller.type, controller.index = key
        if controller.type != "virtio-serial":
            controller.node.drop("ports", "vectors")
    for kind in _ADDED:
        for index in range(_highest(domain, kind) + 1):
            _add_controller(domain, seen, kind, index)
    if any(channel.target_type == "virtio" for channel in domain.devices.channels):
        added = _add_controller(domain, seen, "virtio-serial", 0)
        if added is not None and c.letter:
            added.ports = added.vectors = 0


def _highest(domain: Domain, kind: str) -> int:
    """The highest controller that a disk's address names; -1 for none."""
    places = (disk.drive for disk in domain.devices.disks if disk.bus == kind)
    return max((place.controller for place in places if place is not None), default=-1)


#: more controllers than any machine of the time has slots for
_MAX_CONTROLLERS = 64


def _add_controller(domain: Domain, seen: set[tuple[str, int]], kind: str, index: int) -> Controller | None:
    if (kind, index) in seen:
        return None
    if index >= _MAX_CONTROLLERS:
        raise error.unsupported(
            f"{kind} controller {index} is beyond what a machine can hold", domain.node, "a lower index"
        )
    seen.add((kind, index))
    return Controller(domain.devices.node.add("controller", {"type": kind, "index": str(index)}))


# -- arguments -----------------------------------------------------------------------------------------------


def controller_options(b: ClassicBuild) -> Iterator[Option]:
    """``-device`` of the controllers that are cards of their own; IDE and floppy are part of every PC."""
    if not b.has("device"):
        return
    for controller in b.domain.devices.controllers:
        if controller.type == "sata":
            raise error.unsupported(
                "SATA is not supported with this QEMU binary", controller.node, "use bus='ide'"
            )
        if controller.type in ("ide", "fdc"):
            continue
        place = b.place(controller)
        alias = b.alias(controller)
        if controller.type == "scsi":
            yield b.device(
                "lsi", [("id", alias), *place], controller.node, "a SCSI controller that disks address"
            )
            continue
        driver = "virtio-serial-pci" if place else "virtio-serial"
        limits: Keys = [
            ("max_ports", controller.ports),
            ("vectors", controller.vectors),
        ]
        yield b.device(driver, [("id", alias), *limits, *place], controller.node, "carries virtio channels")


def disk_options(b: ClassicBuild) -> Iterator[Option]:
    """Every disk, in the order of the document: where QEMU places them itself, that is their slots' order."""
    bootable = _bootable(b) if b.has("drive-boot") else {}
    for disk in b.domain.devices.disks:
        if disk.driver not in (None, "qemu"):
            raise error.unsupported(
                f"unsupported driver name '{disk.driver}' for disk '{disk.source or disk.target}'",
                disk.node,
                "only 'qemu' is known here",
            )
        if not b.has("drive"):
            yield from _plain(b, disk)
        elif disk.bus == "usb" and not b.has("device"):
            yield _usb_disk(b, disk)
        else:
            yield from _drive(b, disk, boot=bootable.get(disk.device) is disk.node)


def _bootable(b: ClassicBuild) -> dict[str, Node]:
    """The first disk of each class that the domain boots from."""
    os = b.domain.os
    classes = {"cdrom": "cdrom", "fd": "floppy", "hd": "disk"}
    wanted = {classes[boot.dev] for boot in os.boots if boot.dev in classes} if os is not None else set()
    found: dict[str, Node] = {}
    for disk in b.domain.devices.disks:
        if disk.device in wanted:
            found.setdefault(disk.device, disk.node)
    return found


def _path(disk: Disk) -> str:
    """The file, or a directory dressed as a FAT image."""
    if disk.type != "dir":
        return disk.source
    if disk.format not in ("", "fat"):
        raise error.internal(
            f"unsupported disk driver type for '{disk.source}'", disk.node, "a directory has type='fat'"
        )
    if not disk.readonly:
        raise error.internal(
            "cannot create virtual FAT disks in read-write mode", disk.node, "add <readonly/>"
        )
    return f"fat:floppy:{disk.source}" if disk.device == "floppy" else f"fat:{disk.source}"


def _usb_disk(b: ClassicBuild, disk: Disk) -> Option:
    if b.has("drive") and b.letter:
        raise error.unsupported(
            "unsupported disk bus 'usb' with device setup", disk.node, "a QEMU with -device, or bus='ide'"
        )
    if disk.device != "disk":
        raise error.unsupported(f"unsupported usb disk type for '{disk.source}'", disk.node, "device='disk'")
    return b.option("-usbdevice", f"disk:{_path(disk)}", disk.node, "a USB disk by the old option")


def _plain(b: ClassicBuild, disk: Disk) -> Iterator[Option]:
    """QEMU without ``-drive``: the target name is the option."""
    if disk.bus == "usb":
        yield _usb_disk(b, disk)
        return
    if disk.device == "cdrom" and disk.target == "hdc":
        if disk.source:
            yield b.option("-cdrom", _path(disk), disk.node, "the CD-ROM drive that every PC has")
        return
    if not disk.target.startswith(("hd", "fd")):
        raise error.unsupported(
            f"unsupported disk type '{disk.target}'", disk.node, "this QEMU has hda to hdd, fda and fdb"
        )
    if disk.source:
        yield b.option(f"-{disk.target}", _path(disk), disk.node, "this QEMU has no -drive")


def _drive(b: ClassicBuild, disk: Disk, *, boot: bool) -> Iterator[Option]:
    # Xen's own disks have no -device
    paired = b.has("device") and disk.bus != "xen"
    if disk.bus in ("sata", "uml"):
        raise error.unsupported(
            f"unsupported disk bus '{disk.bus}' for '{disk.target}'",
            disk.node,
            "use ide, scsi, virtio, usb or fdc",
        )
    if disk.bus == "virtio":
        b.require(QEMU_0_10, "a virtio disk", disk.node, "use ide or scsi, or QEMU 0.10 or later")
    pairs = [*_drive_place(b, disk, paired), *_drive_rest(b, disk, paired, boot)]
    rule = "the back end of a disk" if paired else "a disk, with the card that it sits on left to QEMU"
    yield b.pairs("-drive", pairs, disk.node, rule)
    if paired:
        yield _disk_device(b, disk)


def _drive_place(b: ClassicBuild, disk: Disk, paired: bool) -> Iterator[tuple[str, Value]]:
    """The file, and where it is seen by the guest."""
    path = _path(disk)
    if path:
        yield "file", path
    word = {"fdc": "floppy"}.get(disk.bus, disk.bus)
    yield "if", "none" if paired else word
    if disk.device == "cdrom":
        yield "media", "cdrom"
    drive = _limited_place(disk)
    if paired:
        yield "id", f"drive-{b.alias(disk)}"
    elif drive is None:
        if disk.bus != "virtio":
            yield "index", _index(disk)
    elif disk.bus == "fdc":
        yield "unit", drive.unit
    else:
        yield "bus", drive.controller if disk.bus == "scsi" else drive.bus
        yield "unit", drive.unit


def _limited_place(disk: Disk) -> DrivePlace | None:
    """The drive address of a disk on a bus that has them.  Raises ``ConfigError`` beyond what QEMU builds."""
    if disk.bus not in SHAPES:
        return None
    drive = disk.drive
    if drive is None:
        raise error.internal(
            f"unexpected address type for {disk.bus} disk",
            disk.node,
            "<address type='drive' controller= bus= unit=/>",
        )
    for part in _LIMITS[disk.bus]:
        number = drive.controller if part == "controller" else drive.bus
        if number:
            raise error.internal(
                f"Only {part} 0 is supported for {disk.bus} disks, not {number}",
                disk.node,
                "leave the address out",
            )
    return drive


def _index(disk: Disk) -> int:
    index = disk_index(disk.target)
    if index is None:
        raise error.internal(f"unsupported disk type '{disk.target}'", disk.node, "hda, sda, vda, xvda …")
    return index


def _drive_rest(b: ClassicBuild, disk: Disk, paired: bool, boot: bool) -> Iterator[tuple[str, Value]]:
    """What the drive is like."""
    if boot and disk.device == "disk":
        yield "boot", True
    if disk.readonly and b.has("device"):
        yield "readonly", True
    if disk.format and disk.type != "dir" and b.has("drive-format"):
        yield "format", disk.format
    if disk.serial and b.has("drive-serial"):
        if not _SAFE_SERIAL.fullmatch(disk.serial):
            raise error.internal(
                f"driver serial '{disk.serial}' contains unsafe characters",
                disk.node,
                "letters, digits, - and _",
            )
        yield "serial", disk.serial
    cache = _cache(b, disk)
    if cache:
        yield "cache", cache
    if disk.error_policy and b.has("monitor-json"):
        # QEMU's word is another one, and reading can not run out of space; libvirt 0.8.0 knew neither
        full = disk.error_policy == "enospace" and not b.letter
        yield "werror", "enospc" if full else disk.error_policy
        if not full:
            yield "rerror", disk.error_policy


#: cache modes by the words of QEMU before 0.10
_OLD_CACHE = {"none": "off", "writethrough": "off", "writeback": "on"}


def _cache(b: ClassicBuild, disk: Disk) -> str:
    mode = disk.cache
    if mode in ("directsync", "unsafe"):
        if not b.has(f"drive-cache-{mode}"):
            raise error.unsupported(
                f"disk cache mode '{mode}' is not supported by this QEMU", disk.node, "drop cache="
            )
        return mode
    if mode:
        # a QEMU whose help offers "unsafe" lists the same words in another order
        words = b.has("drive-cache-v2") or b.has("drive-cache-unsafe")
        return mode if words else _OLD_CACHE[mode]
    return "off" if disk.shareable and not disk.readonly else ""


def _disk_device(b: ClassicBuild, disk: Disk) -> Option:
    alias = b.alias(disk)
    back = ("drive", f"drive-{alias}")
    tail: Keys = [back, ("id", alias)]
    drive = disk.drive
    if disk.bus == "fdc":
        letter = "B" if drive is not None and drive.unit else "A"
        return b.option(
            "-global", f"isa-fdc.drive{letter}={back[1]}", disk.node, "floppy drives are set by property"
        )
    if disk.bus == "virtio":
        return b.device("virtio-blk-pci", [*b.place(disk), *tail], disk.node, "a virtio disk is a PCI card")
    if disk.bus == "usb":
        return b.device("usb-storage", tail, disk.node, "a USB disk")
    assert drive is not None, "checked when the drive was written"
    if disk.bus == "ide":
        place: Keys = [("bus", f"ide.{drive.bus}"), ("unit", drive.unit)]
        return b.device(
            "ide-drive", [*place, *tail], disk.node, "an IDE disk on the bus and unit of its address"
        )
    place = [("bus", f"scsi{drive.controller}.{drive.bus}"), ("scsi-id", drive.unit)]
    return b.device("scsi-disk", [*place, *tail], disk.node, "a SCSI disk on the controller of its address")
