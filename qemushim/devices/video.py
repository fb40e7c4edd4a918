"""``<video>``: graphics cards.  https://libvirt.org/formatdomain.html#video-devices"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.base import Device, VirtioDriver, forbid_virtio_options, virtio_properties
from qemushim.devices.charsource import connect_chardev
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.document.fields import Choice, One, OnOff, Positive, Switch, Text, Unsigned
from qemushim.document.item import Tail
from qemushim.document.node import Node
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Context, Define
    from qemushim.host import Host

TYPES = (
    "default",
    "vga",
    "cirrus",
    "vmvga",
    "xen",
    "vbox",
    "qxl",
    "parallels",
    "virtio",
    "gop",
    "none",
    "bochs",
    "ramfb",
)

#: memory of a card (KiB) where the document does not say
_VRAM = {"bochs": 16384, "cirrus": 16384, "qxl": 65536, "vga": 16384, "vmvga": 16384}
_QXL_RAM = 65536
_QXL_VGAMEM = 16384
#: type → the devices that any emulator needs one of, to have it
_DEVICES = {
    "bochs": ("bochs-display",),
    "cirrus": ("cirrus-vga",),
    "qxl": ("qxl",),
    "ramfb": ("ramfb",),
    "vga": ("VGA",),
    "virtio": ("virtio-gpu-pci", "virtio-gpu-device", "virtio-gpu-ccw"),
    "vmvga": ("vmware-svga",),
}
#: type → QEMU's card; virtio's depends on more
CARDS = {
    "bochs": "bochs-display",
    "cirrus": "cirrus-vga",
    "qxl": "qxl-vga",
    "ramfb": "ramfb",
    "vga": "VGA",
    "vmvga": "vmware-svga",
}
#: types that can be a second card
_SECONDARY = frozenset({"qxl", "virtio"})
#: cards that can be told what to show first
_WITH_RESOLUTION = frozenset({"bochs", "gop", "qxl", "vga", "virtio"})


class _VgaConf(Choice["str | None"]):
    """How bhyve's VGA is configured; ``io``, the default, is not written."""

    def canonical(self, raw: str, node: Node) -> str | None:
        return None if raw == "io" else raw


class Driver(VirtioDriver):
    """``<driver>`` of a card."""

    head = Tail()
    vgaconf = _VgaConf("@vgaconf", ("io", "on", "off"))
    name = Choice("@name", ("qemu", "vhostuser"))


