"""What a disk can not be: refused in libvirt's words, in the order in which libvirt looks."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

from qemushim.devices.address import drive_place
from qemushim.devices.block_image import says_nothing
from qemushim.devices.sharedmem import require_shared_memory
from qemushim.devices.storage_check import check_chain
from qemushim.document.node import Node
from qemushim.document.units import parse_integer
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.devices.disk import Disk, DiskDriver

Check = Callable[["Disk", "Define"], None]

#: bus → the types of addresses that its disks can have
ADDRESS_TYPES = {
    "fdc": ("drive",),
    "ide": ("drive",),
    "sata": ("drive",),
    "scsi": ("drive",),
    "usb": ("usb",),
    "virtio": ("pci", "ccw", "virtio-mmio", "virtio-s390"),
}
#: how long a product's name may be, by bus
PRODUCT_LENGTHS = {"scsi": 16, "ide": 40, "sata": 40}
VENDOR_LENGTH = 8
#: attributes of ``<driver>`` that only virtio disks have, and what is said of them elsewhere
_VIRTIO_OPTIONS = {
    **{
        name: f"{name} driver option is only supported for virtio devices"
        for name in ("iommu", "ats", "packed")
    },
    "page_per_vq": "page_per_vq option is only supported for virtio devices",
    "ioeventfd": "disk ioeventfd mode supported only for virtio bus",
    "event_idx": "disk event_idx mode supported only for virtio bus",
    "queues": "queues attribute in disk driver element is only supported for virtio bus",
    "queue_size": "queue_size attribute in disk driver is only supported for virtio bus",
}
#: formats that one image at a time can hold the state of
_SHAREABLE_FORMATS = frozenset({"raw", "fat"})


def check_disk(disk: Disk, d: Define) -> None:
    """Raise ``ConfigError`` where the disk can not be had."""
    for check in _checks_for(_words(disk.node)):
        check(disk, d)


def _words(disk: Node) -> frozenset[str]:
    """All that a disk says but names and numbers: of what it is, and what is told of it, its driver and its source."""
    found = [disk.attrib.get("type", "file"), disk.attrib.get("device", "disk"), *disk.attrib]
    for child in disk.children:
        tag = child.tag
        found.append(tag)
        if tag == "driver":
            found += child.attrib
            found.append(child.attrib.get("type", "raw"))
        elif tag == "target":
            found += child.attrib
            found.append(child.attrib.get("bus", ""))
        elif tag == "source":
            found += child.attrib
        else:
            continue
        found += [below.tag for below in child.children]
    return frozenset(found)


@lru_cache(1024)
def _checks_for(words: frozenset[str]) -> tuple[Check, ...]:
    """The checks that have something to say of a disk with these words: of most disks, very few."""
    return tuple(check for about, check in _CHECKS if not about or not words.isdisjoint(about))


# -- what any hypervisor would refuse ---------------------------------------------------------------


def _vhost_user(disk: Disk, d: Define) -> None:
    if disk.type != "vhostuser":
        return
    if disk.bus != "virtio":
        raise error.unsupported(
            "vhostuser disk supports only virtio bus", disk.node, "<target bus='virtio'/>"
        )
    require_shared_memory("vhostuser", d.domain, disk.node)
    if disk.snapshot not in (None, "no"):
        raise error.unsupported(
            "Only snapshot='no' is supported with vhostuser disk", disk.node, "snapshot='no'"
        )
    driver = disk.driver
    refused: tuple[tuple[object, str], ...] = (
        (disk.wwn, "wwn"),
        (disk.serial, "serial"),
        (disk.limits, "iotune"),
        (disk.transient, "transient"),
        (driver and driver.discard, "discard"),
        (driver and driver.cache, "cache"),
        (driver and driver.io, "io"),
        (driver and driver.copy_on_read, "copy_on_read"),
        (driver and driver.error_policy, "error_policy"),
        (driver and driver.rerror_policy, "rerror_policy"),
        (driver and driver.detect_zeroes, "detect_zeroes"),
    )
    for given, name in refused:
        if given:
            raise error.unsupported(
                f"{name} is not supported with vhostuser disk",
                disk.node,
                "the process that serves the disk has it",
            )


def _passthrough(disk: Disk, d: Define) -> None:
    for name in ("rawio", "sgio"):
        if name in disk.node.attrib and disk.device != "lun":
            raise error.unsupported(f"{name} can be used only with device='lun'", disk.node, f"drop {name}=")


def _reservations(disk: Disk, d: Define) -> None:
    if disk.device != "lun":
        message = "<reservations/> allowed only for lun devices"
        raise error.unsupported(message, disk.node, "device='lun', or no <reservations>")


def _driver_name(disk: Disk, d: Define) -> None:
    driver = disk.node.child("driver")
    name = driver.attrib.get("name", "qemu") if driver is not None else "qemu"
    if name != "qemu":
        raise error.unsupported(
            f"unsupported driver name '{name}' for disk '{disk.target}'", driver, "name='qemu'"
        )


def _copy_on_read(disk: Disk, d: Define) -> None:
    driver = disk.driver
    if driver is None:
        return
    if driver.copy_on_read and disk.readonly:
        raise error.unsupported(
            f"copy_on_read is not compatible with read-only disk '{disk.target}'",
            driver.node,
            "drop copy_on_read=",
        )
    if driver.copy_on_read and disk.device in ("cdrom", "floppy"):
        raise error.unsupported(
            f"copy_on_read is not supported with removable disk '{disk.target}'",
            driver.node,
            "drop copy_on_read=",
        )
    if driver.copy_on_read and disk.device == "lun":
        message = f"copy_on_read is not compatible with 'lun' disk '{disk.target}'"
        raise error.unsupported(message, driver.node, "drop copy_on_read=")
    if driver.discard_no_unref:
        if driver.format != "qcow2":
            message = "'discard_no_unref' only works with qcow2 disk format"
            raise error.unsupported(message, driver.node, "type='qcow2', or no discard_no_unref=")
        if disk.readonly:
            message = "'discard_no_unref' is not compatible with read-only disk"
            raise error.unsupported(message, driver.node, "drop discard_no_unref=")


def _virtio_options(disk: Disk, d: Define) -> None:
    driver = disk.driver
    if disk.bus == "virtio":
        return
    if disk.model is not None:
        raise error.unsupported(
            f"disk model '{disk.model}' not supported for bus '{disk.bus}'",
            disk.node,
            "only virtio disks have models",
        )
    for name, message in _VIRTIO_OPTIONS.items():
        if driver is not None and name in driver.node.attrib:
            if name.startswith("queue") and not int(driver.node.attrib[name]):
                continue  # as good as not given
            raise error.unsupported(message, driver.node, f"bus='virtio', or no {name}=")


def _limits(disk: Disk, d: Define) -> None:
    if disk.limits is not None:
        disk.limits.check()
    if disk.throttle_filters and disk.limits is not None:
        raise error.not_supported(
            f"block 'throttlefilters' can't be used together with 'iotune' for disk '{disk.target}'",
            disk.node,
            "limit the disk alone, or as a member of groups",
        )
    groups = {group.get("group_name") for group in _group_nodes(d)} if disk.throttle_filters else set()
    seen: set[str | None] = set()
    for throttle in disk.throttle_filters:
        if throttle.group in seen:
            message = f"duplicate filter name '{throttle.group}' found"
            raise error.xml(message, throttle.node, "name each group once")
        seen.add(throttle.group)
        if throttle.group not in groups:
            raise error.xml(
                f"throttle group '{throttle.group or ''}' not found",
                throttle.node,
                "define it in <throttlegroups>",
            )


def _group_nodes(d: Define) -> list[dict[str, str | None]]:
    groups = d.domain.node.child("throttlegroups")
    return (
        [{"group_name": g.value("group_name")} for g in groups.all("throttlegroup")]
        if groups is not None
        else []
    )


def _lun_protocol(disk: Disk, d: Define) -> None:
    source = disk.source
    if disk.device != "lun" or disk.type != "network" or source is None or source.protocol == "iscsi":
        return
    message = f"disk device='lun' is not supported for protocol='{source.protocol}'"
    raise error.unsupported(message, disk.node, "protocol='iscsi', or device='disk'")


def _lun(disk: Disk, d: Define) -> None:
    if disk.device != "lun":
        return
    if disk.type not in ("block", "network", "volume"):
        message = "disk device='lun' is only valid for block type disk source"
        raise error.unsupported(message, disk.node, "type='block', or device='disk'")
    if disk.driver is not None and disk.driver.format not in (None, "raw"):
        raise error.unsupported("disk device 'lun' must use 'raw' format", disk.node, "<driver type='raw'/>")
    if disk.wwn:
        message = "Setting wwn is not supported for lun device"
        raise error.unsupported(message, disk.node.child("wwn"), "the device has its own")
    if disk.vendor or disk.product:
        message = "Setting vendor or product is not supported for lun device"
        raise error.unsupported(message, disk.node, "the device has its own")


#: what names of disks begin with
_NAMES = ("hd", "sd", "vd", "xvd", "ubd")


def _name(disk: Disk, d: Define) -> None:
    kind, name = disk.node.attrib.get("device"), disk.node.value("target/@dev") or ""
    if kind == "floppy":
        if not name.startswith("fd"):
            message = f"Invalid floppy device name: {name}"
            raise error.internal(message, disk.node.child("target"), "fda or fdb")
    elif kind != "cdrom" and not name.startswith(_NAMES):
        message = f"Invalid harddisk device name: {name}"
        raise error.internal(message, disk.node.child("target"), "sda, vdb, hdc, …")


def _medium(disk: Disk, d: Define) -> None:
    """A disk is never empty; of a volume it turns out when the pool is asked."""
    own, source = disk.node.attrib, disk.node.child("source")
    kind = own.get("type", "file")
    if own.get("device", "disk") == "disk" and (
        source is None or (kind != "volume" and says_nothing(source, kind))
    ):
        message = f"missing source information for device {disk.target}"
        raise error.plain(message, disk.node, "<source> says where the bytes are")


def _transient(disk: Disk, d: Define) -> None:
    problem = ""
    if disk.is_empty:
        problem = f"transient disk '{disk.target}' must not be empty"
    elif disk.readonly:
        problem = f"transient disk '{disk.target}' must not be read-only"
    elif disk.type != "file":
        problem = f"transient disk supported only with 'file' type ({disk.target})"
    elif disk.device != "disk":
        problem = f"transient disk supported only with 'disk' device ({disk.target})"
    if problem:
        raise error.unsupported(problem, disk.node, "drop <transient/>")


def _startup_policy(disk: Disk, d: Define) -> None:
    source = disk.source
    policy = source.startup_policy if source is not None else None
    if policy is None or source is None:
        return
    if disk.type in ("network", "nvme"):
        message = f"disk startupPolicy '{policy}' is not allowed for disk of '{disk.type}' type"
        raise error.xml(message, source.node, "drop startupPolicy=")
    if policy == "requisite" and disk.device not in ("cdrom", "floppy"):
        message = f"disk startupPolicy '{policy}' is allowed only for cdrom or floppy"
        raise error.xml(message, source.node, "'mandatory' or 'optional'")


def _address(disk: Disk, d: Define) -> None:
    address = disk.node.child("address")
    if address is None:
        return
    kind, bus = address.attrib.get("type", ""), disk.node.value("target/@bus") or ""
    if kind == "drive":
        _check_place(address, bus)
    allowed = ADDRESS_TYPES.get(bus)
    if allowed is None or not kind or kind in allowed or bus in ("usb", "virtio"):
        return
    raise error.unsupported(
        f"Invalid address type '{kind}' for the disk '{disk.target}' with the bus type '{bus}'",
        address,
        f"type='{allowed[0]}'",
    )


def _check_place(address: Node, bus: str) -> None:
    """A place that none of the bus's controllers has."""
    place = drive_place(address)
    if bus in ("ide", "sata", "fdc") and place.target:
        message = f"target must be 0 for {bus} controller"
        raise error.unsupported(message, address, "target='0', and a unit of its own")
    if bus == "scsi" and place.bus:
        raise error.internal("SCSI controller only supports 1 bus", address, "bus='0'")
    if bus == "virtio":
        message = "virtio disk cannot have an address of type 'drive'"
        raise error.unsupported(message, address, "drop the <address>")


