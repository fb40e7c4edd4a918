"""``<serial>``, ``<parallel>``, ``<console>``, ``<channel>``: lines of characters between guest and host.

https://libvirt.org/formatdomain.html#consoles-serial-parallel-channel-devices
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qemushim.board import Board
from qemushim.command.option import Option, Value
from qemushim.devices.base import Device
from qemushim.devices.charsource import (
    CharSource,
    chardev_options,
    check_source,
    complete_source,
    is_mirror,
)
from qemushim.devices.placement import address_properties
from qemushim.document.fields import Choice, One, Text, Unsigned
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.document.units import parse_integer, parse_unsigned, plain_address
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.host import Paths

SERIAL_TYPES = (
    *("isa-serial", "usb-serial", "pci-serial", "spapr-vio-serial", "system-serial", "sclp-serial"),
    "isa-debug",
)
SERIAL_MODELS = (
    *(
        "isa-serial",
        "usb-serial",
        "pci-serial",
        "spapr-vty",
        "pl011",
        "16550a",
        "sclpconsole",
        "sclplmconsole",
    ),
    "isa-debugcon",
)
CONSOLE_TYPES = ("serial", "xen", "uml", "virtio", "lxc", "openvz", "sclp", "sclplm")

#: serial type → its only model (``system-serial`` depends on the board)
_MODELS = {
    "isa-debug": "isa-debugcon",
    "isa-serial": "isa-serial",
    "pci-serial": "pci-serial",
    "sclp-serial": "sclpconsole",
    "spapr-vio-serial": "spapr-vty",
    "usb-serial": "usb-serial",
}
#: model → the serial type that has it
SERIAL_OF_MODEL = {
    **{model: kind for kind, model in _MODELS.items()},
    "16550a": "system-serial",
    "pl011": "system-serial",
    "sclplmconsole": "sclp-serial",
}
#: serial type → the type of address that it may have, ``""`` for none
_ADDRESSES = {
    "isa-debug": "isa",
    "isa-serial": "isa",
    "pci-serial": "pci",
    "sclp-serial": "",
    "spapr-vio-serial": "spapr-vio",
    "system-serial": "",
    "usb-serial": "usb",
}


class TargetType(Choice[Any]):
    """What the guest sees; libvirt has words of its own for a wrong one."""

    def wrong(self, raw: str, place: Node) -> ConfigError:
        message = f"unknown target type '{raw}' specified for character device"
        return error.unsupported(message, place, self.advice())


class TargetPort(Unsigned["int | None"]):
    """The number of a port; -1 for the next that is free."""

    def __init__(self) -> None:
        super().__init__("@port")
        self.says("Invalid port number: {}", "XML error")

    def read(self, raw: str) -> int | None:
        number = parse_integer(raw)
        return self.bounded(number) if number >= 0 else self.bounded(number + (1 << self.bits))


class SerialTarget(Item):
    type = TargetType("@type", SERIAL_TYPES)
    port = TargetPort()
    model = Choice("model/@name", ("", *SERIAL_MODELS)).says(
        "unknown target model '{}' specified for character device"
    )


class ParallelTarget(Item):
    port = TargetPort()


class ConsoleTarget(Item):
    type = TargetType("@type", CONSOLE_TYPES)
    port = TargetPort()


class ChannelTarget(Item):
    type = TargetType("@type", ("guestfwd", "virtio", "xen"))
    address = Text("@address")
    port = Unsigned("@port").later()
    name = Text("@name")


class CharDevice(Device):
    """What the four have in common."""

    __slots__ = ()

    def complete(self, d: Define) -> None:
        complete_source(self.node, live=d.live)
        self.node.ensure("target")

    def check(self, d: Define) -> None:
        check_source(self.node, d)

    def chardev(self, b: Build) -> Iterator[Option]:
        """The host end, which goes by ``char`` and the alias."""
        return chardev_options(self, self.node, b, f"char{self.alias}")

    def set_default_port(self, d: Define) -> None:
        """A port beyond the highest that its kind has."""
        target = self.node.ensure("target")
        if (target.get("port") or "").strip() in ("-1", str((1 << TargetPort.bits) - 1)):
            target.drop("port")
        if target.get("port") is None:
            ports = (device.node.value("target/@port") for device in d.domain.lists[self.tag])
            target.set(
                "port", max((parse_unsigned(port) for port in ports if port is not None), default=-1) + 1
            )


class Serial(CharDevice):
    """``<serial>``: a serial port of the board, or a card with one."""

    tag = "serial"

    type = CharSource.type
    sources = CharSource.sources
    protocol = CharSource.protocol
    log_file = CharSource.log_file
    log_append = CharSource.log_append
    target = One("target", SerialTarget, keep_empty=True)

    __slots__ = ()

    def complete(self, d: Define) -> None:
        super().complete(d)
        target = SerialTarget(self.node.ensure("target"))
        # a document's isa-serial is the default of old, whatever the machine
        if target.type in (None, "isa-serial"):
            target.type = default_serial_type(d.board)
        if not target.model:
            target.model = default_serial_model(target.type, d.board)
        self.set_default_port(d)

    def check(self, d: Define) -> None:
        super().check(d)
        target = SerialTarget(self.node.ensure("target"))
        self._check_address(target)
        kind = SERIAL_OF_MODEL.get(target.model or "", target.type)
        if kind != target.type:
            raise error.unsupported(
                f"Target model '{target.model}' requires target type '{kind}'",
                self.node,
                "leave the model out",
            )
        if target.type == "isa-debug" and not d.board.is_x86:
            raise error.unsupported("isa-debug serial type only valid on x86 architecture", self.node)
        if not _fits_board(target.type, target.model, d.board):
            raise error.unsupported(
                f"Serial device with target type '{target.type}' and target model '{target.model or 'none'}' "
                "not compatible with guest architecture or machine type",
                self.node,
                "leave the target to the default of the machine",
            )
        if target.model in ("sclpconsole", "sclplmconsole") and not d.emulator.has_device(target.model):
            raise error.unsupported(
                f"{target.model} is not supported in this QEMU binary", self.node, "another type of <target>"
            )

    def _check_address(self, target: SerialTarget) -> None:
        wanted = _ADDRESSES.get(target.type or "")
        given = self.address_type
        if not given or wanted is None or given == wanted:
            return
        if target.type == "usb-serial":
            message = "usb-serial requires address of usb type"
        elif wanted:
            message = f"Target type '{target.type}' requires address type '{wanted}'"
        else:
            message = f"Target type '{target.type}' cannot have an associated address"
        raise error.unsupported(message, self.node, "leave the address out")

    def is_platform(self, board: Board) -> bool:
        """Whether the port is one that the board is built with, to be connected rather than added."""
        target = self.target
        if target is None or target.type is None:
            return True
        if target.type != "system-serial":
            return False
        if target.model == "pl011":
            return board.is_arm
        return board.is_riscv_virt or board.is_loongarch_virt

    def options(self, b: Build) -> Iterator[Option]:
        yield from self.chardev(b)
        target = SerialTarget(self.node.ensure("target"))
        if not self.is_platform(b.board) and not target.model:
            message = "Invalid target model for serial device"
            raise error.internal(message, self.node, "leave the target to the default of the machine")
        if not self.is_platform(b.board) and target.model and not b.emulator.has_device(target.model):
            message = f"'{target.model}' is not supported in this QEMU binary"
            raise error.unsupported(message, self.node, "another type of <target>")
        if self.is_platform(b.board):
            yield b.option("-serial", f"chardev:char{self.alias}", self.node, "a serial port of the board")
            return
        yield b.device(
            {
                "driver": target.model,
                "chardev": f"char{self.alias}",
                "id": self.alias,
                "index": target.port if target.type == "isa-serial" else None,
                **address_properties(self, b),
            },
            self.node,
            "a serial port",
        )


def default_serial_type(board: Board) -> str | None:
    """The serial port that a machine has where none is named; ``None``: its own, which has no name."""
    if board.is_x86:
        return "isa-serial"
    if board.is_pseries:
        return "spapr-vio-serial"
    if board.is_arm_virt or board.is_loongarch_virt or board.is_riscv_virt:
        return "system-serial"
    return "sclp-serial" if board.is_s390 else None


def default_serial_model(kind: str | None, board: Board) -> str | None:
    if kind == "system-serial":
        if board.is_arm_virt:
            return "pl011"
        return "16550a" if board.is_riscv_virt or board.is_loongarch_virt else None
    return _MODELS.get(kind or "")


def _fits_board(kind: str | None, model: str | None, board: Board) -> bool:
    if kind == "system-serial":
        if not model:
            return True
        if model == "16550a":
            return board.is_riscv_virt or board.is_loongarch_virt
        return model == "pl011" and board.is_arm_virt
    if kind == "spapr-vio-serial":
        return board.is_pseries
    if kind == "sclp-serial":
        return board.is_s390
    return kind != "isa-debug" or board.is_x86


class Parallel(CharDevice):
    """``<parallel>``: a port for a printer."""

    tag = "parallel"

    type = CharSource.type
    sources = CharSource.sources
    protocol = CharSource.protocol
    log_file = CharSource.log_file
    log_append = CharSource.log_append
    target = One("target", ParallelTarget, keep_empty=True)

    __slots__ = ()

    def complete(self, d: Define) -> None:
        super().complete(d)
        self.set_default_port(d)

    def check(self, d: Define) -> None:
        super().check(d)
        if d.board.is_s390 or d.board.is_pseries:
            raise error.unsupported("parallel ports are not supported", self.node, "remove it")

    def options(self, b: Build) -> Iterator[Option]:
        yield from self.chardev(b)
        properties = {"driver": "isa-parallel", "chardev": f"char{self.alias}", "id": self.alias}
        yield b.device(properties, self.node, "a parallel port")


class Console(CharDevice):
    """``<console>``: where the guest's operating system talks; the first may be a serial port too."""

    tag = "console"

    type = CharSource.type
    sources = CharSource.sources
    protocol = CharSource.protocol
    log_file = CharSource.log_file
    log_append = CharSource.log_append
    target = One("target", ConsoleTarget, keep_empty=True)

    __slots__ = ()

    def complete(self, d: Define) -> None:
        super().complete(d)
        target = self.node.ensure("target")
        target.attrib = {"type": target.get("type") or "serial", **target.attrib}

    def check(self, d: Define) -> None:
        super().check(d)
        kind = self.kind
        if kind not in _CONSOLES:
            raise error.unsupported(
                f"unsupported console target type {kind}", self.node, f"one of: {', '.join(_CONSOLES)}"
            )
        driver = _CONSOLES[kind]
        if driver and not driver.startswith("virt") and not d.emulator.has_device(driver):
            message = f"{driver} is not supported in this QEMU binary"
            raise error.unsupported(message, self.node, "<target type='virtio'/>")

    @property
    def kind(self) -> str:
        return self.node.value("target/@type") or "serial"

    def options(self, b: Build) -> Iterator[Option]:
        if is_mirror(b, self, b.domain.lists["console"].index(self)):
            return
        driver = _CONSOLES[self.kind]
        if not driver:
            return
        yield from self.chardev(b)
        place = address_properties(self, b) if self.kind == "virtio" else {}
        properties = {"driver": driver, **place, "chardev": f"char{self.alias}", "id": self.alias}
        yield b.device(properties, self.node, "a console of virtio: /dev/hvc0 in Linux")