class Video(Device):
    """``<video>``: a graphics card.  Memory is in KiB."""

    tag = "video"

    driver = One("driver", Driver)
    type = Choice("model/@type", TYPES, "default")
    ram = Unsigned("model/@ram", 0)
    vram = Unsigned("model/@vram", 0)
    vram64 = Unsigned("model/@vram64", 0)
    vgamem = Unsigned("model/@vgamem", 0)
    heads = Unsigned("model/@heads", 0)
    primary = Switch("model/@primary", False)
    blob = OnOff("model/@blob")
    accel3d = Switch("model/acceleration/@accel3d")
    accel2d = Switch("model/acceleration/@accel2d")
    rendernode = Text("model/acceleration/@rendernode")
    xres = Positive("model/resolution/@x", 0, required=True)
    yres = Positive("model/resolution/@y", 0, required=True)

    @property
    def is_vhost_user(self) -> bool:
        """The card is a process of its own."""
        return self.node.value("driver/@name") == "vhostuser"

    # -- defaults --------------------------------------------------------------------------------------------

    def complete(self, d: Define) -> None:
        kind = self.type
        if kind == "default":
            kind = self.type = default_type(d)
        if kind == "none":
            alias = self.node.child("alias")
            self.node.children = [self.node.ensure("model"), *([alias] if alias is not None else ())]
            self.node.ensure("model").attrib = {"type": "none"}
            self.node.ensure("model").children = []
            return
        self._check_memory(kind)
        if kind == "qxl":
            self.ram = self.ram or _QXL_RAM
            self.vgamem = self.vgamem or _QXL_VGAMEM
        self.vram = self.vram or _VRAM.get(kind, 0)
        for name in ("ram", "vram"):
            size = getattr(self, name)
            setattr(self, name, 1 << (size - 1).bit_length() if size else None)
        self.vram64 = self.vram64 or None
        self.vgamem = self.vgamem or None
        self.heads = self.heads or 1
        if not self.primary:
            self.primary = None

    def _check_memory(self, kind: str) -> None:
        for name in ("ram", "vram64", "vgamem"):
            if kind != "qxl" and getattr(self, name):
                raise error.unsupported(
                    f"{name} attribute only supported for video type qxl", self.node, f"drop {name}="
                )

    # -- checks ----------------------------------------------------------------------------------------------

    def _check_drawing(self) -> None:
        model = self.node.ensure("model")
        acceleration = model.child("acceleration")
        if acceleration is None:
            return
        if self.accel2d is None and self.accel3d is None and self.rendernode is None:
            message = "missing values for acceleration"
            raise error.unsupported(message, acceleration, "accel3d='yes' or 'no'")
        if self.rendernode is not None and not self.is_vhost_user:
            message = "unsupported rendernode accel attribute without 'vhostuser'"
            raise error.unsupported(message, acceleration, "drop rendernode=")

    def check(self, d: Define) -> None:
        self._check_drawing()
        if self.heads > 1 and self.type not in _SECONDARY:
            message = f"video type '{self.type}' doesn't support multiple 'heads'"
            raise error.unsupported(message, self.node, "heads='1'")
        others = d.domain.all(Video)
        if len(others) > 1:
            if self.type == "none":
                raise error.unsupported(
                    "a 'none' video type must be the only video device defined for the domain",
                    self.node,
                    "remove the others",
                )
            if others[0] is self and sum(other.primary for other in others) > 1:
                second = [other for other in others if other.primary][1]
                raise error.unsupported(
                    "Only one primary video device is supported", second.node, "primary='yes' for one of them"
                )
        if self.type == "none":
            return
        self._check_model()
        self._check_kind(d)
        self._check_sizes()
        self._check_acceleration(d)
        if self.type == "ramfb" and self.address_type not in ("", "none"):
            raise error.unsupported(
                "address not supported for video type ramfb", self.node.child("address"), "drop <address>"
            )
        if self.type != "virtio":
            forbid_virtio_options(self)

    def _check_model(self) -> None:
        """What goes together whatever the emulator is."""
        if self.node.find("model/resolution") is not None and self.type not in _WITH_RESOLUTION:
            raise error.xml("model resolution is not supported", self.node, "drop <resolution>")
        if not self.is_vhost_user:
            if self.rendernode is not None:
                raise error.unsupported(
                    "unsupported rendernode accel attribute without 'vhostuser'",
                    self.node,
                    "drop rendernode=",
                )
        elif self.type != "virtio":
            raise error.unsupported(
                "'vhostuser' driver is only supported with 'virtio' device", self.node, "type='virtio'"
            )

    def _check_kind(self, d: Define) -> None:
        if not any(d.emulator.has_device(device) for device in _DEVICES.get(self.type, ())):
            raise error.unsupported(
                f"domain configuration does not support video model '{self.type}'",
                self.node,
                "another type, such as virtio",
            )
        if self.type not in _SECONDARY and self.node is not _primary(d).node:
            raise error.unsupported(
                f"video type '{self.type}' is only valid as primary video device",
                self.node,
                "make it the first, or type='virtio'",
            )
        if self.is_vhost_user and not (self.type == "virtio" and d.emulator.has_device("vhost-user-gpu")):
            raise error.unsupported(
                "this QEMU does not support 'vhost-user' video device",
                self.node,
                "drop <driver name='vhostuser'/>",
            )
        if self.blob is not None:
            if self.type != "virtio":
                raise error.unsupported(
                    f"video type '{self.type}' does not support blob resources", self.node, "drop blob="
                )
            if not _virtio_gpu_has(d, "blob"):
                raise error.unsupported(
                    "this QEMU does not support 'blob' for virtio-gpu devices", self.node, "drop blob="
                )
            if self.blob and d.domain.node.value("memoryBacking/source/@type") != "memfd":
                raise error.unsupported(
                    "'blob' support for virtio-gpu devices requires a memfd memory backend",
                    self.node,
                    "<memoryBacking><source type='memfd'/></memoryBacking>",
                )

    def _check_sizes(self) -> None:
        """QEMU takes a card's memory in whole MiB, or as a 32-bit number of bytes."""
        if self.type == "qxl":
            for name, size in (("vram", self.vram), ("ram", self.ram)):
                if size > 0xFFFFFFFF // 1024:
                    raise error.unsupported(
                        f"value for '{name}' must be less than '{0xFFFFFFFF // 1024}'",
                        self.node,
                        "a smaller one",
                    )
            if self.vgamem < 1024:
                raise error.unsupported(
                    "value for 'vgamem' must be at least 1 MiB (1024 KiB)", self.node, "vgamem='16384'"
                )
            if self.vgamem & (self.vgamem - 1):
                raise error.unsupported(
                    "value for 'vgamem' must be power of two", self.node, "vgamem='16384'"
                )
        if self.type in ("vga", "vmvga", "bochs") and self.vram < 1024:
            raise error.unsupported(
                "value for 'vram' must be at least 1 MiB (1024 KiB)", self.node, "vram='16384'"
            )

    def _check_acceleration(self, d: Define) -> None:
        if self.accel2d:
            raise error.unsupported("qemu does not support the accel2d setting", self.node, "drop accel2d=")
        if not self.accel3d or self.is_vhost_user:
            return
        if self.type != "virtio":
            raise error.unsupported(
                "3d acceleration is supported only with 'virtio' video device", self.node, "type='virtio'"
            )
        known = (
            _virtio_gpu_has(d, "virgl")
            or d.emulator.has_device("virtio-gpu-gl-pci")
            or d.emulator.has_device("virtio-vga-gl")
        )
        if not known:
            raise error.unsupported(
                "3d acceleration is not supported by this QEMU binary", self.node, "drop accel3d="
            )

    # -- the command line ------------------------------------------------------------------------------------

    def options(self, b: Build) -> Iterator[Option]:
        if self.type == "none":
            return
        if self.is_vhost_user:
            yield from self._helper_options(b)
        is_virtio = self.type == "virtio"
        properties: dict[str, Value] = {"driver": self._card(b)}
        if is_virtio and properties["driver"] != "vhost-user-vga":
            properties.update(virtio_properties(self))
        properties["id"] = self.alias
        if is_virtio and self.accel3d is not None and _virtio_gpu_has(b, "virgl"):
            properties["virgl"] = self.accel3d
        if self.type in _SECONDARY:
            properties["max_outputs"] = self.heads or None
        properties.update(self._memory_properties(b))
        properties["xres"] = self.xres or None
        properties["yres"] = self.yres or None
        yield from zpci_options(self, b)
        yield b.device({**properties, **address_properties(self, b)}, self.node, "a graphics card")

    def _card(self, b: Build) -> str:
        """QEMU's name of the card; only the primary card is VGA compatible."""
        primary = self.node is _primary(b).node
        if self.type != "virtio":
            return "qxl" if self.type == "qxl" and not primary else CARDS[self.type]
        has = b.emulator.has_device
        if self.is_vhost_user:
            if primary and has("vhost-user-vga"):
                return "vhost-user-vga"
            return virtio_driver("vhost-user-gpu", self, b)
        if primary and has("virtio-vga"):
            return "virtio-vga-gl" if self.accel3d and has("virtio-vga-gl") else "virtio-vga"
        gl = self.accel3d and has("virtio-gpu-gl-pci")
        return virtio_driver("virtio-gpu-gl" if gl else "virtio-gpu", self, b)

    def _memory_properties(self, b: Build) -> dict[str, Value]:
        properties: dict[str, Value] = {}
        if self.type == "qxl":
            properties["ram_size"] = self.ram * 1024 or None
            properties["vram_size"] = self.vram * 1024 or None
            properties["vram64_size_mb"] = self.vram64 // 1024
            properties["vgamem_mb"] = self.vgamem // 1024
        elif self.is_vhost_user:
            properties["chardev"] = f"chr-vu-{self.alias}"
        elif self.type in ("vga", "vmvga"):
            if b.emulator.device_property(CARDS[self.type], "vgamem_mb"):
                properties["vgamem_mb"] = self.vram // 1024 or None
        elif self.type == "bochs":
            properties["vgamem"] = self.vram * 1024 or None
        elif self.type == "virtio":
            properties["blob"] = self.blob
        return properties

    def _helper_options(self, b: Build) -> Iterator[Option]:
        """The socket of the process that is the card."""
        find_helper(b.host, "gpu", self)
        name = f"chr-vu-{self.alias}"
        yield connect_chardev(b, name, f"{b.domain_dir}/{self.alias}-vhost-user-gpu.sock", self.node)


def default_type(c: Context) -> str:
    """The type of a card that a document does not name."""
    board = c.board
    if board.is_ppc64:
        return "vga"
    if board.is_arm_virt or board.is_loongarch_virt or board.is_riscv_virt or board.is_s390:
        return "virtio"
    return next((kind for kind in ("cirrus", "vga") if c.emulator.has_device(_DEVICES[kind][0])), "default")


def _primary(c: Context) -> Video:
    """The card that the firmware uses: the one that says so, else the first."""
    videos = c.domain.all(Video)
    return next((video for video in videos if video.primary), videos[0])


def _virtio_gpu_has(c: Context, name: str) -> bool:
    return any(c.emulator.device_property(device, name) for device in _DEVICES["virtio"])


def find_helper(host: Host, kind: str, device: Device) -> str:
    """The program of the first vhost-user descriptor of a kind; ``ConfigError`` where there is none."""
    for _, content in host.vhost_user:
        if content is not None and content.get("type") == kind:
            return str(content.get("binary") or "")
    raise error.failed(
        f"Unable to find a satisfying vhost-user-{kind}",
        device.node,
        "install it on the host, or drop <driver name='vhostuser'/>",
    )
