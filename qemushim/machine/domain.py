"""``Domain``: the document of one guest as typed elements.  https://libvirt.org/formatdomain.html

``Guest`` (above) is what users hold; the phases work on this.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from qemushim.board import Board, board_of
from qemushim.devices import BY_TAG
from qemushim.devices.base import Device
from qemushim.document.fields import (
    Choice,
    Field,
    LiveText,
    Many,
    Natural,
    One,
    OnOff,
    Text,
    Unsigned,
    Verbatim,
)
from qemushim.document.item import Item, Schema, check
from qemushim.document.node import COMMENT, Node
from qemushim.document.sizes import Size
from qemushim.document.writer import write
from qemushim.errors import ConfigError, error
from qemushim.machine.boot import Os
from qemushim.machine.clock import CRASH, LIFECYCLE, LOCKFAILURE, Action, Clock
from qemushim.machine.cpu import Cpu
from qemushim.machine.cputune import Cputune
from qemushim.machine.features import Features
from qemushim.machine.memory import MemoryBacking
from qemushim.machine.namespace import Capabilities, Commandline, Deprecation, Override
from qemushim.machine.numa import NumaTune
from qemushim.machine.order import insert_device
from qemushim.machine.security import Keywrap, LaunchSecurity, Seclabel
from qemushim.machine.smbios import Sysinfo
from qemushim.machine.throttle import ThrottleGroups
from qemushim.machine.tune import Blkiotune, Idmap, Memtune, Perf, PowerManagement, Resource
from qemushim.machine.vcpu import IothreadIds, Vcpu, Vcpus

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qemushim.devices.memory import MemoryDevice

D = TypeVar("D", bound=Device)
#: named here, because ``Domain`` has a field that is called ``type``
Kind = type[D]

VIRT_TYPES = (
    *("qemu", "kvm", "xen", "lxc", "uml", "openvz", "test", "vmware", "hyperv", "vbox"),
    *("phyp", "parallels", "bhyve", "vz", "hvf"),
)

#: tags in the order in which phases walk the devices (defaults, CCW numbers, USB ports, validation)
DEVICE_ORDER = (
    *("disk", "interface", "sound", "hostdev", "video", "controller", "smartcard", "serial"),
    *("parallel", "channel", "console", "input", "filesystem", "watchdog", "memballoon", "rng"),
    *("nvram", "hub", "shmem", "tpm", "panic", "memory", "redirdev", "iommu"),
    *("vsock", "crypto", "pstore", "graphics", "audio", "lease", "redirfilter"),
)


#: tags in the order in which libvirt reads them: of several mistakes the one that it comes to first is told
READING_ORDER = (
    *(
        "name",
        "uuid",
        "genid",
        "os",
        "title",
        "description",
        "seclabel",
        "memory",
        "maxMemory",
        "currentMemory",
    ),
    *("memoryBacking", "blkiotune", "memtune", "vcpu", "vcpus", "iothreads", "iothreadids"),
    *("defaultiothread", "cputune", "cpu", "numatune", "resource", "features", "on_poweroff", "on_reboot"),
    *("on_crash", "on_lockfailure", "pm", "perf", "clock", "throttlegroups", "devices"),
)
READING_DEVICES = (
    *("disk", "controller", "lease", "filesystem", "interface", "smartcard", "parallel", "serial", "console"),
    *("channel", "input", "graphics", "sound", "audio", "video", "hostdev", "watchdog", "memballoon", "rng"),
    *("crypto", "tpm", "nvram", "hub", "redirdev", "redirfilter", "panic", "shmem", "memory", "iommu"),
    *("vsock", "pstore"),
)


def _as_read(node: Node, order: tuple[str, ...]) -> Node:
    """The element with its children in the order in which libvirt reads them."""
    place = {tag: number for number, tag in enumerate(order)}
    sorted_ = Node(node.tag, node.attrib, text=node.text, line=node.line)
    sorted_.children = sorted(node.children, key=lambda child: place.get(child.tag, len(place)))
    return sorted_


class Devices(Item):
    """``<devices>``: the emulator's path and the devices, grouped by kind in libvirt's order."""

    tag = "devices"
    emulator = Text("emulator")

    @classmethod
    def make_schema(cls) -> Schema:
        kinds: list[Field[Any]] = [Many(tag, partial(BY_TAG.__getitem__, tag)) for tag in BY_TAG]
        return Schema.of([*cls.fields.values(), *kinds])


class Domain(Item):
    """The root element.  The order of the fields is libvirt's writing order."""

    tag = "domain"
    type = Choice("@type", VIRT_TYPES)
    #: libvirt's number of a running guest
    id = LiveText("@id")
    qemu_namespace = Text("@xmlns:qemu")
    name_ = Text("name")
    uuid = Text("uuid")
    genid = Text("genid")
    title = Text("title")
    description = Text("description")
    metadata = Verbatim("metadata")
    max_memory_slots = Unsigned("maxMemory/@slots")
    max_memory = Size("maxMemory")
    memory_dump_core = OnOff("memory/@dumpCore")
    memory = Size("memory")
    current_memory = Size("currentMemory")
    blkiotune = One("blkiotune", Blkiotune)
    memtune = One("memtune", Memtune)
    memory_backing = One("memoryBacking", MemoryBacking)
    vcpu = One("vcpu", Vcpu)
    vcpus = One("vcpus", Vcpus)
    iothreads = Text("iothreads")
    iothreadids = One("iothreadids", IothreadIds)
    default_iothread_min = Natural("defaultiothread/@thread_pool_min")
    default_iothread_max = Natural("defaultiothread/@thread_pool_max")
    throttle_groups = One("throttlegroups", ThrottleGroups)
    cputune = One("cputune", Cputune)
    numatune = One("numatune", NumaTune)
    resource = One("resource", Resource)
    sysinfo = Many("sysinfo", Sysinfo)
    bootloader = Text("bootloader")
    bootloader_args = Text("bootloader_args")
    os = One("os", Os)
    idmap = One("idmap", Idmap)
    features = One("features", Features)
    cpu = One("cpu", Cpu)
    clock = One("clock", Clock)
    on_poweroff = Action("on_poweroff", LIFECYCLE)
    on_reboot = Action("on_reboot", LIFECYCLE)
    on_crash = Action("on_crash", CRASH)
    on_lockfailure = Action("on_lockfailure", LOCKFAILURE)
    pm = One("pm", PowerManagement)
    perf = One("perf", Perf)
    devices_ = One("devices", Devices, keep_empty=True)
    seclabels = Many("seclabel", Seclabel)
    keywrap = One("keywrap", Keywrap)
    launch_security = One("launchSecurity", LaunchSecurity)
    qemu_commandline = One("qemu:commandline", Commandline)
    qemu_capabilities = One("qemu:capabilities", Capabilities)
    qemu_override = One("qemu:override", Override)
    qemu_deprecation = One("qemu:deprecation", Deprecation)

    def __init__(self, node: Node, like: Domain | None = None) -> None:
        """``like``: the domain that ``node`` is a copy of the tree of; devices are listed in its order."""
        super().__init__(node)
        self._os_type: Node | None = None
        self._board = Board("", "")
        devices = node.child("devices")
        self.lists: dict[str, list[Device]]
        if like is not None and devices is not None:
            twins = dict(zip(map(id, like.node.ensure("devices").children), devices.children, strict=True))
            self.lists = {
                tag: [type(device)(twins[id(device.node)]) for device in listed]
                for tag, listed in like.lists.items()
            }
            return
        self.lists = {tag: [] for tag in BY_TAG}
        for more in node.all("devices")[1:]:
            # whatever says <devices> is one list to libvirt
            node.ensure("devices").children += more.children
            node.remove(more)
        for child in devices.children if devices is not None else ():
            listed = self.lists.get(child.tag)
            if listed is not None:
                insert_device(listed, BY_TAG[child.tag](child))

    # -- what everything asks ------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.name_ or ""

    @property
    def virt(self) -> str:
        """The domain type: ``kvm``, ``qemu``, ``hvf``."""
        return self.type or ""

    @property
    def _type(self) -> dict[str, str]:
        """The attributes of ``<os><type>``."""
        if self._os_type is None:
            self._os_type = self.node.find("os/type")
        return self._os_type.attrib if self._os_type is not None else {}

    @property
    def arch(self) -> str:
        """libvirt's name of the guest's architecture, ``""`` before it is filled in."""
        return self._type.get("arch", "")

    @property
    def machine_type(self) -> str:
        """Name or alias of the machine type, ``""`` before it is filled in."""
        return self._type.get("machine", "")

    @property
    def board(self) -> Board:
        """Architecture and machine type, as they are now (``define`` fills them in)."""
        attrib = self._type
        arch, machine = attrib.get("arch", ""), attrib.get("machine", "")
        if self._board.arch != arch or self._board.machine != machine:
            self._board = board_of(arch, machine)
        return self._board

    # -- devices ------------------------------------------------------------

    def all(self, kind: Kind[D]) -> list[D]:
        """The devices of one kind, in libvirt's order (see ``order.insert_device``)."""
        return self.lists[kind.tag]  # type: ignore[return-value]

    @property
    def memory_devices(self) -> list[MemoryDevice]:
        """``all(MemoryDevice)``, for callers who have no use for the class where there are none."""
        return self.lists["memory"]  # type: ignore[return-value]

    def every(self) -> Iterator[Device]:
        """Every device, kind by kind in the order in which phases walk them."""
        for tag in DEVICE_ORDER:
            listed = self.lists[tag]
            if listed:
                yield from tuple(listed)

    def as_read(self) -> Iterator[Device]:
        """Every device, kind by kind in the order in which libvirt reads them."""
        for tag in READING_DEVICES:
            yield from self.lists[tag]

    def add(self, kind: Kind[D], attrib: dict[str, str] | None = None, *, first: bool = False) -> D:
        """A new device, at the place among its kind where libvirt would put it."""
        node = Node(kind.tag, attrib or {})
        device = kind(node)
        self.node.ensure("devices").append(node)
        if first:
            self.lists[kind.tag].insert(0, device)
        else:
            insert_device(self.lists[kind.tag], device)
        return device

    def adopt(self, node: Node) -> Device:
        """Take in the element of a device; or ``ConfigError`` where it is none, or a value is malformed."""
        kind = BY_TAG.get(node.tag)
        if kind is None:
            raise error.unsupported(
                f"unknown device type '{node.tag}'", node, f"one of: {', '.join(sorted(BY_TAG))}"
            )
        check(node, kind.schema_for(node))
        for element in node.iter():
            element.origin = -1  # it comes from another document
        device = kind(node)
        self.node.ensure("devices").append(node)
        insert_device(self.lists[node.tag], device)
        return device

    def remove(self, device: Device) -> None:
        """Take a device out of the document and of the list of its kind."""
        self.node.ensure("devices").remove(device.node)
        self.lists[device.tag] = [d for d in self.lists[device.tag] if d is not device]

    # -- text ------------------------------------------------------------

    def check_fields(self) -> None:
        """Every declared value once.  Raises ``ConfigError`` at the first that libvirt would find wrong."""
        try:
            check(self.node, self.schema)
        except ConfigError:
            root = _as_read(self.node, READING_ORDER)
            root.children = [
                _as_read(child, READING_DEVICES) if child.tag == "devices" else child
                for child in root.children
            ]
            check(root, self.schema)
            raise

    def to_xml(self, *, live: bool = False) -> str:
        """In libvirt's writing style; ``live``: with what the guest has only while it runs."""
        root = Node(self.node.tag, self.node.attrib, text=self.node.text, line=self.node.line)
        for child in self.node.children:
            if child.tag == "devices":
                ordered = Node("devices", child.attrib, line=child.line)
                others = [n for n in child.children if n.tag not in BY_TAG and n.tag != COMMENT]
                ordered.children = others + [
                    device.node for devices in self.lists.values() for device in devices
                ]
                root.children.append(ordered)
            else:
                root.children.append(child)
        return write(root, self.schema, live=live)


def require_domain(node: Node) -> None:
    """Raise ``ConfigError`` unless the document is one of a domain."""
    if node.tag != "domain":
        raise error.xml(
            f"unexpected root element <{node.tag}>, expecting <domain>", node, "this is not a domain document"
        )


__all__ = ["DEVICE_ORDER", "Devices", "Domain", "require_domain"]
