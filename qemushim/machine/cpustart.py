"""What ``<cpu>`` becomes when a guest starts: a model that this QEMU has, with features that are on or off.

The element of the definition that is being started is changed in place, step by step as libvirt does it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from qemushim.emulator.model import Accelerator
from qemushim.errors import error
from qemushim.machine.cpudecode import CpuData, Described, decode
from qemushim.machine.cpuhost import NEVER_PASSED, HostCpus, cpu_map, host_cpus, is_native, models_of
from qemushim.machine.cpunames import FROM_QEMU

if TYPE_CHECKING:
    from qemushim.context import Context, Define
    from qemushim.machine.cpu import Cpu
    from qemushim.machine.cpumap import CpuMap, X86Map

#: POWER models by the names that old definitions have
_LEGACY_PPC64 = {
    "POWER7_v2.1": "POWER7",
    "POWER7_v2.3": "POWER7",
    "POWER7+_v2.1": "POWER7",
    "POWER8_v1.0": "POWER8",
}
#: s390 machine types that came before CPU models
_WITHOUT_MODELS = tuple(f"s390-ccw-virtio-2.{minor}" for minor in (4, 5, 6, 7))
#: domain types that run on hardware
_ACCELERATED = ("kvm", "hvf")


def resolve_cpu(d: Define) -> None:
    """Turn ``<cpu>`` into what QEMU is given.

    Raises ``ConfigError`` where this QEMU or this host can not give such a CPU.
    """
    cpu = d.domain.cpu
    if cpu is None or not cpu.chosen:
        return
    _check_mode(cpu, d)
    if d.board.is_ppc64 and cpu.model in _LEGACY_PPC64:
        cpu.model = _LEGACY_PPC64[cpu.model]
    if d.board.is_arm:
        _check_arm_features(cpu, cpu_map(d.host))
    if cpu.check != "none":
        _check_forbidden(cpu, d)
    if cpu.mode not in ("host-passthrough", "maximum"):
        if cpu.check == "partial":
            _compare(cpu, d)
        _update(cpu, d)
        if d.board.is_x86:
            _switch_removed(cpu, d)
            _fall_back(cpu, d)
    if d.board.is_x86:
        _drop_own(cpu)
    _switch_deprecated(cpu, d)


# -- modes -------------------------------------------------------------------------------------------------


def _check_mode(cpu: Cpu, d: Define) -> None:
    if not has_mode(cpu.mode, d):
        where = f"{d.domain.arch} {d.domain.virt} domain on {d.host.arch} host"
        message = f"CPU mode '{cpu.mode}' for {where} is not supported by hypervisor"
        raise error.unsupported(message, cpu.node, "another mode, domain type or emulator")


def has_mode(mode: str, d: Context) -> bool:
    """Whether guests of that kind can have the mode of ``<cpu>``."""
    virt = d.domain.virt
    accelerator = d.emulator.accelerator(virt)
    if mode == "host-passthrough":
        return virt in _ACCELERATED and is_native(d.domain.arch, d.host.arch)
    if d.board.is_s390 and virt == "kvm" and d.board.machine in _WITHOUT_MODELS:
        return False
    if mode == "host-model":
        return host_cpus(d) is not None
    if mode == "maximum":
        return d.emulator.flag("cpu-max")
    return accelerator is not None and bool(accelerator.cpus)


def _check_arm_features(cpu: Cpu, known: CpuMap | None) -> None:
    for feature in cpu.features:
        if known is not None and feature.name not in known.arm.features:
            raise error.unsupported(
                f"unknown CPU feature: {feature.name}", feature.node, "as qemu -cpu help spells it"
            )


# -- is the host good enough -------------------------------------------------------------------------------


def _check_forbidden(cpu: Cpu, d: Define) -> None:
    """Features that the host may not have.  Only where the host's own CPU is known."""
    forbidden = [f for f in cpu.features if f.policy == "forbid"]
    known = cpu_map(d.host)
    if not forbidden or not d.board.is_x86 or known is None:
        return
    host = host_cpus(d)
    if host is None or host.full is None:
        return
    for item in forbidden:
        feature = known.x86.features.get(item.name or "")
        if feature is not None and feature.bits and feature.bits & host.full.bits == feature.bits:
            raise error.cpu(
                f"Host CPU provides forbidden features: {item.name}", item.node, "policy='disable'"
            )


