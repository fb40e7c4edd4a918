"""Checks of a complete definition, in libvirt's order: which of two problems is told depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qemushim.errors import error
from qemushim.machine.boot import check_acpi, check_boot, check_bootloader, check_firmware, check_menu
from qemushim.machine.clock import check_clock, check_lifecycle
from qemushim.machine.cpu import check_cpu
from qemushim.machine.features import check_features
from qemushim.machine.memory import check_memory, check_pages
from qemushim.machine.namespace import check_namespace
from qemushim.machine.numa import check_numa
from qemushim.machine.pluggable import check_memory_devices
from qemushim.machine.security import check_security
from qemushim.machine.throttle import check_throttle
from qemushim.machine.tune import check_limits, check_power, check_tune
from qemushim.machine.vcpu import check_iothreads, check_vcpus

if TYPE_CHECKING:
    from qemushim.context import Define

Check = Callable[["Define"], None]


def check_genid(d: Define) -> None:
    """A generation id needs a device that tells it."""
    genid = d.domain.node.child("genid")
    if genid is not None and not d.emulator.has_device("vmgenid"):
        raise error.unsupported("this QEMU does not support the 'genid' capability", genid, "drop <genid>")


#: guest-wide, before the devices
DOMAIN: tuple[Check, ...] = (
    check_acpi,
    check_limits,
    check_genid,
    check_lifecycle,
    check_cpu,
    check_memory_devices,
    check_iothreads,
    check_clock,
    check_power,
    check_bootloader,
    check_boot,
    check_vcpus,
    check_features,
    check_memory,
    check_security,
)

#: guest-wide, after the devices
WHOLE: tuple[Check, ...] = (
    check_tune,
    check_pages,
    check_firmware,
    check_menu,
    check_numa,
    check_throttle,
    check_namespace,
)


def check_domain(d: Define) -> None:
    """Guest-wide checks before the devices'."""
    for check in DOMAIN:
        check(d)


def check_whole(d: Define) -> None:
    """Checks across devices, after each alone."""
    for check in WHOLE:
        check(d)