def _target_name(disk: Disk, d: Define) -> None:
    name = disk.node.value("target/@dev") or ""
    if name[-1:].isdigit():
        raise error.unsupported(
            f"invalid disk target '{name}', partitions can't appear in disk targets",
            disk.node.child("target"),
            "a name without a number: sda",
        )


def _target(disk: Disk, d: Define) -> None:
    node = disk.node.child("target")
    bus, device = disk.bus, disk.device
    if disk.tray is not None and device not in ("cdrom", "floppy"):
        raise error.unsupported("tray is only valid for cdrom and floppy", node, "drop tray=")
    if device == "floppy" and bus != "fdc":
        raise error.internal(f"Invalid bus type '{bus}' for floppy disk", node, "bus='fdc'")
    if device != "floppy" and bus == "fdc":
        raise error.internal(f"Invalid bus type '{bus}' for disk", node, "device='floppy'")
    if disk.removable is not None and (bus not in ("usb", "scsi") or device != "disk"):
        raise error.xml("removable is only valid for usb or scsi disks", node, "drop removable=")


def _printable(disk: Disk, d: Define) -> None:
    if disk.wwn is not None:
        digits = disk.wwn.removeprefix("0x")
        if len(digits) != 16 or not all(c in "0123456789abcdefABCDEF" for c in digits):
            node = disk.node.ensure("wwn")
            raise error.internal(f"Malformed wwn: {node.text}", node, "16 hexadecimal digits")
    for what in ("vendor", "product"):
        text = getattr(disk, what)
        if text and not all(" " <= c <= "~" for c in text):
            raise error.xml(f"disk {what} is not printable string", disk.node.child(what), "ASCII characters")


