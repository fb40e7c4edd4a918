"""``<smartcard>``: a card of the host, or one that certificates make up.

https://libvirt.org/formatdomain.html#smartcard-devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device
from qemushim.devices.charsource import CharSource, chardev_options, check_source, complete_source
from qemushim.devices.placement import controller_alias
from qemushim.document.fields import Choice, Many, Text
from qemushim.document.item import Item
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: where NSS looks for certificates unless told otherwise
DATABASE = "/etc/pki/nssdb"
#: mode → (QEMU device, what its absence means)
_DRIVERS = {
    "host": ("ccid-card-emulated", "this QEMU binary lacks smartcard host mode support"),
    "host-certificates": ("ccid-card-emulated", "this QEMU binary lacks smartcard host mode support"),
    "passthrough": ("ccid-card-passthru", "this QEMU binary lacks smartcard passthrough mode support"),
}


class Certificate(Item):
    tag = "certificate"

    name = Text(".", "")


class Smartcard(Device):
    """``<smartcard>``: sits in a slot of a CCID controller."""

    tag = "smartcard"

    mode = Choice("@mode", tuple(_DRIVERS), required=True)
    type = CharSource.type
    certificates = Many("certificate", Certificate)
    database = Text("database")
    sources = CharSource.sources
    protocol = CharSource.protocol
    log_file = CharSource.log_file
    log_append = CharSource.log_append

    __slots__ = ()

    def check_document(self, d: Define) -> None:
        if self.mode == "passthrough" and self.node.get("type") is None:
            raise error.xml(
                "passthrough mode requires a character device type attribute",
                self.node,
                "such as type='spicevmc'",
            )
        if self.mode == "host-certificates":
            if len(self.certificates) != 3:
                raise error.xml(
                    "host-certificates mode needs exactly three certificates",
                    self.node,
                    "three <certificate>, with the names that NSS knows",
                )
            database = self.node.child("database")
            if database is not None and not database.text.startswith("/"):
                message = f"expecting absolute path: {database.text}"
                raise error.xml(message, database, f"<database>{DATABASE}</database>")

    def complete(self, d: Define) -> None:
        if self.mode != "host-certificates":
            self.node.discard("certificate")
            self.node.discard("database")
        if self.mode == "passthrough":
            complete_source(self.node)
        else:
            self.node.drop("type")

    def check(self, d: Define) -> None:
        if self.address_type not in ("", "ccid"):
            raise error.unsupported(
                "Controllers must use the 'ccid' address type", self.node.child("address"), "drop <address>"
            )
        if self.mode == "passthrough":
            check_source(self.node, d)
        if self.address_type not in ("", "ccid"):
            message = "Controllers must use the 'ccid' address type"
            raise error.unsupported(message, self.node.child("address"), "<address type='ccid'/>")
        if d.domain.lists["smartcard"][0] is not self:
            message = "this QEMU binary lacks multiple smartcard support"
            raise error.unsupported(message, self.node, "keep one")
        driver, absent = _DRIVERS[self.mode or ""]
        if not d.emulator.has_device(driver):
            raise error.unsupported(absent, self.node, "another mode, such as host")

    def options(self, b: Build) -> Iterator[Option]:
        mode = self.mode or ""
        given: dict[str, Value] = {"driver": _DRIVERS[mode][0]}
        if mode == "passthrough":
            given["chardev"] = f"char{self.alias}"
            yield from chardev_options(self, self.node, b, f"char{self.alias}")
        elif mode == "host":
            given["backend"] = "nss-emulated"
        else:
            given["backend"] = "certificates"
            for number, certificate in enumerate(self.certificates, 1):
                given[f"cert{number}"] = certificate.name
            given["db"] = self.database or DATABASE
        address = self.address
        controller = address.controller if address is not None else 0
        given["id"] = self.alias
        given["bus"] = f"{controller_alias(b, 'ccid', controller)}.0"
        yield b.device(given, self.node, "a smartcard in a CCID reader")

    @classmethod
    def all_options(cls, b: Build) -> Iterator[Option]:
        """The first smartcard: QEMU takes one."""
        for device in b.domain.lists["smartcard"][:1]:
            yield from device.options(b)
