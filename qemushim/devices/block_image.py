"""``Image``: one image of a disk's chain, as QEMU is going to open it.

Images are made once, before the first option of a command line: node names count through all disks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from qemushim.devices.storage import BACKING_FORMATS
from qemushim.document.node import Node
from qemushim.document.units import parse_integer
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.devices.base import Device
    from qemushim.devices.disk import Disk

#: network protocol → the plugin of nbdkit that can serve it
NBDKIT_PLUGINS = {
    "http": "curl",
    "https": "curl",
    "ftp": "curl",
    "ftps": "curl",
    "tftp": "curl",
    "ssh": "ssh",
}

#: cache mode → bypass the host's page cache, ignore flushes, tell the guest of a write cache
CACHE_MODES = {
    "none": (True, False, True),
    "writethrough": (False, False, False),
    "writeback": (False, False, True),
    "directsync": (True, False, False),
    "unsafe": (False, True, True),
}


#: type of source → the attribute without which it says nothing
PLACES = {
    "file": "file",
    "block": "dev",
    "dir": "dir",
    "network": "protocol",
    "vhostuser": "path",
    "vhostvdpa": "dev",
    "volume": "volume",
}


@dataclass(slots=True)
class Settings:
    """What ``<driver>`` says of every image of a chain."""

    cache: str = ""
    io: str = ""
    discard: str = ""
    discard_no_unref: bool | None = None

    @property
    def cache_properties(self) -> dict[str, bool] | None:
        if not self.cache:
            return None
        direct, no_flush, _ = CACHE_MODES[self.cache]
        return {"direct": direct, "no-flush": no_flush}


@dataclass(slots=True, eq=False)
class Image:
    """One image.  ``kind`` is the type of its source, never ``volume``."""

    kind: str
    format: str
    #: ``<source>``; an empty one where there is none
    source: Node
    readonly: bool = False
    settings: Settings = field(default_factory=Settings)
    detect_zeroes: str = ""
    #: bytes; 0: QEMU's own default
    metadata_cache: int = 0
    auth: Node | None = None
    encryption: Node | None = None
    #: kind of the drive that shows it (``disk``, ``lun``, ``cdrom``, ``floppy``); of the top image alone
    drive: str = ""
    #: a CD-ROM drive of the host
    host_cdrom: bool = False
    #: start of the names of its nodes and secrets (``libvirt-3``)
    name: str = ""
    #: name of the storage node where it is not ``name`` and ``-storage``
    storage_name: str = ""
    #: name of the secret with the password for the server, where it is not made from the storage node's
    auth_name: str = ""
    #: a format node stands above the storage node
    layered: bool = True
    #: nbdkit opens it, and QEMU talks to nbdkit
    nbdkit: bool = False
    #: file descriptors that are passed for it, and whether the one of a single one is writable
    descriptors: tuple[int, ...] = ()
    writable_descriptor: bool = False
    #: QEMU opens it in the other mode when that is needed (QEMU 3.1)
    reopens: bool = True
    fd_set: int = -1
    #: the image below, where the document names it
    backing: Image | None = None
    #: the document says that nothing is below
    terminated: bool = False
    data: Image | None = None

    @property
    def is_empty(self) -> bool:
        """No medium: the source does not say where the bytes are."""
        if self.kind in ("nvme", "vhostuser"):
            return False
        return not self.source.get(PLACES.get(self.kind, "file"))

    @property
    def protocol(self) -> str:
        return (self.source.get("protocol") or "") if self.kind == "network" else ""

    @property
    def slice(self) -> Node | None:
        slices = self.source.child("slices")
        return slices.child("slice") if slices is not None else None

    @property
    def storage_node(self) -> str:
        return self.storage_name or f"{self.name}-storage"

    @property
    def slice_node(self) -> str:
        return f"{self.name}-slice-sto"

    @property
    def format_node(self) -> str:
        return f"{self.name}-format"

    @property
    def top_node(self) -> str:
        """The node that whatever is above refers to."""
        if self.layered:
            return self.format_node
        return self.storage_node if self.slice is None else self.slice_node

    @property
    def is_encrypted_by_qemu(self) -> bool:
        """QEMU itself decrypts the image, rather than the client of its server."""
        return self.encryption is not None and self.encryption.get("engine") != "librbd"

    @property
    def is_luks(self) -> bool:
        """A raw image that QEMU decrypts."""
        return self.format == "raw" and self.is_encrypted_by_qemu

    @property
    def has_single_descriptor(self) -> bool:
        return len(self.descriptors) == 1 and self.kind in ("file", "block")

    def chain(self) -> Iterator[Image]:
        """This image and those below it; a data file stands behind the image that it belongs to."""
        image: Image | None = self
        while image is not None:
            yield image
            if image.data is not None:
                yield image.data
            image = image.backing


@dataclass(slots=True)
class DiskNodes:
    """What stands behind one disk."""

    #: the image on top; ``None``: no medium, or not QEMU that opens it
    image: Image | None
    #: names of the nodes of its throttle filters, lowest first
    filters: list[str] = field(default_factory=list)


def disk_nodes(disk: Disk, b: Build) -> DiskNodes:
    """The images and filters of a disk."""
    found: DiskNodes = b.notes["disk nodes"][id(disk.node)]
    return found


def needs_format_node(image: Image, b: Build) -> bool:
    """Since QEMU 9.0 block jobs leave the storage node's name alone: a raw image needs nothing above it."""
    if image.format != "raw" or image.is_luks:
        return True
    if image.has_single_descriptor and image.writable_descriptor:
        return True
    return not keeps_protocol_names(b)


