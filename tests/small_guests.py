"""Small guests for tests of devices: a document, its definition, its command line, its refusal."""

from __future__ import annotations

from itertools import pairwise

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host

LATEST = Emulator.recorded("10.0.0")
OLD = Emulator.recorded("7.1.0")
ARM = Emulator.recorded("8.2.0", "aarch64")
PSERIES = Emulator.recorded("7.1.0", "ppc64")
RISCV = Emulator.recorded("9.1.0", "riscv64")
S390 = Emulator.recorded("10.0.0", "s390x")

MACHINES = {
    "aarch64": "virt",
    "ppc64": "pseries",
    "riscv64": "virt",
    "s390x": "s390-ccw-virtio",
    "x86_64": "pc",
}


def document(devices: str, arch: str = "x86_64", extra: str = "", machine: str = "") -> str:
    """A domain with these devices; ``extra`` goes between memory and vcpu."""
    return f"""<domain type='qemu'><name>g</name><uuid>5b2e2c7e-9f2e-4c4b-8a3a-0c9f5d6e7f80</uuid>
<memory unit='MiB'>256</memory>{extra}<vcpu>1</vcpu>
<os><type arch='{arch}' machine='{machine or MACHINES[arch]}'>hvm</type></os>
<devices>{devices}</devices></domain>"""


def guest(devices: str, emulator: Emulator = LATEST, extra: str = "", machine: str = "") -> Guest:
    return Guest.from_xml(document(devices, emulator.arch, extra, machine))


def stored(devices: str, emulator: Emulator = LATEST, extra: str = "", machine: str = "") -> str:
    """The definition."""
    host = Host.nominal(emulator.arch)
    return guest(devices, emulator, extra, machine).define(emulator, host).to_xml()


def tokens(
    devices: str, emulator: Emulator = LATEST, host: Host | None = None, extra: str = "", machine: str = ""
) -> list[str]:
    """The command line."""
    host = host or Host.nominal(emulator.arch)
    return guest(devices, emulator, extra, machine).command(emulator, host).tokens


def values(flag: str, argv: list[str]) -> list[str]:
    """What stands behind each ``flag``."""
    return [value for name, value in pairwise(argv) if name == flag]


def refusal(devices: str, emulator: Emulator = LATEST, machine: str = "") -> str:
    """The message of a guest that can not be had."""
    with pytest.raises(ConfigError) as caught:
        tokens(devices, emulator, machine=machine)
    return caught.value.message