#: console target → QEMU device; a serial console is a serial port
_CONSOLES = {"serial": "", "sclp": "sclpconsole", "sclplm": "sclplmconsole", "virtio": "virtconsole"}


class Channel(CharDevice):
    """``<channel>``: a private line between a program in the guest and one on the host."""

    tag = "channel"

    type = CharSource.type
    sources = CharSource.sources
    protocol = CharSource.protocol
    log_file = CharSource.log_file
    log_append = CharSource.log_append
    target = One("target", ChannelTarget, keep_empty=True)

    __slots__ = ()

    def check_document(self, d: Define) -> None:
        target = ChannelTarget(self.node.ensure("target"))
        if target.type is None:
            message = "unknown target type '(null)' specified for character device"
            raise error.unsupported(message, self.node, "<target type='virtio' name='…'/>")
        if target.type == "guestfwd":
            _check_forward(target)

    def complete(self, d: Define) -> None:
        target = ChannelTarget(self.node.ensure("target"))
        if target.type == "virtio" and self.node.get("type") == "unix" and not d.live:
            self._complete_socket(target.name or "", d.host.paths)
        complete_source(self.node, live=d.live)

    def _complete_socket(self, name: str, paths: Paths) -> None:
        """A path that libvirt made up is made up anew at each start; QEMU listens on it."""
        for source in self.node.all("source"):
            path = source.get("path")
            if path and name and is_generated_path(path, name, paths):
                source.drop("path")
            if not source.get("path"):
                source.set("mode", "bind")
                source.drop("path")

    def check(self, d: Define) -> None:
        kind = self.node.value("target/@type")
        check_source(self.node, d, path_optional=kind in ("virtio", "xen"))
        if self.type == "qemu-vdagent" and not d.emulator.flag("chardev.qemu-vdagent"):
            raise error.unsupported(
                "qemu-vdagent chardev is not supported by this QEMU", self.node, "QEMU 6.1 or newer"
            )

    def options(self, b: Build) -> Iterator[Option]:
        yield from self.chardev(b)
        target = ChannelTarget(self.node.ensure("target"))
        chardev = f"char{self.alias}"
        if target.type == "guestfwd":
            forward = f"tcp:{target.address}:{target.port}-chardev:{chardev}"
            netdev: dict[str, Value] = {"type": "user", "guestfwd": [{"str": forward}], "id": self.alias}
            yield b.netdev(netdev, self.node, "an address that the guest may connect to")
        elif target.type == "virtio":
            name = target.name
            if self.type == "spicevmc":
                name = _SPICE_NAME if name is None else name
                if name != _SPICE_NAME:
                    message = f"Unsupported spicevmc target name '{name}'"
                    raise error.unsupported(message, self.node, f"name='{_SPICE_NAME}'")
            yield b.device(
                {
                    "driver": "virtserialport",
                    **address_properties(self, b),
                    "chardev": chardev,
                    "id": self.alias,
                    "name": name,
                },
                self.node,
                "a named port of a virtio-serial controller",
            )


