"""What a guest is told over the monitor rather than on the command line: passwords, limits of disks, cables."""

from __future__ import annotations

import calendar
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Value
from qemushim.devices.block_limits import RATES
from qemushim.devices.disk import Disk
from qemushim.devices.graphics import Graphics
from qemushim.devices.interface import Interface
from qemushim.hotplug.plan import QmpCommand

if TYPE_CHECKING:
    from qemushim.host import Host
    from qemushim.machine.domain import Domain

#: where QEMU keeps devices that have an id
PERIPHERAL = "/machine/peripheral"
#: what QEMU calls a limit of one disk: it names them otherwise than those of a group
_SHORT = {"-total": "", "-read": "_rd", "-write": "_wr"}


def start_commands(domain: Domain, host: Host) -> Iterator[QmpCommand]:
    """What a guest's devices are told between QEMU's start and the guest's."""
    for graphics in domain.all(Graphics):
        yield from password_commands(graphics, host)
    for interface in domain.all(Interface):
        if interface.link == "down":
            yield link_command(interface)
    for disk in domain.all(Disk):
        yield from throttle_commands(disk)


def password_commands(graphics: Graphics, host: Host) -> Iterator[QmpCommand]:
    """The password that clients have to give, and until when it holds; nothing where there is none.

    https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html (``set_password``)
    """
    node, kind = graphics.node, graphics.type or ""
    default = {"spice": host.config.spice_password, "vnc": host.config.vnc_password}.get(kind)
    password = node.get("passwd") or default
    if default is None or password is None or (not password and node.get("passwd") is None):
        return
    given: dict[str, Value] = {"protocol": kind, "password": password}
    if node.get("connected"):
        given["connected"] = node.get("connected")
    yield QmpCommand("set_password", given, source=node, rule="what clients have to say")
    yield QmpCommand(
        "expire_password",
        {"protocol": kind, "time": _expiry(node.get("passwdValidTo"), host)},
        source=node,
        rule="until when it holds",
    )


def _expiry(valid_to: str | None, host: Host) -> str:
    """When a password ends: seconds since 1970, or ``now`` where that is over, ``never`` where nothing is said."""
    if not valid_to:
        return "never"
    end = calendar.timegm(tuple(map(int, valid_to.replace("T", "-").replace(":", "-").split("-"))))
    return "now" if end <= host.now else str(end)


def throttle_commands(disk: Disk) -> Iterator[QmpCommand]:
    """``block_set_io_throttle``: the limits of a disk's own."""
    limits = disk.limits
    values = limits.values() if limits is not None else {}
    if not values:
        return
    given: dict[str, Value] = {"id": drive_path(disk)}
    for element, rate in RATES.items():
        given[_throttle_name(rate)] = values.get(element, 0)
    for element, value in values.items():
        if element.endswith("_length"):
            given[_throttle_name(RATES[element.removesuffix("_length")]) + "_length"] = value
    if limits is not None and limits.group_name:
        given["group"] = limits.group_name
    yield QmpCommand("block_set_io_throttle", given, source=disk.node, rule="how much a disk may do")


def drive_path(disk: Disk) -> str:
    """What QEMU calls the drive: its id, or the path to the part of the device that is the drive."""
    part = {"virtio": "virtio-backend", "usb": f"{disk.alias}.0/legacy[0]"}.get(disk.bus)
    return disk.alias if part is None else f"{PERIPHERAL}/{disk.alias}/{part}"


def _throttle_name(rate: str) -> str:
    """``bps-read-max`` → ``bps_rd_max``."""
    for long, short in _SHORT.items():
        rate = rate.replace(long, short)
    return rate.replace("-", "_")


def link_command(interface: Interface) -> QmpCommand:
    """Plug the cable of a network card in, or pull it."""
    given: dict[str, Value] = {"name": interface.alias, "up": interface.link != "down"}
    return QmpCommand("set_link", given, source=interface.node, rule="whether the cable is in")