# -- what QEMU refuses ------------------------------------------------------------------------------


def _storage(disk: Disk, d: Define) -> None:
    check_chain(disk, d)


def _sharing(disk: Disk, d: Define) -> None:
    driver = disk.driver
    if not disk.shareable or disk.readonly or driver is None:
        return
    if driver.format not in _SHAREABLE_FORMATS and disk.type not in ("vhostuser", "volume"):
        raise error.unsupported(
            f"shared access for disk '{disk.target}' requires use of supported storage format",
            disk.node,
            "type='raw', or no <shareable/>",
        )


def _bus(disk: Disk, d: Define) -> None:
    kind, bus, device = disk.address_type, disk.bus, disk.device
    if bus == "usb":
        if kind and kind != "usb":
            raise error.internal("unexpected address type for usb disk", disk.node, "<address type='usb'/>")
        if disk.is_empty:
            raise error.unsupported("'usb' disk must not be empty", disk.node, "name a <source>")
        if device == "floppy":
            raise error.unsupported("unexpected 'floppy' on bus 'usb'", disk.node, "bus='fdc'")
    if device == "cdrom" and bus in ("virtio", "sd"):
        message = f"disk type of '{disk.target}' does not support ejectable media"
        raise error.unsupported(message, disk.node, "bus='sata', 'scsi', 'ide' or 'usb'")
    if device == "disk" and disk.readonly and bus in ("ide", "sata"):
        message = f"readonly {bus} disks are not supported"
        raise error.unsupported(
            message, disk.node.child("readonly"), "bus='virtio' or 'scsi', or device='cdrom'"
        )
    driver = disk.driver
    if driver is not None and driver.io == "native" and driver.cache not in ("none", "directsync"):
        message = "io='native' needs either no disk cache or directsync cache mode"
        raise error.unsupported(message, driver.node, "cache='none'")
    if device == "lun" and bus not in ("scsi", "virtio"):
        raise error.unsupported(
            f"disk device='lun' is not supported for bus='{bus}'", disk.node, "bus='scsi'"
        )
    if device == "lun" and bus == "virtio" and not d.emulator.flag("virtio-blk-pci.scsi"):
        raise error.unsupported(
            "This QEMU doesn't support SCSI emulation with 'virtio-blk' device",
            disk.node,
            "<target bus='scsi'/>",
        )


