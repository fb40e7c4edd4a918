"""``<filesystem>``: a directory of the host that the guest mounts.

https://libvirt.org/formatdomain.html#filesystems
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device, virtio_properties
from qemushim.devices.bootindex import boot_index
from qemushim.devices.charsource import socket_chardev
from qemushim.devices.idmap import IdRange
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.devices.sharedmem import require_shared_memory
from qemushim.document.fields import Choice, LongPositive, Many, OnOff, Present, Text, Unsigned
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

Properties = dict[str, Value]

DRIVERS = ("path", "handle", "loop", "nbd", "ploop", "mtp", "virtiofs")
#: what makes a file system read from Linux's memory of it: access mode → QEMU's security model
SECURITY_MODELS = {"mapped": "mapped", "passthrough": "passthrough", "squash": "none"}


class Mode(Unsigned[int | None]):
    """A file mode: always octal, written with four digits."""

    def read(self, raw: str) -> int:
        mode = int(raw, 8)
        if mode < 0 or mode > 0o777:
            raise ValueError(raw)
        return mode

    def write(self, value: object) -> str:
        return f"{value:04o}"


class Filesystem(Device):
    """One shared directory: over 9p, virtiofs or MTP."""

    tag = "filesystem"
    unused = ("rom",)

    type = Choice("@type", ("mount", "block", "file", "template", "ram", "bind", "volume"), "mount")
    accessmode = Choice("@accessmode", ("passthrough", "mapped", "squash"))
    model = Choice("@model", ("virtio", "virtio-transitional", "virtio-non-transitional"))
    multidevs = Choice("@multidevs", ("default", "remap", "forbid", "warn"))
    fmode = Mode("@fmode")
    dmode = Mode("@dmode")
    driver = Choice("driver/@type", DRIVERS, "path")
    format = Text("driver/@format")
    write_policy = Choice("driver/@wrpolicy", ("immediate",))
    queue = LongPositive("driver/@queue")
    iommu = OnOff("driver/@iommu")
    ats = OnOff("driver/@ats")
    packed = OnOff("driver/@packed")
    page_per_vq = OnOff("driver/@page_per_vq")
    binary = Text("binary/@path")
    xattr = OnOff("binary/@xattr")
    cache = Choice("binary/cache/@mode", ("none", "always"))
    sandbox = Choice("binary/sandbox/@mode", ("namespace", "chroot"))
    posix_lock = OnOff("binary/lock/@posix")
    flock = OnOff("binary/lock/@flock")
    thread_pool = Unsigned("binary/thread_pool/@size")
    open_files = LongPositive("binary/openfiles/@max")
    uids = Many("idmap/uid", IdRange)
    gids = Many("idmap/gid", IdRange)
    source_dir = Text("source/@dir")
    source_socket = Text("source/@socket")
    source_dev = Text("source/@dev")
    source_file = Text("source/@file")
    target = Text("target/@dir", "")
    readonly = Present("readonly")

    @property
    def is_virtiofs(self) -> bool:
        return self.driver == "virtiofs"

    # -- defaults ----------------------------------------------------------------------------------

    def complete(self, d: Define) -> None:
        node = self.node
        node.attrib.setdefault("type", "mount")
        source, target = node.child("source"), node.child("target")
        if source is None or not source.attrib:
            raise error.plain("missing source information for device", node, "<source dir='/path'/>")
        if target is None or not target.get("dir"):
            raise error.plain(
                f"missing target information for device {self.source_dir or ''}".rstrip(),
                node,
                "<target dir='share'/>",
            )
        if self.type == "mount":
            source.drop("dev", "file")
        if source.get("socket") is not None:
            source.drop("dir")
        else:
            # with a socket it is the other process that decides who may do what
            node.attrib.setdefault("accessmode", "passthrough")
        if node.get("multidevs") == "default":
            node.drop("multidevs")
        ids = node.child("idmap")
        if ids is not None and not self.is_virtiofs:
            node.children = [child for child in node.children if child.tag != "idmap"]
        elif ids is not None:
            # of several, all ranges count
            ids.children = [one for each in node.all("idmap") for one in each.children]
            node.children = [child for child in node.children if child.tag != "idmap" or child is ids]
            ids.children.sort(key=lambda one: (one.tag != "uid", IdRange(one).start))

    # -- checks ------------------------------------------------------------------------------------

    def check(self, d: Define) -> None:
        if self.type != "mount":
            raise error.unsupported("only supports mount filesystem type", self.node, "type='mount'")
        if self.boot_order and not self.is_virtiofs:
            raise error.unsupported(
                "boot order is only supported for virtiofs",
                self.node.child("boot"),
                "drop <boot>, or <driver type='virtiofs'/>",
            )
        if self.is_virtiofs:
            self._check_virtiofs(d)
        elif self.driver == "mtp":
            self._check_mtp(d)
        elif self.driver not in ("path", "handle"):
            raise error.unsupported(
                "Filesystem driver type not supported", self.node, "<driver type='path'/> or 'virtiofs'"
            )
        if self.driver != "path" and (self.fmode is not None or self.dmode is not None):
            raise error.unsupported(
                "fmode and dmode must be used with driver type 'path'", self.node, "<driver type='path'/>"
            )
        if (self.fmode is not None or self.dmode is not None) and self.accessmode != "mapped":
            raise error.unsupported(
                "fmode and dmode must be used with accessmode=mapped", self.node, "accessmode='mapped'"
            )

    def _check_mtp(self, d: Define) -> None:
        if not d.emulator.has_device("usb-mtp"):
            raise error.unsupported(
                "MTP filesystem is not supported with this QEMU binary", self.node, "<driver type='path'/>"
            )
        if self.accessmode != "passthrough":
            raise error.unsupported(
                "mtp only supports passthrough accessmode", self.node, "accessmode='passthrough'"
            )

    def _check_virtiofs(self, d: Define) -> None:
        node = self.node
        if self.accessmode not in (None, "passthrough"):
            raise error.unsupported(
                "virtiofs only supports passthrough accessmode", node, "accessmode='passthrough'"
            )
        if self.write_policy is not None:
            raise error.unsupported("virtiofs does not support wrpolicy", node, "drop wrpolicy=")
        if self.model is not None:
            raise error.unsupported("virtiofs does not support model", node, "drop model=")
        if self.multidevs is not None:
            raise error.unsupported("virtiofs does not support multidevs", node, "drop multidevs=")
        require_shared_memory("virtiofs", d.domain, node)
        if self.boot_order and self.address_type not in ("", "pci"):
            raise error.unsupported(
                "setting virtiofs boot order is supported only with PCI bus",
                node.child("boot"),
                "drop <boot>",
            )

    # -- options -----------------------------------------------------------------------------------

    def options(self, b: Build) -> Iterator[Option]:
        yield from _OPTIONS.get(self.driver, _plan9_options)(self, b)


def _virtiofs_options(fs: Filesystem, b: Build) -> Iterator[Option]:
    chardev = f"chr-vu-{fs.alias}"
    path = fs.source_socket or f"{b.domain_dir}/{fs.alias}-fs.sock"
    yield socket_chardev(b, chardev, path, fs.node)
    properties: Properties = {
        "driver": virtio_driver("vhost-user-fs", fs, b),
        **virtio_properties(fs),
        "id": fs.alias,
        "chardev": chardev,
        "queue-size": fs.queue or None,
        "tag": fs.target,
        "bootindex": boot_index(fs, b),
        **address_properties(fs, b),
    }
    yield from zpci_options(fs, b)
    yield b.device(properties, fs.node, "a directory that virtiofsd serves")


def _mtp_options(fs: Filesystem, b: Build) -> Iterator[Option]:
    properties: Properties = {
        "driver": "usb-mtp",
        "id": fs.alias,
        "rootdir": fs.source_dir,
        "desc": fs.target,
        "readonly": fs.readonly,
        **address_properties(fs, b),
    }
    yield b.device(properties, fs.node, "a directory as a camera's storage")


def _plan9_options(fs: Filesystem, b: Build) -> Iterator[Option]:
    pairs: list[tuple[str, Value]] = []
    if fs.driver != "handle":
        pairs = [
            ("security_model", SECURITY_MODELS.get(fs.accessmode or "")),
            ("multidevs", fs.multidevs),
            ("fmode", None if fs.fmode is None else f"{fs.fmode:04o}"),
            ("dmode", None if fs.dmode is None else f"{fs.dmode:04o}"),
        ]
    pairs += [("writeout", fs.write_policy), ("id", f"fsdev-{fs.alias}"), ("path", fs.source_dir or "")]
    option = b.pairs(
        "-fsdev", "handle" if fs.driver == "handle" else "local", pairs, fs.node, "a directory over 9p"
    )
    if fs.readonly:
        option = option._replace(text=f"{option.text},readonly")
    yield option
    properties: Properties = {
        "driver": virtio_driver("virtio-9p", fs, b),
        **virtio_properties(fs),
        "id": fs.alias,
        "fsdev": f"fsdev-{fs.alias}",
        "mount_tag": fs.target,
        **address_properties(fs, b),
    }
    yield from zpci_options(fs, b)
    yield b.device(properties, fs.node, "the guest's end of the directory")


_OPTIONS: dict[str, Callable[[Filesystem, Build], Iterator[Option]]] = {
    "virtiofs": _virtiofs_options,
    "mtp": _mtp_options,
}
