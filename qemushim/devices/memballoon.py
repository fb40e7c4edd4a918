"""``<memballoon>``: https://libvirt.org/formatdomain.html#memory-balloon-device"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import (
    VIRTIO_MODELS,
    Device,
    VirtioDriver,
    virtio_properties,
)
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.document.fields import Choice, One, OnOff, Unsigned
from qemushim.document.item import Tail
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define


class Memballoon(Device):
    """``<memballoon>``: gives memory of the guest back to the host, on request.  The period is in seconds."""

    tag = "memballoon"

    model = Choice("@model", (*VIRTIO_MODELS, "xen", "none"), required=True)
    autodeflate = OnOff("@autodeflate")
    free_page_reporting = OnOff("@freePageReporting")
    stats_period = Unsigned("stats/@period")
    tail = Tail()
    driver = One("driver", VirtioDriver)

    def complete(self, d: Define) -> None:
        if self.model == "none":
            self.node.children = [child for child in self.node.children if child.tag in ("driver", "stats")]
        if not self.stats_period:
            self.node.discard("stats")

    def check(self, d: Define) -> None:
        if d.domain.all(Memballoon)[0] is not self:
            raise error.internal("only a single memory balloon device is supported", self.node, "keep one")
        if self.model == "none":
            return
        if self.model not in VIRTIO_MODELS:
            raise error.unsupported(
                f"Memory balloon device type '{self.model}' is not supported by this version of qemu",
                self.node,
                "model='virtio' or 'none'",
            )
        if self.autodeflate is not None and not _has(d, "deflate-on-oom"):
            raise error.unsupported(
                "deflate-on-oom is not supported by this QEMU binary", self.node, "drop autodeflate="
            )
        if self.free_page_reporting is not None and not _has(d, "free-page-reporting"):
            raise error.unsupported(
                "free-page-reporting is not supported by this QEMU binary",
                self.node,
                "drop freePageReporting=",
            )

    def options(self, b: Build) -> Iterator[Option]:
        if self.model not in VIRTIO_MODELS:
            return
        properties: dict[str, Value] = {
            "driver": virtio_driver("virtio-balloon", self, b),
            **virtio_properties(self),
            "id": self.alias,
            "deflate-on-oom": self.autodeflate,
            "free-page-reporting": self.free_page_reporting,
        }
        yield from zpci_options(self, b)
        yield b.device(
            {**properties, **address_properties(self, b)}, self.node, "memory that can be given back"
        )


def _has(d: Define, name: str) -> bool:
    return any(d.emulator.device_property(f"virtio-balloon-{bus}", name) for bus in ("pci", "ccw", "device"))
