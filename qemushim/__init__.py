"""From libvirt domain XML to stable device addresses and the exact QEMU command line, for any QEMU, offline.

>>> from qemushim import Emulator, Guest, Host
>>> guest = Guest.from_xml(text)
>>> guest.command(Emulator.recorded("10.0", "x86_64"), Host.nominal()).argv
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qemushim.command.command import Command
    from qemushim.driver.around import open as open  # noqa: A004
    from qemushim.driver.around import wrap
    from qemushim.emulator.model import Emulator
    from qemushim.errors import AddressError, ConfigError, DriverError, EmulatorError, MonitorError, ShimError
    from qemushim.guest import Guest
    from qemushim.host import Host

#: public name → module; loaded when it is first used, so that importing the package costs next to nothing
_NAMES = {
    "AddressError": "errors",
    "Command": "command.command",
    "ConfigError": "errors",
    "DriverError": "errors",
    "Emulator": "emulator.model",
    "EmulatorError": "errors",
    "Guest": "guest",
    "Host": "host",
    "MonitorError": "errors",
    "ShimError": "errors",
    "open": "driver.around",
    "wrap": "driver.around",
}

__all__ = [
    "AddressError",
    "Command",
    "ConfigError",
    "DriverError",
    "Emulator",
    "EmulatorError",
    "Guest",
    "Host",
    "MonitorError",
    "ShimError",
    # not open: a star import would hide the built-in one
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'qemushim' has no attribute '{name}'")
    from importlib import import_module

    value = getattr(import_module(f"qemushim.{_NAMES[name]}"), name)
    globals()[name] = value
    return value
