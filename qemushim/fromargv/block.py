"""Images: a graph of block nodes (``-blockdev``), or a ``-drive``, back to what a ``<disk>`` says of its sources.

The inverse of ``qemushim.devices.block_nodes`` and ``qemushim.devices.block_image``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from qemushim.devices.block_image import CACHE_MODES
from qemushim.devices.block_nodes import DRIVERS
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line, put
from qemushim.fromargv.secrets import secret_reference
from qemushim.fromargv.storage import PROTOCOLS, read_storage
from qemushim.fromargv.syntax import Bag, UnreadableError

#: QEMU's block driver → libvirt's name of the format
_FORMATS = {driver: name for name, driver in DRIVERS.items() if driver != "raw"} | {
    **dict.fromkeys(("qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "cloop", "dmg", "bochs", "raw")),
}
#: deeper chains than libvirt follows
_DEEPEST = 200


@dataclass(slots=True)
class Image:
    """One image of a chain."""

    kind: str = "file"
    format: str = "raw"
    source: Node = field(default_factory=lambda: Node("source"))
    readonly: bool | None = None
    discard: str = ""
    detect_zeroes: str = ""
    io: str = ""
    #: bypass the page cache, ignore flushes
    direct: bool | None = None
    no_flush: bool | None = None
    metadata_cache: int = 0
    no_unref: bool | None = None
    copy_on_read: bool = False
    #: throttle groups that the requests pass, lowest first
    throttles: list[str] = field(default_factory=list)
    backing: Image | None = None
    #: the command says that nothing is below
    terminated: bool = False
    data: Image | None = None
    #: arguments that it is made of
    arguments: list[Argument] = field(default_factory=list)

    def cache_mode(self, writeback: bool | None) -> str | None:
        """The mode that has these three properties, ``None`` where nothing is said of the cache."""
        if self.direct is None and self.no_flush is None:
            return None
        wanted = (bool(self.direct), bool(self.no_flush))
        matching = [name for name, mode in CACHE_MODES.items() if mode[:2] == wanted]
        if writeback is not None:
            matching = [name for name in matching if CACHE_MODES[name][2] is writeback]
        else:
            matching.sort(key=lambda name: not CACHE_MODES[name][2])
        if not matching:
            raise UnreadableError("no cache mode of libvirt's has these properties")
        return matching[0]


def read_chain(line: Line, name: str) -> Image:
    """The image that a node shows, with all below it.  Raises ``UnreadableError``."""
    argument = line.find(("-blockdev",), name)
    image = _node(line, line.use(argument), 0)
    image.arguments.append(argument)
    return image


def _child(line: Line, bag: Bag, key: str, depth: int) -> Image | None:
    """The node of another node's property, by its name or in place; ``None`` where there is none."""
    if bag.has(key):
        name = bag.take(key)
        if not name:
            return None
        argument = line.find(("-blockdev",), name)
        image = _node(line, line.use(argument), depth + 1)
        image.arguments.append(argument)
        return image
    inner = bag.below(key)
    if not inner:
        return None
    nested = Bag(bag.what, bag.place, inner)
    return _node(line, nested, depth + 1)


def _node(line: Line, bag: Bag, depth: int) -> Image:
    if depth > _DEEPEST:
        raise UnreadableError(f"more than {_DEEPEST} images on top of each other")
    driver = bag.take("driver") or ""
    if driver in ("copy-on-read", "throttle"):
        image = _filter(line, bag, driver, depth)
    elif driver in _FORMATS or driver == "luks":
        image = _format(line, bag, driver, depth)
    elif driver in PROTOCOLS:
        image = Image()
        image.kind, image.source = read_storage(line, bag, driver)
        _common(image, bag)
    else:
        raise UnreadableError(f"block driver {driver}")
    bag.drop("node-name")
    if bag.pairs:
        raise UnreadableError(f"block driver {driver}: {', '.join(bag.keys)}")
    return image


def _filter(line: Line, bag: Bag, driver: str, depth: int) -> Image:
    image = _child(line, bag, "file", depth)
    if image is None:
        raise UnreadableError(f"{driver} over nothing")
    if driver == "copy-on-read":
        image.copy_on_read = True
        bag.drop("discard")
    else:
        image.throttles.append((bag.take("throttle-group") or "").removeprefix("throttle-"))
    return image


def _format(line: Line, bag: Bag, driver: str, depth: int) -> Image:
    image = _child(line, bag, "file", depth)
    if image is None:
        raise UnreadableError(f"block driver {driver} over nothing")
    below_format = image.format
    if driver == "raw" and (bag.has("offset") or bag.has("size")):
        part = {"type": "storage", "offset": bag.take("offset") or "0", "size": bag.take("size") or "0"}
        image.source.ensure("slices").add("slice", part)
        _common(image, bag)
        return image
    if below_format != "raw":
        raise UnreadableError(f"{driver} over {below_format}")
    # what the storage says of itself follows from the format's own
    image.readonly = None
    image.discard = image.detect_zeroes = ""
    if driver == "luks":
        _encryption(line, image, bag.take("key-secret"), "luks")
    else:
        image.format = "fat" if image.kind == "dir" else _FORMATS[driver] or driver
    _common(image, bag)
    secret = bag.take("encrypt.key-secret")
    if secret is not None:
        kind = bag.take("encrypt.format") or ""
        _encryption(line, image, secret, "luks" if kind == "luks" else "qcow")
    image.metadata_cache = bag.size("cache-size") or 0
    image.no_unref = bag.switch("discard-no-unref")
    image.data = _child(line, bag, "data-file", depth)
    if bag.has("backing") and bag.peek("backing") is None:
        image.terminated = True
        bag.drop("backing")
    else:
        image.backing = _child(line, bag, "backing", depth)
    return image


