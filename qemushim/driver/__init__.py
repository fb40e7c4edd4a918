"""The running side: guests of libvirt's, and guests on a QEMU of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from qemushim.driver.machine import End, Machine, Status

__all__ = ["End", "Machine", "Status"]


def __getattr__(name: str) -> Any:
    """Loaded when it is first used: half of this room needs libvirt, the other half needs QEMU."""
    if name not in __all__:
        raise AttributeError(f"module 'qemushim.driver' has no attribute '{name}'")
    from qemushim.driver import machine

    return getattr(machine, name)
