"""Guests for tests with a real QEMU: a few bytes of guest code, and what the host has to show for them."""

from __future__ import annotations

import gc
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

#: seconds that anything may take
SECONDS = 30.0
#: machine type → where its chipset answers for PCI hotplug
HOTPLUG_PORT = {"pc": 0xAE00, "q35": 0x0CC0}
#: power management: status of events, events that count, control (where SeaBIOS puts them)
_STATUS, _ENABLE, _CONTROL = 0x600, 0x602, 0x604
_POWER_BUTTON, _SOFT_OFF = 0x100, 0x2000
#: selectors of PCI buses that are looked at
_BUSES = 64


def boot_sector(machine: str) -> bytes:
    """A guest of one sector: it lets go of every device that it is asked for, and follows the power button.

    Real mode, no interrupts; it never rests, so its processor is always busy.
    """
    port = HOTPLUG_PORT[machine]

    def at(number: int) -> bytes:
        return b"\xba" + struct.pack("<H", number)  # mov dx, number

    def word(number: int) -> bytes:
        return b"\xb8" + struct.pack("<H", number)  # mov ax, number

    start = b"\xfa\x31\xc0\x8e\xd8" + at(_ENABLE) + word(_POWER_BUTTON) + b"\xef"  # cli; ds = 0; out dx, ax
    off = at(_CONTROL) + word(_SOFT_OFF) + b"\xef"
    power = at(_STATUS) + b"\xed\xa9" + struct.pack("<H", _POWER_BUTTON) + b"\x74" + bytes([len(off)]) + off
    eject = at(port + 8) + b"\x66\xef"  # out dx, eax
    # select bus ecx; eax = slots that are to go; if there are any, eject them
    bus = at(port + 16) + b"\x66\x89\xc8\x66\xef" + at(port + 4) + b"\x66\xed\x66\x85\xc0"
    bus += b"\x74" + bytes([len(eject)]) + eject
    bus += b"\x66\x41\x66\x83\xf9" + bytes([_BUSES])  # inc ecx; cmp ecx, buses
    bus += b"\x72" + struct.pack("b", -(len(bus) + 2))
    loop = power + b"\x66\x31\xc9" + bus  # xor ecx, ecx
    loop += b"\xeb" + struct.pack("b", -(len(loop) + 2))
    return (start + loop).ljust(510, b"\0") + b"\x55\xaa"


def image(path: Path, content: bytes = b"") -> Path:
    """A disk image of one MiB."""
    path.write_bytes(content.ljust(1 << 20, b"\0"))
    return path


def disk(path: Path, target: str, bus: str = "virtio", extra: str = "") -> str:
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='{path}'/>"
        f"<target dev='{target}' bus='{bus}'/>{extra}</disk>"
    )


def card(number: int, model: str = "virtio") -> str:
    return f"<interface type='user'><mac address='52:54:00:00:00:{number:02x}'/><model type='{model}'/></interface>"


def guest(name: str, devices: str = "", *, machine: str = "pc", rest: str = "") -> str:
    """A guest of 64 MiB without KVM, which not every host of tests has."""
    return (
        f"<domain type='qemu'><name>{name}</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>"
        f"<os><type arch='x86_64' machine='{machine}'>hvm</type></os><features><acpi/></features>{rest}"
        f"<devices>{devices}</devices></domain>"
    )


def booting(folder: Path, machine: str = "pc") -> str:
    """The disk with the guest's code, which its firmware starts."""
    return disk(image(folder / f"boot-{machine}.img", boot_sector(machine)), "vda")


def processes_below(folder: Path) -> list[int]:
    """Processes whose command line names the folder: QEMUs, and their keepers by their working files."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(folder) in words:
            found.append(int(entry.name))
    return found


def sockets_below(folder: Path) -> list[str]:
    """UNIX sockets below the folder that somebody has open."""
    return [
        line.split()[-1] for line in Path("/proc/net/unix").read_text().splitlines() if f" {folder}" in line
    ]


def descriptors() -> int:
    # what an earlier test has left to the garbage collector is nobody's leak
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def eventually(holds: Callable[[], bool], seconds: float = SECONDS) -> bool:
    """Whether it comes to hold within that time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
