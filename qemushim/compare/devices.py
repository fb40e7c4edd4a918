"""What of each kind of device the guest sees, as libvirt compares it before a migration or a restore.

https://libvirt.org/formatdomain.html#devices
"""

from __future__ import annotations

from typing import NamedTuple

from qemushim.compare.checks import BARE, NO_NUMBER, NO_SWITCH, QUOTED, Check
from qemushim.document.node import Node
from qemushim.document.units import to_bytes

_SHMEM = "Target shared memory {what} '{new}' does not match source {what} '{old}'"
_TPM = "Target TPM {what} doesn't match source"
_MEMORY = "Target memory device {what} '{new}' doesn't match source {what} '{old}'"
_MEMORY_SIZE = "Target memory device {what} '{new}' doesn't match source memory device {what} '{old}'"
_NVDIMM = "Target NVDIMM {what} doesn't match source NVDIMM"
#: the two values are the wrong way round in libvirt
_NVDIMM_SIZE = "Target NVDIMM {what} '{old}' doesn't match source NVDIMM {what} '{new}'"
_NVDIMM_FLAG = "Target NVDIMM {what} flag doesn't match source NVDIMM {what} flag"
_SOURCE_TYPE = "Target redirected device source type {new} does not match source device source type {old}"
_UNCOUNTED = "Target domain {what} count does not match source"
_SUBSYSTEM = "Target host device subsystem type {new} is not compatible with source subsystem type {old}"


class Kind(NamedTuple):
    """One kind of device."""

    tag: str
    #: what libvirt calls it when it counts
    name: str
    checks: tuple[Check, ...] = ()
    #: has the options of virtio devices
    virtio: bool = False
    #: has an address, and with it what all devices have
    info: bool = True
    #: how libvirt says that there are more or fewer
    counted: str = "Target domain {what} count {new} does not match source {old}"


# -- what is not compared as it is written -------------------------------------------------------------------


def _subsystem(node: Node) -> str:
    """The type; a mediated device may take the place of a PCI device."""
    kind = node.get("type") or ""
    return "pci" if kind == "mdev" else kind


def _guestfwd(node: Node) -> str:
    address, port = node.value("target/@address"), node.value("target/@port")
    return f"{address}:{port}" if address and port else ""


def _bytes(node: Node) -> str:
    size = node.child("size")
    if size is None:
        return ""
    try:
        return str(to_bytes(size.text, size.get("unit"), "bytes"))
    except ValueError:
        return size.text


def _banks(node: Node) -> str:
    banks = node.find("backend/active_pcr_banks")
    return " ".join(sorted(bank.tag for bank in banks.children)) if banks is not None else ""


