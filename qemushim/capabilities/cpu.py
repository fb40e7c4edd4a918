"""``<cpu>`` of ``<domainCapabilities>``: the modes, what ``host-model`` stands for here, and the models by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.board import PPC64, S390, X86
from qemushim.capabilities.layout import add_enum, add_supported, yes_no
from qemushim.context import Context
from qemushim.document.node import Node
from qemushim.emulator.model import CpuModel
from qemushim.machine.cpuhost import cpu_map, host_cpus
from qemushim.machine.cpunames import FROM_QEMU
from qemushim.machine.cpustart import has_mode

if TYPE_CHECKING:
    from qemushim.machine.cpumap import CpuMap

#: QEMU's model of this host, which is asked for by mode and not by name
_HOST = "host"
#: models of s390 that are QEMU's own; all others are machines that IBM built
_S390_VIRTUAL = ("max", "qemu")
_UNKNOWN = "unknown"


def add_cpu(root: Node, c: Context) -> None:
    cpu = root.add("cpu")
    _add_mode(cpu, "host-passthrough", c, ("on", "off") if c.emulator.flag("cpu.migratable") else ("off",))
    _add_mode(cpu, "maximum", c, ("on", "off"))
    _add_host_model(cpu, c)
    _add_custom(cpu, c)


def _add_mode(cpu: Node, name: str, c: Context, migratable: tuple[str, ...]) -> None:
    """A mode of which can be said whether the guest shall stay able to migrate."""
    supported = has_mode(name, c)
    mode = add_supported(cpu, "mode", supported, name=name)
    if supported:
        head, *tail = name.split("-")
        add_enum(mode, head + "".join(word.capitalize() for word in tail) + "Migratable", migratable)


def _add_host_model(cpu: Node, c: Context) -> None:
    supported = has_mode("host-model", c)
    mode = add_supported(cpu, "mode", supported, name="host-model")
    host = host_cpus(c) if supported else None
    if host is None:
        return
    found = host.reported
    mode.add("model", {"fallback": "allow" if found.fallback else "forbid"}, text=found.model)
    if found.vendor:
        mode.add("vendor", text=found.vendor)
    if c.host.physical_address_bits and c.domain.virt != "qemu":
        mode.add("maxphysaddr", {"mode": "passthrough", "limit": str(c.host.physical_address_bits)})
    for name, policy in found.features:
        mode.add("feature", {"policy": policy, "name": name})


def _add_custom(cpu: Node, c: Context) -> None:
    models = sorted(_models(c), key=lambda model: model.name)
    mode = add_supported(cpu, "mode", bool(models), name="custom")
    known = cpu_map(c.host)
    for model in models:
        usable = _UNKNOWN if model.blockers is None else yes_no(not model.blockers)
        node = mode.add("model", {"usable": usable}, text=model.name)
        if model.deprecated:
            node.set("deprecated", "yes")
        vendor, canonical = _origin(c.domain.arch, model.name, known)
        node.set("vendor", vendor or _UNKNOWN)
        if canonical:
            node.set("canonical", canonical)
        if model.blockers:
            blockers = mode.add("blockers", {"model": model.name})
            for name in sorted(set(_feature_names(c.domain.arch, model.blockers))):
                blockers.add("feature", {"name": name})


def _models(c: Context) -> Iterator[CpuModel]:
    """QEMU's models that can be asked for by name: where the CPU map lists models, only these."""
    accelerator = c.emulator.accelerator(c.domain.virt)
    if accelerator is None or not has_mode("custom", c):
        return
    known = cpu_map(c.host)
    listed = None
    if known is not None and c.domain.arch in X86:
        listed = known.x86.models.keys()
    elif known is not None and c.domain.arch in PPC64:
        listed = known.ppc64.models.keys()
    for model in accelerator.cpus:
        if model.name != _HOST and (listed is None or model.name in listed):
            yield model


def _origin(arch: str, name: str, known: CpuMap | None) -> tuple[str, str]:
    """Who makes CPUs of that model, and the model that the name stands for; ``""`` where there is none."""
    if arch in S390:
        return ("" if name in _S390_VIRTUAL else "IBM"), ""
    if known is not None and arch in X86 and name in known.x86.models:
        return known.x86.models[name].vendor, known.x86.canonical.get(name, "")
    if known is not None and arch in PPC64:
        return known.ppc64.vendors.get(name, ""), ""
    return "", ""


def _feature_names(arch: str, names: tuple[str, ...]) -> Iterator[str]:
    return (FROM_QEMU.get(name, name) if arch in X86 else name for name in names)
