"""A disk's options: its images' nodes, then what the guest sees of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import virtio_properties
from qemushim.devices.block_image import CACHE_MODES, DiskNodes, Image, disk_nodes, disk_settings
from qemushim.devices.block_nodes import image_options
from qemushim.devices.block_protocols import storage_properties
from qemushim.devices.block_secrets import encryption_secrets, secret_options
from qemushim.devices.bootindex import boot_index, boot_loadparm
from qemushim.devices.charsource import Source as CharacterSource
from qemushim.devices.charsource import socket_chardev
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.devices.disk import Disk, DiskIothread

Properties = dict[str, Value]


def options_of(disk: Disk, b: Build) -> Iterator[Option]:
    """Everything that makes one disk."""
    parts = disk.node.first()
    if "transient" in parts and disk.share_backing:
        # the disk is plugged in later, with an overlay of its own
        return
    bus = parts["target"].attrib.get("bus")
    if bus in ("uml", "xen"):
        message = f"unsupported disk bus '{bus}' with device setup"
        raise error.internal(message, disk.node.child("target"), "a bus of other hypervisors: bus='virtio'")
    nodes = disk_nodes(disk, b)
    if bus == "sd":
        yield from _sd_options(disk, nodes.image, b)
        return
    drive = None
    if disk.node.attrib.get("type") == "vhostuser":
        yield _vhost_user_chardev(disk, b)
    elif nodes.image is not None:
        for image in reversed(tuple(nodes.image.chain())):
            yield from image_options(image, b)
        drive = nodes.image.top_node
        for option, name in _filters(disk, nodes, drive, b):
            yield option
            drive = name
    yield from zpci_options(disk, b)
    yield b.device(frontend_properties(disk, parts, drive, b), disk.node, "the drive that the guest sees")


def _vhost_user_chardev(disk: Disk, b: Build) -> Option:
    source = disk.node.ensure("source")
    reconnect = CharacterSource(source).reconnect
    return socket_chardev(b, f"chr-vu-{disk.alias}", source.get("path") or "", source, reconnect=reconnect)


def _filters(disk: Disk, nodes: DiskNodes, below: str, b: Build) -> Iterator[tuple[Option, str]]:
    """The nodes above the images, each with its name."""
    driver = disk.node.child("driver")
    if driver is not None and driver.attrib.get("copy_on_read") == "on":
        name = f"libvirt-CoR-{disk.target}"
        node = {"driver": "copy-on-read", "node-name": name, "file": below, "discard": "unmap"}
        yield b.blockdev(node, driver, "what the guest reads is copied into the image on top"), name
        below = name
    for throttle, name in zip(disk.throttle_filters if nodes.filters else (), nodes.filters, strict=True):
        node = {
            "driver": "throttle",
            "node-name": name,
            "throttle-group": f"throttle-{throttle.group}",
            "file": below,
        }
        yield b.blockdev(node, throttle.node, "the disk shares the limits of a group"), name
        below = name


# -- the device -------------------------------------------------------------------------------------


#: the first QEMU whose disks have the property
_DEVICE_ID, _WRITE_CACHE = (4, 0, 0), (2, 7, 0)


def frontend_properties(disk: Disk, parts: Mapping[str, Node], drive: str | None, b: Build) -> Properties:
    """The properties of the disk's ``-device``, in libvirt's order; ``drive`` is the node that it shows."""
    bus, kind = parts["target"].attrib["bus"], disk.node.attrib.get("device", "disk")
    properties: Properties = _HEADS[bus](disk, b)
    properties.update(address_properties(disk, b))
    serial = parts["serial"].text if "serial" in parts else ""
    version = b.emulator.version
    if bus == "scsi" and kind != "lun" and version >= _DEVICE_ID:
        properties["device_id"] = serial or f"drive-{disk.alias}"
    if "shareable" in parts:
        properties["share-rw"] = True
    properties["drive"] = drive
    if disk.node.attrib.get("type") == "vhostuser":
        properties["chardev"] = f"chr-vu-{disk.alias}"
    properties["id"] = disk.alias
    if bus != "fdc":
        order = boot_index(disk, b)
        if order is not None:
            properties["bootindex"] = order
        if "boot" in parts:
            properties["loadparm"] = boot_loadparm(disk, b)
    if "blockio" in parts:
        properties["logical_block_size"] = disk.logical_block_size or None
        properties["physical_block_size"] = disk.physical_block_size or None
        properties["discard_granularity"] = disk.discard_granularity or None
    if "wwn" in parts:
        properties["wwn"] = int(disk.wwn, 16) if disk.wwn else None
    if "rotation_rate" in parts["target"].attrib:
        properties["rotation_rate"] = disk.rotation_rate or None
    if "vendor" in parts or "product" in parts:
        properties["vendor"] = disk.vendor
        properties["model" if bus in ("ide", "sata") else "product"] = disk.product
    if bus == "usb":
        properties["removable"] = bool(disk.removable)
    elif bus == "scsi" and "removable" in parts["target"].attrib:
        properties["removable"] = disk.removable
    cache = disk_settings(disk, parts).cache
    if cache and kind != "lun" and version >= _WRITE_CACHE:
        properties["write-cache"] = "on" if CACHE_MODES[cache][2] else "off"
    if "geometry" in parts:
        properties["cyls"] = disk.cylinders or None
        properties["heads"] = disk.heads or None
        properties["secs"] = disk.sectors or None
        properties["bios-chs-trans"] = disk.translation
    # QEMU's option parser of old needed the blanks escaped, and guests have seen the backslashes since
    if serial:
        properties["serial"] = serial.replace(" ", "\\ ")
    if "driver" in parts:
        _add_error_policies(properties, parts["driver"].attrib)
    return properties


def _add_error_policies(properties: Properties, driver: Mapping[str, str]) -> None:
    """What the guest is told where the host's disk fails.  ``driver``: the attributes of ``<driver>``."""
    if "error_policy" not in driver and "rerror_policy" not in driver:
        return
    write, read = driver.get("error_policy"), driver.get("rerror_policy") or driver.get("error_policy")
    if write == "enospace":
        # reads do not run out of space
        write, read = "enospc", driver.get("rerror_policy")
    properties["werror"] = write
    properties["rerror"] = read


