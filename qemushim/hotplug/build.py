"""From a device's options to the monitor commands that make it: one rule for both is in the device's own file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from qemushim.command.command import Descriptor
from qemushim.command.option import Option, Value
from qemushim.context import Build
from qemushim.devices.hostdev import card_options
from qemushim.devices.interface import Interface
from qemushim.hotplug.plan import QmpCommand

if TYPE_CHECKING:
    from qemushim.devices.base import Device
    from qemushim.emulator.model import Emulator
    from qemushim.host import Host
    from qemushim.machine.domain import Domain


class _Verb(NamedTuple):
    """The command that an option stands for, and the one that takes it back, with the property that names the thing."""

    make: str
    unmake: str
    name: str


#: option → monitor commands.  https://www.qemu.org/docs/master/interop/qemu-qmp-ref.html
_VERBS = {
    "-add-fd": _Verb("add-fd", "remove-fd", "fdset-id"),
    "-blockdev": _Verb("blockdev-add", "blockdev-del", "node-name"),
    "-chardev": _Verb("chardev-add", "chardev-remove", "id"),
    "-device": _Verb("device_add", "device_del", "id"),
    "-netdev": _Verb("netdev_add", "netdev_del", "id"),
    "-object": _Verb("object-add", "object-del", "id"),
}
#: kind of descriptor → what libvirt calls one of a device
_NAMES = {
    "listen": "{user}-source",
    "tap": "tapfd-{user}{number}",
    "vhost-net": "vhostfd-{user}{number}",
    "vhost-scsi": "vhostfd-{user}",
    "vsock": "vhostfd-{user}",
}


class PlugBuild(Build):
    """Making one device of a guest that runs: descriptors go by names, fd sets are counted behind those it has."""

    def __init__(self, domain: Domain, emulator: Emulator, host: Host, *, first_fd_set: int = 0) -> None:
        super().__init__(domain, emulator, host)
        #: kind of descriptor, device → how many it has been given
        self._counts: dict[tuple[str, str], int] = {}
        # of those before QEMU knows already
        self._fd_sets = first_fd_set
        # what boots was decided when the guest was started: another device boots where it says so itself
        self.notes["boot indexes"] = {}

    def pass_fd(self, number: int | None, kind: str, target: str = "", user: str = "") -> int | str:
        """Note that a descriptor is handed over, and give the name by which QEMU knows it then."""
        count = self._counts.get((kind, user), 0)
        self._counts[kind, user] = count + 1
        name = _NAMES.get(kind, kind + "-{user}").format(user=user, number=count)
        self.command.descriptors.append(Descriptor(-1, kind, target, user, name))
        return name


def removal_build(domain: Domain, emulator: Emulator, host: Host) -> PlugBuild:
    """The same to find out what a device was made of, for which secrets need not be told again."""
    blind = host._replace(find_secret=lambda kind, reference: b"", encrypt=lambda secret, iv: "")
    return PlugBuild(domain, emulator, blind)


def device_options(device: Device, b: Build) -> Iterator[Option]:
    """The options of one device, whichever group they are in."""
    if isinstance(device, Interface) and device.is_hostdev(b.host):
        yield from card_options(device, b)
    else:
        yield from device.options(b)


def commands_of(options: Iterable[Option], b: PlugBuild) -> list[QmpCommand]:
    """The commands that options stand for: back ends in their order, and then what the guest sees."""
    back: list[QmpCommand] = []
    front: list[QmpCommand] = []
    passed = 0
    for option in options:
        descriptors = b.command.descriptors[passed:]
        passed += len(descriptors)
        if option.flag != "-add-fd":
            back.extend(_hand_over(descriptor, option) for descriptor in descriptors)
        command = _command(option, b, descriptors[-1] if option.flag == "-add-fd" else None)
        (front if option.flag == "-device" else back).append(command)
    return back + front


def command_of(option: Option, b: Build) -> QmpCommand:
    """The command that an option without descriptors stands for."""
    return _command(option, b, None)


def _command(option: Option, b: Build, descriptor: Descriptor | None) -> QmpCommand:
    verb, properties = _VERBS[option.flag], option.properties
    assert properties is not None, f"{option.flag} is no monitor command"
    undo = QmpCommand(
        verb.unmake,
        {verb.name: properties[verb.name]},
        # what is behind a device can be taken away when the device is gone
        awaits=str(properties[verb.name]) if option.flag == "-device" else "",
        optional=True,
        source=option.source,
        rule=f"takes back: {option.rule}",
    )
    if option.flag == "-object" and b.emulator.version < (6, 0, 0):
        properties = _nested(properties)
    return QmpCommand(
        verb.make,
        properties,
        descriptor=descriptor,
        undo=(undo,),
        source=option.source,
        rule=option.rule,
    )


def _nested(properties: Mapping[str, Value]) -> Mapping[str, Value]:
    """Before QEMU 6.0 the properties of an object were a member of their own."""
    own = {name: value for name, value in properties.items() if name not in ("qom-type", "id")}
    head: dict[str, Value] = {name: properties[name] for name in ("qom-type", "id")}
    return {**head, "props": own} if own else head


def _hand_over(descriptor: Descriptor, option: Option) -> QmpCommand:
    arguments = {"fdname": descriptor.name}
    # a name that was used is forgotten by itself
    undo = QmpCommand("closefd", arguments, optional=True, source=option.source)
    return QmpCommand(
        "getfd",
        arguments,
        descriptor,
        undo=(undo,),
        source=option.source,
        rule="a descriptor for what follows",
    )
