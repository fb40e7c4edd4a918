"""The domain document of the years of QEMU 0.9 – 0.12: what libvirt 0.8.0 knew of it, in its writing order.

What later documents say beyond that is not declared, so it is not written; what of it matters is dealt with
in ``later``.  https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

import re
from typing import ClassVar

from qemushim.devices.address import PciAddress
from qemushim.document.fields import Choice, Field, Hex, Many, NumberSet, One, Present, Switch, Text, Unsigned
from qemushim.document.item import Item, Schema
from qemushim.document.node import Node
from qemushim.document.units import to_kib
from qemushim.errors import ConfigError, error

DISK_BUSES = ("ide", "fdc", "scsi", "virtio", "xen", "usb", "uml", "sata")
CHARDEV_TYPES = ("null", "vc", "pty", "dev", "file", "pipe", "stdio", "udp", "tcp", "unix")
CONTROLLER_TYPES = ("ide", "fdc", "scsi", "sata", "virtio-serial")
INTERFACE_TYPES = (
    *("user", "ethernet", "server", "client", "mcast", "network", "bridge", "internal", "direct"),
)
SOUND_MODELS = ("sb16", "es1370", "pcspk", "ac97")
#: qxl and none are later, but the same argument with other words
VIDEO_MODELS = ("vga", "cirrus", "vmvga", "xen", "vbox", "qxl", "none")
WATCHDOG_ACTIONS = ("reset", "shutdown", "poweroff", "pause", "none")
_LIFECYCLE = ("destroy", "restart", "rename-restart", "preserve")
_CRASH = (*_LIFECYCLE, "coredump-destroy", "coredump-restart")


class BareHex(Hex[int]):
    """A number that is hexadecimal with or without ``0x``, as PCI addresses were read then."""

    def __init__(self, path: str, digits: int) -> None:
        super().__init__(path, digits, 0)

    def read(self, raw: str) -> int:
        text = raw.strip()
        if not text.isalnum() or len(text) > 16:
            raise ValueError(raw)
        return int(text, 16)

    def advice(self) -> str:
        return "a hexadecimal number, such as 0x1f"


class Prefixed(Unsigned[int]):
    """A number whose base is told by its prefix, as in C: ``0x`` hexadecimal, ``0`` octal."""

    base = 0


class Kibibytes(Field[int]):
    """An amount of memory, written as the bare number of KiB; a ``unit`` of later documents is understood."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 0)

    def __get__(self, item: object, owner: type) -> int:  # type: ignore[override]
        if item is None:
            return self  # type: ignore[return-value]
        assert isinstance(item, Item)
        node = self.place(item.node)
        return self.of(node) if node is not None and node.text.strip() else 0

    def of(self, node: Node) -> int:
        try:
            return to_kib(node.text, node.get("unit"))
        except ValueError:
            raise error.xml(
                f"Invalid value for element '{node.tag}': '{node.text.strip()}'", node, "a number of KiB"
            ) from None

    def canonical(self, raw: str, node: Node) -> str | None:
        return str(self.of(node))


class Mac(Field[str]):
    """Six numbers, written in lower case and two digits each."""

    _form = re.compile("[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}")

    def __init__(self, path: str) -> None:
        super().__init__(path, "")

    def read(self, raw: str) -> str:
        if not self._form.fullmatch(raw.strip()):
            raise ValueError(raw)
        return ":".join(f"{int(part, 16):02x}" for part in raw.strip().split(":"))

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.xml(f"unable to parse mac address '{raw}'", place, "six numbers: 52:54:00:12:34:56")


# -- addresses ------------------------------------------------------------------------------------------


class PciPlace(Item):
    """``<address type='pci'>``; also, without the type, the place of a device of the host."""

    type = Text("@type")
    domain = BareHex("@domain", 4)
    bus = BareHex("@bus", 2)
    slot = BareHex("@slot", 2)
    function = BareHex("@function", 1)

    @property
    def place(self) -> PciAddress:
        return PciAddress(self.domain, self.bus, self.slot, self.function)


class DrivePlace(Item):
    """``<address type='drive'>``"""

    type = Text("@type")
    controller = Unsigned("@controller", 0)
    bus = Unsigned("@bus", 0)
    unit = Unsigned("@unit", 0)


