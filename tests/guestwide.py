"""Guests for tests of what belongs to no device: one is its parts around an otherwise empty machine."""

from __future__ import annotations

from itertools import pairwise

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host, Hugepages, NumaNode

LATEST = Emulator.recorded("10.0.0")
OLD = Emulator.recorded("6.2.0")
SEVEN = Emulator.recorded("7.2.0")
ARM = Emulator.recorded("8.2.0", "aarch64")
POWER = Emulator.recorded("7.1.0", "ppc64")
RISCV = Emulator.recorded("9.1.0", "riscv64")
S390 = Emulator.recorded("10.0.0", "s390x")

MACHINES = {"aarch64": "virt", "ppc64": "pseries", "riscv64": "virt", "s390x": "s390-ccw-virtio"}
UUID = "8a2f0b9c-3d5e-4f61-9b7a-1c2d3e4f5a6b"

#: a host with four NUMA nodes of four CPUs each
HOST = Host.nominal()._replace(
    hugepages=(Hugepages(2048, "/mnt/huge2M", True), Hugepages(1048576, "/mnt/huge1G")),
    numa=tuple(NumaNode(n, frozenset(range(4 * n, 4 * n + 4))) for n in range(4)),
    auto_nodeset=(0, 1),
    now=86400,
    environment={"PATH": "/bin", "USER": "me"},
)


def document(
    inside: str = "",
    *,
    os: str = "",
    os_attributes: str = "",
    devices: str = "",
    arch: str = "x86_64",
    machine: str = "",
    virt: str = "qemu",
    memory: str = "<memory unit='MiB'>256</memory>",
    cpus: int = 1,
    name: str = "g",
) -> str:
    quiet = "" if "<memballoon" in devices else "<memballoon model='none'/>"
    return f"""<domain type='{virt}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
<name>{name}</name><uuid>{UUID}</uuid>{memory}<vcpu>{cpus}</vcpu>
<os {os_attributes}><type arch='{arch}' machine='{machine or MACHINES.get(arch, "pc")}'>hvm</type>{os}</os>
{inside}<devices>{devices}{quiet}</devices></domain>"""


def guest(inside: str = "", emulator: Emulator = LATEST, **parts: object) -> Guest:
    return Guest.from_xml(document(inside, arch=emulator.arch, **parts))  # type: ignore[arg-type]


def host_of(emulator: Emulator) -> Host:
    return HOST._replace(arch=emulator.arch)


def stored(
    inside: str = "",
    emulator: Emulator = LATEST,
    host: Host | None = None,
    update: bool = True,
    **parts: object,
) -> str:
    """The definition, which comes out of another ``define`` as it went in."""
    host = host or host_of(emulator)
    text = guest(inside, emulator, **parts).define(emulator, host, update=update).to_xml()
    assert Guest.from_xml(text).define(emulator, host, update=update).to_xml() == text
    return text


def element(text: str, tag: str) -> str:
    """One element below ``<domain>`` of a definition, without white space between elements; "" for none."""
    start = text.find(f"\n  <{tag}")
    if start < 0:
        return ""
    first = text[start + 1 : text.index("\n", start + 1)]
    if first.endswith("/>") or f"</{tag}>" in first:
        return first.strip()
    end = text.index(f"\n  </{tag}>", start) + len(f"\n  </{tag}>")
    return "".join(line.strip() for line in text[start:end].splitlines())


def tokens(
    inside: str = "",
    emulator: Emulator = LATEST,
    host: Host | None = None,
    update: bool = True,
    incoming: str = "",
    **parts: object,
) -> list[str]:
    host = host or host_of(emulator)
    return guest(inside, emulator, **parts).command(emulator, host, update=update, incoming=incoming).tokens


def values(flag: str, argv: list[str]) -> list[str]:
    """What stands behind each ``flag``."""
    return [value for name, value in pairwise(argv) if name == flag]


def value(flag: str, argv: list[str]) -> str:
    (only,) = values(flag, argv)
    return only


def refusal(
    inside: str = "",
    emulator: Emulator = LATEST,
    host: Host | None = None,
    update: bool = True,
    **parts: object,
) -> str:
    """The message of a guest that can not be defined."""
    with pytest.raises(ConfigError) as caught:
        guest(inside, emulator, **parts).define(emulator, host or host_of(emulator), update=update)
    return caught.value.message


def failed_start(inside: str = "", emulator: Emulator = LATEST, **parts: object) -> str:
    """The message of a guest that can be defined and not started."""
    host = host_of(emulator)
    defined = guest(inside, emulator, **parts).define(emulator, host, update=False)
    with pytest.raises(ConfigError) as caught:
        defined.command(emulator, host, update=False)
    return caught.value.message
