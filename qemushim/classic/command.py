"""From a definition to the command line that libvirt 0.8.0 would start it with."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from qemushim.classic import chardevs, disks, display, extras, nics, system
from qemushim.classic.alias import assign_aliases
from qemushim.classic.context import ClassicBuild
from qemushim.classic.document import Domain
from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.errors import error
from qemushim.host import Host

Group = Callable[[ClassicBuild], Iterator[Option]]

#: the options, in order
GROUPS: tuple[Group, ...] = (
    system.machine_options,
    system.cpu_options,
    system.accelerator_options,
    system.memory_options,
    system.smp_options,
    system.identity_options,
    display.nographic_options,
    system.default_options,
    chardevs.monitor_options,
    system.clock_options,
    system.power_options,
    system.boot_options,
    disks.controller_options,
    disks.disk_options,
    nics.interface_options,
    chardevs.serial_options,
    chardevs.parallel_options,
    chardevs.channel_options,
    display.input_options,
    display.graphics_options,
    display.video_options,
    extras.sound_options,
    extras.watchdog_options,
    extras.hostdev_options,
    system.incoming_options,
    extras.balloon_options,
    system.snapshot_options,
    system.passthrough_options,
)

#: variables that QEMU gets from the process that starts it, where they are set
_INHERITED = ("LD_PRELOAD", "LD_LIBRARY_PATH", "PATH", "HOME", "USER", "LOGNAME", "TMPDIR")


def command_classic(
    root: Node,
    emulator: Emulator,
    host: Host,
    *,
    incoming: str = "",
    snapshot: str = "",
    into: Command | None = None,
) -> Command:
    """The command line of a definition (see ``define_classic``), which is left as it is.

    ``incoming``: where the guest migrates in from; ``snapshot``: the snapshot that it goes on from; ``into``: a
    command that is still empty, for a caller who watches how it grows.  Raises ``ConfigError`` for what this emulator
    can not do.
    """
    b = ClassicBuild(Domain(root), emulator, host, incoming=incoming, snapshot=snapshot)
    binary = b.domain.devices.emulator or emulator.binary or host.emulators.get(emulator.arch)
    if not binary:
        raise error.internal("no emulator is given", root, "<emulator>/usr/bin/qemu</emulator>")
    if into is not None:
        b.command = into
    b.command.binary = binary
    b.aliases = assign_aliases(b)
    for group in GROUPS:
        b.command.options.extend(group(b))
    b.command.environment = dict(_environment(b))
    return b.command


def _environment(b: ClassicBuild) -> Iterator[tuple[str, str]]:
    yield "LC_ALL", "C"
    for name in _INHERITED:
        if name in b.host.environment:
            yield name, b.host.environment[name]
    clock = b.domain.clock
    if clock is not None and clock.offset == "timezone" and clock.timezone:
        yield "TZ", clock.timezone
    yield from display.graphics_environment(b)
    commandline = b.domain.commandline
    for variable in commandline.variables if commandline is not None else ():
        yield variable.name, variable.value
