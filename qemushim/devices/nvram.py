"""``<nvram>`` and ``<pstore>``: memory that outlives the guest's power.

https://libvirt.org/formatdomain.html#nvram-device and #pstore
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device
from qemushim.devices.placement import address_properties
from qemushim.document.fields import Choice, Text
from qemushim.document.sizes import Size
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define


class Nvram(Device):
    """``<nvram>`` of a pSeries guest."""

    tag = "nvram"

    def check(self, d: Define) -> None:
        if d.domain.all(Nvram)[0] is not self:
            raise error.xml("only a single nvram device is supported", self.node, "keep one")
        if not d.board.is_pseries:
            raise error.unsupported("nvram device is only supported for PPC64", self.node, "remove it")
        if not d.emulator.has_device("spapr-nvram"):
            raise error.unsupported(
                "nvram device is not supported by this QEMU binary", self.node, "remove it"
            )

    def options(self, b: Build) -> Iterator[Option]:
        address = self.address
        if address is None or address.type != "spapr-vio":
            raise error.xml(
                "nvram address type must be spaprvio", self.node, "<address type='spapr-vio'/>, or none"
            )
        if address.reg is not None:
            yield b.option(
                "-global", f"spapr-nvram.reg=0x{address.reg:x}", self.node, "where the guest finds its NVRAM"
            )


#: a record of the guest's
_SMALLEST_KIB = 4


class Pstore(Device):
    """``<pstore>``: where the guest's kernel leaves its last words.  The size is in KiB."""

    tag = "pstore"

    backend = Choice("@backend", ("acpi-erst",), required=True)
    path = Text("path")
    size = Size("size", 0)

    def check_document(self, d: Define) -> None:
        if self.node.child("size") is None:
            raise error.xml("missing element or attribute './size'", self.node, "<size unit='KiB'>64</size>")

    def complete(self, d: Define) -> None:
        if not self.path:
            self.path = f"{d.host.paths.nvram}/{d.domain.name}_PSTORE.raw"
        if self.size:
            self.size = self.size

    def check(self, d: Define) -> None:
        if d.domain.all(Pstore)[0] is not self:
            raise error.xml("only a single pstore device is supported", self.node, "keep one")
        if not d.emulator.has_device("acpi-erst"):
            raise error.unsupported(
                "acpi-erst backend of pstore device is not supported by this QEMU binary",
                self.node,
                "QEMU 7.0 or newer",
            )
        if self.size < _SMALLEST_KIB or self.size & (self.size - 1):
            raise error.xml(
                "invalid size of ACPI ERST pstore device", self.node, "a power of two, 4 KiB at least"
            )
        if self.address_type not in ("", "pci"):
            raise error.unsupported(
                "ACPI ERST device must reside on a PCI bus",
                self.node.child("address"),
                "<address type='pci'/>, or none",
            )

    def options(self, b: Build) -> Iterator[Option]:
        memory = f"mem{self.alias}"
        yield b.object(
            {
                "qom-type": "memory-backend-file",
                "id": memory,
                "mem-path": self.path,
                "size": self.size * 1024,
                "share": True,
            },
            self.node,
            "the file that keeps what the guest leaves",
        )
        properties: dict[str, Value] = {"driver": "acpi-erst", "id": self.alias, "memdev": memory}
        yield b.device(
            {**properties, **address_properties(self, b)}, self.node, "where a kernel leaves its last words"
        )
