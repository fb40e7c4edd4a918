"""QEMU's ids of devices.  https://libvirt.org/formatdomain.html#devices (``<alias>``)"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qemushim.devices.address import disk_index, drive_place
from qemushim.devices.base import Device
from qemushim.devices.charsource import is_mirror
from qemushim.devices.interface import Interface
from qemushim.document.units import parse_unsigned
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.board import Board
    from qemushim.context import Define

#: the order in which devices get their ids, which matters where kinds share a counter
_ORDER = (
    *("disk", "interface", "filesystem", "sound", "hostdev", "redirdev", "video", "controller", "input"),
    *("parallel", "serial", "channel", "console", "hub", "shmem", "smartcard", "watchdog", "memballoon"),
    *("rng", "tpm", "memory", "vsock", "iommu", "crypto", "panic", "pstore"),
)
#: kinds numbered by their place in the list
_LISTED = {
    "channel": "channel",
    "console": "console",
    "hub": "hub",
    "input": "input",
    "parallel": "parallel",
    "redirdev": "redir",
    "serial": "serial",
    "shmem": "shmem",
    "smartcard": "smartcard",
    "sound": "sound",
    "tpm": "tpm",
    "video": "video",
    "watchdog": "watchdog",
}
#: kinds that take the number behind the highest so far
_COUNTED = {"crypto": "crypto", "filesystem": "fs", "rng": "rng"}
#: kinds of which there is one
_SINGLE = {"iommu": "iommu0", "memballoon": "balloon0", "pstore": "pstore0", "vsock": "vsock0"}
#: models of memory devices that QEMU plugs into a slot of the board, which they are known by; those that are counted
SLOTTED_MEMORY = frozenset({"dimm", "nvdimm"})
_MEMORY = {"sgx-epc": "epc", "virtio-mem": "virtiomem", "virtio-pmem": "virtiopmem"}


def check_aliases(d: Define) -> None:
    """Raise ``ConfigError`` where two devices have one id of the user's."""
    seen: set[str] = set()
    consoles = d.domain.lists["console"]
    for device in d.domain.every():
        name = device.user_alias
        shadow = consoles[:1] == [device] and is_mirror(d, device, 0)
        if name and name in seen and not shadow:
            raise error.unsupported(
                f"non unique alias detected: {name}",
                device.node.child("alias"),
                "give each a name of its own",
            )
        seen.add(name)


def assign_aliases(d: Define) -> None:
    """Give every device its id: the user's own (``ua-…``), else one made of its kind and a number."""
    aliases = Aliases(d)
    for tag in _ORDER:
        for number, device in enumerate(d.domain.lists[tag]):
            if not device.alias:
                device.alias = device.user_alias or aliases.of(device, number)


def assign_alias(device: Device, d: Define) -> None:
    """The id of one device that joins a guest, whose other devices have theirs already."""
    device.alias = device.user_alias or Aliases(d).joining(device)


class Aliases:
    """Names that are not taken yet, by what they begin with."""

    def __init__(self, d: Define) -> None:
        domain = d.domain
        self.domain = domain
        self.host = d.host
        self._next: dict[str, int] = {}
        self._narrow = {
            _number(device, "index")
            for device in domain.lists["controller"]
            if device.node.get("type") == "scsi" and device.node.get("model") == "lsilogic"
        }

    def of(self, device: Device, number: int) -> str:
        """The id of the device at a place in the list of its kind."""
        tag = device.tag
        if tag in _LISTED:
            mirrors = tag == "console" and number == 0 and _mirrors_serial(device)
            serials = self.domain.lists["serial"] if mirrors else []
            return serials[0].alias if serials else f"{_LISTED[tag]}{number}"
        if tag in _COUNTED:
            return self._count(_COUNTED[tag], (tag,))
        maker = _MAKERS.get(tag)
        return maker(self, device) if maker is not None else _SINGLE.get(tag, "")

    def joining(self, device: Device) -> str:
        """The id of one more device: its number is behind the highest of its kind."""
        tag = device.tag
        if tag not in _LISTED:
            return self.of(device, 0)
        others = self.domain.lists[tag]
        if tag == "console" and others and _mirrors_serial(others[0]):
            # the first console goes by the name of the serial port that it stands for
            return self._count(_LISTED[tag], (tag,), least=1)
        return self._count(_LISTED[tag], (tag,))

    def _count(self, prefix: str, tags: tuple[str, ...], *, least: int = 0) -> str:
        """The number behind the highest that a device of these kinds has."""
        if prefix not in self._next:
            known = [
                int(device.alias[len(prefix) :])
                for tag in tags
                for device in self.domain.lists[tag]
                if device.alias.startswith(prefix) and device.alias[len(prefix) :].isdigit()
            ]
            self._next[prefix] = max([least - 1, *known]) + 1
        number = self._next[prefix]
        self._next[prefix] = number + 1
        return f"{prefix}{number}"

    def controller(self, controller: Device) -> str:
        return controller_name(controller, self.domain.board)

    def hostdev(self, _hostdev: Device) -> str:
        return self._count("hostdev", ("hostdev", "interface"))

    def disk(self, disk: Device) -> str:
        bus = disk.node.value("target/@bus") or ""
        if disk.address_type != "drive":
            return f"{bus}-disk{disk_index(disk.node.value('target/@dev') or '')}"
        controller, channel, target, unit = drive_place(disk.node.ensure("address"))
        if bus == "scsi" and controller not in self._narrow:
            return f"scsi{controller}-{channel}-{target}-{unit}"
        return f"{bus}{controller}-{channel}-{unit}"

    def interface(self, interface: Device) -> str:
        if isinstance(interface, Interface) and interface.is_hostdev(self.host):
            return self.hostdev(interface)
        return self._count("net", ("interface",))

    def memory(self, device: Device) -> str:
        model = device.node.get("model") or ""
        if model in SLOTTED_MEMORY:
            return f"{model}{parse_unsigned(device.node.value('address/@slot') or '0')}"
        return self._count(_MEMORY.get(model, model), ("memory",))


#: kinds whose ids follow rules of their own
_MAKERS: dict[str, Callable[[Aliases, Device], str]] = {
    "controller": Aliases.controller,
    "disk": Aliases.disk,
    "hostdev": Aliases.hostdev,
    "interface": Aliases.interface,
    "memory": Aliases.memory,
}


def _mirrors_serial(console: Device) -> bool:
    return (console.node.value("target/@type") or "serial") == "serial"


def _number(device: Device, name: str) -> int:
    return parse_unsigned(device.node.get(name) or "0")


def controller_name(controller: Device, board: Board) -> str:
    """The id of a controller; the first of some types is part of the board, and has the name it has there."""
    node = controller.node
    kind, model, index = node.get("type") or "", node.get("model") or "", _number(controller, "index")
    match kind:
        case "pci":
            if model == "pcie-root":
                return f"pcie.{index}"
            return f"pci.{index}" if board.has_pci_multibus else "pci"
        case "ide" if index == 0 and board.has_builtin_ide:
            return "ide"
        case "sata" if index == 0 and board.is_q35:
            return "ide"
        case "usb" if index == 0:
            return "usb"
        case "scsi" if index == 0 and model == "ncr53c90":
            return "scsi"
    return f"{kind}{index}"