#: what ``<driver>`` says to virtio disks alone
_VIRTIO_DRIVER = frozenset(
    ("iommu", "ats", "packed", "page_per_vq", "iothread", "ioeventfd", "event_idx", "queues", "queue_size")
)


def _virtio(disk: Disk, b: Build) -> Properties:
    own = disk.node.attrib
    is_vhost_user = own.get("type") == "vhostuser"
    properties: Properties = {
        "driver": virtio_driver("vhost-user-blk" if is_vhost_user else "virtio-blk", disk, b)
    }
    node = disk.node.child("driver")
    if node is None:
        return properties
    if own.get("device") != "lun" and not node.children and _VIRTIO_DRIVER.isdisjoint(node.attrib):
        return properties
    driver = disk.driver
    assert driver is not None
    properties.update(virtio_properties(disk))
    properties["iothread"] = f"iothread{driver.iothread}" if driver.iothread else None
    properties["ioeventfd"] = driver.ioeventfd
    properties["event_idx"] = driver.event_idx
    if disk.device == "lun" and not is_vhost_user and b.emulator.flag("virtio-blk-pci.scsi"):
        properties["scsi"] = True
    properties["num-queues"] = driver.queues or None
    properties["queue-size"] = driver.queue_size or None
    properties["iothread-vq-mapping"] = iothread_mapping(driver.iothreads)
    return properties


def iothread_mapping(threads: list[DiskIothread]) -> list[Value] | None:
    """Which I/O thread serves which queues; all of them where a thread names none."""
    if not threads:
        return None
    mapping: list[Value] = []
    for thread in threads:
        entry: Properties = {"iothread": f"iothread{thread.id}"}
        queues: list[Value] = [queue.id for queue in thread.queues]
        if queues:
            entry["vqs"] = queues
        mapping.append(entry)
    return mapping