#: what SPICE's agent in the guest looks for
_SPICE_NAME = "com.redhat.spice.0"


def _check_forward(target: ChannelTarget) -> None:
    address = target.address
    if address is None:
        raise error.xml(
            "guestfwd channel does not define a target address", target.node, "address='10.0.2.1'"
        )
    try:
        plain = plain_address(address)
    except ValueError:
        message = f"Cannot parse socket address '{address}': Name or service not known"
        raise error.plain(message, target.node, "address='10.0.2.1'") from None
    if ":" in plain:
        message = "guestfwd channel only supports IPv4 addresses"
        raise error.unsupported(message, target.node, "address='10.0.2.1'")
    target.address = plain
    if target.port is None:
        raise error.xml("Missing required attribute 'port' in element 'target'", target.node, "port='4600'")


def is_generated_path(path: str, name: str, paths: Paths) -> bool:
    """Whether a channel's path is one that some libvirt made up for a guest, from the channel's name."""
    for folder in (paths.channel, f"{paths.lib}/channel", f"{paths.config}/channel"):
        if not path.startswith(f"{folder}/") or not path.endswith(name):
            continue
        own = path[len(folder) + 1 : len(path) - len(name)].removeprefix("target/")
        guest, end = own[:-1], own[-1:]
        if guest and "/" not in guest:
            number, dash, _ = guest.partition("-")
            if end == "." or (end == "/" and dash and (number == "domain" or number.isdigit())):
                return True
    return False


__all__ = ["Channel", "CharDevice", "Console", "Parallel", "Serial"]
