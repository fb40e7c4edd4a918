"""A device joins a guest that runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qemushim.context import Define
from qemushim.devices.base import Device
from qemushim.devices.block_secrets import managed_pr_option, managed_reservations
from qemushim.devices.chardev import CharDevice
from qemushim.devices.disk import Disk
from qemushim.devices.interface import Interface
from qemushim.devices.memory import MemoryDevice
from qemushim.devices.prepare import prepare_device
from qemushim.devices.watchdog import Watchdog, action_of
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.guest import Guest, located
from qemushim.hotplug.build import PlugBuild, command_of, commands_of, device_options
from qemushim.hotplug.join import join
from qemushim.hotplug.live import LiveGuest, settle
from qemushim.hotplug.plan import FAILURES, Conversation, Plan, QmpCommand, Talk, say, take_back
from qemushim.hotplug.settings import PERIPHERAL, link_command, throttle_commands
from qemushim.hotplug.update import change_medium, drive_of
from qemushim.machine.memory import count_memory

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host


def plan_attach(guest: Guest, device: str | bytes, emulator: Emulator, host: Host, *, file: str = "") -> Plan:
    """Give a running guest one device more; ``device`` is its XML, every other device stays as it is.

    SCSI controllers that its address takes are added before it.  A CD-ROM or floppy drive that is there already gets
    the medium of the new one.  Raises ``ConfigError`` where the device can not be had, ``AddressError`` where no place
    is left.
    """
    live = LiveGuest.of(guest)
    with located(file or live.file):
        node = parse(device, file)
        return Plan(lambda: _attach(live.copy(), node.copy(), emulator, host))


def _attach(live: LiveGuest, node: Node, emulator: Emulator, host: Host) -> Conversation:
    host, emulator = live.own_host(host), live.own_emulator(emulator)
    d = Define(live.domain, emulator, host, update=True)
    drive = drive_of(node, live) if node.tag == "disk" else None
    if drive is not None:
        return (yield from change_medium(live, drive, node, d))
    done: list[QmpCommand] = []
    try:
        for device in join(node, d):
            yield from _plug(device, live, d, done)
            count_memory(live.domain, device)
        yield QmpCommand("qom-list", {"path": PERIPHERAL}, rule="which devices there are now")
    except FAILURES:
        yield from take_back(done)
        raise
    return live


# -- the commands --------------------------------------------------------------------------------------------


def _plug(device: Device, live: LiveGuest, d: Define, done: list[QmpCommand]) -> Talk:
    """Everything that makes one device, and what is to be known of it then."""
    nodes = live.nodes
    commands = _make(device, live, d, nodes, live.fd_sets or 0)
    if live.fd_sets is None and any(command.execute == "add-fd" for command in commands):
        yield from say([QmpCommand("query-fdsets", heard=live.hear_fd_sets, rule="which numbers are taken")])
        commands = _make(device, live, d, nodes, live.fd_sets or 0)
    if live.fd_sets is not None:
        live.fd_sets += sum(command.execute == "add-fd" for command in commands)
    yield from say(commands, done)


def _make(device: Device, live: LiveGuest, d: Define, nodes: int, fd_sets: int) -> list[QmpCommand]:
    b = PlugBuild(live.domain, d.emulator, d.host, first_fd_set=fd_sets)
    settle(device, b)
    live.nodes = max(live.nodes, prepare_device(device, b, nodes))
    made = commands_of(device_options(device, b), b)
    before, behind = _AROUND.get(device.tag, _nothing)(device, b)
    if isinstance(device, CharDevice):
        made = [_with_terminal(command, device) for command in made]
    return [*before, *made, *behind]


_Around = tuple[list[QmpCommand], list[QmpCommand]]


def _nothing(device: Device, b: PlugBuild) -> _Around:
    return [], []


def _disk_around(disk: Device, b: PlugBuild) -> _Around:
    assert isinstance(disk, Disk)
    before = []
    reservations = managed_reservations(disk.node)
    others = (other.node for other in b.domain.lists["disk"] if other is not disk)
    if reservations is not None and not any(managed_reservations(other) is not None for other in others):
        before.append(command_of(managed_pr_option(reservations, b), b))
    ask = QmpCommand(
        "query-block",
        heard=lambda blocks: _hear_tray(disk, blocks),
        source=disk.node,
        rule="is the tray open",
    )
    return before, [*throttle_commands(disk), ask]


def _hear_tray(disk: Disk, blocks: Any) -> None:
    for block in blocks:
        names = str(block.get("qdev") or "").split("/")
        if disk.alias in names and disk.device in ("cdrom", "floppy"):
            disk.tray = "open" if block.get("tray_open") else None


def _watchdog_around(device: Device, b: PlugBuild) -> _Around:
    assert isinstance(device, Watchdog)
    act = QmpCommand(
        "set-action",
        {"watchdog": action_of(device)},
        source=device.node,
        rule="what is done to a guest that hangs",
    )
    return [act], []


def _interface_around(interface: Device, b: PlugBuild) -> _Around:
    assert isinstance(interface, Interface)
    return [], [link_command(interface)] if interface.link == "down" else []


def _memory_around(device: Device, b: PlugBuild) -> _Around:
    assert isinstance(device, MemoryDevice)
    ask = QmpCommand(
        "query-memory-devices",
        heard=lambda known: _hear_memory(device, known),
        source=device.node,
        rule="where it is",
    )
    return [], [ask]


def _hear_memory(device: Device, known: Any) -> None:
    for entry in known:
        data = entry.get("data", {})
        if data.get("id") == device.alias and device.address_type == "dimm":
            device.node.ensure("address").set("base", f"{data.get('addr', 0):#x}")


_AROUND: dict[str, Callable[[Device, PlugBuild], _Around]] = {
    "disk": _disk_around,
    "interface": _interface_around,
    "memory": _memory_around,
    "watchdog": _watchdog_around,
}


def _with_terminal(command: QmpCommand, device: CharDevice) -> QmpCommand:
    """QEMU says which terminal of the host it has opened."""
    if command.execute != "chardev-add" or device.node.get("type") != "pty":
        return command

    def hear(answer: Any) -> None:
        path = answer.get("pty") if isinstance(answer, dict) else None
        if path:
            device.node.ensure("source").set("path", path)

    return replace(command, heard=hear)
