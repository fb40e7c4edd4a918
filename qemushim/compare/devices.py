"""What of each kind of device the guest sees, as libvirt compares it before a migration or a restore.

https://libvirt.org/formatdomain.html#devices
"""

from __future__ import annotations

from typing import NamedTuple

#: how libvirt words a difference: with both values, with both in quotes, with none
PLAIN = "Target {what} {new} does not match source {old}"
QUOTED = "Target {what} '{new}' does not match source '{old}'"
BARE = "Target {what} does not match source"
_SHMEM = "Target shared memory {what} '{new}' does not match source {what} '{old}'"
_TPM = "Target TPM {what} doesn't match source"
_MEMORY = "Target memory device {what} '{new}' doesn't match source {what} '{old}'"
_MEMORY_SIZE = "Target memory device {what} '{new}' doesn't match source memory device {what} '{old}'"
_NVDIMM = "Target NVDIMM {what} doesn't match source NVDIMM"
_NVDIMM_FLAG = "Target NVDIMM {what} flag doesn't match source NVDIMM {what} flag"
_SOURCE_TYPE = "Target redirected device source type {new} does not match source device source type {old}"
_SUBSYSTEM = "Target host device subsystem type {new} is not compatible with source subsystem type {old}"


class Check(NamedTuple):
    """One thing that has to stay: where it is, what libvirt calls it, how it words a difference."""

    path: str
    what: str
    words: str = PLAIN
    #: what it is where the document does not say
    default: str = ""


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
            Check("@model", "disk model"),
            Check(
                "target/@rotation_rate",
                "disk rotation rate",
                "Target {what} {new} RPM does not match source {old} RPM",
            ),
            Check("driver/@queues", "disk queue count"),
            Check("driver/@queue_size", "disk queue size"),
            Check("blockio/@logical_block_size", "disk logical_block_size"),
            Check("blockio/@physical_block_size", "disk physical_block_size"),
            Check("blockio/@discard_granularity", "disk discard_granularity"),
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
            Check("@ports", "controller ports"),
            Check("@vectors", "controller vectors"),
        ),
        virtio=True,
    ),
    Kind(
        "filesystem",
        "filesystem",
        (
            Check("target/@dir", "filesystem guest target"),
            Check("@accessmode", "filesystem access mode", BARE),
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
            Check("mtu/@size", "network card MTU"),
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
            Check("@multichannel", "sound card multichannel setting", QUOTED),
        ),
    ),
    Kind(
        "video",
        "video card",
        (
            Check("model/@type", "video card model"),
            Check("model/@ram", "video card ram"),
            Check("model/@vram", "video card vram"),
            Check("model/@vram64", "video card vram64"),
            Check("model/@vgamem", "video card vgamem"),
            Check("model/@heads", "video card heads"),
            Check("model/acceleration", "video card acceleration", BARE),
            Check("model/acceleration/@accel2d", "video card 2d accel"),
            Check("model/acceleration/@accel3d", "video card 3d accel"),
        ),
        virtio=True,
    ),
    Kind(
        "hostdev",
        "host device",
        (Check("@mode", "host device mode"), Check("@type", "host device type", _SUBSYSTEM)),
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
            Check("target/@address", "channel addr"),
            Check("target/@port", "channel addr"),
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
            Check("@autodeflate", "balloon autodeflate attribute value", QUOTED, "off"),
            Check("@freePageReporting", "balloon freePageReporting attribute value", QUOTED, "off"),
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
            Check("size", "size", _SHMEM),
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
            Check("backend/active_pcr_banks", "active PCR banks", "Target {what} doesn't match source"),
        ),
    ),
    Kind(
        "memory",
        "memory device",
        (
            Check("@model", "model", _MEMORY),
            Check("target/node", "targetNode", _MEMORY),
            Check("target/size", "size", _MEMORY_SIZE),
            Check("target/label/size", "label size", _NVDIMM),
            Check("source/alignsize", "alignment", _NVDIMM),
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
            Check("driver/@intremap", "domain IOMMU device intremap value", QUOTED),
            Check("driver/@caching_mode", "domain IOMMU device caching mode", QUOTED),
            Check("driver/@eim", "domain IOMMU device eim value", QUOTED),
            Check("driver/@iotlb", "domain IOMMU device iotlb value", QUOTED),
            Check("driver/@aw_bits", "domain IOMMU device aw_bits value", QUOTED),
            Check("driver/@dma_translation", "domain IOMMU device dma translation", QUOTED),
        ),
    ),
    Kind("vsock", "vsock device", (Check("@model", "domain vsock device model", QUOTED),), virtio=True),
    Kind(
        "pstore",
        "pstore device",
        (
            Check("@backend", "pstore device backend", QUOTED),
            Check("size", "pstore device size", QUOTED),
        ),
    ),
)

#: ``<driver>`` of virtio devices
VIRTIO: tuple[Check, ...] = (
    Check("driver/@iommu", "device iommu option", QUOTED, "off"),
    Check("driver/@ats", "device ats option", QUOTED, "off"),
    Check("driver/@packed", "device packed option", QUOTED, "off"),
    Check("driver/@page_per_vq", "device page_per_vq option", QUOTED, "off"),
)
#: type of address → what libvirt calls one
ADDRESSES = {
    "ccid": "device ccid address",
    "ccw": "device CCW address",
    "dimm": "device dimm slot",
    "drive": "device drive address",
    "isa": "device isa address",
    "pci": "device PCI address",
    "usb": "device USB address",
    "virtio-serial": "device virtio serial address",
}
