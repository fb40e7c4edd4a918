"""``<redirdev>``: a USB device of the machine where the guest's screen is looked at, and ``<redirfilter>``.

https://libvirt.org/formatdomain.html#redirected-devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qemushim.command.option import Option
from qemushim.devices.base import Device
from qemushim.devices.bootindex import boot_index
from qemushim.devices.charsource import TYPES, CharSource, chardev_options, check_source, complete_source
from qemushim.devices.placement import address_properties
from qemushim.document.fields import Choice, Field, Many, Switch
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.document.units import parse_integer
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define


class Redirdev(Device):
    """``<redirdev>``: a USB port whose plug is elsewhere."""

    tag = "redirdev"
    unused = ("rom",)

    bus = Choice("@bus", ("usb",), "usb").says("unknown redirdev bus '{}'")
    type = (
        Choice("@type", TYPES, "pty")
        .says("unknown redirdev character device type '{}'")
        .needs("missing type in redirdev", "internal error")
    )
    sources = CharSource.sources
    protocol = CharSource.protocol
    log_file = CharSource.log_file
    log_append = CharSource.log_append

    __slots__ = ()

    def complete(self, d: Define) -> None:
        self.bus = self.bus
        complete_source(self.node, live=d.live)

    def check(self, d: Define) -> None:
        if self.address_type not in ("", "usb"):
            raise error.xml("Invalid address for a USB device", self.node.child("address"), "drop <address>")
        check_source(self.node, d)
        if not d.emulator.has_device("usb-redir"):
            raise error.unsupported(
                "USB redirection is not supported by this version of QEMU", self.node, "remove it"
            )

    def options(self, b: Build) -> Iterator[Option]:
        yield from chardev_options(self, self.node, b, f"char{self.alias}")
        filters = b.domain.all(Redirfilter)
        yield b.device(
            {
                "driver": "usb-redir",
                "chardev": f"char{self.alias}",
                "id": self.alias,
                "filter": filters[0].text if filters else None,
                "bootindex": boot_index(self, b),
                **address_properties(self, b),
            },
            self.node,
            "a redirected USB device",
        )


class UsbId(Field[Any]):
    """A USB number, ``None`` (in documents ``-1``) for any; written with so many hexadecimal digits."""

    def __init__(self, path: str, digits: int, problem: str) -> None:
        super().__init__(path)
        self.digits = digits
        self.problem = problem

    def read(self, raw: str) -> int | None:
        number = parse_integer(raw, 0)
        if not -1 <= number < 16**self.digits:
            raise ValueError(raw)
        return None if number == -1 else number

    def write(self, value: Any) -> str:
        return f"0x{value:0{self.digits}X}"

    def canonical(self, raw: str, node: Node) -> str | None:
        value = self.read(raw)
        return None if value is None else self.write(value)

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.internal(
            f"{self.problem} {raw}", place, f"0 to 0x{16**self.digits - 1:X}, or -1 for any"
        )


class UsbVersion(UsbId):
    """``JJ.MN``, which USB has as binary coded decimals: 1.09 is 0x0109, 9.4 is 0x0940."""

    def read(self, raw: str) -> int | None:
        if raw == "-1":
            return None
        major, _, minor = raw.partition(".")
        if not (major.isdecimal() and minor.isdecimal() and len(major) <= 2 and len(minor) <= 2):
            raise ValueError(raw)
        return int(major, 16) << 8 | int(minor.ljust(2, "0"), 16)

    def write(self, value: Any) -> str:
        return f"{value >> 8:x}.{value & 255:02x}"


class UsbRule(Item):
    """``<usbdev>``: devices that may be redirected, or may not."""

    tag = "usbdev"

    device_class = UsbId("@class", 2, "Cannot parse USB Class code")
    vendor = UsbId("@vendor", 4, "Cannot parse USB vendor ID")
    product = UsbId("@product", 4, "Cannot parse USB product ID")
    version = UsbVersion("@version", 4, "Incorrect USB version format")
    allow = Switch("@allow", False, required=True)

    @property
    def text(self) -> str:
        numbers = ((self.device_class, 2), (self.vendor, 4), (self.product, 4), (self.version, 4))
        parts = ["-1" if number is None else f"0x{number:0{digits}X}" for number, digits in numbers]
        return ":".join([*parts, "1" if self.allow else "0"])


class Redirfilter(Device):
    """``<redirfilter>``: which devices may be redirected; the first rule that fits decides."""

    tag = "redirfilter"

    rules = Many("usbdev", UsbRule)

    __slots__ = ()

    @property
    def text(self) -> str:
        """The rules as QEMU reads them."""
        return "|".join(rule.text for rule in self.rules)

    def complete(self, d: Define) -> None:
        if not self.rules:
            d.domain.remove(self)

    def check_document(self, d: Define) -> None:
        if d.domain.all(Redirfilter)[0].node is not self.node:
            raise error.xml(
                "only one set of redirection filter rule is supported", self.node, "keep one <redirfilter>"
            )
