"""``Board``: what follows from architecture and machine type together.

libvirt asks these questions of the *name* of a machine type, not of QEMU, so the answers are the same for every binary.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

X86 = frozenset({"i686", "x86_64"})
ARM = frozenset({"armv6l", "armv7l", "armv7b", "aarch64"})
PPC64 = frozenset({"ppc64", "ppc64le"})
PPC = frozenset({"ppc", "ppcemb"}) | PPC64
RISCV = frozenset({"riscv32", "riscv64"})
S390 = frozenset({"s390", "s390x"})
MIPS = frozenset({"mips", "mipsel", "mips64", "mips64el"})
MIPS64 = frozenset({"mips64", "mips64el"})


class Board:
    """An architecture (libvirt's name of it) and a machine type (canonical or alias)."""

    def __init__(self, arch: str, machine: str) -> None:
        self.arch = arch
        self.machine = machine

    def _named(self, *families: str) -> bool:
        """The machine is one of the families, or a version of it (``virt``, ``virt-9.0``)."""
        return any(self.machine == f or self.machine.startswith(f + "-") for f in families)

    @cached_property
    def is_x86(self) -> bool:
        return self.arch in X86

    @cached_property
    def is_arm(self) -> bool:
        return self.arch in ARM

    @cached_property
    def is_ppc64(self) -> bool:
        return self.arch in PPC64

    @cached_property
    def is_s390(self) -> bool:
        return self.arch in S390

    @cached_property
    def is_i440fx(self) -> bool:
        old = ("pc-0.", "pc-1.", "pc-i440fx-", "rhel")
        return self.is_x86 and (self.machine == "pc" or self.machine.startswith(old))

    @cached_property
    def is_q35(self) -> bool:
        return self.is_x86 and (self.machine == "q35" or self.machine.startswith("pc-q35-"))

    @cached_property
    def is_xenfv(self) -> bool:
        return self.is_x86 and self._named("xenfv")

    @cached_property
    def is_isapc(self) -> bool:
        return self.is_x86 and self.machine == "isapc"

    @cached_property
    def is_arm_virt(self) -> bool:
        return self.arch in {"armv6l", "armv7l", "aarch64"} and self._named("virt")

    @cached_property
    def is_riscv_virt(self) -> bool:
        return self.arch in RISCV and self._named("virt")

    @cached_property
    def is_loongarch_virt(self) -> bool:
        return self.arch == "loongarch64" and self._named("virt")

    @cached_property
    def is_pseries(self) -> bool:
        return self.is_ppc64 and self._named("pseries")

    @cached_property
    def is_ccw(self) -> bool:
        return self.is_s390 and self.machine.startswith("s390-ccw")

    @cached_property
    def is_malta(self) -> bool:
        return self.arch in MIPS and self.machine == "malta"

    @cached_property
    def has_builtin_ide(self) -> bool:
        return self.is_i440fx or self.machine in {"malta", "sun4u", "g3beige"}

    @cached_property
    def has_builtin_esp(self) -> bool:
        if self.arch == "sparc":
            return True
        return (self.arch in MIPS64 and self.machine in {"magnum", "pica61"}) or (
            self.arch == "m68k" and self.machine == "q800"
        )

    @cached_property
    def has_pci(self) -> bool:
        if self.is_arm:
            return self.is_arm_virt or self.machine == "versatilepb"
        return self.arch not in RISCV or self.is_riscv_virt

    @cached_property
    def has_pci_multibus(self) -> bool:
        """Whether PCI buses are told apart by number (``pci.0``), rather than there being just ``pci``."""
        if self.is_x86 or self.arch in PPC or self.is_s390:
            return True
        return self.is_arm_virt or self.is_loongarch_virt or self.is_riscv_virt

    @cached_property
    def has_pcie_root(self) -> bool:
        return self.is_q35 or self.is_arm_virt or self.is_riscv_virt or self.is_loongarch_virt


@lru_cache(256)
def board_of(arch: str, machine: str) -> Board:
    """The same board for every guest of a machine type, so that each question is answered once."""
    return Board(arch, machine)