def _compare(cpu: Cpu, d: Define) -> None:
    """A partial check: what the host's CPU and QEMU can give against what is asked for."""
    if d.board.is_ppc64:
        _compare_ppc64(cpu, d)
    elif d.board.is_x86:
        _compare_x86(cpu, d)


def _compare_ppc64(cpu: Cpu, d: Define) -> None:
    host = d.host.cpu
    if host is None or not cpu.model or d.domain.virt not in _ACCELERATED:
        return
    if cpu.mode == "host-model":
        # compatibility modes go back in time, not forward
        wanted, have = _power_number(cpu.model), _power_number(host.model)
        if wanted is None:
            message = f"unknown CPU model {cpu.model}"
            raise error.unsupported(message, cpu.node, "power8, power9, …")
        if have is not None and wanted > have:
            raise error.cpu("", cpu.node, f"the host has a {host.model}")
    elif cpu.model.lower() != host.model.lower():
        raise error.cpu("", cpu.node, f"the host has a {host.model}")


def _power_number(model: str) -> int | None:
    number = model.lower().removeprefix("power")
    return int(number) if number.isdigit() and len(number) < 4 else None


def _compare_x86(cpu: Cpu, d: Define) -> None:
    known = cpu_map(d.host)
    host = host_cpus(d)
    if known is None or host is None or host.full is None or cpu.mode != "custom":
        return
    if _runs_by_itself(cpu, d.emulator.accelerator(d.domain.virt)):
        return
    x86 = known.x86
    model = x86.models.get(cpu.model or "")
    if model is None:
        raise error.internal(
            f"Unknown CPU model {cpu.model}", cpu.node, "a model that “qemushim domcapabilities” lists"
        )
    if cpu.vendor and cpu.vendor != host.full.vendor:
        message = f"host CPU vendor does not match required CPU vendor {cpu.vendor}"
        raise error.cpu(message, cpu.node, "another model, or match='minimum'")
    wanted = model.bits
    for item in cpu.features:
        feature = x86.features.get(item.name or "")
        if feature is None:
            raise error.internal(f"Unknown CPU feature {item.name}", item.node, "as qemu -cpu help spells it")
        wanted = wanted | feature.bits if item.policy == "require" else wanted & ~feature.bits
    missing = x86.names(wanted & ~host.full.bits)
    if missing:
        message = f"Host CPU does not provide required features: {', '.join(missing)}"
        raise error.cpu(message, cpu.node, "disable them, or take another model")
    if cpu.match == "strict":
        _check_strict(cpu, x86, wanted, host.full)


def _check_strict(cpu: Cpu, x86: X86Map, wanted: int, full: CpuData) -> None:
    """Nothing may be left that the host has and the document does not speak of."""
    spoken = x86.bits(f.name or "" for f in cpu.features)
    extra = x86.names(full.bits & ~wanted & ~spoken)
    if extra:
        raise error.cpu(
            f"Host CPU provides additional features: {', '.join(extra)}", cpu.node, "match='exact'"
        )


def _runs_by_itself(cpu: Cpu, accelerator: Accelerator | None) -> bool:
    """QEMU says that the model runs here, and the document only takes away from it."""
    if accelerator is None or any(f.policy != "disable" for f in cpu.features):
        return False
    return any(m.name == cpu.model and m.blockers == () for m in accelerator.cpus)


# -- to a model --------------------------------------------------------------------------------------------


def _update(cpu: Cpu, d: Define) -> None:
    """``host-model``, ``match='minimum'`` and optional features are settled by what the host has."""
    optional = [f for f in cpu.features if f.policy == "optional"]
    if cpu.mode == "custom" and cpu.match != "minimum" and not optional:
        return
    if d.board.is_x86:
        host = _need_host(cpu, d)
        x86 = _need_map(d).x86
        for item in optional:
            feature = x86.features.get(item.name or "")
            if feature is None:
                raise error.internal(
                    f"Unknown CPU feature {item.name}", item.node, "as qemu -cpu help spells it"
                )
            has = feature.bits & host.migratable_bits == feature.bits
            item.policy = "require" if has else "disable"
        if cpu.mode == "host-model" or cpu.match == "minimum":
            _replace(cpu, host.migratable)
    elif d.board.is_s390:
        if cpu.mode != "host-model":
            what = "match mode minimum" if cpu.match == "minimum" else "optional CPU features"
            raise error.unsupported(f"{what} is not supported on s390 architecture", cpu.node, "remove it")
        _replace(cpu, _need_host(cpu, d).migratable)


