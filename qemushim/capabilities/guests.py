"""``<capabilities>``: which guests the host can run, by architecture.

https://libvirt.org/formatcaps.html
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from qemushim.board import X86
from qemushim.capabilities.layout import yes_no
from qemushim.document.node import Node
from qemushim.emulator.model import Emulator, Machine
from qemushim.host import Host

#: architectures in libvirt's order, which is the order of the guests
ARCHITECTURES = (
    *("alpha", "armv6l", "armv7l", "armv7b", "aarch64", "cris", "i686", "itanium", "lm32", "loongarch64"),
    *("m68k", "microblaze", "microblazeel", "mips", "mipsel", "mips64", "mips64el", "or32", "parisc"),
    *("parisc64", "ppc", "ppcle", "ppc64", "ppc64le", "ppcemb", "riscv32", "riscv64", "s390", "s390x"),
    *("sh4", "sh4eb", "sparc", "sparc64", "unicore32", "x86_64", "xtensa", "xtensaeb"),
)
#: those with words of 64 bits
_WIDE = frozenset(
    {
        *("aarch64", "alpha", "itanium", "loongarch64", "mips64", "mips64el", "parisc64", "ppc64", "ppc64le"),
        *("riscv64", "s390x", "sparc64", "x86_64"),
    }
)
#: architectures on which ACPI can be switched
_ACPI = X86 | {"aarch64", "loongarch64"}
#: from this QEMU on disks are described by ``-blockdev``, which external snapshots are made with
_BLOCKDEV = (4, 2, 0)
#: domain type → the flag of the accelerator behind it, in the order in which they are listed
_DOMAINS = {"qemu": "tcg", "kvm": "kvm", "hvf": "hvf"}


def capabilities(emulators: Iterable[Emulator], host: Host) -> Node:
    """The host, and a guest for each emulator, by architecture; of two for one the first counts."""
    root = Node("capabilities")
    root.append(_host(host))
    known: dict[str, Emulator] = {}
    for emulator in emulators:
        known.setdefault(emulator.arch, emulator)
    for arch in sorted(known, key=_place):
        root.append(guest(known[arch], host))
    return root


def guest(emulator: Emulator, host: Host) -> Node:
    """``<guest>``: what one emulator runs."""
    root = Node("guest")
    root.add("os_type", text="hvm")
    arch = root.add("arch", {"name": emulator.arch})
    arch.add("wordsize", text="64" if emulator.arch in _WIDE else "32")
    arch.add("emulator", text=emulator_path(emulator, host))
    for machine, name in _names(emulator):
        arch.append(_machine(machine, name))
    for domain in domain_types(emulator):
        arch.add("domain", {"type": domain})
    _add_features(root.add("features"), emulator)
    return root


def emulator_path(emulator: Emulator, host: Host) -> str:
    """Where the binary is, or would be on the host where it is known by its abilities alone."""
    return emulator.binary or host.emulators.get(emulator.arch, f"/usr/bin/qemu-system-{emulator.arch}")


def domain_types(emulator: Emulator) -> list[str]:
    """The domain types that the emulator runs, plain emulation first."""
    if emulator.classic:
        # a help text has no flag for plain emulation, and speaks of KVM in more than one way
        return [virt for virt in _DOMAINS if emulator.accelerator(virt) is not None]
    return [virt for virt, flag in _DOMAINS.items() if emulator.flag(flag)]


def _place(arch: str) -> tuple[int, str]:
    known = arch in ARCHITECTURES
    return (ARCHITECTURES.index(arch) if known else len(ARCHITECTURES), arch)


def _host(host: Host) -> Node:
    root = Node("host")
    root.add("cpu").add("arch", text=host.arch)
    root.add("power_management")
    grouped = any(device.iommu_group >= 0 for device in host.pci.values())
    root.add("iommu", {"support": yes_no(grouped)})
    return root


def _names(emulator: Emulator) -> Iterator[tuple[Machine, str]]:
    """Every machine type by its own name and, behind that, by its alias."""
    machines = emulator.accelerators[0].machines if emulator.accelerators else ()
    listed = {machine.name for machine in machines if not machine.alias}
    for machine in machines:
        if machine.name not in listed or not machine.alias:
            yield machine, machine.name
        if machine.alias:
            yield machine, machine.alias


def _machine(machine: Machine, name: str) -> Node:
    node = Node("machine", text=name)
    if name != machine.name:
        node.set("canonical", machine.name)
    if machine.max_cpus:
        node.set("maxCpus", machine.max_cpus)
    if machine.deprecated:
        node.set("deprecated", "yes")
    return node


def _add_features(features: Node, emulator: Emulator) -> None:
    x86 = emulator.arch in X86
    if emulator.arch == "i686":
        features.add("pae")
        features.add("nonpae")
    if emulator.arch in _ACPI:
        features.add("acpi", {"default": "on", "toggle": "yes"})
    if x86:
        features.add("apic", {"default": "on", "toggle": "no"})
    features.add("cpuselection")
    features.add("deviceboot")
    features.add("disksnapshot", {"default": "on", "toggle": "no"})
    if emulator.version >= _BLOCKDEV:
        features.add("externalSnapshot")