def _identity(disk: Disk, d: Define) -> None:
    if disk.vendor and disk.bus != "scsi":
        raise error.unsupported(
            "Only scsi disk supports 'vendor'", disk.node.child("vendor"), "bus='scsi', or no <vendor>"
        )
    if disk.product and disk.bus not in PRODUCT_LENGTHS:
        message = "Only ide, sata and scsi disk supports 'product'"
        raise error.unsupported(message, disk.node.child("product"), "drop <product>")
    if disk.vendor and len(disk.vendor) > VENDOR_LENGTH:
        raise error.unsupported(
            f"disk vendor is more than {VENDOR_LENGTH} characters", disk.node.child("vendor"), "a shorter one"
        )
    if disk.product and len(disk.product) > PRODUCT_LENGTHS[disk.bus]:
        raise error.unsupported(
            f"disk product is more than {PRODUCT_LENGTHS[disk.bus]} characters",
            disk.node.child("product"),
            "a shorter one",
        )
    if disk.wwn and disk.bus not in ("scsi", "ide", "sata"):
        raise error.unsupported(
            "Only ide and scsi disk support wwn",
            disk.node.child("wwn"),
            "bus='scsi', 'sata' or 'ide', or no <wwn>",
        )
    if disk.serial and disk.device == "lun" and disk.bus == "scsi":
        raise error.unsupported(
            "scsi-block 'lun' devices do not support the serial property",
            disk.node,
            "drop <serial>: the device has its own",
        )
    if disk.rotation_rate:
        target = disk.node.child("target")
        if disk.bus not in ("scsi", "ide", "sata"):
            message = "rotation rate is only valid for SCSI/IDE/SATA bus"
            raise error.internal(message, target, "drop rotation_rate=")
        if disk.device != "disk":
            message = "rotation rate is only valid for disk device"
            raise error.internal(message, target, "drop rotation_rate=")


