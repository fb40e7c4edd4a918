"""Emulators of releases that nothing was recorded of: the oldest recorded one without what came later."""

from __future__ import annotations

from qemushim.emulator.bundled import recorded
from qemushim.emulator.model import Emulator

#: option group, or ``GROUP.PARAMETER`` → the release that brought it (https://wiki.qemu.org/ChangeLog)
OPTIONS = {
    "accel": (2, 9, 0),
    "boot-opts.strict": (1, 5, 0),
    "drive.auto-read-only": (3, 1, 0),
    "drive.detect-zeroes": (2, 1, 0),
    "drive.discard": (1, 5, 0),
    "fsdev.multidevs": (4, 2, 0),
    "memory.size": (2, 1, 0),
    "msg.timestamp": (1, 5, 0),
    "name.debug-threads": (2, 1, 0),
    "name.guest": (2, 1, 0),
    "overcommit": (3, 0, 0),
    "sandbox.obsolete": (2, 11, 0),
    "vnc.power-control": (6, 0, 0),
}
#: type → the same
TYPES = {
    "pcie-root-port": (2, 9, 0),
    "qemu-xhci": (2, 10, 0),
    "memory-backend-memfd": (2, 12, 0),
    "memory-backend-ram": (2, 1, 0),
    "secret": (2, 6, 0),
    "bochs-display": (3, 0, 0),
}
#: ``-realtime mlock=`` was there until -overcommit had been for a while
REALTIME = ((1, 5, 0), (6, 0, 0))


def older(version: tuple[int, int, int], arch: str = "x86_64") -> Emulator:
    """A QEMU of that release, as far as the spelling of its command line depends on it."""
    found = recorded("6.2", arch)
    options = {name: set(parameters) for name, parameters in found.options.items()}
    for name, since in OPTIONS.items():
        group, _, parameter = name.partition(".")
        if version < since and parameter:
            options.get(group, set()).discard(parameter)
        elif version < since:
            options.pop(group, None)
    if REALTIME[0] <= version < REALTIME[1]:
        options["realtime"] = {"mlock"}
    types = found.types - {name for name, since in TYPES.items() if version < since}
    flags = found.flags - {name for name, since in TYPES.items() if version < since}
    return found._replace(
        version=version,
        types=types,
        flags=flags,
        options={name: frozenset(parameters) for name, parameters in options.items()},
        accelerators=tuple(
            accelerator._replace(
                machines=tuple(
                    # the memory of a machine is an object since 5.0
                    machine._replace(default_ram_id=machine.default_ram_id if version >= (5, 0, 0) else "")
                    for machine in accelerator.machines
                ),
            )
            for accelerator in found.accelerators
        ),
    )
