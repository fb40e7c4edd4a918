"""``LiveGuest``: a guest that runs, with what it has only while it does.

Its document has the ids of devices (``<alias>``), the numbers of block nodes (``index=``), and the paths and ports that
were chosen when it started.  https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from qemushim.context import Build, Define
from qemushim.devices.alias import assign_aliases
from qemushim.devices.base import Device
from qemushim.devices.block_secrets import managed_socket
from qemushim.devices.charsource import channel_path
from qemushim.devices.disk import Disk
from qemushim.devices.shmem import Shmem
from qemushim.devices.storage import BACKING_FORMATS
from qemushim.document.node import Node
from qemushim.errors import error
from qemushim.guest import DEFINE, Guest, located
from qemushim.machine.namespace import changed_emulator

if TYPE_CHECKING:
    from qemushim.command.command import Command
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host
    from qemushim.machine.domain import Domain


class LiveGuest(Guest):
    """A guest that runs.  Whatever plans a change of it works on a copy."""

    def __init__(self, root: Node, file: str = "", like: Domain | None = None) -> None:
        super().__init__(root, file, like)
        for device in self.domain.every():
            device.alias = device.alias_name or ""
        #: the highest number that a block node of it ever had
        self.nodes = max(
            map(_last_node, (*self.domain.lists["disk"], *self.domain.lists["hostdev"])), default=0
        )
        #: the number of its next fd set; ``None``: QEMU has to be asked which there are
        self.fd_sets: int | None = None

    @classmethod
    def of(cls, guest: Guest, *, nodes: int = 0) -> LiveGuest:
        """The guest of a live document.  ``nodes``: the highest number that a block node of it ever had."""
        if isinstance(guest, LiveGuest):
            return guest
        live = cls(guest.domain.node.copy(), guest.file, guest.domain)
        live.nodes = max(live.nodes, nodes)
        return live

    @classmethod
    def read(cls, text: str | bytes, emulator: Emulator, host: Host, file: str = "") -> LiveGuest:
        """The guest of a live document; ids and addresses that it leaves out are made up.

        Raises what ``Guest.from_xml`` and ``Guest.define`` raise.
        """
        guest = Guest.from_xml(text, file)
        domain = guest.domain
        if host.domain_id >= 0 and domain.id is None:
            domain.id = str(host.domain_id)
        d = Define(domain, emulator, host, update=False, start=True, live=True)
        with located(file):
            for step in DEFINE:
                step(d)
        for device in domain.every():
            device.alias = device.alias_name or ""
        assign_aliases(d)
        write_aliases(domain.every())
        return cls.of(guest)

    @classmethod
    def started(
        cls, definition: Guest, emulator: Emulator, host: Host, *, incoming: str = ""
    ) -> tuple[LiveGuest, Command]:
        """A complete definition as it is when it has been started, and the command line that starts it."""
        guest = definition.copy()
        command = guest.start(emulator, host, incoming=incoming)
        b = Build(guest.domain, emulator, host)
        for device in guest.domain.every():
            settle(device, b)
        write_aliases(guest.domain.every())
        if host.domain_id >= 0:
            guest.domain.id = str(host.domain_id)
        live = cls.of(guest)
        live.fd_sets = sum(option.flag == "-add-fd" for option in command.options)
        return live, command

    def copy(self) -> LiveGuest:
        twin = LiveGuest(self.domain.node.copy(), self.file, self.domain)
        twin.nodes, twin.fd_sets = self.nodes, self.fd_sets
        return twin

    def to_xml(self, style: str = "libvirt") -> str:
        """The live document, in libvirt's order and style."""
        return self.domain.to_xml(live=True)

    def hear_fd_sets(self, known: Any) -> None:
        """Number fd sets behind those that QEMU has."""
        self.fd_sets = max((int(entry["fdset-id"]) for entry in known), default=-1) + 1

    def own_host(self, host: Host) -> Host:
        """The host as this guest sees it: its paths have the guest's number in them."""
        number = self.domain.id or ""
        return host._replace(domain_id=int(number)) if number.isdecimal() else host

    def own_emulator(self, emulator: Emulator) -> Emulator:
        """The emulator with the abilities that the document assumes or denies.

        Raises ``ConfigError`` where it is one that is known by its help text: nothing can be said to that here.
        """
        if emulator.classic:
            raise error.not_supported(
                "this QEMU is too old for devices to be planned for it while it runs",
                hint="change the definition, and start the guest anew",
            )
        return changed_emulator(self.domain, emulator)