def _encryption(line: Line, image: Image, secret: str | None, kind: str) -> None:
    node = image.source.add("encryption", {"format": kind})
    node.add("secret", {"type": "passphrase", **secret_reference(line, secret, "volume")})


def _common(image: Image, bag: Bag) -> None:
    """What any node says; of several the upper one's counts."""
    readonly, automatic = bag.switch("read-only"), bag.switch("auto-read-only")
    if readonly is not None:
        image.readonly = readonly
    elif automatic and image.readonly is None:
        image.readonly = None
    image.discard = bag.take("discard") or ""
    image.detect_zeroes = bag.take("detect-zeroes") or ""
    image.io = bag.take("aio") or image.io
    direct, no_flush = bag.switch("cache.direct"), bag.switch("cache.no-flush")
    image.direct = direct if direct is not None else image.direct
    image.no_flush = no_flush if no_flush is not None else image.no_flush


# -- into the document --------------------------------------------------------------------------------


def say_image(disk: Node, image: Image, writeback: bool | None) -> None:
    """Type, ``<driver>``, ``<source>`` and ``<backingStore>`` of a disk."""
    disk.set("type", image.kind)
    driver = disk.ensure("driver")
    driver.attrib = {"name": "qemu", "type": image.format, **driver.attrib}
    put(driver, "@cache", image.cache_mode(writeback))
    put(driver, "@io", image.io or None)
    put(driver, "@discard", image.discard or None)
    put(driver, "@detect_zeroes", image.detect_zeroes or None)
    put(driver, "@copy_on_read", True if image.copy_on_read else None)
    put(driver, "@discard_no_unref", image.no_unref)
    _say_metadata_cache(driver, image)
    _say_data(image)
    disk.append(image.source)
    for group in image.throttles:
        disk.ensure("throttlefilters").add("throttlefilter", {"group": group})
    _say_backing(disk, image)
    if image.readonly:
        disk.ensure("readonly")


def _say_metadata_cache(node: Node, image: Image) -> None:
    if image.metadata_cache:
        size = {"unit": "bytes"}
        node.ensure("metadata_cache").add("max_size", size, text=str(image.metadata_cache))


def _say_data(image: Image) -> None:
    if image.data is not None:
        store = image.source.add("dataStore", {"type": image.data.kind})
        store.add("format", {"type": image.data.format})
        store.append(image.data.source)


def _say_backing(holder: Node, image: Image) -> None:
    while True:
        below = image.backing
        if below is None:
            if image.terminated:
                holder.add("backingStore")
            return
        store = holder.add("backingStore", {"type": below.kind})
        form = store.add("format", {"type": below.format})
        _say_metadata_cache(form, below)
        _say_data(below)
        store.append(below.source)
        holder, image = store, below


# -- drives -------------------------------------------------------------------------------------------

#: cache= of a drive → direct, no-flush, writeback; libvirt has the same words
_DISCARDS = {"on": "unmap", "off": "ignore", "unmap": "unmap", "ignore": "ignore"}


def read_drive_image(line: Line, bag: Bag) -> tuple[Image | None, str | None]:
    """The image of a ``-drive`` (``None``: no medium), and its cache mode.  Its device's properties stay."""
    image_format = bag.take("format", "driver")
    cache = bag.take("cache")
    file = bag.take("file")
    inner = bag.below("file")
    if file is None and not inner:
        # without a medium there is nothing to say of how it is read
        bag.drop("aio", "readonly", "read-only", "discard", "detect-zeroes", "copy-on-read")
        return None, cache
    image = Image()
    if inner:
        image = _node(line, Bag(bag.what, bag.place, inner), 1)
    else:
        image.kind, image.source = read_file(line, file or "")
        if image.kind == "dir" and ":rw:" not in (file or ""):
            image.readonly = True
    image.format = (
        "fat" if image.kind == "dir" else _FORMATS.get(image_format or "raw") or image_format or "raw"
    )
    if image_format == "luks":
        image.format = "raw"
        _encryption(line, image, bag.take("key-secret"), "luks")
    secret = bag.take("encrypt.key-secret")
    if secret is not None:
        bag.drop("encrypt.format")
        _encryption(line, image, secret, "luks")
    readonly = bag.switch("readonly", "read-only")
    image.readonly = readonly if readonly is not None else image.readonly
    discard = bag.take("discard")
    image.discard = _DISCARDS.get(discard or "", "") or image.discard
    image.detect_zeroes = bag.take("detect-zeroes") or image.detect_zeroes
    image.io = bag.take("aio") or image.io
    image.copy_on_read = bool(bag.switch("copy-on-read"))
    direct, no_flush = bag.switch("cache.direct"), bag.switch("cache.no-flush")
    image.direct = direct if direct is not None else image.direct
    image.no_flush = no_flush if no_flush is not None else image.no_flush
    return image, cache


def read_file(line: Line, file: str) -> tuple[str, Node]:
    """``file=`` of a drive: a path, or a name of QEMU's such as ``nbd:…``, ``rbd:…``, ``json:{…}``."""
    from qemushim.fromargv.storage import read_url

    return read_url(line, file)


def image_format_of(path: str) -> str | None:
    """The format that the name of an image tells, where nothing else does."""
    ending = path.rpartition(".")[2].lower()
    return {"qcow2": "qcow2", "qcow": "qcow", "qed": "qed", "vmdk": "vmdk", "vdi": "vdi", "vhdx": "vhd"}.get(
        ending
    )
