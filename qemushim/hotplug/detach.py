"""A device leaves a guest that runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from qemushim.address.walk import pci_address
from qemushim.context import Define
from qemushim.devices.base import Device
from qemushim.devices.block_secrets import MANAGED_HELPER, managed_reservations
from qemushim.devices.chardev import CharDevice
from qemushim.devices.controller import Controller
from qemushim.devices.pairing import find_devices
from qemushim.devices.prepare import recall_device
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.errors import MonitorError, error
from qemushim.guest import Guest, located
from qemushim.hotplug.build import PlugBuild, commands_of, device_options, removal_build
from qemushim.hotplug.join import FIXED, complete_new
from qemushim.hotplug.live import LiveGuest
from qemushim.hotplug.plan import NOT_FOUND, Conversation, Plan, QmpCommand, Talk, say
from qemushim.machine.memory import count_memory

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host
    from qemushim.machine.domain import Domain


def plan_detach(guest: Guest, device: str | bytes, emulator: Emulator, host: Host, *, file: str = "") -> Plan:
    """Take a device from a running guest; ``device`` is its XML, or as much of it as tells it from the others.

    The guest is asked to let go of it, and then what was behind it is taken away.  Raises ``ConfigError`` where there
    is no such device, or it can not leave.
    """
    live = LiveGuest.of(guest)
    with located(file or live.file):
        node = parse(device, file)
        return Plan(lambda: _detach(live.copy(), node.copy(), emulator, host))


def _detach(live: LiveGuest, node: Node, emulator: Emulator, host: Host) -> Conversation:
    host, emulator = live.own_host(host), live.own_emulator(emulator)
    if node.tag in FIXED:
        raise error.not_supported(
            f"live detach of device '{node.tag}' is not supported",
            node,
            "change the definition, and start the guest anew",
        )
    device = find_device(live, node, Define(live.domain, emulator, host, update=False, live=True))
    check_leaving(device, live.domain)
    yield from _unplug(device, removal_build(live.domain, emulator, host))
    live.domain.remove(device)
    count_memory(live.domain, device, leaves=True)
    return live


# -- which one -----------------------------------------------------------------------------------------------


def find_device(live: LiveGuest, node: Node, d: Define) -> Device:
    """The device of a guest that an element describes.  Raises ``ConfigError`` where it is none, or not clear."""
    said = node.copy()
    wanted = complete_new(node, Define(live.copy().domain, d.emulator, d.host, update=False, live=True))
    devices = live.domain.lists[wanted.tag]
    found = find_devices(type(wanted)(said), devices) or find_devices(wanted, devices)
    if len(found) == 1:
        return found[0]
    if found:
        raise error.failed(
            f"multiple devices matching this <{node.tag}> found", node, "say more: an alias, an address"
        )
    raise error.plain(
        f"device not found: no matching <{node.tag}> in domain '{live.name}'",
        node,
        "say its alias, MAC, target, address",
    )


def check_leaving(device: Device, domain: Domain) -> None:
    """Raise ``ConfigError`` where the machine does not let go of a device."""
    if device.tag == "lease":
        return
    if not device.alias:
        raise error.failed(f"this <{device.tag}> has no id in QEMU", device.node, "it is part of the machine")
    if isinstance(device, Controller):
        _check_controller(device, domain)
    place = pci_address(device)
    if place is None:
        return
    others = (pci_address(other) for other in domain.every() if other is not device)
    if any(other is not None and other[:3] == place[:3] for other in others):
        raise error.failed(
            f"cannot hot unplug multifunction PCI device with address: {place}",
            device.node.child("address"),
            "all functions of a slot leave together",
        )
    for bus in domain.all(Controller):
        if bus.type == "pci" and bus.number == place.bus and bus.node.value("target/@hotplug") == "off":
            raise error.failed(
                f"cannot hot unplug {device.tag} device with PCI guest address: {place} - "
                "not allowed by controller",
                device.node.child("address"),
                f"controller {bus.number} has hotplug='off'",
            )


def _check_controller(controller: Controller, domain: Domain) -> None:
    kind, number = controller.type, controller.number
    if kind != "scsi":
        raise error.not_supported(
            f"'{kind}' controller cannot be hot unplugged.",
            controller.node,
            "change the definition, and start the guest anew",
        )
    for device in (*domain.lists["disk"], *domain.lists["hostdev"]):
        bus = device.node.value("target/@bus") or device.node.get("type")
        address = device.address
        if bus == "scsi" and address is not None and address.type == "drive" and address.controller == number:
            raise error.failed(
                "device cannot be detached: device is busy",
                controller.node,
                "detach what is on its bus first",
            )


# -- the commands --------------------------------------------------------------------------------------------


def _unplug(device: Device, b: PlugBuild) -> Talk:
    """Ask the guest for a device, then take away what was behind it: in the order in which it came, turned round."""
    made = commands_of(device_options(device, b), b) if recall_device(device, b) else [_front(device)]
    front = [command for command in made if command.execute == "device_add"]
    if front:
        try:
            yield from say([_delete(front[-1], device)])
        except MonitorError as refusal:
            if refusal.kind != NOT_FOUND:
                raise
    behind = [command for command in made if command.execute not in ("device_add", "getfd", "add-fd")]
    if device.tag == "channel" and device.node.value("target/@type") == "guestfwd":
        # libvirt leaves the character device where it is
        behind = [command for command in behind if command.execute != "chardev-add"]
    for command in (*front[:-1], *reversed(behind)):
        yield from say(command.undo)
    yield from _forget_fd_sets(device, made)
    yield from say(_last_one_out(device, b))


def _front(device: Device) -> QmpCommand:
    """What the guest sees of a device, of which nothing more is known."""
    return QmpCommand("device_add", {"id": device.alias}, source=device.node)


def _delete(front: QmpCommand, device: Device) -> QmpCommand:
    return QmpCommand(
        "device_del",
        {"id": front.arguments["id"]},
        awaits=device.alias,
        source=device.node,
        rule="the guest is asked to let go of it",
    )


def _forget_fd_sets(device: Device, made: Sequence[QmpCommand]) -> Talk:
    """Take away the fd sets that were filled for a device: QEMU tells by the words that they were filled with."""
    words = {str(command.arguments["opaque"]) for command in made if command.execute == "add-fd"}
    if not words and not (isinstance(device, CharDevice) and device.node.value("target/@type") != "guestfwd"):
        return
    numbers: list[int] = []

    def hear(known: Any) -> None:
        for entry in known:
            if words & {str(fd.get("opaque")) for fd in entry.get("fds", ())}:
                numbers.append(int(entry["fdset-id"]))

    yield from say([QmpCommand("query-fdsets", optional=True, heard=hear, rule="which were filled for it")])
    yield from say(
        QmpCommand("remove-fd", {"fdset-id": number}, optional=True, source=device.node) for number in numbers
    )


def _last_one_out(device: Device, b: PlugBuild) -> Iterator[QmpCommand]:
    """The helper of managed reservations goes with the last disk that has some."""
    if device.tag != "disk" or managed_reservations(device.node) is None:
        return
    others = (disk.node for disk in b.domain.lists["disk"] if disk is not device)
    if not any(managed_reservations(other) is not None for other in others):
        yield QmpCommand(
            "object-del",
            {"id": MANAGED_HELPER},
            optional=True,
            source=device.node,
            rule="nobody reserves any more",
        )
