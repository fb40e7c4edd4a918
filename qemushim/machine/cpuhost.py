"""The CPUs that a host can give: what ``host-model`` stands for, and what a guest's CPU is compared with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from qemushim.emulator.model import Accelerator, CpuModel, HostCpu
from qemushim.host import CpuDefinition, Host
from qemushim.machine.cpudecode import CpuData, Described, decode
from qemushim.machine.cpunames import FROM_QEMU

if TYPE_CHECKING:
    from qemushim.context import Context
    from qemushim.machine.cpumap import CpuMap, X86Map

#: guest architecture → architectures of hosts that run it natively, beside its own
_NATIVE = {
    "i686": ("x86_64",),
    "armv6l": ("aarch64",),
    "armv7l": ("aarch64",),
    "ppc64": ("ppc64le",),
    "ppc64le": ("ppc64",),
}
#: x86 features that are never QEMU's to give: they follow from others, or are the host's alone
NEVER_PASSED = frozenset(
    {
        "cmt",
        "mbm_local",
        "mbm_total",
        "osxsave",
        "ospke",
        "vmx-ept-uc",
        "vmx-ept-wb",
        "vmx-invvpid-single-context",
    }
)
#: how many hosts a map remembers
_MEMORY = 64


class HostCpus(NamedTuple):
    """One host's CPU, three ways."""

    #: all that QEMU can give
    reported: Described
    #: without what would keep a guest from migrating
    migratable: Described
    #: feature bits of ``migratable`` (x86)
    migratable_bits: int = 0
    #: feature bits of the host's CPU itself and of ``reported`` (x86), and its vendor; ``None``: not known
    full: CpuData | None = None


def is_native(arch: str, host: str) -> bool:
    """Whether a host runs guests of an architecture without translation."""
    return arch == host or host in _NATIVE.get(arch, ())


def cpu_map(host: Host) -> CpuMap | None:
    """The host's CPU map, which it may give through a function."""
    given = host.cpu_map
    found: CpuMap | None = given() if callable(given) else given
    return found


def host_cpus(c: Context) -> HostCpus | None:
    """What ``host-model`` stands for, or ``None`` where there is no such thing for this guest."""
    arch = c.domain.arch
    accelerator = c.emulator.accelerator(c.domain.virt)
    known = cpu_map(c.host)
    if accelerator is None or not is_native(arch, c.host.arch):
        return None
    if c.board.is_s390:
        return _from_s390(accelerator)
    if c.board.is_ppc64:
        return _from_ppc64(c.host)
    if not c.board.is_x86 or known is None:
        return None
    key = (id(accelerator.host_cpu), id(accelerator.cpus), c.host.cpu)
    entry = known.memory.get(key)
    if entry is None:
        if len(known.memory) >= _MEMORY:
            known.memory.clear()
        # what the identities speak of is kept with the result, so that they can not be given to others
        entry = known.memory[key] = (_from_x86(known.x86, accelerator, c.host.cpu), accelerator)
    found: HostCpus | None = entry[0]
    return found


def _from_s390(accelerator: Accelerator) -> HostCpus | None:
    """QEMU's own expansion, switch by switch in its order."""
    cpu = accelerator.host_cpu
    if cpu is None:
        return None
    features = tuple(
        (p.name, "require" if p.value else "disable") for p in cpu.properties if isinstance(p.value, bool)
    )
    described = Described(cpu.model, features)
    return HostCpus(described, described)


def _from_ppc64(host: Host) -> HostCpus:
    """QEMU calls it ``host``, whatever it is."""
    described = Described(host.cpu.model if host.cpu is not None else "", (), fallback=True)
    return HostCpus(described, described)


# -- x86 ---------------------------------------------------------------------------------------------------


def _from_x86(x86: X86Map, accelerator: Accelerator, host: CpuDefinition | None) -> HostCpus | None:
    own = _definition_bits(x86, host) if host is not None else 0
    if accelerator.host_cpu is None:
        return _from_definition(x86, host, own) if host is not None else None
    models = models_of(accelerator.cpus)
    data, stays = _data(x86, accelerator.host_cpu)
    reported = decode(x86, data, models)
    migratable = decode(x86, CpuData(data.bits & ~stays, data.vendor, data.signature), models)
    if reported is None or migratable is None:
        return None
    full = None
    if host is not None:
        full = CpuData(own | described_bits(x86, reported), host.vendor or data.vendor)
    return HostCpus(reported, migratable, described_bits(x86, migratable), full)


def models_of(cpus: tuple[CpuModel, ...]) -> Mapping[str, list[str]]:
    """QEMU's models, with libvirt's names of the features that keep each from running here."""
    return {m.name: [FROM_QEMU.get(b, b) for b in m.blockers or ()] for m in cpus}


def _data(x86: X86Map, cpu: HostCpu) -> tuple[CpuData, int]:
    """What QEMU's expansion says of the host, and the bits in it that keep a guest from migrating."""
    values = {p.name: p.value for p in cpu.properties if not isinstance(p.value, bool)}
    bits = x86.bits(FROM_QEMU.get(p.name, p.name) for p in cpu.properties if p.value is True)
    if cpu.migratability:
        stays = x86.bits(
            FROM_QEMU.get(p.name, p.name) for p in cpu.properties if p.value is True and p.migratable is False
        )
    else:
        stays = x86.bits(x86.unmigratable)
    vendor = next((name for name, text in x86.vendors.items() if text == values.get("vendor")), "")
    signature = tuple(values.get(name) for name in ("family", "model", "stepping"))
    known = all(isinstance(number, int) for number in signature)
    return CpuData(bits, vendor, signature if known else None), stays  # type: ignore[arg-type]


def _from_definition(x86: X86Map, host: CpuDefinition, own: int) -> HostCpus:
    """QEMU says nothing of the host: its own CPU, without what is not QEMU's to give."""
    listed = [name for name in host.features if name not in NEVER_PASSED]
    stays = [name for name in listed if name not in x86.unmigratable]
    reported, migratable = (
        Described(host.model, tuple((name, "require") for name in names), host.vendor, fallback=True)
        for names in (listed, stays)
    )
    return HostCpus(reported, migratable, described_bits(x86, migratable), CpuData(own, host.vendor))


def _definition_bits(x86: X86Map, host: CpuDefinition) -> int:
    model = x86.models.get(host.model)
    return (model.bits if model is not None else 0) | x86.bits(
        f for f in host.features if f not in NEVER_PASSED
    )


def described_bits(x86: X86Map, cpu: Described) -> int:
    """The feature bits of a model with features."""
    model = x86.models.get(cpu.model)
    bits = model.bits if model is not None else 0
    for name, policy in cpu.features:
        feature = x86.features.get(name)
        if feature is not None:
            bits = bits | feature.bits if policy == "require" else bits & ~feature.bits
    return bits


def expansion_names(cpu: HostCpu) -> Iterator[str]:
    """libvirt's names of all that QEMU's expansion speaks of."""
    return (FROM_QEMU.get(p.name, p.name) for p in cpu.properties)