def keeps_protocol_names(b: Build) -> bool:
    """Whether block jobs can be told not to record the name of a protocol node as a backing format."""
    return all(
        b.emulator.qapi(f"{job}/arg-type/backing-mask-protocol") for job in ("block-commit", "block-stream")
    )


def image_of(
    kind: str,
    image_format: str,
    source: Node | None,
    settings: Settings,
    *,
    readonly: bool,
    auth: Node | None = None,
    encryption: Node | None = None,
) -> Image:
    """An image of a source; secrets that the source itself names win."""
    if source is None:
        source = Node("source")
    own_auth, own_encryption = source.child("auth"), source.child("encryption")
    return Image(
        kind,
        image_format,
        source,
        readonly,
        settings,
        auth=auth if own_auth is None else own_auth,
        encryption=encryption if own_encryption is None else own_encryption,
    )


def disk_image(disk: Disk, kind: str, source: Node | None) -> Image:
    """The image on top of a disk's chain, with all below it; ``kind`` and ``source`` are its real ones."""
    node, driver = disk.node, disk.driver
    readonly = disk.readonly
    settings = disk_settings(disk)
    default = "fat" if kind == "dir" else "raw"
    image = image_of(
        kind,
        (driver.format if driver is not None else None) or default,
        source,
        settings,
        readonly=readonly,
        auth=node.child("auth") if disk.type != "volume" else None,
        encryption=node.child("encryption"),
    )
    image.drive = disk.device
    if driver is not None:
        image.metadata_cache = driver.metadata_cache or 0
        image.detect_zeroes = driver.detect_zeroes or ""
        if image.detect_zeroes == "unmap" and settings.discard != "unmap":
            image.detect_zeroes = "on"
    _add_data(image)
    _add_backing(image, node.child("backingStore"))
    return image


def hostdev_image(device: Device, name: str, b: Build) -> Image:
    """The image that a SCSI device of the host or of an iSCSI server is opened as."""
    source = device.node.child("source")
    kind, readonly = "network", device.node.child("readonly") is not None
    if source is None or source.get("protocol") != "iscsi":
        kind, source = "block", Node("source", {"dev": f"/dev/{b.host.scsi_generic}"}, line=device.node.line)
    image = image_of(kind, "raw", source, Settings(), readonly=readonly)
    image.storage_name = name
    image.auth_name = f"{name}-secret0"
    image.layered = False
    return image


def disk_settings(disk: Disk) -> Settings:
    driver = disk.driver
    if driver is None:
        settings = Settings()
    else:
        settings = Settings(
            driver.cache or "", driver.io or "", driver.discard or "", driver.discard_no_unref
        )
    if not settings.cache and disk.shareable and not disk.readonly:
        # the host's page cache would show each guest another state of the disk
        settings.cache = "none"
    return settings


def _add_data(image: Image) -> None:
    store = image.source.child("dataStore")
    if store is None:
        return
    data = image_of(
        store.get("type") or "file", "raw", store.child("source"), image.settings, readonly=image.readonly
    )
    data.detect_zeroes = image.detect_zeroes
    image.data = data


def _add_backing(image: Image, store: Node | None) -> None:
    while store is not None:
        kind = store.get("type")
        if kind is None:
            image.terminated = True
            return
        image_format = store.child("format")
        name = (image_format.get("type") if image_format is not None else None) or "raw"
        below = image_of(kind, name, store.child("source"), image.settings, readonly=True)
        size = image_format.value("metadata_cache/max_size") if image_format is not None else None
        below.metadata_cache = parse_integer(size or "0")
        _add_data(below)
        image.backing = below
        image, store = below, store.child("backingStore")


def has_backing_property(image: Image) -> bool:
    """Whether the format node says what is below: only where the document does, and the format can."""
    return image.format in BACKING_FORMATS and (image.terminated or image.backing is not None)


def prepare_image(image: Image, b: Build) -> None:
    """Settle what depends on the emulator and the host: descriptors, nbdkit, the format node."""
    group = image.source.get("fdgroup") if image.kind == "file" else None
    if group:
        _pass_descriptors(image, group, b)
    plugin = NBDKIT_PLUGINS.get(image.protocol)
    image.nbdkit = bool(plugin) and b.host.config.storage_use_nbdkit and plugin in b.host.nbdkit
    if image.drive == "cdrom" and image.kind == "block" and image.format == "raw":
        image.host_cdrom = image.source.get("dev") in b.host.cdrom_drives
    image.layered = needs_format_node(image, b)
    image.reopens = b.emulator.option("drive", "auto-read-only")


def _pass_descriptors(image: Image, group: str, b: Build) -> None:
    found = b.host.fd_groups.get(group)
    if found is None:
        raise error.argument(
            f"file descriptor group '{group}' was not associated with the domain",
            image.source,
            "pass the descriptors to Host as fd_groups",
        )
    image.descriptors, image.writable_descriptor = found
    image.fd_set = b.new_fd_set()