def _ide(disk: Disk, b: Build) -> Properties:
    return {"driver": "ide-cd" if disk.node.attrib.get("device") == "cdrom" else "ide-hd"}


_SCSI_DRIVERS = {"lun": "scsi-block", "cdrom": "scsi-cd"}


def _scsi(disk: Disk, b: Build) -> Properties:
    return {"driver": _SCSI_DRIVERS.get(disk.node.attrib.get("device", ""), "scsi-hd")}


def _usb(disk: Disk, b: Build) -> Properties:
    return {"driver": "usb-storage"}


def _floppy(disk: Disk, b: Build) -> Properties:
    return {"driver": "floppy"}


_HEADS: dict[str, Callable[[Disk, Build], Properties]] = {
    "virtio": _virtio,
    "ide": _ide,
    "sata": _ide,
    "scsi": _scsi,
    "usb": _usb,
    "fdc": _floppy,
}


# -- floppies ---------------------------------------------------------------------------------------


def floppy_options(b: Build) -> Iterator[Option]:
    """The floppy controller, which knows what boots, before the first disk."""
    disks: list[Disk] = b.domain.lists["disk"]  # type: ignore[assignment]
    floppies = [disk for disk in disks if disk.node.value("target/@bus") == "fdc"]
    if not floppies:
        return
    if b.board.is_pseries:
        raise error.unsupported(
            "PowerPC pseries machines do not support floppy device",
            floppies[0].node,
            "device='cdrom' or 'disk'",
        )
    boot: Properties = {}
    for disk in floppies:
        address = disk.address
        unit = address.unit if address is not None else 0
        boot[f"bootindex{'B' if unit else 'A'}"] = boot_index(disk, b)
    boot = {key: boot[key] for key in sorted(boot) if boot[key]}
    if b.board.is_q35:
        yield b.device(
            {"driver": "isa-fdc", **boot}, floppies[0].node, "q35 has no floppy controller of its own"
        )
        return
    for key, index in boot.items():
        yield b.option(
            "-global", f"isa-fdc.{key}={index}", floppies[0].node, "the board's floppy controller boots"
        )


# -- SD cards ---------------------------------------------------------------------------------------


def _sd_options(disk: Disk, image: Image | None, b: Build) -> Iterator[Option]:
    """An SD card belongs to a board: QEMU has no device for it, only ``-drive if=sd``."""
    pairs: list[tuple[str, Value]] = []
    if image is not None:
        yield from secret_options(image, b)
        pairs.extend(_sd_source(disk, image, b))
    index = disk.target_number
    pairs += [("if", "sd"), ("index", index), ("readonly", True if disk.readonly else None)]
    if image is not None:
        driver, settings = disk.driver, image.settings
        pairs += [
            ("cache", settings.cache or None),
            ("copy-on-read", driver.copy_on_read if driver is not None else None),
            ("discard", settings.discard or None),
            ("detect-zeroes", image.detect_zeroes or None),
            ("aio", settings.io or None),
        ]
    yield b.pairs("-drive", "", pairs, disk.node, "an SD card of the board")


def _sd_source(disk: Disk, image: Image, b: Build) -> Iterator[tuple[str, Value]]:
    if image.kind == "network":
        yield "file", {key: value for key, value in storage_properties(image, b).items() if value is not None}
    elif image.kind == "dir":
        yield "file", f"fat:{'floppy:' if image.drive == 'floppy' else ''}{image.source.get('dir')}"
    else:
        yield "file", image.source.get("file") or image.source.get("dev")
    secret = next(iter(encryption_secrets(image)), None)
    if secret is not None and image.is_luks:
        yield "key-secret", secret
    elif secret is not None:
        yield "encrypt", {"format": "luks", "key-secret": secret}
    if image.kind != "dir":
        yield "format", "luks" if image.is_luks else image.format
