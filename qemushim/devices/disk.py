"""``<disk>``: what the guest sees as a drive.

https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.devices.address import DriveAddress, disk_index, write_drive
from qemushim.devices.base import Device, Sgio
from qemushim.devices.block_image import PLACES, says_nothing
from qemushim.devices.block_limits import Limits
from qemushim.devices.disk_check import check_disk
from qemushim.devices.disk_frontend import floppy_options, options_of
from qemushim.devices.storage import (
    FORMATS,
    TYPES,
    Auth,
    BackingStore,
    Encryption,
    Positive,
    Source,
)
from qemushim.devices.storage_define import (
    SPLIT_NAMES,
    complete_auth,
    complete_backing,
    complete_encryption,
    complete_metadata_cache,
    complete_source,
)
from qemushim.document.fields import Choice, Many, One, OnOff, Present, Switch, Text, Unsigned
from qemushim.document.fields import Positive as FromOne
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

#: start of a target's name → the bus where the document does not say
DEFAULT_BUSES = {"hd": "ide", "sd": "scsi", "vd": "virtio", "xvd": "xen", "ubd": "uml"}
BUSES = ("ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata", "sd")
#: bus with drive addresses → how many units one of its buses has, how many buses a controller
_GEOMETRY = {"fdc": (2, 1), "ide": (2, 2), "sata": (6, 1), "scsi": (7, 1)}


def drive_address_of(bus: str, index: int) -> DriveAddress | None:
    """Where the drive number ``index`` of a bus sits; ``None`` for a bus without drive addresses."""
    shape = _GEOMETRY.get(bus)
    if shape is None:
        return None
    units, buses = shape
    channel, unit = divmod(index, units)
    controller, channel = divmod(channel, buses)
    return DriveAddress(controller, channel, 0, unit)


class VirtQueue(Item):
    tag = "queue"
    id = Unsigned("@id", 0, required=True)


class DiskIothread(Item):
    """``<iothread>``: an I/O thread and the queues that it serves."""

    tag = "iothread"
    id = Unsigned("@id", 0, required=True)
    queues = Many("queue", VirtQueue)


class DiskDriver(Item):
    """``<driver>``: the image's format, and how QEMU treats it."""

    tag = "driver"
    name_ = Text("@name")
    format = Choice("@type", (*FORMATS, "aio")).says("unknown driver format value '{}'")
    cache = Choice("@cache", ("default", "none", "writethrough", "writeback", "directsync", "unsafe"))
    error_policy = Choice("@error_policy", ("default", "stop", "report", "ignore", "enospace"))
    rerror_policy = Choice("@rerror_policy", ("default", "stop", "report", "ignore"))
    io = Choice("@io", ("native", "threads", "io_uring"))
    ioeventfd = OnOff("@ioeventfd")
    event_idx = OnOff("@event_idx")
    copy_on_read = OnOff("@copy_on_read")
    discard = Choice("@discard", ("unmap", "ignore"))
    iothread = FromOne("@iothread")
    detect_zeroes = Choice("@detect_zeroes", ("off", "on", "unmap"))
    discard_no_unref = OnOff("@discard_no_unref")
    queues = Positive("@queues")
    queue_size = Positive("@queue_size")
    iommu = OnOff("@iommu")
    ats = OnOff("@ats")
    packed = OnOff("@packed")
    page_per_vq = OnOff("@page_per_vq")
    metadata_cache = Unsigned("metadata_cache/max_size").later()
    metadata_cache_unit = Text("metadata_cache/max_size/@unit")
    iothreads = Many("iothreads/iothread", DiskIothread)


class ThrottleFilter(Item):
    tag = "throttlefilter"
    group = Text("@group")


class Removable(OnOff[bool | None]):
    """A SCSI disk may be removable too, but libvirt writes it for USB disks alone."""

    def canonical(self, raw: str, node: Node) -> str | None:
        return super().canonical(raw, node) if node.get("bus") == "usb" else None


