"""The environment of the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.audio import audio_environment
from qemushim.devices.graphics import graphics_environment

if TYPE_CHECKING:
    from qemushim.context import Build

#: variables that QEMU inherits where they are set
_PASSED = (
    *("LD_PRELOAD", "LD_LIBRARY_PATH", "DYLD_INSERT_LIBRARIES", "DYLD_FORCE_FLAT_NAMESPACE"),
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR"),
)


def build_environment(b: Build) -> dict[str, str]:
    """The variables of the process, in order; a later one of the same name replaces the value in place."""
    given, folder = b.host.environment, b.domain_dir
    found = {} if b.alone else {"LC_ALL": "C"}
    for name in _PASSED:
        if name in given:
            found[name] = given[name]
    if b.alone:
        pass  # a shell has an environment already
    elif b.host.privileged:
        # a system instance has no home to fall back to: everything goes below the guest's own directory
        found["HOME"] = folder
        found["XDG_DATA_HOME"] = f"{folder}/.local/share"
        found["XDG_CACHE_HOME"] = f"{folder}/.cache"
        found["XDG_CONFIG_HOME"] = f"{folder}/.config"
    else:
        found["XDG_CACHE_HOME"] = f"{folder}/.cache"
    clock = b.domain.clock
    if clock is not None and clock.offset == "timezone" and clock.timezone:
        found["TZ"] = clock.timezone
    found.update(audio_environment(b))
    found.update(graphics_environment(b))
    commandline = b.domain.qemu_commandline
    for variable in commandline.variables if commandline is not None else ():
        found[variable.name] = variable.value
    return found
