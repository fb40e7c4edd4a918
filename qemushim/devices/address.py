"""``<address>``: where a device sits, in the form its bus has.  https://libvirt.org/formatdomain.html#device-addresses"""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar, NamedTuple

from qemushim.document.fields import Choice, Hex, LongHex, OnOff, Text, Unsigned
from qemushim.document.item import Item, Schema
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned
from qemushim.errors import ConfigError, error

TYPES = (
    *("pci", "drive", "virtio-serial", "ccid", "usb", "spapr-vio", "virtio-s390", "ccw", "virtio-mmio"),
    *("isa", "dimm", "unassigned", "mdev", "none"),
)
#: how many hubs and ports a USB device may be away from its controller
USB_DEPTH = 4


class PciAddress(NamedTuple):
    """``dddd:bb:ss.f``, ordered as such."""

    domain: int
    bus: int
    slot: int
    function: int

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.slot:02x}.{self.function:x}"


@lru_cache(4096)
def _pci_place(domain: str, bus: str, slot: str, function: str) -> PciAddress:
    return PciAddress(
        parse_unsigned(domain, 0),
        parse_unsigned(bus, 0),
        parse_unsigned(slot, 0),
        parse_unsigned(function, 0),
    )


def pci_place(address: Node) -> PciAddress:
    """What an ``<address type='pci'>`` says; what it leaves out is 0."""
    get = address.attrib.get
    return _pci_place(get("domain", "0"), get("bus", "0"), get("slot", "0"), get("function", "0"))


class DriveAddress(NamedTuple):
    """``<address type='drive'>``: a place on a disk controller."""

    controller: int
    bus: int
    target: int
    unit: int


@lru_cache(4096)
def _drive_place(controller: str, bus: str, target: str, unit: str) -> DriveAddress:
    return DriveAddress(
        parse_unsigned(controller), parse_unsigned(bus), parse_unsigned(target), parse_unsigned(unit)
    )


def drive_place(address: Node) -> DriveAddress:
    """What an ``<address type='drive'>`` says; what it leaves out is 0."""
    get = address.attrib.get
    return _drive_place(get("controller", "0"), get("bus", "0"), get("target", "0"), get("unit", "0"))


@lru_cache(4096)
def _written_drive(place: DriveAddress) -> dict[str, str]:
    return {"type": "drive", **{name: str(value) for name, value in place._asdict().items()}}


def write_drive(device: Node, place: DriveAddress) -> None:
    """Give a device's element a drive address, replacing what is there."""
    node = device.child("address")
    if node is None:
        node = device.add("address")
    node.attrib = _written_drive(place).copy()


class PciPart(Hex[int]):
    """One number of a PCI address, which says itself how large it may be."""

    def __init__(self, path: str, digits: int, most: int, message: str) -> None:
        super().__init__(path, digits, 0)
        self.most = most
        self.message = message

    def read(self, raw: str) -> int:
        number = parse_unsigned(raw, self.base)
        if number > self.most:
            raise ValueError(raw)
        return number

    def wrong(self, raw: str, place: Node) -> ConfigError:
        try:
            number = parse_unsigned(raw, self.base)
        except ValueError:
            return super().wrong(raw, place)
        if number >> self.bits:
            return super().wrong(raw, place)
        return error.xml(self.message.format(number), place, f"at most {self.most:#x}")


def pci_domain() -> PciPart:
    return PciPart("@domain", 4, 0xFFFF, "Invalid PCI address domain='0x{:x}', must be <= 0xFFFF")


def pci_bus() -> PciPart:
    return PciPart("@bus", 2, 0xFF, "Invalid PCI address bus='0x{:x}', must be <= 0xFF")


def pci_slot() -> PciPart:
    return PciPart("@slot", 2, 0x1F, "Invalid PCI address slot='0x{:x}', must be <= 0x1F")


def pci_function() -> PciPart:
    return PciPart("@function", 1, 7, "Invalid PCI address function=0x{:x}, must be <= 7")


class _UsbPort(Text["str | None"]):
    """Port numbers from the controller to the device, at most four: ``1.2``."""

    def read(self, raw: str) -> str | None:
        ports = raw.split(".")
        if len(ports) > USB_DEPTH or not all(port.isascii() and port.isdigit() for port in ports):
            raise ValueError(raw)
        if any(parse_unsigned(port) >> 32 for port in ports):
            raise ValueError(raw)
        return raw

    def wrong(self, raw: str, place: Node) -> ConfigError:
        hint = f"at most {USB_DEPTH} port numbers with dots between: 1.2"
        return error.internal("Cannot parse <address> 'port' attribute", place, hint)


class Address(Item):
    """One ``<address>`` of any type."""

    tag = "address"
    type = Choice("@type", TYPES, required=True)

    # PCI
    domain = pci_domain()
    bus = pci_bus()
    slot = pci_slot()
    function = pci_function()
    multifunction = OnOff[bool | None]("@multifunction")
    zpci_uid = Hex("zpci/@uid", 4)
    zpci_fid = Hex("zpci/@fid", 8)
    # the others
    controller = Unsigned[int]("@controller", 0)
    drive_bus = Unsigned[int]("@bus", 0)
    target = Unsigned[int]("@target", 0)
    unit = Unsigned[int]("@unit", 0)
    serial_port = Unsigned[int]("@port", 0)
    usb_port = _UsbPort("@port")
    ccid_slot = Unsigned[int]("@slot", 0)
    reg = LongHex("@reg", 8)
    cssid = Hex("@cssid", 1)
    ssid = Hex("@ssid", 1)
    devno = Hex("@devno", 4)
    iobase = Hex("@iobase", 1)
    irq = Hex("@irq", 1)
    dimm_slot = Unsigned[int]("@slot", 0)
    base = LongHex("@base", 1)
    uuid = Text("@uuid")

    #: address type → its fields, in writing order
    layouts: ClassVar[dict[str, tuple[str, ...]]] = {
        "pci": ("type", "domain", "bus", "slot", "function", "multifunction", "zpci_uid", "zpci_fid"),
        "drive": ("type", "controller", "drive_bus", "target", "unit"),
        "virtio-serial": ("type", "controller", "drive_bus", "serial_port"),
        "ccid": ("type", "controller", "ccid_slot"),
        "usb": ("type", "drive_bus", "usb_port"),
        "spapr-vio": ("type", "reg"),
        "ccw": ("type", "cssid", "ssid", "devno"),
        "isa": ("type", "iobase", "irq"),
        "dimm": ("type", "dimm_slot", "base"),
    }

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        return cls.only(*cls.layouts.get(node.attrib.get("type", ""), ("type",)))

    @property
    def pci(self) -> PciAddress:
        return pci_place(self.node)

    @property
    def drive(self) -> DriveAddress:
        return drive_place(self.node)


#: what names of disks begin with, by the bus that they hint at
DISK_PREFIXES = ("fd", "hd", "vd", "sd", "xvd", "ubd")
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


@lru_cache(4096)
def disk_index(name: str) -> int:
    """The number behind a disk's name, ``sda`` is 0, ``vdaa`` is 26; -1 where the name tells none.

    A partition number behind the letters does not count.
    """
    prefix = next((p for p in DISK_PREFIXES if name.startswith(p)), None)
    letters = name[len(prefix) :].rstrip("0123456789") if prefix is not None else ""
    number = 0
    for letter in letters:
        digit = _LETTERS.find(letter)
        if digit < 0:
            return -1
        number = number * 26 + digit + 1
    return number - 1 if number <= 1 << 31 else -1
