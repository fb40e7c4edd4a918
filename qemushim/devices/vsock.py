"""``<vsock>``: sockets between guest and host.  https://libvirt.org/formatdomain.html#vsock"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.devices.base import VIRTIO_MODELS, Device, VirtioDriver, virtio_properties
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.document.fields import Choice, One, Switch, Unsigned
from qemushim.document.item import Tail
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: context ids below mean the hypervisor and the host
LOWEST_CID = 3


class Vsock(Device):
    """``<vsock>``: the guest's context id is its address."""

    tag = "vsock"

    model = Choice("@model", VIRTIO_MODELS, "virtio")
    auto = Switch("cid/@auto")
    cid = Unsigned("cid/@address")
    tail = Tail()
    driver = One("driver", VirtioDriver)

    __slots__ = ()

    def check_document(self, d: Define) -> None:
        if self.cid is not None and self.cid < LOWEST_CID:
            raise error.xml(f"guest CIDs must be >= {LOWEST_CID}", self.node, "auto='yes'")

    def complete(self, d: Define) -> None:
        self.model = self.model
        if self.auto is None:
            self.auto = self.cid is None
        if self.auto:
            self.cid = None

    def check(self, d: Define) -> None:
        if len(d.domain.lists["vsock"]) > 1:
            raise error.xml("only a single vsock device is supported", self.node, "keep one")
        if not d.emulator.flag("vhost-vsock"):
            raise error.unsupported(
                "vsock device is not supported with this QEMU binary", self.node, "QEMU 4.0 or newer"
            )

    def options(self, b: Build) -> Iterator[Option]:
        # libvirt opens no vsock for a dry run, and prints what it holds then
        number = b.host.descriptors.vsock
        fd = -1 if b.export or b.alone else b.pass_fd(number, "vsock", "/dev/vhost-vsock", self.alias)
        yield from zpci_options(self, b)
        yield b.device(
            {
                "driver": virtio_driver("vhost-vsock", self, b),
                **virtio_properties(self),
                "id": self.alias,
                "guest-cid": self.cid if self.cid is not None else 0 if b.export else b.host.vsock_cid,
                "vhostfd": None if b.alone else str(fd),
                **address_properties(self, b),
            },
            self.node,
            "sockets between guest and host",
        )
