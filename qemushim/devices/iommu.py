"""``<iommu>``: https://libvirt.org/formatdomain.html#iommu-devices"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device
from qemushim.devices.placement import address_properties
from qemushim.document.fields import Choice, OnOff, Unsigned
from qemushim.document.units import parse_unsigned
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define


class Iommu(Device):
    """``<iommu>``: what keeps devices from the memory of others."""

    tag = "iommu"
    model = Choice("@model", ("intel", "smmuv3", "virtio"), required=True)
    intremap = OnOff("driver/@intremap")
    caching_mode = OnOff("driver/@caching_mode")
    eim = OnOff("driver/@eim")
    iotlb = OnOff("driver/@iotlb")
    aw_bits = Unsigned("driver/@aw_bits")
    dma_translation = OnOff("driver/@dma_translation")

    def complete(self, d: Define) -> None:
        """A guest with more vCPUs than an APIC id of 8 bits can tell apart needs extended interrupt mode."""
        if self.model != "intel" or not d.update or not d.board.is_q35:
            return
        if parse_unsigned(d.domain.node.value("vcpu") or "1") <= 255:
            return
        known = d.emulator.device_property
        if self.intremap is None and known("intel-iommu", "intremap"):
            self.intremap = True
        if self.eim is None and known("intel-iommu", "eim"):
            self.eim = True

    def check(self, d: Define) -> None:
        if len(d.domain.lists["iommu"]) > 1:
            raise error.xml("only a single IOMMU device is supported", self.node, "keep one of them")
        if (
            self.model != "intel"
            and self.node.child("driver") is not None
            and self.node.ensure("driver").attrib
        ):
            raise error.xml(
                f"iommu model '{self.model}' doesn't support additional attributes",
                self.node,
                "drop the attributes of <driver>",
            )
        if self.model == "intel":
            self._check_intel(d)
        elif self.model == "smmuv3":
            if not d.board.is_arm_virt:
                raise self._unsupported("is only supported with ARM Virt machines")
            if not d.emulator.device_property("virt-machine", "iommu"):
                raise self._unsupported("is not supported with this QEMU binary")
        elif self.model == "virtio":
            self._check_virtio(d)

    def _unsupported(self, text: str) -> Exception:
        return error.unsupported(f"IOMMU device: '{self.model}' {text}", self.node, "another model=")

    def _check_intel(self, d: Define) -> None:
        known = d.emulator.device_property
        if not d.emulator.has_device("intel-iommu"):
            raise self._unsupported("is not supported with this QEMU binary")
        if not d.board.is_q35:
            raise self._unsupported("is only supported with Q35 machines")
        for name, wanted in _INTEL.items():
            if self.node.value(f"driver/@{name}") is not None and not known("intel-iommu", wanted[0]):
                raise error.unsupported(
                    f"iommu: {wanted[1]} is not supported with this QEMU binary", self.node, "a newer QEMU"
                )
        if self.intremap and d.domain.node.value("features/ioapic/@driver") != "qemu":
            raise error.unsupported(
                "IOMMU interrupt remapping requires split I/O APIC (ioapic driver='qemu')",
                self.node,
                "<features><ioapic driver='qemu'/></features>",
            )
        if self.eim and not self.intremap:
            raise error.unsupported(
                "IOMMU eim requires interrupt remapping to be enabled", self.node, "intremap='on'"
            )

    def _check_virtio(self, d: Define) -> None:
        if not d.emulator.has_device("virtio-iommu-pci"):
            raise self._unsupported("is not supported with this QEMU binary")
        if not (d.board.is_q35 or d.board.is_arm_virt):
            raise self._unsupported("is only supported with Q35 and ARM Virt machines")
        if self.address_type != "pci":
            raise self._unsupported("needs a PCI address")
        features = d.domain.features
        if features is None or not features.acpi:
            raise self._unsupported("requires ACPI")

    def options(self, b: Build) -> Iterator[Option]:
        if self.model == "intel":
            properties: dict[str, Value] = {
                "driver": "intel-iommu",
                "id": self.alias,
                "intremap": _word(self.intremap),
                "caching-mode": self.caching_mode,
                "eim": _word(self.eim),
                "device-iotlb": self.iotlb,
                "aw-bits": self.aw_bits or None,
                "dma-translation": self.dma_translation,
            }
            yield b.device(properties, self.node, "the IOMMU of the board")
        elif self.model == "virtio":
            properties = {"driver": "virtio-iommu", "id": self.alias, **address_properties(self, b)}
            yield b.device(properties, self.node, "the IOMMU of the board")


#: attribute → property of the device, and what it is called
_INTEL = {
    "intremap": ("intremap", "interrupt remapping"),
    "caching_mode": ("caching-mode", "caching mode"),
    "eim": ("eim", "eim"),
    "iotlb": ("device-iotlb", "device IOTLB"),
    "aw_bits": ("aw-bits", "aw-bits"),
    "dma_translation": ("dma-translation", "dma translation"),
}


def _word(state: bool | None) -> str | None:
    return None if state is None else "on" if state else "off"
