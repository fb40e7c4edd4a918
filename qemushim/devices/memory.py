"""``<memory>``: DIMMs, NVDIMMs, virtio-mem, virtio-pmem, SGX enclave memory.

https://libvirt.org/formatdomain.html#memory-devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device
from qemushim.devices.membackend import Memory, backend_options, wants_prealloc
from qemushim.devices.placement import address_properties, virtio_driver
from qemushim.document.fields import Choice, LongHex, NumberSet, Present, Switch, Text, Unsigned
from qemushim.document.sizes import Size
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.board import Board
    from qemushim.context import Build, Define

MODELS = ("dimm", "nvdimm", "virtio-pmem", "virtio-mem", "sgx-epc")
VIRTIO = frozenset({"virtio-pmem", "virtio-mem"})


class MemoryDevice(Device):
    """``<memory>``: a piece of memory that is a device of its own.  Sizes are KiB."""

    tag = "memory"
    model = Choice("@model", MODELS, required=True)
    access = Choice("@access", ("shared", "private"))
    discard = Switch("@discard")
    uuid = Text("uuid")
    path = Text("source/path")
    alignment = Size("source/alignsize")
    pmem = Present("source/pmem")
    nodes = NumberSet("source/nodemask")
    page_size = Size("source/pagesize")
    dynamic_slots = Switch("target/@dynamicMemslots")
    size = Size("target/size", 0)
    cell = Unsigned("target/node")
    label_size = Size("target/label/size")
    readonly = Present("target/readonly")
    block_size = Size("target/block")
    requested = Size("target/requested")
    base = LongHex("target/address/@base", 1)

    # -- definition -----------------------------------------------------------------------------------

    def check_document(self, d: Define) -> None:
        hint = "<target><size unit='MiB'>…"
        if self.node.child("target") is None:
            raise error.xml("missing <target> element for <memory> device", self.node, hint)
        if self.node.find("target/size") is None:
            raise error.xml("missing element or attribute './size'", self.node, hint)
        label = self.label_size
        if self.model == "nvdimm" and label is not None and label >= self.size:
            raise error.xml(
                "label size must be smaller than NVDIMM size", self.node, "a label smaller than the device"
            )

    def complete(self, d: Define) -> None:
        for name in _SIZES:
            amount = getattr(self, name)
            if amount is not None:
                setattr(self, name, amount)
        if self.nodes is not None:
            self.nodes = self.nodes
        if self.model == "virtio-pmem":
            self.access = self.access or "shared"
        if self.model == "nvdimm" and d.board.is_ppc64 and self.uuid is None:
            self.uuid = d.host.new_uuid(f"nvdimm {self.node.value('source/path')} of {d.domain.uuid}")
        if d.update and d.board.is_ppc64:
            self.align(d.board)

    def align(self, board: Board) -> None:
        """Round the size to what the machine can plug: 2 MiB, on ppc64 256 MiB."""
        step = (256 if board.is_ppc64 else 2) * 1024
        if self.model == "nvdimm" and board.is_ppc64:
            # the label is behind the memory, whose size can not be more than the file has
            label = self.label_size or 0
            self.size = max((self.size - label) // step, 1) * step + label
        else:
            self.size = -(-self.size // step) * step

    def check(self, d: Define) -> None:
        check_memory_device(self, d)

    # -- command -----------------------------------------------------------------------------------

    def options(self, b: Build) -> Iterator[Option]:
        """The back end, and what plugs it into the guest."""
        want = Memory(
            f"mem{self.alias}", self.size, -1 if self.cell is None else self.cell, self.node, source=self.node
        )
        yield from backend_options(b, want, "the memory of the device")
        if self.model == "sgx-epc":
            return  # a property of the machine
        prealloc = self.model == "virtio-mem" and wants_prealloc(b, want)
        prealloc = prealloc and b.emulator.device_property("virtio-mem-pci", "prealloc")
        properties: dict[str, Value] = {
            "driver": self._driver(b),
            "node": self.cell,
            "label-size": _bytes(self.label_size),
            "block-size": _bytes(self.block_size),
            "requested-size": _bytes(self.requested),
            "uuid": self.uuid,
            "unarmed": True if self.readonly else None,
            "memdev": want.alias,
            "prealloc": True if prealloc else None,
            "memaddr": self.base or None,
            "dynamic-memslots": self.dynamic_slots,
            "id": self.alias,
            **address_properties(self, b),
        }
        yield b.device(properties, self.node, "memory that is a device of its own")

    def _driver(self, b: Build) -> str:
        model = self.model or ""
        if model in VIRTIO:
            return virtio_driver(model, self, b)
        return "pc-dimm" if model == "dimm" else model


_SIZES = ("alignment", "page_size", "size", "label_size", "block_size", "requested")


def _bytes(size: int | None) -> int | None:
    return size * 1024 if size else None


# -- checks -----------------------------------------------------------------------------------

_CAPABILITY = {
    "dimm": ("pc-dimm", "memory hotplug isn't supported by this QEMU binary"),
    "nvdimm": ("nvdimm", "nvdimm isn't supported by this QEMU binary"),
    "virtio-pmem": ("virtio-pmem-pci", "virtio-pmem isn't supported by this QEMU binary"),
    "sgx-epc": ("sgx-epc", "sgx epc isn't supported by this QEMU binary"),
}


def check_memory_device(device: MemoryDevice, d: Define) -> None:
    """Whether the machine can have the device, and QEMU can make it."""
    model, node = device.model or "", device.node
    if model in _NEED_PATH and not device.path:
        raise error.plain(
            f"path is required for model '{model}'", node, "<source><path>/file</path></source>"
        )
    wanted = _CAPABILITY.get(model)
    if wanted is not None and not d.emulator.has_device(wanted[0]):
        raise error.unsupported(wanted[1], node, "another model=")
    if model == "virtio-mem" and not any(
        d.emulator.has_device(f"virtio-mem-{bus}") for bus in ("pci", "ccw")
    ):
        raise error.unsupported("virtio-mem isn't supported by this QEMU binary", node, "model='dimm'")
    check = _CHECKS.get(model)
    if check is not None:
        check(device, d)


_NEED_PATH = ("nvdimm", "virtio-pmem")


def _check_dimm(device: MemoryDevice, d: Define) -> None:
    if device.discard and not d.emulator.has_object("memory-backend-file"):
        raise error.unsupported("discard is not supported by this QEMU binary", device.node, "drop discard=")


def _check_nvdimm(device: MemoryDevice, d: Define) -> None:
    node = device.node
    if d.board.is_ppc64:
        if not device.label_size:
            raise error.unsupported(
                "label size is required for NVDIMM device", node, "<label><size unit='KiB'>128…"
            )
    elif device.uuid is not None:
        raise error.unsupported("UUID is not supported for NVDIMM device", node, "drop <uuid>")
    if device.label_size is not None and device.label_size < 128:
        raise error.unsupported("nvdimm label must be at least 128KiB", node, "128 KiB or more")
    if device.pmem and not d.emulator.device_property("memory-backend-file", "pmem"):
        raise error.unsupported(
            "nvdimm pmem property is not available with this QEMU binary", node, "drop <pmem/>"
        )
    if device.readonly and not d.emulator.device_property("nvdimm", "unarmed"):
        raise error.unsupported(
            "nvdimm readonly property is not available with this QEMU binary", node, "drop <readonly/>"
        )


def _check_virtio_pmem(device: MemoryDevice, d: Define) -> None:
    if device.access != "shared":
        raise error.unsupported(
            "shared access mode required for virtio-pmem device", device.node, "access='shared'"
        )
    if device.cell is not None:
        raise error.unsupported("virtio-pmem does not support NUMA nodes", device.node, "drop <node>")


def _check_virtio_mem(device: MemoryDevice, d: Define) -> None:
    node = device.node
    block, requested = device.block_size or 0, device.requested or 0
    if requested > device.size:
        raise error.plain(
            "requested size must be smaller than or equal to @size", node, "no more than <size>"
        )
    if block & (block - 1) or not block:
        raise error.plain("block size must be a power of two", node, "<block unit='MiB'>2</block>")
    if requested % block or device.size % block:
        raise error.plain(
            "requested size must be an integer multiple of block size", node, "a multiple of <block>"
        )
    known = d.emulator.device_property("virtio-mem-pci", "dynamic-memslots")
    if device.dynamic_slots is not None and not known:
        raise error.unsupported(
            "virtio-mem doesn't support '@dynamicMemslots' with this QEMU binary",
            node,
            "drop dynamicMemslots=",
        )


_CHECKS = {
    "dimm": _check_dimm,
    "nvdimm": _check_nvdimm,
    "virtio-pmem": _check_virtio_pmem,
    "virtio-mem": _check_virtio_mem,
}
