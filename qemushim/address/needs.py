"""What each device needs of a PCI slot.  https://libvirt.org/pci-addresses.html

One table per kind of device, keyed by model; one function, ``pci_need``, that answers for any device.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from qemushim.devices.base import Device
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned

if TYPE_CHECKING:
    from qemushim.context import Context


class Kind(StrEnum):
    """What a device is to the slot that it is plugged into, in the words of messages."""

    NONE = ""
    PCI = "standard PCI device"
    PCIE = "PCI Express device"
    PCI_BRIDGE = "pci-bridge"
    DMI_TO_PCI_BRIDGE = "dmi-to-pci-bridge"
    PCIE_TO_PCI_BRIDGE = "pcie-to-pci-bridge"
    PCIE_ROOT_PORT = "pcie-root-port"
    SWITCH_UPSTREAM = "pcie-switch-upstream-port"
    SWITCH_DOWNSTREAM = "pcie-switch-downstream-port"
    PCI_EXPANDER = "pci-expander-bus"
    PCIE_EXPANDER = "pcie-expander-bus"


ENDPOINTS = frozenset({Kind.PCI, Kind.PCIE})
#: model of a PCI controller → what it is to the bus above it (the roots are plugged into nothing)
CONTROLLER_KINDS = {kind.value: kind for kind in Kind if kind is not Kind.NONE and kind not in ENDPOINTS}


class Need(NamedTuple):
    """What a device asks of its slot."""

    kind: Kind
    #: only buses that libvirt fills by itself will do (all devices but the PCI controllers)
    automatic: bool = True
    #: part of the machine: it has to sit on bus 0
    integrated: bool = False
    #: may share a slot with others of its sort, a function each
    joins: bool = False
    #: has to be pluggable while the guest runs
    hotplug: bool = False
    #: devices of different groups may not share a bus (pSeries)
    isolation: int = 0


NOTHING = Need(Kind.NONE)
PCI = Need(Kind.PCI)

#: how a kind of device relates to PCI: conventional, express where the guest has it, or as virtio devices do
_CONV, _PCIE, _VIRTIO, _NONE = "conventional", "express", "virtio", ""

_SOUNDS = {"ac97": _CONV, "es1370": _CONV, "ich6": _CONV, "ich9": _CONV, "virtio": _VIRTIO}
_VIDEOS = {
    **dict.fromkeys(("cirrus", "qxl", "vbox", "vga", "vmvga", "xen"), _CONV),
    "bochs": _PCIE,
    "virtio": _VIRTIO,
}
_SCSI = {
    **dict.fromkeys(("virtio-scsi", "virtio-non-transitional"), _VIRTIO),
    "ncr53c90": _NONE,
}
_USB = {"qemu-xhci": _PCIE, "nec-xhci": _PCIE, "none": _NONE}
_MEMORY = {"virtio-mem": _VIRTIO, "virtio-pmem": _VIRTIO}
_IOMMU = {"virtio": _VIRTIO}


#: models of network cards that are conventional PCI devices
CONVENTIONAL_CARDS = frozenset(
    (
        *("netfront", "rtl8139", "e1000", "virtio-transitional", "spapr-vlan", "lan9118", "scm91c111"),
        *("vlance", "vmxnet", "vmxnet2", "vmxnet3", "Am79C970A", "82540EM", "82545EM", "82543GC"),
    )
)


def _model(node: Node) -> str:
    return node.get("model") or node.value("model/@type") or ""


def _virtio(node: Node) -> str:
    return _CONV if _model(node) == "virtio-transitional" else _VIRTIO


def _disk(node: Node, c: Context) -> str:
    return _virtio(node) if node.value("target/@bus") == "virtio" else _NONE


def _interface(node: Node, c: Context) -> str:
    if node.get("type") == "hostdev":
        return _NONE
    model = node.value("model/@type") or ""
    if model in ("virtio", "virtio-non-transitional"):
        return _VIRTIO
    if model == "usb-net":
        return _NONE
    # a card that libvirt has never heard of is taken for one of today
    return _CONV if model in CONVENTIONAL_CARDS else _PCIE


def _hostdev(node: Node, c: Context) -> str:
    kind = node.get("type")
    if kind == "mdev":
        return _PCIE if (node.get("model") or "vfio-pci") == "vfio-pci" else _NONE
    if kind == "scsi_host":
        return _virtio(node)
    if kind != "pci" or node.get("mode", "subsystem") != "subsystem":
        return _NONE
    return _assigned(node, c)


def host_address(node: Node) -> str:
    """The address on the host of an assigned PCI device: ``0000:01:00.0``."""
    place = node.find("source/address")
    if place is None:
        return ""
    domain, bus, slot, function = (
        parse_unsigned(place.get(part) or "0", 0) for part in ("domain", "bus", "slot", "function")
    )
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def _assigned(node: Node, c: Context) -> str:
    """An assigned device is what the host says it is; one that is not known is as good as express."""
    place = node.child("address")
    if place is not None and place.get("slot") is not None:
        return _PCIE
    known = c.host.pci.get(host_address(node))
    return _PCIE if known is None or known.express else _CONV


def _controller(node: Node, c: Context) -> str:
    model = node.get("model") or ""
    match node.get("type"):
        case "usb":
            return _USB.get(model, _CONV)
        case "scsi":
            return _SCSI.get(model, _CONV)
        case "virtio-serial":
            return _virtio(node)
        case "ide" | "sata":
            return _CONV
    return _NONE


def _filesystem(node: Node, c: Context) -> str:
    return _NONE if (node.value("driver/@type") or "path") == "mtp" else _virtio(node)


def _input(node: Node, c: Context) -> str:
    return _virtio(node) if node.get("bus") == "virtio" else _NONE


def _video(node: Node, c: Context) -> str:
    return _VIDEOS.get(node.value("model/@type") or "", _NONE)


def _unless_none(node: Node, c: Context) -> str:
    return _NONE if node.get("model") == "none" else _virtio(node)


#: tag → how the device relates to PCI
_RELATIONS: dict[str, Callable[[Node, Context], str]] = {
    "controller": _controller,
    # a virtio device, but a conventional one in libvirt's eyes
    "crypto": lambda node, c: _CONV,
    "disk": _disk,
    "filesystem": _filesystem,
    "hostdev": _hostdev,
    "input": _input,
    "interface": _interface,
    "iommu": lambda node, c: _IOMMU.get(node.get("model") or "", _NONE),
    "memballoon": _unless_none,
    "memory": lambda node, c: _MEMORY.get(node.get("model") or "", _NONE),
    "panic": lambda node, c: _CONV if node.get("model") == "pvpanic" else _NONE,
    "pstore": lambda node, c: _CONV,
    "rng": lambda node, c: _virtio(node),
    "serial": lambda node, c: _CONV if node.value("target/@type") == "pci-serial" else _NONE,
    "shmem": lambda node, c: _CONV,
    "sound": lambda node, c: _SOUNDS.get(node.get("model") or "", _NONE),
    "video": _video,
    "vsock": lambda node, c: _virtio(node),
    "watchdog": lambda node, c: _CONV if node.get("model") == "i6300esb" else _NONE,
}
#: devices that are part of the machine
_INTEGRATED = ("iommu", "panic")


def pci_need(device: Device, c: Context, *, express: bool, isolation: int = 0) -> Need:
    """What a device needs of a PCI slot; ``NOTHING`` for one that is no PCI device.

    ``express``: the guest has a PCI Express root.
    """
    node = device.node
    if device.tag == "controller" and node.get("type") == "pci":
        kind = CONTROLLER_KINDS.get(node.get("model") or "", Kind.NONE)
        return Need(kind, automatic=False, joins=kind is Kind.PCIE_ROOT_PORT)
    if device.tag == "interface" and node.get("type") == "hostdev":
        relation = _assigned(node, c)
    else:
        relation = _relation(device, c)
    if relation == _NONE:
        return NOTHING
    if relation == _VIRTIO:
        express = express and c.emulator.flag("virtio-pci-non-transitional")
    kind = Kind.PCIE if express and relation != _CONV else Kind.PCI
    return Need(kind, integrated=device.tag in _INTEGRATED, isolation=isolation)


#: tag → models that sit on PCI on other hypervisors, so that there is no telling what they need
_FOREIGN = {"memballoon": "xen", "sound": "ich7", "video": "gop"}


def is_foreign(device: Device) -> bool:
    """Whether it is a device that libvirt would have on PCI, but that no QEMU has."""
    wanted = _FOREIGN.get(device.tag)
    return wanted is not None and _model(device.node) == wanted


def is_virtio(device: Device, c: Context) -> bool:
    """Whether it is a virtio device, whatever bus that will be on."""
    if device.tag == "crypto":
        return True
    if device.tag == "iommu":
        return False
    if device.tag == "controller" and device.node.get("type") == "scsi":
        # of any model: they are thought of as virtio-scsi where there is no PCI
        return True
    relation = _relation(device, c)
    return relation == _VIRTIO or (relation == _CONV and _model(device.node) == "virtio-transitional")


def _relation(device: Device, c: Context) -> str:
    find = _RELATIONS.get(device.tag)
    return find(device.node, c) if find is not None else _NONE