class PortPlace(Item):
    """``<address type='virtio-serial'>``"""

    type = Text("@type")
    controller = Unsigned("@controller", 0)
    bus = Unsigned("@bus", 0)


class Address(Item):
    """``<address>`` of a device; other types than these three are later ones, and removed."""

    types: ClassVar[dict[str, type[Item]]] = {
        "pci": PciPlace,
        "drive": DrivePlace,
        "virtio-serial": PortPlace,
    }

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        return cls.types.get(node.get("type") or "", cls).schema


class Device(Item):
    """What every device ends with."""

    alias = Text("alias/@name")
    address = One("address", Address)

    def place_node(self, kind: str) -> Node | None:
        """The address, if it is of that type."""
        node = self.node.child("address")
        return node if node is not None and node.get("type") == kind else None

    @property
    def pci(self) -> PciAddress | None:
        node = self.place_node("pci")
        return PciPlace(node).place if node is not None else None

    @pci.setter
    def pci(self, place: PciAddress) -> None:
        node = self.node.ensure("address")
        node.attrib = {"type": "pci"}
        item = PciPlace(node)
        item.domain, item.bus, item.slot, item.function = place

    @property
    def drive(self) -> DrivePlace | None:
        node = self.place_node("drive")
        return DrivePlace(node) if node is not None else None


# -- devices --------------------------------------------------------------------------------------------


class Secret(Item):
    type = Text("@type")
    uuid = Text("@uuid")


class Encryption(Item):
    """``<encryption>`` of a qcow image."""

    format = Text("@format")
    secrets = Many("secret", Secret)


class Disk(Device):
    """https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms"""

    tag = "disk"
    type = Choice("@type", ("file", "block", "dir"), "file")
    device = Choice("@device", ("disk", "cdrom", "floppy"), "disk")
    driver = Text("driver/@name")
    format = Text("driver/@type", "")
    cache = Choice("driver/@cache", ("default", "none", "writethrough", "writeback", "directsync", "unsafe"))
    error_policy = Choice("driver/@error_policy", ("stop", "ignore", "enospace", "report"))
    source_file = Text("source/@file")
    source_dev = Text("source/@dev")
    source_dir = Text("source/@dir")
    target = Text("target/@dev", "")
    bus = Choice("target/@bus", DISK_BUSES, "ide")
    readonly = Present("readonly")
    shareable = Present("shareable")
    serial = Text("serial", "")
    encryption = One("encryption", Encryption)

    @property
    def source(self) -> str:
        """Path of the image, device or directory; ``""`` for an empty drive."""
        return {"file": self.source_file, "block": self.source_dev, "dir": self.source_dir}[self.type] or ""


class Controller(Device):
    """https://libvirt.org/formatdomain.html#controllers"""

    tag = "controller"
    type = Choice("@type", CONTROLLER_TYPES, "ide")
    index = Unsigned("@index", 0)
    ports = Unsigned[int | None]("@ports")
    vectors = Unsigned[int | None]("@vectors")


class Parameter(Item):
    name = Text("@name")
    value = Text("@value")


class Filter(Item):
    """``<filterref>``: rules of the host's packet filter."""

    filter = Text("@filter")
    parameters = Many("parameter", Parameter)


class Interface(Device):
    """https://libvirt.org/formatdomain.html#network-interfaces"""

    tag = "interface"
    type = Choice[str]("@type", INTERFACE_TYPES, "user", required=True)
    mac = Mac("mac/@address")
    network = Text("source/@network")
    bridge = Text("source/@bridge")
    dev = Text("source/@dev")
    mode = Text("source/@mode")
    peer = Text("source/@address", "")
    port = Text("source/@port", "")
    internal = Text("source/@name")
    ip = Text("ip/@address")
    script = Text("script/@path")
    ifname = Text("target/@dev", "")
    model = Text("model/@type", "")
    filter = One("filterref", Filter)


class Source(Item):
    """Where a character device is connected to on the host."""

    mode = Choice("@mode", ("connect", "bind"), "connect")
    host = Text("@host", "")
    service = Text("@service", "")
    path = Text("@path", "")


