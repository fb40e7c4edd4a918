"""Where a device goes in the list of its kind, as libvirt inserts it (define.md: list insertion rules)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from math import inf
from typing import TYPE_CHECKING, cast

from qemushim.command.option import Option
from qemushim.devices import BY_TAG
from qemushim.devices.address import disk_index
from qemushim.devices.base import Device
from qemushim.devices.controller import Controller, pci_hole64_options
from qemushim.devices.interface import hostdev_interfaces
from qemushim.document.units import parse_integer

if TYPE_CHECKING:
    from qemushim.context import Build


def _disk(devices: list[Device], new: Device) -> int:
    """Disks of one bus stand together, ordered by target name; a new bus comes last."""
    bus, number = _disk_key(new)
    for last in range(len(devices) - 1, -1, -1):
        other, highest = _disk_key(devices[last])
        if other == bus:
            break
    else:
        return len(devices)
    if highest <= number:
        return last + 1
    # the first one behind is looked for as in a dictionary: up to the last of the bus they are in order
    return bisect_left(
        devices, True, 0, last + 1, key=lambda disk: (bus, number) < _disk_key(disk) < (bus, inf)
    )


def _disk_key(disk: Device) -> tuple[str, float]:
    """The bus, and the number of the target's name."""
    target = disk.node.child("target")
    if target is None:
        return "", -1
    return target.attrib.get("bus", ""), disk_index(target.attrib.get("dev", ""))


def _controller(devices: list[Device], new: Device) -> int:
    """Controllers of one type stand together, by index; a new type comes last.

    One without an index comes last of its type; a USB controller comes before its companions of that index.
    """
    kind, key = new.node.get("type"), _controller_key(new)
    place = -1
    for at in range(len(devices) - 1, -1, -1):
        if devices[at].node.get("type") != kind:
            continue
        other = _controller_key(devices[at])
        if key[0] < 0:
            return at + 1
        if other > key:
            place = at
            continue
        place = at + 1 if place < 0 else place
        if other[0] >= 0:
            return place
    return len(devices) if place < 0 else place


def _controller_key(controller: Device) -> tuple[int, bool]:
    """Index, -1 for none; whether it is a companion."""
    index = controller.node.attrib.get("index")
    companion = controller.node.attrib.get("type") == "usb" and cast(Controller, controller).is_companion
    try:
        return (-1 if index is None else parse_integer(index), companion)
    except ValueError:
        # the field says so, in libvirt's words, when the document is checked
        return (-1, companion)


def _video(devices: list[Device], new: Device) -> int:
    """The primary video device is the first."""
    return 0 if new.node.value("model/@primary") == "yes" else len(devices)


_PLACES: dict[str, Callable[[list[Device], Device], int]] = {
    "controller": _controller,
    "disk": _disk,
    "video": _video,
}


def insert_device(devices: list[Device], new: Device) -> None:
    """Insert a device among those of its kind; most kinds keep the order of the document."""
    place = _PLACES.get(new.tag)
    devices.insert(len(devices) if place is None else place(devices, new), new)


# -- option groups ---------------------------------------------------------------------------------


def _of_kind(tag: str) -> Callable[[Build], Iterator[Option]]:
    def options(b: Build) -> Iterator[Option]:
        return BY_TAG[tag].all_options(b) if b.domain.lists[tag] else iter(())

    options.__name__ = f"{tag}_options"
    return options


def _filtered(tag: str, want: Callable[[Device], bool]) -> Callable[[Build], Iterator[Option]]:
    def options(b: Build) -> Iterator[Option]:
        for device in b.domain.lists[tag]:
            if want(device):
                yield from device.options(b)

    return options


#: controller types in the order of their options; CCID comes behind the USB hubs
CONTROLLER_ORDER = ("pci", "usb", "scsi", "ide", "sata", "virtio-serial")


def _controllers(b: Build) -> Iterator[Option]:
    by_type: dict[str | None, list[Device]] = {}
    for device in b.domain.lists["controller"]:
        by_type.setdefault(device.node.get("type"), []).append(device)
    for kind in CONTROLLER_ORDER:
        for device in by_type.get(kind, ()):
            yield from device.options(b)


def _hostdevs(b: Build) -> Iterator[Option]:
    """Host devices, and the network cards among them that are interfaces."""
    if b.domain.lists["hostdev"] or hostdev_interfaces(b):
        from qemushim.devices.hostdev import hostdev_options

        yield from hostdev_options(b)


#: groups that are more than “every device of that tag”
_GROUPS: dict[str, Callable[[Build], Iterator[Option]]] = {
    "controller": _controllers,
    "ccid": _filtered("controller", lambda device: device.node.get("type") == "ccid"),
    "pci-hole64": pci_hole64_options,
    "hostdev": _hostdevs,
}


def option_groups(*names: str) -> Iterator[Callable[[Build], Iterator[Option]]]:
    """The functions that make the options of device groups."""
    for name in names:
        yield _GROUPS.get(name) or _of_kind(name)
