"""Which device of one document is which of another one of the same guest.

The surest sign comes first: an alias, what the guest knows a device by (MAC address, target), its place, what is behind
it on the host, and at last its kind and the order in which its kind is listed.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from qemushim.devices.base import Device
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.document.writer import write

Key = Callable[[Device], Hashable]

#: tag → paths that together name a device of that kind in the guest
_NAMES: dict[str, tuple[str, ...]] = {
    "audio": ("@id",),
    "channel": ("target/@type", "target/@name"),
    "console": ("target/@type", "target/@port"),
    "controller": ("@type", "@index"),
    "disk": ("target/@dev",),
    "filesystem": ("target/@dir",),
    "interface": ("mac/@address",),
    "parallel": ("target/@port",),
    "serial": ("target/@port",),
    "shmem": ("@name",),
}
#: attributes of ``<source>`` that say what is behind a device, wherever below it they are
_SOURCES = frozenset(
    (
        *(
            "bus",
            "bridge",
            "dev",
            "dir",
            "domain",
            "file",
            "function",
            "name",
            "network",
            "path",
            "pool",
            "product",
        ),
        *("protocol", "slot", "unit", "uuid", "vendor", "volume", "wwpn"),
    )
)
#: tag → paths that tell kinds of it apart, as far as order within the kind means something
_SHAPES: dict[str, tuple[str, ...]] = {
    "channel": ("target/@type",),
    "console": ("target/@type",),
    "disk": ("@device",),
    "filesystem": ("@type",),
    "hostdev": ("@mode", "@type"),
    "input": ("@type", "@bus"),
    "memory": ("@model",),
    "panic": ("@model",),
    "redirdev": ("@bus",),
    "watchdog": ("@model",),
}


def _alias(device: Device) -> Hashable:
    return device.node.value("alias/@name")


def _name(device: Device) -> Hashable:
    values = [device.node.value(path) for path in _NAMES.get(device.tag, ())]
    if not values or values[-1] is None:
        return None
    if device.tag == "controller":
        # the parts of one USB 2 controller share an index
        values.append(device.node.value("master/@startport") or "")
    return tuple(value.lower() if value else value for value in values)


#: type of address → the attribute without which the place is open
_NEEDED = {"ccw": "devno", "dimm": "slot", "spapr-vio": "reg", "usb": "port", "virtio-serial": "port"}


def place_of(device: Device) -> tuple[str | None, str, Hashable] | None:
    """Where a device sits, in a form that can be compared; ``None`` where it has no address, or the place is open."""
    address = device.node.child("address")
    if address is None:
        return None
    kind = address.get("type")
    given = [
        (name, _plain(value))
        for name, value in address.attrib.items()
        if name not in ("type", "multifunction")
    ]
    parts = frozenset((name, value) for name, value in given if value != "0")
    if (kind == "pci" and not parts) or (kind in _NEEDED and _NEEDED[kind] not in address.attrib):
        return None
    # drives of different buses may bear the same numbers
    bus = device.node.value("target/@bus") or "scsi" if kind == "drive" else ""
    return kind, bus, parts


def _plain(value: str) -> str:
    """``0x0A`` and ``10`` alike; the port of a USB device stays as it is."""
    try:
        return str(int(value, 0))
    except ValueError:
        return value


def _source(device: Device) -> Hashable:
    source = device.node.child("source")
    if source is None:
        return None
    known = {
        (node.tag, k, _plain(v)) for node in source.iter() for k, v in node.attrib.items() if k in _SOURCES
    }
    return frozenset(known) or None


def _shape(device: Device) -> Hashable:
    if device.tag == "controller":
        return None  # another index is another controller
    return tuple(device.node.value(path) for path in _SHAPES.get(device.tag, ()))


#: the signs, surest first; a device that lacks one is left to the next
_SIGNS: tuple[Key, ...] = (_alias, _name, place_of, _source, _shape)


def pair_devices(
    new: Mapping[str, Sequence[Device]], old: Mapping[str, Sequence[Device]]
) -> list[tuple[Device, Device]]:
    """Pairs of a new device and the old one that it is, kind by kind.  ``new`` and ``old``: tag → devices."""
    pairs: list[tuple[Device, Device]] = []
    for tag, devices in new.items():
        rest, others = list(devices), list(old.get(tag, ()))
        for sign in _SIGNS:
            if not rest or not others:
                break
            found = list(_matched(rest, others, sign))
            pairs += found
            taken = {id(device) for pair in found for device in pair}
            rest = [device for device in rest if id(device) not in taken]
            others = [device for device in others if id(device) not in taken]
    return pairs


def _matched(new: Iterable[Device], old: Iterable[Device], sign: Key) -> Iterable[tuple[Device, Device]]:
    """Those that bear the same sign, in order."""
    waiting: dict[Hashable, list[Device]] = {}
    for device in old:
        waiting.setdefault(sign(device), []).append(device)
    for device in new:
        key = sign(device)
        if key is not None and waiting.get(key):
            yield device, waiting[key].pop(0)


def find_devices(wanted: Device, devices: Sequence[Device]) -> list[Device]:
    """The devices that a description of one can mean: by its surest sign, at last by all that it says.

    None by kind and order alone; one with an id of its own is not looked for by what it says.
    """
    for sign in _SIGNS[:-1]:
        key = sign(wanted)
        found = [device for device in devices if key is not None and sign(device) == key]
        if found:
            return found
    if _alias(wanted) is not None:
        return []
    said = _written(wanted)
    return [device for device in devices if _says(_written(device), said)]


def _written(device: Device) -> Node:
    """The element with every value in its canonical spelling."""
    return parse(write(device.node, type(device).schema_for(device.node), live=True))


def _says(known: Node, said: Node) -> bool:
    """Whether an element says all that another one says."""
    if said.attrib.items() - known.attrib.items() or (said.text.strip() and said.text != known.text):
        return False
    return all(any(_says(twin, child) for twin in known.all(child.tag)) for child in said.children)


__all__ = ["find_devices", "pair_devices", "place_of"]
