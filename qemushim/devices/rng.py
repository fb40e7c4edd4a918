"""``<rng>``: a source of randomness, and ``<crypto>``: a device that encrypts.

https://libvirt.org/formatdomain.html#random-number-generator-device
https://libvirt.org/formatdomain.html#crypto
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import VIRTIO_MODELS, Device, VirtioDriver, virtio_properties
from qemushim.devices.charsource import TYPES, CharSource, chardev_options, check_source, complete_source
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.document.fields import Choice, One, Text, Unsigned
from qemushim.document.item import Item
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: milliseconds in which the bytes of ``<rate>`` may be taken, where it does not say
DEFAULT_PERIOD = 1000
DEFAULT_FILE = "/dev/random"


class RngBackend(Item):
    """``<backend>``: a file of the host, a daemon (EGD), or QEMU itself."""

    tag = "backend"

    model = Choice("@model", ("random", "egd", "builtin"), required=True)
    type = Choice("@type", TYPES, "pty").says("unknown backend type '{}' for egd").later()
    file = Text(".")
    sources = CharSource.sources
    protocol = CharSource.protocol
    log_file = CharSource.log_file
    log_append = CharSource.log_append


class Rng(Device):
    """``<rng>``"""

    tag = "rng"

    model = Choice("@model", VIRTIO_MODELS, required=True)
    rate_bytes = Unsigned("rate/@bytes").says("invalid RNG rate bytes value", "XML error")
    rate_period = Unsigned("rate/@period").says("invalid RNG rate period value", "XML error")
    backend = One("backend", RngBackend)
    driver = One("driver", VirtioDriver)

    __slots__ = ()

    def check_document(self, d: Define) -> None:
        backends = self.node.all("backend")
        if len(backends) != 1:
            raise error.xml("only one RNG backend is supported", self.node, "one <backend>")
        if backends[0].get("model") == "egd":
            if backends[0].get("type") is None:
                raise error.xml("missing EGD backend type", backends[0], "such as type='unix'")
            _ = RngBackend(backends[0]).type

    def complete(self, d: Define) -> None:
        if not self.rate_bytes:
            self.node.discard("rate")
        backend = RngBackend(self.node.ensure("backend"))
        if backend.model == "egd":
            backend.node.text = ""
            complete_source(backend.node)
            return
        backend.node.drop("type")
        backend.node.children = []
        if backend.model == "builtin":
            backend.node.text = ""
        elif not backend.file:
            backend.file = DEFAULT_FILE

    def check(self, d: Define) -> None:
        backend = RngBackend(self.node.ensure("backend"))
        if backend.model == "egd":
            check_source(backend.node, d)
        if not d.emulator.has_object(f"rng-{backend.model}"):
            raise error.unsupported(
                f"this qemu doesn't support the rng-{backend.model} backend", backend.node, "model='random'"
            )

    def options(self, b: Build) -> Iterator[Option]:
        backend = RngBackend(self.node.ensure("backend"))
        given: dict[str, Value] = {"qom-type": f"rng-{backend.model}", "id": f"obj{self.alias}"}
        if backend.model == "egd":
            yield from chardev_options(self, backend.node, b, f"char{self.alias}")
            given["chardev"] = f"char{self.alias}"
        elif backend.model == "random":
            given["filename"] = backend.file
        yield b.object(given, self.node, "where randomness comes from")
        yield from zpci_options(self, b)
        rate = self.rate_bytes or None
        yield b.device(
            {
                "driver": virtio_driver("virtio-rng", self, b),
                **virtio_properties(self),
                "rng": f"obj{self.alias}",
                "id": self.alias,
                "max-bytes": rate,
                "period": (self.rate_period or DEFAULT_PERIOD) if rate else None,
                **address_properties(self, b),
            },
            self.node,
            "a random number generator",
        )


class Crypto(Device):
    """``<crypto>``"""

    tag = "crypto"

    model = Choice("@model", ("virtio",), required=True)
    type = Choice("@type", ("qemu",), required=True)
    backend = Choice("backend/@model", ("builtin", "lkcf"), required=True)
    queues = Unsigned("backend/@queues")
    driver = One("driver", VirtioDriver)

    __slots__ = ()

    def check(self, d: Define) -> None:
        if not d.emulator.flag("virtio-crypto"):
            raise error.unsupported(
                "virtio-crypto-device is not supported by this QEMU binary", self.node, "QEMU 2.8 or newer"
            )
        if self.backend is None:
            raise error.xml("only one crypto backend is supported", self.node, "<backend model='builtin'/>")
        if not d.emulator.has_object(f"cryptodev-backend-{self.backend}"):
            raise error.unsupported(
                f"crypto backend {self.backend} is not supported", self.node, "<backend model='builtin'/>"
            )

    def options(self, b: Build) -> Iterator[Option]:
        backend = {
            "qom-type": f"cryptodev-backend-{self.backend}",
            "id": f"obj{self.alias}",
            "queues": self.queues or None,
        }
        yield b.object(backend, self.node, "what does the work of the device that encrypts")
        yield from zpci_options(self, b)
        yield b.device(
            {
                "driver": virtio_driver("virtio-crypto", self, b),
                **virtio_properties(self),
                "cryptodev": f"obj{self.alias}",
                "id": self.alias,
                **address_properties(self, b),
            },
            self.node,
            "a device that encrypts",
        )