def _threads(disk: Disk, d: Define) -> None:
    """I/O threads of a disk must be there, and serve queues that are there."""
    driver = disk.driver
    if driver is None or not (driver.iothread or driver.iothreads):
        return
    if disk.bus != "virtio" or disk.address_type not in ("", "pci", "ccw"):
        raise error.unsupported(
            f"IOThreads not available for bus {disk.bus} target {disk.target}",
            driver.node,
            "<target bus='virtio'/>",
        )
    numbers = iothread_numbers(d)
    if driver.iothread and not driver.iothreads and driver.iothread not in numbers:
        message = f"Disk iothread '{driver.iothread}' not defined in iothreadid"
        raise error.unsupported(message, driver.node, "define it in <iothreadids>")
    if driver.iothreads:
        check_iothread_mapping(driver, numbers, d)


def iothread_numbers(d: Define) -> set[int]:
    """The numbers of the guest's I/O threads."""
    ids = d.domain.node.child("iothreadids")
    numbers = (
        [parse_integer(node.get("id") or "0") for node in ids.all("iothread")] if ids is not None else []
    )
    count = parse_integer(d.domain.iothreads or "0")
    number = 1
    while len(numbers) < count:
        if number not in numbers:
            numbers.append(number)
        number += 1
    return set(numbers)


def check_iothread_mapping(driver: DiskDriver, numbers: set[int], d: Define) -> None:
    """Raise ``ConfigError`` where a mapping of queues to I/O threads is not one."""
    if driver.iothread:
        raise error.unsupported(
            "iothread and iothreads are mutually exclusive", driver.node, "drop iothread="
        )
    if not d.emulator.device_property("virtio-blk-pci", "iothread-vq-mapping"):
        raise error.unsupported(
            "IOThread to virtqueue mapping is not supported by this QEMU binary",
            driver.node,
            "iothread=, or QEMU 9.0 or newer",
        )
    seen: set[int] = set()
    taken: set[int] = set()
    with_queues = [bool(thread.queues) for thread in driver.iothreads]
    if any(with_queues) and not all(with_queues):
        raise error.unsupported(
            "mixed queue mapping and automatic queue mapping is not supported",
            driver.node,
            "queues for every thread, or for none",
        )
    for thread in driver.iothreads:
        if thread.id not in numbers:
            message = f"iothread '{thread.id}' not defined in iothreadid"
            raise error.unsupported(message, thread.node, "define it in <iothreadids>")
        if thread.id in seen:
            message = f"duplicate mapping for iothread '{thread.id}'"
            raise error.unsupported(message, thread.node, "name each thread once")
        seen.add(thread.id)
        for queue in thread.queues:
            if driver.queues and queue.id >= driver.queues:
                raise error.unsupported(
                    f"iothread queue '{queue.id}' out of range", queue.node, "a queue below queues="
                )
            if queue.id in taken:
                raise error.unsupported(
                    f"iothread queue '{queue.id}' is already assigned", queue.node, "each queue once"
                )
            taken.add(queue.id)
    if any(with_queues):
        for number in range(driver.queues):
            if number not in taken:
                message = f"missing iothread mapping for queue '{number}'"
                raise error.unsupported(message, driver.node, "say which thread serves it")


#: what is said of an image that may be wrong with it
_ABOUT_IMAGES = (
    *("backingStore", "auth", "encryption", "dataStore", "reservations"),
    *("discard_no_unref", "io", "metadata_cache"),
    *("dir", "network", "volume", "nvme", "vhostuser", "vhostvdpa"),
    *("fat", "iso", "cow"),
)
#: the words that a check is about, one of which the disk has to say (without: any disk); and the check
_CHECKS: tuple[tuple[tuple[str, ...], Check], ...] = (
    (("vhostuser",), _vhost_user),
    (("rawio", "sgio"), _passthrough),
    (("model", *_VIRTIO_OPTIONS), _virtio_options),
    (("driver",), _driver_name),
    (("copy_on_read", "discard_no_unref"), _copy_on_read),
    (("iotune", "throttlefilters"), _limits),
    ((), _name),
    (("address",), _address),
    ((), _target_name),
    (("tray", "removable", "floppy", "fdc"), _target),
    ((), _medium),
    (("transient",), _transient),
    (("startupPolicy",), _startup_policy),
    (("reservations",), _reservations),
    (("product", "vendor", "wwn"), _printable),
    (("lun",), _lun),
    (_ABOUT_IMAGES, _storage),
    (("lun",), _lun_protocol),
    (("shareable",), _sharing),
    (("usb", "cdrom", "lun", "readonly", "io"), _bus),
    (("product", "serial", "rotation_rate", "vendor", "wwn"), _identity),
    (("iothread", "iothreads"), _threads),
)