def _need_host(cpu: Cpu, d: Define) -> HostCpus:
    host = host_cpus(d)
    if host is None:
        raise error.unsupported("unknown host CPU model", cpu.node, "mode='custom' with a model of its own")
    return host


def _need_map(d: Define) -> CpuMap:
    found = cpu_map(d.host)
    assert found is not None, "host_cpus() of x86 needs the map"
    return found


def _replace(cpu: Cpu, host: Described) -> None:
    """The host's model and features, changed by what the document says of features."""
    own = cpu.node.all("feature")
    cpu.node.children = [node for node in cpu.node.children if node.tag != "feature"]
    cpu.mode = "custom"
    cpu.match = "exact"
    cpu.model = host.model
    cpu.fallback = "allow" if host.fallback else "forbid"
    for name, policy in host.features:
        cpu.node.add("feature", {"policy": policy, "name": name})
    _apply(cpu, [(node.get("name") or "", node.get("policy") or "require") for node in own])


def _apply(cpu: Cpu, policies: Iterable[tuple[str, str]]) -> None:
    """Set the policy of features that are there, append the others."""
    there = {node.get("name"): node for node in cpu.node.all("feature")}
    for name, policy in policies:
        node = there.get(name)
        if node is None:
            there[name] = cpu.node.add("feature", {"policy": policy, "name": name})
        else:
            node.set("policy", policy)


def _switch_removed(cpu: Cpu, d: Define) -> None:
    """Features that a model lost after its first release.

    They are off where the document does not ask for them; on for a guest from where they still were.
    """
    known = cpu_map(d.host)
    model = known.x86.models.get(cpu.model or "") if known is not None else None
    if model is None or not model.removed:
        return
    there = {node.get("name") for node in cpu.node.all("feature")}
    policy = "require" if d.incoming else "disable"
    _apply(cpu, [(name, policy) for name in model.removed if name not in there])


def _fall_back(cpu: Cpu, d: Define) -> None:
    """A model that this QEMU does not have becomes the closest that it has, where the document allows it."""
    accelerator = d.emulator.accelerator(d.domain.virt)
    if accelerator is None or any(m.name == cpu.model for m in accelerator.cpus):
        return
    known = cpu_map(d.host)
    model = known.x86.models.get(cpu.model or "") if known is not None else None
    found = None
    if cpu.fallback != "forbid" and known is not None and model is not None:
        first = model.signatures[0] if model.signatures else None
        signature = (first.family, first.model, min(first.steppings or {0})) if first is not None else None
        vendor = cpu.vendor or model.vendor
        found = decode(known.x86, CpuData(model.bits, vendor, signature), models_of(accelerator.cpus))
    if found is None:
        message = f"CPU model {cpu.model} is not supported by hypervisor"
        raise error.unsupported(message, cpu.node, "a model that this emulator has")
    own = [(f.name or "", f.policy) for f in cpu.features]
    cpu.model = found.model
    cpu.node.discard("feature")
    _apply(cpu, [*found.features, *own])
    cpu.fallback = "forbid"


def _drop_own(cpu: Cpu) -> None:
    """Features that are not QEMU's to give."""
    if any(f.name in NEVER_PASSED for f in cpu.features):
        cpu.node.children = [
            node
            for node in cpu.node.children
            if node.tag != "feature" or node.get("name") not in NEVER_PASSED
        ]


# -- features ----------------------------------------------------------------------------------------------


def _switch_deprecated(cpu: Cpu, d: Define) -> None:
    """``deprecated_features``: all that QEMU calls deprecated, on or off."""
    wanted = cpu.deprecated_features
    if wanted is None:
        return
    if not d.emulator.qapi("query-cpu-model-expansion/ret-type/deprecated-props"):
        message = "toggling deprecated features for CPU model is unsupported"
        raise error.unsupported(message, cpu.node, "remove deprecated_features, or take QEMU 9.1 or newer")
    accelerator = d.emulator.accelerator(d.domain.virt)
    host = accelerator.host_cpu if accelerator is not None else None
    policy = "require" if wanted else "disable"
    _apply(cpu, [(FROM_QEMU.get(n, n), policy) for n in (host.deprecated if host is not None else ())])