class Chardev(Device):
    """What serial and parallel ports, the console and channels share."""

    type = Choice("@type", CHARDEV_TYPES, "pty")
    tty = Text("@tty")
    sources = Many("source", Source)
    protocol = Choice("protocol/@type", ("raw", "telnet", "telnets", "tls"), "raw")
    target_type = Text("target/@type")
    target_address = Text("target/@address", "")
    port = Unsigned[int | None]("target/@port")
    name = Text("target/@name")

    def source(self, mode: str = "") -> Source | None:
        """The first source, or the first of that mode."""
        return next((s for s in self.sources if not mode or s.mode == mode), None)


class Serial(Chardev):
    tag = "serial"


class Parallel(Chardev):
    tag = "parallel"


class Console(Chardev):
    tag = "console"


class Channel(Chardev):
    tag = "channel"


class Input(Device):
    """https://libvirt.org/formatdomain.html#input-devices"""

    tag = "input"
    type = Choice("@type", ("mouse", "tablet", "keyboard"), required=True)
    bus = Choice("@bus", ("ps2", "usb", "xen"))


class Graphics(Item):
    """https://libvirt.org/formatdomain.html#graphical-framebuffers"""

    tag = "graphics"
    type = Choice("@type", ("sdl", "vnc", "rdp", "desktop"), required=True)
    port = Text("@port")
    autoport = Switch("@autoport", False)
    replace_user = Text("@replaceUser")
    multi_user = Text("@multiUser")
    listen = Text("@listen", "")
    keymap = Text("@keymap")
    display = Text("@display")
    xauth = Text("@xauth")
    fullscreen = Switch("@fullscreen", False)


class Sound(Device):
    """https://libvirt.org/formatdomain.html#sound-devices"""

    tag = "sound"
    model = Choice("@model", SOUND_MODELS, required=True)


class Video(Device):
    """https://libvirt.org/formatdomain.html#video-devices"""

    tag = "video"
    model = Choice("model/@type", VIDEO_MODELS)
    vram = Unsigned[int | None]("model/@vram")
    heads = Unsigned[int | None]("model/@heads")
    accel3d = Text("model/acceleration/@accel3d")
    accel2d = Text("model/acceleration/@accel2d")


class UsbPlace(Item):
    """A USB device of the host by its place."""

    bus = Prefixed("@bus", 0)
    device = Prefixed("@device", 0)


class HostAddress(Item):
    """``<source><address>``, of the kind that its attributes say."""

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        return UsbPlace.schema if node.get("device") is not None else _HOST_PCI


_HOST_PCI = Schema.of(field for field in PciPlace.fields.values() if field.attribute != "type")


class Hostdev(Device):
    """https://libvirt.org/formatdomain.html#host-device-assignment"""

    tag = "hostdev"
    mode = Choice("@mode", ("subsystem",), "subsystem")
    type = Choice("@type", ("usb", "pci"), required=True)
    managed = Switch("@managed", False)
    vendor = Hex("source/vendor/@id", 4, 0)
    product = Hex("source/product/@id", 4, 0)
    host = One("source/address", HostAddress)


class Watchdog(Device):
    """https://libvirt.org/formatdomain.html#watchdog-devices"""

    tag = "watchdog"
    model = Choice("@model", ("i6300esb", "ib700"), required=True)
    action = Choice("@action", WATCHDOG_ACTIONS, "reset")


class Balloon(Device):
    """``<memballoon>``: from libvirt 0.8.2 on; without the element there is a balloon all the same."""

    tag = "memballoon"
    model = Choice("@model", ("virtio", "xen", "none"), "virtio")


class Devices(Item):
    tag = "devices"
    emulator = Text("emulator")
    disks = Many("disk", Disk)
    controllers = Many("controller", Controller)
    interfaces = Many("interface", Interface)
    serials = Many("serial", Serial)
    parallels = Many("parallel", Parallel)
    consoles = Many("console", Console)
    channels = Many("channel", Channel)
    inputs = Many("input", Input)
    graphics = Many("graphics", Graphics)
    sounds = Many("sound", Sound)
    videos = Many("video", Video)
    hostdevs = Many("hostdev", Hostdev)
    watchdogs = Many("watchdog", Watchdog)
    balloons = Many("memballoon", Balloon)


