"""A device joins a guest that runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from qemushim.address.assign import assign_one
from qemushim.address.check import check_addresses, complete_written
from qemushim.address.walk import pci_address
from qemushim.context import Define
from qemushim.devices.alias import assign_alias
from qemushim.devices.base import Device
from qemushim.devices.bootindex import check_boot_order
from qemushim.devices.block_secrets import managed_pr_option, managed_reservations
from qemushim.devices.chardev import CharDevice
from qemushim.devices.controller import Controller
from qemushim.devices.disk import Disk
from qemushim.devices.disk_check import check_drive_addresses
from qemushim.devices.hostdev import check_hostdevs_together
from qemushim.devices.interface import Interface
from qemushim.devices.prepare import prepare_device
from qemushim.devices.watchdog import Watchdog, action_of
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.document.units import parse_unsigned
from qemushim.errors import MonitorError, error
from qemushim.guest import Guest, located
from qemushim.hotplug.build import PlugBuild, command_of, commands_of, device_options
from qemushim.hotplug.live import LiveGuest, settle, write_aliases
from qemushim.hotplug.plan import Conversation, Plan, QmpCommand, Talk, say, take_back
from qemushim.hotplug.settings import link_command, throttle_commands
from qemushim.hotplug.update import change_medium, drive_of
from qemushim.machine.order import insert_device
from qemushim.machine.pluggable import check_memory_devices

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host

#: kinds that QEMU can not be given while it runs
FIXED = frozenset(
    (
        *("audio", "crypto", "graphics", "hub", "iommu", "memballoon", "nvram", "panic", "pstore"),
        *("redirfilter", "smartcard", "sound", "tpm", "video"),
    )
)


def plan_attach(guest: Guest, device: str | bytes, emulator: Emulator, host: Host, *, file: str = "") -> Plan:
    """Give a running guest one device more; ``device`` is its XML, every other device stays as it is.

    SCSI controllers that its address takes are added before it.  A CD-ROM or floppy drive that is there already gets the
    medium of the new one.  Raises ``ConfigError`` where the device can not be had, ``AddressError`` where no place is
    left.
    """
    live = LiveGuest.of(guest)
    with located(file or live.file):
        node = parse(device, file)
        return Plan(lambda: _attach(live.copy(), node.copy(), emulator, host))


def _attach(live: LiveGuest, node: Node, emulator: Emulator, host: Host) -> Conversation:
    host, emulator = live.own_host(host), live.own_emulator(emulator)
    d = Define(live.domain, emulator, host, update=True)
    if node.tag in FIXED:
        raise error.not_supported(f"live attach of device '{node.tag}' is not supported", node)
    drive = drive_of(node, live) if node.tag == "disk" else None
    if drive is not None:
        return (yield from change_medium(live, drive, node, d))
    done: list[QmpCommand] = []
    try:
        for device in join(node, d):
            yield from _plug(device, live, d, done)
        yield QmpCommand("qom-list", {"path": "/machine/peripheral"}, rule="which devices there are now")
    except MonitorError:
        yield from take_back(done)
        raise
    return live


# -- the document --------------------------------------------------------------------------------------------


def join(node: Node, d: Define) -> list[Device]:
    """Put a device into the definition, with a place and an id.

    Returns what is new: the controllers that it takes, and then the device.
    """
    device = complete_new(node, d)
    check = _POSSIBLE.get(device.tag)
    if check is not None:
        check(device, d)
    d.domain.remove(device)
    added = [_seat(controller, d) for controller in _missing_controllers(device, d)]
    _seat(device, d)
    for new in (*added, device):
        new.check(d)
    check_addresses(d)
    _check_together(device, d)
    return [*added, device]


def complete_new(node: Node, d: Define) -> Device:
    """Take in the element of a device, with its own defaults."""
    device = d.domain.adopt(node)
    if not (d.live or device.user_alias):
        node.discard("alias")
    device.check_document(d)
    device.complete(d)
    complete_written(d)
    return device


def _seat(device: Device, d: Define) -> Device:
    """Give a device that is not in the definition its place and its id, and put it there."""
    known = len(d.domain.lists["controller"])
    place = pci_address(device)
    if place is not None and place.function:
        raise error.not_supported(
            "Only PCI device addresses with function=0 are supported",
            device.node.child("address"),
            "the guest looks at a slot when its function 0 comes",
        )
    assign_one(device, d)
    if len(d.domain.lists["controller"]) != known:
        raise error.failed(
            f"{device.tag} needs a virtio-serial controller, and the guest has no free port of one",
            device.node,
            "add <controller type='virtio-serial'/> to the stored definition and restart the guest",
        )
    d.domain.node.ensure("devices").append(device.node)
    insert_device(d.domain.lists[device.tag], device)
    assign_alias(device, d)
    write_aliases((device,))
    return device


def _missing_controllers(device: Device, d: Define) -> Iterator[Device]:
    """The SCSI controllers that an address names and the guest has not; they are like the one that it has."""
    address = device.node.child("address")
    bus = device.node.value("target/@bus") if device.tag == "disk" else device.node.get("type")
    if bus != "scsi" or address is None or address.get("type") != "drive":
        return
    for index in range(parse_unsigned(address.get("controller") or "0") + 1):
        known = [c for c in d.domain.all(Controller) if c.type == "scsi"]
        if any(c.number == index for c in known):
            continue
        attributes = {"type": "scsi", "index": str(index)}
        if known and known[-1].model:
            attributes["model"] = known[-1].model
        controller = Controller(Node("controller", attributes, line=device.node.line))
        controller.complete(d)
        yield controller


# -- what can be had -----------------------------------------------------------------------------------------


def _disk_possible(disk: Device, d: Define) -> None:
    assert isinstance(disk, Disk)
    if disk.bus not in ("scsi", "usb", "virtio"):
        raise error.not_supported(f"disk bus '{disk.bus}' cannot be hotplugged.", disk.node, "bus='virtio'")
    if any(other.target == disk.target and other is not disk for other in d.domain.all(Disk)):
        raise error.failed(f"target {disk.target} already exists", disk.node.child("target"), "another name")


def _controller_possible(controller: Device, d: Define) -> None:
    assert isinstance(controller, Controller)
    kind, number = controller.type, controller.number
    if kind != "scsi":
        raise error.not_supported(f"'{kind}' controller cannot be hot plugged.", controller.node)
    twins = [c for c in d.domain.all(Controller) if c.type == kind and c.number == number]
    if len(twins) > 1:
        raise error.failed(f"target {kind}:{number} already exists", controller.node, "another index")


def _input_possible(device: Device, d: Define) -> None:
    bus = device.node.get("bus")
    if bus not in (None, "usb", "virtio"):
        raise error.not_supported(f"input device on bus '{bus}' cannot be hot plugged.", device.node)


def _filesystem_possible(device: Device, d: Define) -> None:
    if device.node.value("driver/@type") != "virtiofs":
        raise error.not_supported("only virtiofs filesystems can be hotplugged", device.node)


def _single_possible(device: Device, d: Define) -> None:
    if len(d.domain.lists[device.tag]) > 1:
        raise error.failed(f"the domain already has a {device.tag} device", device.node)


def _parallel_possible(device: Device, d: Define) -> None:
    raise error.not_supported(f"attaching {device.tag} console is not supported", device.node)


def _console_possible(device: Device, d: Define) -> None:
    kind = device.node.value("target/@type") or "serial"
    if kind == "serial":
        raise error.unsupported("Only the first console can be a serial port", device.node)


def _serial_possible(device: Device, d: Define) -> None:
    kind = device.node.value("target/@type")
    if kind not in ("pci-serial", "usb-serial"):
        raise error.not_supported(
            f"attaching serial console is not supported for target type '{kind}'", device.node, "type='pci-serial'"
        )


_POSSIBLE: dict[str, Callable[[Device, Define], None]] = {
    "console": _console_possible,
    "controller": _controller_possible,
    "disk": _disk_possible,
    "filesystem": _filesystem_possible,
    "input": _input_possible,
    "parallel": _parallel_possible,
    "serial": _serial_possible,
    "vsock": _single_possible,
}


def _check_together(device: Device, d: Define) -> None:
    """What is wrong with a device only because of the others."""
    if device.node.child("boot") is not None:
        check_boot_order(d)
    if device.tag in ("disk", "hostdev"):
        check_drive_addresses(d)
        check_hostdevs_together(d)
    if device.tag == "memory":
        check_memory_devices(d)


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
    prepare_device(device, b, nodes)
    live.count_nodes()
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
        "query-block", heard=lambda blocks: _hear_tray(disk, blocks), source=disk.node, rule="is the tray open"
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
        "set-action", {"watchdog": action_of(device)}, source=device.node, rule="what is done to a guest that hangs"
    )
    return [act], []


def _interface_around(interface: Device, b: PlugBuild) -> _Around:
    assert isinstance(interface, Interface)
    return [], [link_command(interface)] if interface.link == "down" else []


def _memory_around(device: Device, b: PlugBuild) -> _Around:
    ask = QmpCommand(
        "query-memory-devices", heard=lambda known: _hear_memory(device, known), source=device.node, rule="where it is"
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

    return _replaced(command, hear)


def _replaced(command: QmpCommand, hear: Callable[[Any], None]) -> QmpCommand:
    from dataclasses import replace

    return replace(command, heard=hear)
