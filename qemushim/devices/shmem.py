"""``<shmem>``: memory that guests share.  https://libvirt.org/formatdomain.html#shared-memory-device"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.devices.base import Device
from qemushim.devices.charsource import socket_chardev
from qemushim.devices.placement import address_properties, zpci_options
from qemushim.document.fields import Choice, OnOff, Present, Text, Unsigned
from qemushim.document.units import TooLargeError, to_bytes
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

MODELS = ("ivshmem", "ivshmem-plain", "ivshmem-doorbell")
MIB = 1 << 20
DEFAULT_SIZE = 4 * MIB


class Shmem(Device):
    """``<shmem>``: plain memory by its name, or memory and interrupts from a server (doorbell)."""

    tag = "shmem"

    name = Text("@name", "").needs("shmem element must contain 'name' attribute")
    role = Choice("@role", ("master", "peer"))
    model = Choice("model/@type", MODELS, "ivshmem")
    size_unit = Text("size/@unit")
    size_text = Text("size")
    server = Present("server")
    server_path = Text("server/@path")
    msi = Present("msi")
    msi_vectors = Unsigned("msi/@vectors")
    msi_ioeventfd = OnOff("msi/@ioeventfd")

    __slots__ = ()

    @property
    def size(self) -> int:
        """Bytes; 0: the server decides."""
        if self.size_text is None:
            return 0
        raw = self.node.ensure("size").text
        try:
            return to_bytes(raw, self.size_unit, "bytes")
        except TooLargeError as reason:
            raise error.plain(f"numerical overflow: {reason}", self.node, "less than 16 EiB") from None
        except ValueError as reason:
            if "unknown suffix" in str(reason):
                raise error.argument(str(reason), self.node, "KiB, MiB, GiB, …") from None
            message = f"Invalid value '{raw}' for element or attribute './size[1]'"
            raise error.xml(message, self.node, "a number") from None

    @property
    def socket_path(self) -> str:
        """Where the server listens."""
        return self.server_path or f"/var/lib/libvirt/shmem-{self.name}-sock"

    def check_document(self, d: Define) -> None:
        if "/" in self.name or self.name in (".", ".."):
            raise error.xml(f"shmem name cannot be equal to '{self.name}'", self.node, "a plain file name")
        if self.msi and not self.server:
            raise error.xml("msi option is only supported with a server", self.node, "add <server>")

    def complete(self, d: Define) -> None:
        self.model = self.model
        if self.model != "ivshmem-doorbell" and not self.size:
            self._set_size(DEFAULT_SIZE)
        elif self.size and self.size % MIB == 0:
            self._set_size(self.size)
        self._complete_server()

    def _set_size(self, size: int) -> None:
        self.size_text = str(size // MIB)
        self.size_unit = "M"

    def _complete_server(self) -> None:
        model = self.model
        if model == "ivshmem":
            return
        wanted = "enabled" if model == "ivshmem-doorbell" else "disabled"
        if self.server != (wanted == "enabled"):
            raise error.unsupported(
                f"shmem model '{model}' is supported only with server option {wanted}",
                self.node,
                "another model",
            )
        if self.server:
            if self.size:
                raise error.xml(
                    f"shmem model '{model}' does not support size setting", self.node, "drop <size>"
                )
            self.node.ensure("msi")
            if self.msi_ioeventfd is None:
                self.msi_ioeventfd = True

    def check(self, d: Define) -> None:
        size = self.size
        if size and (size < MIB or size & (size - 1)):
            raise error.xml(
                "shmem size must be a power of 2 and at least 1 MiB (1024 KiB)",
                self.node,
                "<size unit='MiB'>4</size>",
            )
        if self.model == "ivshmem":
            raise error.unsupported(
                "ivshmem device is no longer supported", self.node, "model='ivshmem-plain'"
            )
        if not d.emulator.has_device(self.model):
            raise error.unsupported(
                f"shmem model '{self.model}' is not supported by this QEMU binary", self.node, "ivshmem-plain"
            )

    def options(self, b: Build) -> Iterator[Option]:
        if self.address_type != "pci":
            raise error.unsupported(
                "only 'pci' addresses are supported for the shared memory device",
                self.node,
                "<address type='pci'/>, or none",
            )
        yield from self._doorbell(b) if self.server else self._plain(b)

    def _plain(self, b: Build) -> Iterator[Option]:
        memory = f"shmmem-{self.alias}"
        yield b.object(
            {
                "qom-type": "memory-backend-file",
                "id": memory,
                "mem-path": f"/dev/shm/{self.name}",
                "size": self.size,
                "share": True,
            },
            self.node,
            "memory that guests share",
        )
        yield from zpci_options(self, b)
        yield b.device(
            {
                "driver": self.model,
                "id": self.alias,
                "memdev": memory,
                "master": {"master": "on", "peer": "off"}.get(self.role or ""),
                **address_properties(self, b),
            },
            self.node,
            "a window to shared memory",
        )

    def _doorbell(self, b: Build) -> Iterator[Option]:
        yield from zpci_options(self, b)
        yield b.device(
            {
                "driver": self.model,
                "id": self.alias,
                "chardev": f"char{self.alias}",
                "vectors": self.msi_vectors or None,
                "ioeventfd": self.msi_ioeventfd,
                **address_properties(self, b),
            },
            self.node,
            "a window to shared memory, with interrupts",
        )
        yield socket_chardev(b, f"char{self.alias}", self.socket_path, self.node)
