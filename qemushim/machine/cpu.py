"""``<cpu>``: the element, its defaults and its checks.  https://libvirt.org/formatdomain.html#cpu-model-and-topology

What it becomes at a start is in ``cpustart``, the option ``-cpu`` in ``cpuoption``.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qemushim.board import ARM, PPC64, S390, X86
from qemushim.document.fields import (
    Choice,
    Many,
    Natural,
    One,
    OnOff,
    Positive,
    Text,
)
from qemushim.document.item import Item
from qemushim.errors import error
from qemushim.machine.cpuhost import host_cpus
from qemushim.machine.cpuoption import cpu_options
from qemushim.machine.cpustart import resolve_cpu
from qemushim.machine.numa import Numa

if TYPE_CHECKING:
    from qemushim.context import Define

MODES = ("custom", "host-model", "host-passthrough", "maximum")
MATCHES = ("minimum", "exact", "strict")
CHECKS = ("none", "partial", "full")
POLICIES = ("force", "require", "optional", "disable", "forbid")
CACHE_MODES = ("emulate", "passthrough", "disable")
#: modes in which the guest gets what this host has, or all that QEMU knows
PASSTHROUGH = ("host-passthrough", "maximum")

#: architectures whose CPUs libvirt knows; on the second it takes a default CPU for any domain type
KNOWN = X86 | S390 | PPC64 | ARM | {"riscv64", "loongarch64"}
_DEFAULT_ALWAYS = X86 | S390 | PPC64

_SVE_LENGTH = r"sve[0-9]+"


# -- the CPU -----------------------------------------------------------------------------------------------


class CpuFeature(Item):
    """``<feature>``: what the guest's CPU has beyond its model, or lacks."""

    tag = "feature"
    policy = Choice("@policy", POLICIES, "require").says("Invalid CPU feature policy")
    name = Text("@name")


class Cpu(Item):
    """``<cpu>``"""

    tag = "cpu"
    mode = Choice("@mode", MODES, "custom").says("Invalid mode attribute '{}'")
    match = Choice("@match", MATCHES)
    check = Choice("@check", CHECKS)
    migratable = OnOff("@migratable")
    deprecated_features = OnOff("@deprecated_features")
    fallback = Choice("model/@fallback", ("", "allow", "forbid")).says("Invalid fallback attribute")
    vendor_id = Text("model/@vendor_id")
    model = Text("model")
    vendor = Text("vendor")
    sockets = Positive("topology/@sockets", required=True)
    dies = Positive("topology/@dies")
    clusters = Positive("topology/@clusters")
    cores = Positive("topology/@cores", required=True)
    threads = Positive("topology/@threads", required=True)
    cache_level = Natural("cache/@level")
    cache_mode = Choice("cache/@mode", CACHE_MODES, required=True)
    address_mode = Choice("maxphysaddr/@mode", ("emulate", "passthrough"), required=True)
    address_bits = Natural("maxphysaddr/@bits")
    address_limit = Positive("maxphysaddr/@limit")
    features = Many("feature", CpuFeature)
    numa = One("numa", Numa)

    @property
    def chosen(self) -> bool:
        """Whether it says which CPU, rather than only how many and where."""
        return self.mode != "custom" or bool(self.model)

    @property
    def topology(self) -> tuple[int, int, int, int, int] | None:
        """Sockets, dies, clusters, cores, threads; ``None`` where the document leaves it open."""
        sockets, cores, threads = self.sockets, self.cores, self.threads
        if sockets is None or cores is None or threads is None:
            return None
        dies, clusters = self.dies, self.clusters
        return sockets, 1 if dies is None else dies, 1 if clusters is None else clusters, cores, threads


# -- defaults ----------------------------------------------------------------------------------------------


def complete_default_cpu(d: Define) -> None:
    """The CPU that the machine type has where the document does not say which."""
    cpu = d.domain.cpu
    if cpu is not None:
        _check_element(cpu)
        if cpu.chosen:
            return
    name = _default_model(d)
    if not name:
        return
    node = d.domain.node.ensure("cpu")
    if name == "host":
        with_model = d.board.is_s390 and host_cpus(d) is not None
        node.set("mode", "host-model" if with_model else "host-passthrough")
        return
    node.attrib.update(mode="custom", match="exact", check="none")
    model = node.ensure("model")
    model.text = name
    model.set("fallback", "forbid")


def _default_model(d: Define) -> str:
    """QEMU's name of the model behind the machine's default CPU type, ``""`` where there is none to take."""
    arch, virt = d.domain.arch, d.domain.virt
    if arch not in KNOWN or (arch not in _DEFAULT_ALWAYS and virt != "qemu"):
        return ""
    machine, accelerator = d.machine, d.emulator.accelerator(virt)
    if machine is None or accelerator is None or not machine.default_cpu_type:
        return ""
    name = next((m.name for m in accelerator.cpus if m.typename == machine.default_cpu_type), "")
    return "" if name == "host" and virt == "qemu" else name


def complete_cpu(d: Define) -> None:
    """Check, migratable, feature policies, topology, the model's fallback."""
    cpu = d.domain.cpu
    if cpu is None:
        return
    _complete_mode(cpu, d)
    _complete_model(cpu)
    for feature in cpu.node.all("feature"):
        feature.attrib.setdefault("policy", "require")
    topology = cpu.node.child("topology")
    if topology is not None:
        for name in ("dies", "clusters"):
            topology.attrib.setdefault(name, "1")
    if d.board.is_arm:
        _complete_sve(cpu)
    if not cpu.node.attrib and not cpu.node.children:
        d.domain.node.remove(cpu.node)