class Disk(Device):
    """One drive.  Its images are ``block_image.Image``\\ s, once a command line is made."""

    tag = "disk"
    unused = ("rom",)

    type = Choice("@type", TYPES, "file")
    device = Choice("@device", ("disk", "cdrom", "floppy", "lun"), "disk")
    model = Choice("@model", ("virtio", "virtio-transitional", "virtio-non-transitional"))
    rawio = Switch("@rawio")
    sgio = Sgio("@sgio")
    snapshot = Choice("@snapshot", ("no", "internal", "external", "manual"))
    driver = One("driver", DiskDriver)
    auth = One("auth", Auth)
    source = One("source", Source)
    backing = One("backingStore", BackingStore, keep_empty=True)
    backend_domain = Text("backenddomain/@name")
    cylinders = Unsigned("geometry/@cyls")
    heads = Unsigned("geometry/@heads")
    sectors = Unsigned("geometry/@secs")
    translation = Choice("geometry/@trans", ("default", "none", "auto", "lba"))
    logical_block_size = Positive("blockio/@logical_block_size")
    physical_block_size = Positive("blockio/@physical_block_size")
    discard_granularity = Unsigned("blockio/@discard_granularity")
    target = Text("target/@dev", "")
    bus = Choice("target/@bus", BUSES, "")
    tray = Choice("target/@tray", ("open", "closed"))
    removable = Removable("target/@removable")
    rotation_rate = Positive("target/@rotation_rate")
    limits = One("iotune", Limits)
    throttle_filters = Many("throttlefilters/throttlefilter", ThrottleFilter)
    readonly = Present("readonly")
    shareable = Present("shareable")
    transient = Present("transient")
    share_backing = Switch("transient/@shareBacking")
    serial = Text("serial").as_written()
    wwn = Text("wwn")
    vendor = Text("vendor")
    product = Text("product")
    encryption = One("encryption", Encryption)

    @property
    def is_empty(self) -> bool:
        """No medium: there is no source, or it says nothing of where the bytes are."""
        source = self.node.child("source")
        return source is None or says_nothing(source, self.type)

    @property
    def path(self) -> str:
        """The path of the image, or its name at the server; ``""`` where it has none."""
        source = self.node.child("source")
        if source is None:
            return ""
        return source.get("name" if self.type == "network" else PLACES.get(self.type, "path")) or ""

    @property
    def shown_path(self) -> str:
        """The path as messages show it: without the pool that is part of the name."""
        source = self.source
        is_split = self.type == "network" and source is not None and source.protocol in SPLIT_NAMES
        return self.path.partition("/")[2] if is_split else self.path

    @property
    def target_number(self) -> int:
        """The number of the drive by its target's name: ``sda`` is 0."""
        return disk_index(self.target)

    # -- defaults ----------------------------------------------------------------------------------

    def check_document(self, d: Define) -> None:
        source = self.node.child("source")
        if source is None:
            return
        for tag in ("auth", "encryption"):
            own = self.node.child(tag)
            if own is not None and source.child(tag) is not None:
                raise error.unsupported(
                    f"an <{tag}> definition already found for disk source", own, "give it below <source> only"
                )

    def complete(self, d: Define) -> None:
        node = self.node
        node.attrib.setdefault("device", "disk")
        parts = node.first()
        if parts.get("target", node).get("dev") is None:
            raise _no_target(self)
        node.attrib.setdefault("type", "file")
        self._complete_source(parts)
        if self.is_empty:
            self._complete_empty(parts.get("source"))
        self._complete_driver(parts.get("driver"))
        self._complete_target(parts["target"])
        self._complete_small(parts)
        if "iotune" in parts:
            self._share_limits(d)
        self._assign_address(d, parts.get("address"))

    def _complete_empty(self, source: Node | None) -> None:
        """A drive without a medium; disks have one."""
        named = source is not None and (self.type == "dir" or "pool" in source.attrib)
        if self.device in ("cdrom", "floppy") and not named:
            self.node.set("type", "file")
        if source is not None:
            # an empty path is no medium, and is not stored
            source.drop(*PLACES.values())

    def _complete_source(self, parts: dict[str, Node]) -> None:
        for tag, complete in (("auth", complete_auth), ("encryption", complete_encryption)):
            if tag in parts:
                complete(parts[tag])
        if "source" in parts:
            complete_source(parts["source"], self.type)
        if "backingStore" in parts:
            complete_backing(parts["backingStore"])
        if "mirror" in parts:
            self.node.discard("mirror")

    def _complete_driver(self, driver: Node | None) -> None:
        node = self.node
        if driver is None:
            driver = Node("driver", line=node.line)
            node.children.insert(0, driver)
        given = driver.attrib
        given.setdefault("name", "qemu")
        if given.get("type") in (None, "aio") and self.type != "volume":
            given["type"] = "raw"
        if "default" in given.values():
            driver.drop(*(name for name in _DEFAULTABLE if given.get(name) == "default"))
        if driver.children:
            complete_metadata_cache(driver)

    def _complete_target(self, target: Node) -> None:
        name = target.attrib["dev"]
        if name.startswith("ioemu:"):
            target.set("dev", name.removeprefix("ioemu:"))
        if not target.get("bus"):
            target.set("bus", default_bus(self.device, self.target))
        if target.get("tray") == "closed":
            target.drop("tray")
        if self.node.attrib["device"] == "cdrom":
            self.node.ensure("readonly")

    def _complete_small(self, parts: dict[str, Node]) -> None:
        node = self.node
        if node.attrib["type"] == "vhostuser":
            node.attrib.setdefault("snapshot", "no")
        if node.attrib.get("snapshot") == "no" and node.child("readonly") is not None:
            # nothing else can be done with an image that is never written
            node.drop("snapshot")
        geometry = parts.get("geometry")
        if geometry is not None and geometry.get("trans") == "default":
            geometry.drop("trans")
        filters = parts.get("throttlefilters")
        if filters is not None and not filters.all("throttlefilter"):
            node.remove(filters)

    def _share_limits(self, d: Define) -> None:
        """Limits that name only a group are those of the group's first disk that has some."""
        limits = self.limits
        if not limits.group_name or limits.values():
            return
        for other in d.domain.all(Disk):
            theirs = other.limits
            if theirs is not None and theirs.group_name == limits.group_name and theirs.values():
                for name, value in theirs.values().items():
                    setattr(limits, name, value)
                return

    def _assign_address(self, d: Define, address: Node | None) -> None:
        """A drive that names no address sits where its target's name says."""
        if address is not None and address.attrib:
            if address.get("type") == "drive":
                for name in ("controller", "bus", "target", "unit"):
                    address.attrib.setdefault(name, "0")
            return
        target = self.node.ensure("target")
        bus, index = target.attrib["bus"], disk_index(target.attrib["dev"])
        if index < 0:
            raise error.xml(
                f"Unknown disk name '{self.target}' and no address specified",
                target,
                "name it like the kernel would: sda, vdb, hdc",
            )
        place = drive_address_of(bus, index)
        if place is None:
            return
        if bus == "scsi" and _hostdev_sits_at(d, place):
            raise error.unsupported(
                f"using disk target name '{self.target}' conflicts with SCSI host device address "
                f"controller='{place.controller}' bus='{place.bus}' target='{place.target}' "
                f"unit='{place.unit}",
                self.node,
                "give one of the two another address",
            )
        write_drive(self.node, place)

    # -- checks and options ------------------------------------------------------------------------

    def check(self, d: Define) -> None:
        check_disk(self, d)

    def options(self, b: Build) -> Iterator[Option]:
        return options_of(self, b)

    @classmethod
    def all_options(cls, b: Build) -> Iterator[Option]:
        """Every disk, with the floppy controller before the first."""
        yield from floppy_options(b)
        for device in b.domain.lists["disk"]:
            yield from device.options(b)


#: attributes of ``<driver>`` whose word ``default`` is not stored
_DEFAULTABLE = ("cache", "error_policy", "rerror_policy")


def default_bus(device: str, target: str) -> str:
    """The bus of a disk that names none, by what its target is called."""
    if device == "floppy":
        return "fdc"
    return next((bus for prefix, bus in DEFAULT_BUSES.items() if target.startswith(prefix)), "ide")


def _no_target(disk: Disk) -> Exception:
    source = disk.source
    if disk.type == "volume" and source is not None:
        pool, volume = (source.node.get(name, "(null)") for name in ("pool", "volume"))
        what = f"pool = '{pool}', volume = '{volume}'"
    else:
        what = disk.shown_path
    device = f" {what}" if what else ""
    return error.plain(f"missing target information for device{device}", disk.node, "<target dev='vda'/>")


def _hostdev_sits_at(d: Define, place: DriveAddress) -> bool:
    """Whether the document itself put a SCSI device of the host at a drive address."""
    for device in d.domain.lists["hostdev"]:
        if device.node.get("type") == "scsi" and device.address_type == "drive":
            address = device.address
            if address is not None and address.drive == place:
                return True
    return False


__all__ = ["Disk", "DiskDriver", "drive_address_of"]