def _last_node(device: Device) -> int:
    """The highest number of a block node of a device; filters are numbered behind the images."""
    indexes = (node.get("index") or "" for node in device.node.iter() if node.tag == "source")
    last = max((int(index) for index in indexes if index.isdecimal()), default=0)
    return last + (len(device.throttle_filters) if isinstance(device, Disk) else 0)


def write_aliases(devices: Iterable[Device]) -> None:
    """Write the ids of devices into the document."""
    for device in devices:
        if device.alias and (device.tag, device.node.get("model")) != ("memballoon", "none"):
            device.node.ensure("alias").set("name", device.alias)


# -- what is known of a device when it is there ------------------------------------------------------------


def settle(device: Device, b: Build) -> None:
    """Write into a device's element what was left to the host, and is decided now."""
    write = _SETTLE.get(device.tag)
    if write is not None:
        write(device, b)


def _disk(disk: Device, b: Build) -> None:
    node = disk.node
    assert isinstance(disk, Disk)
    if disk.is_empty or node.get("type") == "vhostuser":
        return
    reservations = node.find("source/reservations")
    if reservations is not None and reservations.get("managed") == "yes":
        reservations.ensure("source").attrib = {"type": "unix", "path": managed_socket(b), "mode": "client"}
    image_format = node.value("driver/@type") or "raw"
    if node.child("backingStore") is None and image_format not in BACKING_FORMATS:
        node.add("backingStore")


def _assigned(device: Device, b: Build) -> None:
    """A PCI device of the host is handed over by VFIO."""
    if device.node.get("type") in ("pci", "hostdev"):
        device.node.ensure("driver").attrib.setdefault("name", "vfio")


def _interface(interface: Device, b: Build) -> None:
    if interface.node.get("type") == "hostdev":
        _assigned(interface, b)


def _hostdev(device: Device, b: Build) -> None:
    if device.node.get("mode", "subsystem") == "subsystem":
        _assigned(device, b)


def _channel(channel: Device, b: Build) -> None:
    node = channel.node
    if node.get("type") != "unix" or node.value("target/@type") != "virtio":
        return
    source = node.ensure("source")
    if not source.get("path"):
        source.attrib = {**source.attrib, "mode": "bind", "path": channel_path(b, node)}


def _shmem(device: Device, b: Build) -> None:
    assert isinstance(device, Shmem)
    if device.server:
        device.server_path = device.socket_path


def _vsock(device: Device, b: Build) -> None:
    if device.node.value("cid/@address") is None:
        device.node.ensure("cid").set("address", b.host.vsock_cid)


def _graphics(device: Device, b: Build) -> None:
    """Ports that libvirt chooses."""
    node = device.node
    if node.get("autoport") != "yes":
        return
    ports = {
        "spice": {"port": b.host.spice_port},
        "vnc": {"port": b.host.vnc_port},
    }.get(node.get("type") or "", {})
    for name, port in ports.items():
        if node.get(name) in (None, "-1"):
            node.set(name, port)
    if node.get("websocket") == "-1":
        node.set("websocket", b.host.vnc_websocket_port)


_SETTLE: dict[str, Callable[[Device, Build], None]] = {
    "channel": _channel,
    "disk": _disk,
    "graphics": _graphics,
    "hostdev": _hostdev,
    "interface": _interface,
    "shmem": _shmem,
    "vsock": _vsock,
}