def _complete_mode(cpu: Cpu, d: Define) -> None:
    given = cpu.node.attrib
    if not cpu.chosen:
        # how many and where, but not which: libvirt keeps no mode of it
        cpu.node.drop("mode", "match", "check", "migratable", "deprecated_features")
        return
    mode = given.setdefault("mode", "custom")
    if mode == "custom":
        given.setdefault("match", "exact")
        default = "none" if d.domain.virt == "qemu" else "partial"
    else:
        cpu.node.drop("match")
        default = "partial" if mode == "host-model" else "none"
    given.setdefault("check", default)
    if mode == "host-passthrough" and "migratable" not in given:
        if d.emulator.flag("cpu.migratable"):
            given["migratable"] = "on"
        elif d.board.is_x86:
            given["migratable"] = "off"


def _complete_model(cpu: Cpu) -> None:
    model = cpu.node.child("model")
    if model is None:
        return
    if cpu.mode in PASSTHROUGH:
        cpu.node.remove(model)
    elif model.text.strip():
        model.attrib.setdefault("fallback", "allow")
    else:
        model.drop("fallback")
        if not model.attrib:
            cpu.node.remove(model)


def _complete_sve(cpu: Cpu) -> None:
    """ARM's vector lengths (``sve256``) need vectors (``sve``)."""
    if not any(re.fullmatch(_SVE_LENGTH, f.name or "") for f in cpu.features):
        return
    for feature in cpu.features:
        if feature.name == "sve":
            if feature.policy in ("disable", "forbid"):
                raise error.unsupported(
                    "SVE disabled, but SVE vector lengths provided",
                    feature.node,
                    "remove the sveNNN features, or require sve",
                )
            return
    cpu.node.add("feature", {"policy": "require", "name": "sve"})


# -- checks ------------------------------------------------------------------------------------------------


def _check_element(cpu: Cpu) -> None:
    """What libvirt refuses when it reads the element."""
    node = cpu.node
    if not cpu.chosen:
        if cpu.vendor:
            raise error.xml("CPU vendor specified without CPU model", node, "add <model>NAME</model>")
        if node.child("feature") is not None:
            message = "Non-empty feature list specified without CPU model"
            raise error.xml(message, node, "add <model>NAME</model>")
    if cpu.migratable is not None and cpu.mode not in PASSTHROUGH:
        message = "Attribute migratable is only allowed for 'host-passthrough' / 'maximum' CPU mode"
        raise error.unsupported(message, node, "remove migratable")
    if cpu.vendor_id is not None:
        if "," in cpu.vendor_id:
            raise error.xml("vendor id is invalid", node, "no commas")
        if len(cpu.vendor_id) != 12:
            raise error.xml("vendor_id must be exactly 12 characters long", node, "such as GenuineIntel")
    seen = set()
    for feature in cpu.features:
        if not feature.name:
            raise error.xml("Invalid CPU feature name", feature.node, "<feature policy='require' name='…'/>")
        if feature.name in seen:
            raise error.xml(
                f"CPU feature '{feature.name}' specified more than once", feature.node, "keep one"
            )
        seen.add(feature.name)


def check_cpu(d: Define) -> None:
    """Raise ``ConfigError`` where mode, cache or address size do not go together."""
    cpu = d.domain.cpu
    if cpu is None:
        return
    _check_migratable(cpu, d)
    _check_cache(cpu)
    _check_address_size(cpu)


def _check_migratable(cpu: Cpu, d: Define) -> None:
    given = cpu.migratable
    if given is None or cpu.mode not in PASSTHROUGH or d.emulator.flag("cpu.migratable"):
        return
    if given or not d.board.is_x86:
        message = f"Migratable attribute for {cpu.mode} CPU is not supported by QEMU binary"
        raise error.unsupported(message, cpu.node, "remove migratable")


def _check_cache(cpu: Cpu) -> None:
    node, mode, level = cpu.node.child("cache"), cpu.cache_mode, cpu.cache_level
    if node is None:
        return
    if len(cpu.node.all("cache")) > 1:
        message = "at most one CPU cache element may be specified"
        raise error.xml(message, cpu.node.all("cache")[1], "keep one")
    if level is not None and not 1 <= level <= 3:
        raise error.xml("invalid CPU cache level, must be in range [1,3]", node, "level='3'")
    if mode == "emulate" and level != 3:
        raise error.unsupported(f"CPU cache mode '{mode}' can only be used with level='3'", node, "level='3'")
    if mode == "passthrough" and cpu.mode not in PASSTHROUGH:
        message = f"CPU cache mode '{mode}' can only be used with 'host-passthrough' / 'maximum' CPUs"
        raise error.unsupported(message, node, "<cpu mode='host-passthrough'>")
    if mode != "emulate" and level is not None:
        message = f"unsupported CPU cache level for mode '{mode}'"
        raise error.unsupported(message, node, "remove level")


def _check_address_size(cpu: Cpu) -> None:
    node = cpu.node.child("maxphysaddr")
    if node is None:
        return
    if cpu.address_mode == "passthrough" and cpu.address_bits is not None:
        message = (
            "CPU maximum physical address bits number specification cannot be used with mode='passthrough'"
        )
        raise error.unsupported(message, node, "limit='N', or mode='emulate'")
    if cpu.address_mode == "emulate" and cpu.address_limit is not None:
        message = "attribute 'limit' is only supported for maxphysaddr mode 'passthrough'"
        raise error.unsupported(message, node, "bits='N', or mode='passthrough'")


__all__ = [
    "Cpu",
    "CpuFeature",
    "check_cpu",
    "complete_cpu",
    "complete_default_cpu",
    "cpu_options",
    "resolve_cpu",
]
