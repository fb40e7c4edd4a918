"""``Device``: what every device has.  A kind of device is a subclass in a file of its own.

https://libvirt.org/formatdomain.html#devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from qemushim.command.option import Option, Value
from qemushim.devices.address import Address
from qemushim.document.fields import Choice, Field, One, OnOff, Switch, Text, Unsigned
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define


_ALIAS_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_LOADPARM_LENGTH = 8
_LOADPARM_CHARS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789. ")


class Loadparm(Text[str | None]):
    """What an s390 machine's boot loader is told: up to eight characters, in capitals.

    https://libvirt.org/formatdomain.html#device-boot-order
    """

    def read(self, raw: str) -> str:
        text = raw.upper()
        if not 1 <= len(text) <= _LOADPARM_LENGTH or set(text) - _LOADPARM_CHARS:
            raise ValueError(raw)
        return text

    def wrong(self, raw: str, place: Node) -> ConfigError:
        text = raw.upper()
        if not 1 <= len(text) <= _LOADPARM_LENGTH:
            return error.internal(
                f"loadparm value '{text}' must be between 1 and {_LOADPARM_LENGTH} characters",
                place,
                "1 to 8 characters",
            )
        return error.internal(
            f"invalid loadparm value '{text}', expecting chars in set of [a-zA-Z0-9.] and blank spaces",
            place,
            "letters, digits, dots and blanks",
        )


class Sgio(Choice["str | None"]):
    """Whether SCSI commands are filtered: kernels have long filtered them for everybody but root."""

    def __init__(self, path: str) -> None:
        Field.__init__(self, path)
        self.values = ("filtered",)
        self.allowed = frozenset(self.values)

    def wrong(self, raw: str, place: Node) -> ConfigError:
        if raw == "unfiltered":
            return error.unsupported("unfiltered sgio is no longer supported", place, "drop sgio=")
        return super().wrong(raw, place)


class Device(Item):
    """One device.  The fields below are what libvirt calls the device info; it writes them last (``Tail``)."""

    boot_order = Unsigned("boot/@order")
    loadparm = Loadparm("boot/@loadparm")
    alias_name = Text("alias/@name")
    master_startport = Unsigned("master/@startport")
    rom_enabled = Switch("rom/@enabled")
    rom_bar = OnOff("rom/@bar")
    rom_file = Text("rom/@file")
    acpi_index = Unsigned("acpi/@index")
    address = One("address", Address)

    #: most kinds are nothing to start from, and have no firmware of their own
    unused: ClassVar[tuple[str, ...]] = ("boot", "rom")

    __slots__ = ("alias",)

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        #: QEMU's id of the device; set when a command line is built
        self.alias = ""

    # -- phases ------------------------------------------------------------------------------------------------------

    def check_document(self, d: Define) -> None:
        """Raise ``ConfigError`` where the element contradicts itself: told before anything is made of the document."""

    def complete(self, d: Define) -> None:
        """Fill in this device's defaults, and drop what libvirt does not store."""

    def check(self, d: Define) -> None:
        """Raise ``ConfigError`` where the device can not be had."""

    def options(self, b: Build) -> Iterator[Option]:
        """The arguments that make the device, back end first."""
        yield from ()

    @classmethod
    def all_options(cls, b: Build) -> Iterator[Option]:
        """The arguments of all devices of the kind."""
        for device in b.domain.lists[cls.tag]:
            yield from device.options(b)

    # -- what many kinds need ----------------------------------------------------------------------------------------

    @property
    def address_type(self) -> str:
        """``pci``, ``drive``, …, or ``""`` without an address."""
        node = self.node.child("address")
        return node.attrib.get("type", "") if node is not None else ""

    @property
    def user_alias(self) -> str:
        """The user's own id (``ua-`` and letters, digits, ``-``, ``_``), or ``""``; other names are passed over."""
        node = self.node.child("alias")
        name = node.attrib.get("name", "") if node is not None else ""
        return name if name.startswith("ua-") and not set(name) - _ALIAS_CHARS else ""

    def set_address(self, kind: str, **attributes: str | int) -> Address:
        """Give the device an address, replacing what is there."""
        node = self.node.ensure("address")
        node.attrib = {"type": kind, **{name: str(value) for name, value in attributes.items()}}
        return Address(node)


class VirtioDriver(Item):
    """``<driver>`` of a virtio device that has nothing else to say there."""

    tag = "driver"

    iommu = OnOff("@iommu")
    ats = OnOff("@ats")
    packed = OnOff("@packed")
    page_per_vq = OnOff("@page_per_vq")


def virtio_properties(device: Item) -> dict[str, Value]:
    """The properties behind ``driver`` that ``<driver iommu= ats= packed= page_per_vq=>`` asks for."""
    node = device.node.child("driver")
    if node is None:
        return {}
    given = node.attrib
    names = (
        ("iommu_platform", "iommu"),
        ("ats", "ats"),
        ("packed", "packed"),
        ("page-per-vq", "page_per_vq"),
    )
    return {name: given[attribute] == "on" for name, attribute in names if attribute in given}


def forbid_virtio_options(device: Item) -> None:
    """Raise ``ConfigError`` where a device that is no virtio device has options of one."""
    node = device.node.child("driver")
    for name in ("iommu", "ats", "packed", "page_per_vq") if node is not None else ():
        if node is not None and name in node.attrib:
            what = name if name == "page_per_vq" else f"{name} driver"
            raise error.unsupported(
                f"{what} option is only supported for virtio devices", node, f"drop {name}="
            )


#: models of the virtio devices that exist in a transitional form
VIRTIO_MODELS = ("virtio", "virtio-transitional", "virtio-non-transitional")
