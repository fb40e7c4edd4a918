"""After the start: the slots that QEMU has chosen, read back from ``info pci`` into the live document.

Devices are told apart by vendor and product alone.  Those of one kind take the records of that kind in turn,
so the document must list them in the order of their slots; the command line sees to that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from qemushim.classic.document import Device, Domain
from qemushim.classic.pci import name
from qemushim.classic.slots import DEVICE_IDS, NIC_IDS, SOUND_IDS, VGA_IDS
from qemushim.devices.address import PciAddress
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.driver.pciinfo import PciRecord
from qemushim.errors import DriverError

VIRTIO_BLOCK = "1af4:1001"
#: the IDE controller of the chipset of ``pc``, and the only SCSI controller of the time
_CONTROLLERS = {"ide": "8086:7010", "scsi": "1000:0012"}
#: the models that are matched: of others there are cards too, but libvirt 0.8.0 did not know them
_NICS = {model: NIC_IDS[model] for model in ("e1000", "ne2k_pci", "pcnet", "rtl8139", "virtio")}
_VIDEOS = {
    model: VGA_IDS[word] for model, word in (("cirrus", "cirrus"), ("vga", "std"), ("vmvga", "vmware"))
}
_MODELS = {"ac97": SOUND_IDS["ac97"], "es1370": SOUND_IDS["es1370"], "i6300esb": DEVICE_IDS["i6300esb"]}


class Difference(NamedTuple):
    """A device that is not where it was said to be."""

    device: Item
    #: ``interface 52:54:…``
    what: str
    expected: PciAddress
    actual: PciAddress

    def __str__(self) -> str:
        return f"{self.what} is at {self.actual}, not at {self.expected}"


@dataclass
class ReadBack:
    """What a running guest looks like."""

    #: the live document: the definition with the addresses of the moment
    root: Node
    #: device of the definition → where it is
    addresses: dict[Item, PciAddress] = field(default_factory=dict)
    #: predictions, and addresses of the definition, that did not come true
    differences: list[Difference] = field(default_factory=list)
    #: cards that no device of the document stands for: bridges, the balloon, …
    others: list[PciRecord] = field(default_factory=list)


def read_back(
    root: Node, records: Iterable[PciRecord], predicted: Mapping[Item, PciAddress] | None = None
) -> ReadBack:
    """Match the devices of a definition with what ``info pci`` says.

    The definition stays as it is.  ``predicted``: where devices were thought to be (``Guest.predicted``).
    Raises ``DriverError`` where a device that must be there is not.
    """
    live = root.copy()
    result = ReadBack(live)
    unused = list(records)
    matched: set[str] = set()
    for device, twin in zip(_in_order(root), _in_order(live), strict=True):
        ids = _ids(device)
        if not ids:
            continue
        record = next((r for r in unused if r.ids == ids), None)
        if record is None:
            raise DriverError(
                f"Unable to find PCI address for {name(device)}",
                element=device.node,
                hint=f"QEMU shows no {'further ' if ids in matched else ''}card {ids}",
            )
        unused.remove(record)
        matched.add(ids)
        _note(result, device, twin, record.address, predicted or {})
    result.others = unused
    return result


def _note(
    result: ReadBack, device: Device, twin: Device, actual: PciAddress, predicted: Mapping[Item, PciAddress]
) -> None:
    result.addresses[device] = actual
    expected = predicted.get(device, device.pci)
    if expected is not None and expected != actual:
        result.differences.append(Difference(device, name(device), expected, actual))
    address = twin.node.child("address")
    # an address of another kind says where the device is on its own bus, and stays
    if address is None or address.get("type") == "pci":
        twin.pci = actual


def _in_order(root: Node) -> Iterator[Device]:
    """The devices that can be matched, in the order in which they take their records."""
    devices = Domain(root).devices
    yield from devices.disks
    yield from devices.interfaces
    yield from devices.controllers
    yield from devices.videos
    yield from devices.sounds
    yield from devices.watchdogs


def _ids(device: Device) -> str:
    """Vendor and product of the card that a device is; ``""`` where it is none, or none that is known."""
    node = device.node
    if node.tag == "disk":
        return VIRTIO_BLOCK if node.value("target/@bus") == "virtio" else ""
    if node.tag == "interface":
        return _NICS.get(node.value("model/@type") or "", "")
    if node.tag == "controller":
        return _CONTROLLERS.get(node.get("type") or "", "")
    if node.tag == "video":
        return _VIDEOS.get(node.value("model/@type") or "", "")
    return _MODELS.get(node.get("model") or "", "")