# -- the rest of the domain -----------------------------------------------------------------------------


class Vcpu(Item):
    cpuset = NumberSet("@cpuset")
    count = Unsigned(".", 1)


class MemoryBacking(Item):
    hugepages = Present("hugepages")


class Boot(Item):
    dev = Choice("@dev", ("fd", "cdrom", "hd", "network"), required=True)


class Os(Item):
    """https://libvirt.org/formatdomain.html#operating-system-booting"""

    arch = Text("type/@arch", "")
    machine = Text("type/@machine", "")
    type = Text("type", "hvm")
    init = Text("init")
    loader = Text("loader")
    kernel = Text("kernel")
    initrd = Text("initrd")
    cmdline = Text("cmdline")
    root = Text("root")
    boots = Many("boot", Boot)


class Features(Item):
    acpi = Present("acpi")
    apic = Present("apic")
    pae = Present("pae")


class CpuFeature(Item):
    policy = Choice("@policy", ("force", "require", "optional", "disable", "forbid"), "require")
    name = Text("@name", "")


class Cpu(Item):
    """https://libvirt.org/formatdomain.html#cpu-model-and-topology"""

    mode = Text("@mode")
    match = Choice("@match", ("minimum", "exact", "strict"), "exact")
    model = Text("model")
    sockets = Unsigned("topology/@sockets", 0)
    cores = Unsigned("topology/@cores", 0)
    threads = Unsigned("topology/@threads", 0)
    features = Many("feature", CpuFeature)


class Timer(Item):
    """https://libvirt.org/formatdomain.html#time-keeping"""

    name = Choice("@name", ("platform", "pit", "rtc", "hpet", "tsc"), required=True)
    present = Switch[bool | None]("@present")
    tickpolicy = Choice("@tickpolicy", ("delay", "catchup", "merge", "discard"))
    track = Choice("@track", ("boot", "guest", "wall"))
    frequency = Text("@frequency")
    mode = Text("@mode")
    threshold = Text("catchup/@threshold")
    slew = Text("catchup/@slew")
    limit = Text("catchup/@limit")


class Clock(Item):
    offset = Choice("@offset", ("utc", "localtime", "variable", "timezone"), "utc")
    timezone = Text("@timezone")
    #: seconds from UTC
    adjustment = Text("@adjustment")
    timers = Many("timer", Timer)


class Seclabel(Item):
    type = Text("@type")
    model = Text("@model")
    label = Text("label")
    imagelabel = Text("imagelabel")


class Argument(Item):
    value = Text("@value", "")


class Variable(Item):
    name = Text("@name", "")
    value = Text("@value", "")


class Commandline(Item):
    """``<qemu:commandline>``, which libvirt had from the summer of 2010 on."""

    arguments = Many("qemu:arg", Argument)
    variables = Many("qemu:env", Variable)


class Domain(Item):
    """The whole document."""

    tag = "domain"
    type = Text("@type", "")
    qemu_namespace = Text("@xmlns:qemu")
    name = Text("name", "")
    uuid = Text("uuid", "")
    description = Text("description")
    memory = Kibibytes("memory")
    current_memory = Kibibytes("currentMemory")
    memory_backing = One("memoryBacking", MemoryBacking)
    vcpu = One("vcpu", Vcpu)
    bootloader = Text("bootloader")
    bootloader_args = Text("bootloader_args")
    os = One("os", Os)
    features = One("features", Features)
    cpu = One("cpu", Cpu)
    clock = One("clock", Clock)
    on_poweroff = Choice("on_poweroff", _LIFECYCLE, "destroy")
    on_reboot = Choice("on_reboot", _LIFECYCLE, "restart")
    on_crash = Choice("on_crash", _CRASH, "destroy")
    devices_ = One("devices", Devices, keep_empty=True)
    seclabel = One("seclabel", Seclabel)
    commandline = One("qemu:commandline", Commandline)

    @property
    def devices(self) -> Devices:
        return Devices(self.node.ensure("devices"))

    @property
    def is_hvm(self) -> bool:
        """Fully virtualised: with a firmware and the devices of a PC."""
        return self.node.value("os/type") == "hvm"
