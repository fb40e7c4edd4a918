"""``Image``: one image of a disk's chain, as QEMU is going to open it.

Images are made once, before the first option of a command line: node names count through all disks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

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


#: the attributes of ``<driver>`` that speak of its images
_SETTINGS = ("cache", "io", "discard", "discard_no_unref")
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


class Settings(NamedTuple):
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


#: of a disk whose driver has nothing to say of its images
PLAIN = Settings()


class Image:
    """One image.  ``kind`` is the type of its source, never ``volume``."""

    def __init__(
        self,
        kind: str,
        image_format: str,
        source: Node,
        settings: Settings,
        *,
        readonly: bool,
        auth: Node | None = None,
        encryption: Node | None = None,
    ) -> None:
        self.kind = kind
        self.format = image_format
        #: ``<source>``; an empty one where there is none
        self.source = source
        self.settings = settings
        self.readonly = readonly
        self.auth = auth
        self.encryption = encryption
        self.detect_zeroes = ""
        #: bytes; 0: QEMU's own default
        self.metadata_cache = 0
        #: kind of the drive that shows it (``disk``, ``lun``, ``cdrom``, ``floppy``); of the top image alone
        self.drive = ""
        #: a CD-ROM drive of the host
        self.host_cdrom = False
        #: start of the names of its nodes and secrets (``libvirt-3``)
        self.name = ""
        #: name of the storage node where it is not ``name`` and ``-storage``
        self.storage_name = ""
        #: name of the secret with the password for the server, where it is not made from the storage node's
        self.auth_name = ""
        #: a format node stands above the storage node
        self.layered = True
        #: nbdkit opens it, and QEMU talks to nbdkit
        self.nbdkit = False
        #: file descriptors that are passed for it, and whether the one of a single one is writable
        self.descriptors: tuple[int, ...] = ()
        self.writable_descriptor = False
        #: QEMU opens it in the other mode when that is needed (QEMU 3.1)
        self.reopens = True
        self.fd_set = -1
        #: the image below, where the document names it
        self.backing: Image | None = None
        #: the document says that nothing is below
        self.terminated = False
        self.data: Image | None = None

    @property
    def is_empty(self) -> bool:
        """No medium: the source does not say where the bytes are."""
        return says_nothing(self.source, self.kind)

    @property
    def protocol(self) -> str:
        return (self.source.get("protocol") or "") if self.kind == "network" else ""

    @property
    def needs_objects(self) -> bool:
        """Whether something may have to exist before its nodes."""
        return (
            bool(self.source.children)
            or self.auth is not None
            or self.encryption is not None
            or self.kind == "network"
        )

    @property
    def slice(self) -> Node | None:
        slices = self.source.child("slices") if self.source.children else None
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


def says_nothing(source: Node, kind: str) -> bool:
    """Whether a source of a type does not say where the bytes are."""
    return kind not in ("nvme", "vhostuser") and not source.attrib.get(PLACES.get(kind, "file"))


class DiskNodes:
    """What stands behind one disk."""

    def __init__(self) -> None:
        #: the image on top; ``None``: no medium, or not QEMU that opens it
        self.image: Image | None = None
        #: names of the nodes of its throttle filters, lowest first
        self.filters: list[str] = []


def disk_nodes(disk: Disk, b: Build) -> DiskNodes:
    """The images and filters of a disk."""
    found: DiskNodes = b.notes["disk nodes"][id(disk.node)]
    return found


#: the arguments of block jobs that say so
_KEEPS_NAMES = tuple(f"{job}/arg-type/backing-mask-protocol" for job in ("block-commit", "block-stream"))


def needs_format_node(image: Image, b: Build) -> bool:
    """Since QEMU 9.0 block jobs leave the storage node's name alone: a raw image needs nothing above it."""
    if image.format != "raw" or image.is_luks:
        return True
    if image.has_single_descriptor and image.writable_descriptor:
        return True
    return not keeps_protocol_names(b)


def keeps_protocol_names(b: Build) -> bool:
    """Whether block jobs can be told not to record the name of a protocol node as a backing format."""
    return all(b.emulator.qapi(path) for path in _KEEPS_NAMES)


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
    if source.children:
        auth = source.child("auth") or auth
        encryption = source.child("encryption") or encryption
    return Image(kind, image_format, source, settings, readonly=readonly, auth=auth, encryption=encryption)


def disk_image(disk: Disk, kind: str, source: Node | None) -> Image:
    """The image on top of a disk's chain, with all below it; ``kind`` and ``source`` are its real ones."""
    node = disk.node
    parts = node.first()
    driver = parts.get("driver")
    given = driver.attrib if driver is not None else {}
    settings = disk_settings(disk, parts)
    image = image_of(
        kind,
        given.get("type") or ("fat" if kind == "dir" else "raw"),
        source,
        settings,
        readonly="readonly" in parts,
        auth=parts.get("auth") if node.attrib.get("type") != "volume" else None,
        encryption=parts.get("encryption"),
    )
    image.drive = node.attrib.get("device", "disk")
    if driver is not None and driver.children:
        image.metadata_cache = disk.driver.metadata_cache or 0
    if "detect_zeroes" in given:
        zeroes = given["detect_zeroes"]
        image.detect_zeroes = "on" if zeroes == "unmap" and settings.discard != "unmap" else zeroes
    _add_data(image)
    _add_backing(image, parts.get("backingStore"))
    return image


def hostdev_image(device: Device, name: str, b: Build) -> Image:
    """The image that a SCSI device of the host or of an iSCSI server is opened as."""
    source = device.node.child("source")
    kind, readonly = "network", device.node.child("readonly") is not None
    if source is None or source.get("protocol") != "iscsi":
        kind, source = "block", Node("source", {"dev": f"/dev/{b.host.scsi_generic}"}, line=device.node.line)
    image = image_of(kind, "raw", source, PLAIN, readonly=readonly)
    image.storage_name = name
    image.auth_name = f"{name}-secret0"
    image.layered = False
    return image


def disk_settings(disk: Disk, parts: Mapping[str, Node]) -> Settings:
    """``parts``: the children of the disk's element by tag."""
    driver, settings = parts.get("driver"), PLAIN
    if driver is not None and not driver.attrib.keys().isdisjoint(_SETTINGS):
        given = disk.driver
        settings = Settings(given.cache or "", given.io or "", given.discard or "", given.discard_no_unref)
    if "shareable" in parts and not settings.cache and "readonly" not in parts:
        # the host's page cache would show each guest another state of the disk
        settings = settings._replace(cache="none")
    return settings


def _add_data(image: Image) -> None:
    store = image.source.child("dataStore") if image.source.children else None
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
    if group is not None:
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
