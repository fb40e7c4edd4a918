"""Consoles that stand for serial ports, and the numbers of ports.

A guest's first console and its first serial port are the same line under two names, unless the console is
of a kind of its own (virtio, SCLP).  https://libvirt.org/formatdomain.html#console
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.chardev import Console, Serial, SerialTarget, TargetPort
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define
    from qemushim.document.node import Node

#: a PC has four of them
ISA_PORTS = 4
#: types of serial ports that firmware and kernels take for the console
_CONSOLE_LIKE = frozenset({"isa-serial", "spapr-vio-serial", "system-serial", "sclp-serial"})
#: what a console that is a serial port has of it
_MIRRORED = ("source", "protocol", "log", "alias", "acpi", "address")


def assign_isa_ports(d: Define) -> None:
    """Give each ISA serial port that has no number the lowest free one.  Raises ``ConfigError``."""
    ports = [device.node for device in d.domain.all(Serial) if _is_isa(device.node)]
    if len(ports) > ISA_PORTS:
        raise error.xml(
            f"Maximum supported number of ISA serial ports is '{ISA_PORTS}'.",
            ports[ISA_PORTS],
            "use pci-serial or usb-serial",
        )
    used: set[int] = set()
    for node in ports:
        port = _port(node)
        if port is None:
            continue
        if port >= ISA_PORTS:
            raise error.xml(f"ISA serial target port '{port}' is out of range", node, f"0 to {ISA_PORTS - 1}")
        if port in used:
            raise error.internal(f"target port '{port}' already allocated", node, "drop port=")
        used.add(port)
    free = (port for port in range(ISA_PORTS) if port not in used)
    for node in ports:
        if _port(node) is None:
            node.ensure("target").set("port", next(free))


def _is_isa(node: Node) -> bool:
    return node.value("target/@type") == "isa-serial"


def _port(node: Node) -> int | None:
    port = SerialTarget(node.ensure("target")).port
    return None if port == (1 << TargetPort.bits) - 1 else port


def complete_consoles(d: Define) -> None:
    """Make the first console and the first serial port one.  Raises ``ConfigError``."""
    consoles, serials = d.domain.all(Console), d.domain.all(Serial)
    if consoles and consoles[0].kind == "serial":
        if not serials:
            _move_to_serial(d, consoles[0])
    elif serials and (serials[0].node.value("target/@type") or "") in {"", *_CONSOLE_LIKE}:
        d.domain.add(Console, {"type": "pty"}, first=True).node.add("target", {"type": "serial"})
    for number, console in enumerate(d.domain.all(Console)):
        console.node.ensure("target").set("port", number)


def _move_to_serial(d: Define, console: Console) -> None:
    """What the user called a console is the guest's only serial port."""
    node = console.node
    serial = d.domain.add(Serial, {"type": node.get("type") or "pty"})
    serial.node.line = node.line
    serial.node.children = [child for child in node.children if child.tag != "target"]
    serial.node.add("target", {"port": node.value("target/@port") or "0"})
    node.children = [child for child in node.children if child.tag == "target"]
    serial.complete(d)


def mirror_serial(d: Define) -> None:
    """Write into the first console what it has of the serial port that it is."""
    consoles, serials = d.domain.all(Console), d.domain.all(Serial)
    if not consoles or not serials or consoles[0].kind != "serial":
        return
    node, port = consoles[0].node, serials[0].node
    target = node.ensure("target")
    node.set("type", port.get("type") or "pty")
    node.children = [child.copy() for tag in _MIRRORED for child in port.all(tag)] + [target]
    target.attrib = {"type": "serial", "port": port.value("target/@port") or "0"}


def check_consoles(d: Define) -> None:
    """Raise ``ConfigError`` where a console but the first is a serial port."""
    for console in d.domain.all(Console)[1:]:
        if console.kind == "serial":
            raise error.unsupported(
                "Only the first console can be a serial port", console.node, "use <target type='virtio'/>"
            )
