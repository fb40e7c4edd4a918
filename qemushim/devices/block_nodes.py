"""The block nodes of an image, and of what stands above a disk's chain.

https://www.qemu.org/docs/master/interop/qemu-storage-daemon-qmp-ref.html#block-devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qemushim.command.option import Option, compact
from qemushim.devices.block_image import (
    PLAIN,
    Image,
    has_backing_property,
    image_of,
    needs_format_node,
)
from qemushim.devices.block_protocols import storage_properties
from qemushim.devices.block_secrets import encryption_secrets, secret_options
from qemushim.document.node import Node
from qemushim.document.units import parse_integer
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build

Properties = dict[str, Any]

#: the first QEMU that has ``-blockdev``
BLOCKDEV = (2, 9, 0)
#: image format → QEMU's driver of it, where the names differ
DRIVERS = {"fat": "raw", "ploop": "parallels", "vhd": "vhdx"}


def image_options(image: Image, b: Build) -> Iterator[Option]:
    """Everything that one image needs: secrets, descriptors, then its nodes from the bottom up."""
    if image.needs_objects:
        yield from secret_options(image, b)
    for number, descriptor in enumerate(image.descriptors):
        b.pass_fd(descriptor, "disk", image.source.get("file") or "", image.storage_node)
        yield b.add_fd(image.fd_set, descriptor, f"{image.storage_node}{number}", image.source)
    if image.kind == "vhostvdpa" and image.fd_set >= 0:
        device = image.source.get("dev") or ""
        given = b.host.descriptors.vdpa_disk.get(device)
        passed = b.pass_fd(given, "vhost-vdpa", device, image.storage_node)
        yield b.add_fd(image.fd_set, passed, f"{image.storage_node}-vdpa", image.source)
    if b.emulator.version < BLOCKDEV:
        yield _drive(image, b)
        return
    for properties, rule in image_nodes(image, b):
        yield b.blockdev(properties, image.source, rule)


def _drive(image: Image, b: Build) -> Option:
    """The whole image as one drive, for a QEMU that has no ``-blockdev``: an image on the host, as it is."""
    if image.kind not in ("file", "block") or image.slice is not None or image.encryption is not None:
        raise error.unsupported(
            f"this QEMU takes no images of this kind (type='{image.kind}')", image.source, "QEMU 2.9 or newer"
        )
    settings = image.settings
    pairs: Properties = {
        "file": image.source.get("file" if image.kind == "file" else "dev"),
        "format": DRIVERS.get(image.format, image.format),
        "if": "none",
        "id": image.top_node,
        "readonly": image.readonly or None,
        "cache": settings.cache or None,
        "discard": settings.discard or None,
        "detect-zeroes": image.detect_zeroes or None,
        "aio": settings.io or None,
    }
    known = b.emulator.options.get("drive", frozenset())
    newer = ("discard", "detect-zeroes")
    kept = {name: value for name, value in pairs.items() if name not in newer or name in known}
    return b.pairs("-drive", "", compact(kept), image.source, "an image, as one drive")


def image_nodes(image: Image, b: Build) -> Iterator[tuple[Properties, str]]:
    """The nodes of one image, each with what it is for: storage, slice, format."""
    part = image.slice
    top = not image.layered and part is None
    below = image.storage_node
    storage = compact(storage_properties(image, b))
    storage.update(common_properties(image, below, top))
    yield storage, "where the bytes are"
    if part is not None:
        yield (
            {
                "driver": "raw",
                "file": below,
                "offset": parse_integer(part.get("offset") or "0"),
                "size": parse_integer(part.get("size") or "0"),
                **common_properties(image, image.slice_node, not image.layered),
            },
            "the part of the storage that holds the image",
        )
        below = image.slice_node
    if image.layered:
        yield _format_node(image, below), "the format of the image"


def common_properties(image: Image, name: str, top: bool) -> Properties:
    """What any node has: its name, and how it may be written, trimmed and cached.

    ``top``: the node is the one that the guest's requests meet; those below it pass everything on.
    """
    properties: Properties = {"node-name": name}
    if top:
        properties["read-only"] = image.readonly
        if image.settings.discard:
            properties["discard"] = image.settings.discard
        if image.detect_zeroes:
            properties["detect-zeroes"] = image.detect_zeroes
    elif image.has_single_descriptor:
        # QEMU can not reopen a lone descriptor in the other mode
        properties["read-only"] = image.readonly and not image.writable_descriptor
        properties["discard"] = "unmap"
    else:
        if image.reopens:
            properties["auto-read-only"] = True
        else:
            properties["read-only"] = image.readonly
        properties["discard"] = "unmap"
    if image.settings.cache:
        properties["cache"] = image.settings.cache_properties
    return properties


def _format_node(image: Image, below: str) -> Properties:
    properties = common_properties(image, image.format_node, True)
    properties.update(compact(_format_properties(image)))
    properties["file"] = below
    if has_backing_property(image):
        # null: QEMU is not to look at what the image itself says
        properties["backing"] = None if image.backing is None else image.backing.top_node
    return properties


def _format_properties(image: Image) -> Properties:
    secret = None
    if image.is_encrypted_by_qemu:
        secret = next(iter(encryption_secrets(image)), None)
    if image.is_luks:
        return {"driver": "luks", "key-secret": secret}
    properties: Properties = {"driver": DRIVERS.get(image.format, image.format)}
    if image.format in ("qcow", "qcow2") and image.encryption is not None and secret is not None:
        kind = "luks" if image.encryption.get("format") == "luks" else "aes"
        properties["encrypt"] = {"format": kind, "key-secret": secret}
    if image.format == "qcow2":
        properties["cache-size"] = image.metadata_cache or None
        properties["discard-no-unref"] = image.settings.discard_no_unref
        properties["data-file"] = image.data.top_node if image.data is not None else None
    return properties


# -- firmware ---------------------------------------------------------------------------------------


def pflash_image(name: str, kind: str, image_format: str, source: Node, *, readonly: bool, b: Build) -> Image:
    """The image of a flash device of the machine, for ``image_options``.

    ``name`` is ``libvirt-pflash0`` (the code, which always has a format node) or ``libvirt-pflash1`` (the
    variables); ``kind`` is the type of the source.
    """
    image = image_of(kind, image_format, source, PLAIN, readonly=readonly)
    image.name = name
    image.terminated = image_format != "raw"
    image.layered = name.endswith("pflash0") or needs_format_node(image, b)
    image.reopens = b.emulator.option("drive", "auto-read-only")
    return image