#: libvirt's order
KINDS: tuple[Kind, ...] = (
    Kind(
        "disk",
        "disk",
        (
            Check("@device", "disk device", default="disk"),
            Check("target/@bus", "disk bus"),
            Check("target/@dev", "disk"),
            Check("serial", "disk serial"),
            Check("wwn", "disk wwn", QUOTED),
            Check("readonly", "disk access mode", BARE),
            Check("@model", "disk model", null="default"),
            Check(
                "target/@rotation_rate",
                "disk rotation rate",
                "Target {what} {new} RPM does not match source {old} RPM",
                NO_NUMBER,
            ),
            Check("driver/@queues", "disk queue count", null=NO_NUMBER),
            Check("driver/@queue_size", "disk queue size", null=NO_NUMBER),
            Check("blockio/@logical_block_size", "disk logical_block_size", null=NO_NUMBER),
            Check("blockio/@physical_block_size", "disk physical_block_size", null=NO_NUMBER),
            Check("blockio/@discard_granularity", "disk discard_granularity", null=NO_NUMBER),
        ),
        virtio=True,
    ),
    Kind(
        "controller",
        "controller",
        (
            Check("@type", "controller type"),
            Check("@index", "controller index"),
            Check("@model", "controller model"),
            Check("@ports", "controller ports", null="-1"),
            Check("@vectors", "controller vectors", null="-1"),
        ),
        virtio=True,
    ),
    Kind(
        "filesystem",
        "filesystem",
        (
            Check("target/@dir", "filesystem guest target"),
            Check("@accessmode", "filesystem access mode", ""),
            Check("@model", "filesystem model", BARE),
        ),
        virtio=True,
    ),
    Kind(
        "interface",
        "net card",
        (
            Check("mac/@address", "network card mac"),
            Check("model/@type", "network card model"),
            Check("mtu/@size", "network card MTU", null=NO_NUMBER),
        ),
        virtio=True,
    ),
    Kind(
        "input",
        "input device",
        (
            Check("@type", "input device type"),
            Check("@bus", "input device bus"),
            Check("@model", "input model"),
        ),
        virtio=True,
    ),
    Kind(
        "sound",
        "sound card",
        (
            Check("@model", "sound card model"),
            Check("@multichannel", "sound card multichannel setting", QUOTED, NO_SWITCH),
        ),
    ),
    Kind(
        "video",
        "video card",
        (
            Check("model/@type", "video card model"),
            Check("model/@ram", "video card ram", null=NO_NUMBER),
            Check("model/@vram", "video card vram", null=NO_NUMBER),
            Check("model/@vram64", "video card vram64", null=NO_NUMBER),
            Check("model/@vgamem", "video card vgamem", null=NO_NUMBER),
            Check("model/@heads", "video card heads", null=NO_NUMBER),
            Check("model/acceleration", "video card acceleration", BARE),
            Check("model/acceleration/@accel2d", "video card 2d accel"),
            Check("model/acceleration/@accel3d", "video card 3d accel"),
        ),
        virtio=True,
    ),
    Kind(
        "hostdev",
        "host device",
        (
            Check("@mode", "host device mode"),
            Check("@type", "host device type", _SUBSYSTEM, value=_subsystem),
        ),
    ),
    Kind("smartcard", "smartcard"),
    Kind(
        "serial",
        "serial port",
        (
            Check("target/@type", "serial type"),
            Check("target/model/@name", "serial model"),
            Check("target/@port", "serial port", default="0"),
        ),
    ),
    Kind("parallel", "parallel port", (Check("target/@port", "parallel port", default="0"),)),
    Kind(
        "channel",
        "channel",
        (
            Check("target/@type", "channel type"),
            Check("target/@name", "channel name"),
            Check("target/@address", "channel addr", value=_guestfwd),
        ),
    ),
    Kind("console", "console", (Check("target/@type", "console type"),)),
    Kind("hub", "hub device", (Check("@type", "hub device type", default="usb"),)),
    Kind(
        "redirdev",
        "redirected devices",
        (Check("@bus", "redirected device bus", default="usb"), Check("@type", "source type", _SOURCE_TYPE)),
    ),
    Kind("redirfilter", "USB redirection filter", info=False),
    Kind("watchdog", "watchdog device", (Check("@model", "watchdog model"),)),
    Kind(
        "memballoon",
        "memory balloon",
        (
            Check("@model", "balloon model"),
            Check("@autodeflate", "balloon autodeflate attribute value", QUOTED, NO_SWITCH, "off"),
            Check(
                "@freePageReporting", "balloon freePageReporting attribute value", QUOTED, NO_SWITCH, "off"
            ),
        ),
        virtio=True,
    ),
    Kind("rng", "RNG device", (Check("@model", "RNG model", QUOTED),), virtio=True),
    Kind("panic", "panic device", (Check("@model", "panic model", QUOTED),)),
    Kind(
        "shmem",
        "shared memory device",
        (
            Check("@role", "role", _SHMEM),
            Check("model/@type", "model", _SHMEM),
            Check("size", "size", _SHMEM, NO_NUMBER, value=_bytes),
            Check("server", "server usage", "Target shared memory {what} doesn't match source"),
            Check("msi/@enabled", "MSI configuration", "Target shared memory {what} doesn't match source"),
            Check("msi/@vectors", "MSI configuration", "Target shared memory {what} doesn't match source"),
        ),
    ),
    Kind(
        "tpm",
        "TPM device",
        (
            Check("backend/@type", "device type", _TPM),
            Check("@model", "device model", _TPM),
            Check("backend/@version", "version", _TPM),
            Check(
                "backend/active_pcr_banks",
                "active PCR banks",
                "Target {what} doesn't match source",
                value=_banks,
            ),
        ),
    ),
    Kind(
        "memory",
        "memory device",
        (
            Check("@model", "model", _MEMORY),
            Check("target/node", "targetNode", _MEMORY),
            Check("target/size", "size", _MEMORY_SIZE),
            Check("target/label/size", "label size", _NVDIMM_SIZE, NO_NUMBER),
            Check("source/alignsize", "alignment", _NVDIMM_SIZE, NO_NUMBER),
            Check("source/pmem", "pmem", _NVDIMM_FLAG),
            Check("target/readonly", "readonly", _NVDIMM_FLAG),
            Check("uuid", "UUID", _NVDIMM),
            Check("target/block", "block size", _MEMORY_SIZE),
            Check("target/requested", "requested size", _MEMORY_SIZE),
            Check("target/address/@base", "address", _MEMORY_SIZE),
            Check(
                "target/@dynamicMemslots",
                "dynamicMemslots",
                "Target memory device '{what}' property doesn't match source memory device",
            ),
        ),
    ),
    Kind(
        "iommu",
        "IOMMU device",
        (
            Check("@model", "domain IOMMU device model", QUOTED),
            Check("driver/@intremap", "domain IOMMU device intremap value", QUOTED, NO_SWITCH),
            Check("driver/@caching_mode", "domain IOMMU device caching mode", QUOTED, NO_SWITCH),
            Check("driver/@eim", "domain IOMMU device eim value", QUOTED, NO_SWITCH),
            Check("driver/@iotlb", "domain IOMMU device iotlb value", QUOTED, NO_SWITCH),
            Check("driver/@aw_bits", "domain IOMMU device aw_bits value", QUOTED, NO_NUMBER),
            Check("driver/@dma_translation", "domain IOMMU device dma translation", QUOTED, NO_SWITCH),
        ),
        counted=_UNCOUNTED,
    ),
    Kind(
        "vsock",
        "vsock device",
        (Check("@model", "domain vsock device model", QUOTED),),
        virtio=True,
        counted=_UNCOUNTED,
    ),
    Kind(
        "pstore",
        "pstore device",
        (
            Check("@backend", "pstore device backend", QUOTED),
            Check("size", "pstore size", QUOTED),
        ),
        counted=_UNCOUNTED,
    ),
)

#: type of address → what libvirt calls one; it does not compare the others
ADDRESSES = {
    "ccid": "device ccid address",
    "ccw": "device CCW address",
    "dimm": "device dimm slot",
    "drive": "device drive address",
    "isa": "device isa address",
    "pci": "device PCI address",
    "virtio-serial": "device virtio serial address",
}
#: ``<driver>`` of virtio devices
VIRTIO: tuple[Check, ...] = tuple(
    Check(f"driver/@{name}", f"device {name} option", QUOTED, NO_SWITCH, "off")
    for name in ("iommu", "ats", "packed", "page_per_vq")
)
#: one side has a ``<driver>``, the other has none
NO_DRIVER = "Target device virtio options don't match the source"
#: each rule of a filter for redirected USB devices
RULES: tuple[Check, ...] = (
    Check("@class", "USB Class code", BARE),
    Check("@vendor", "USB vendor ID", BARE),
    Check("@product", "USB product ID", BARE),
    Check("@version", "USB version", BARE),
    Check("@allow", "USB allow", QUOTED),
)
