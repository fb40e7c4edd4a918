"""``-cpu MODEL,feature=on,…``.  https://www.qemu.org/docs/master/system/qemu-cpu-models.html"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.document.units import parse_integer
from qemushim.errors import error
from qemushim.machine.cpuhost import expansion_names
from qemushim.machine.cpunames import TO_QEMU

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.machine.cpu import Cpu

Parts = Iterator[str]

#: what an option with properties but without a model is about
_FALLBACK_MODELS = {"i686": "qemu32", "x86_64": "qemu64"}
_ON = ("require", "force")
_OFF = ("disable", "forbid")


def cpu_options(b: Build) -> Iterator[Option]:
    """``-cpu``, where the guest says anything of its CPU."""
    cpu = b.domain.cpu
    parts = list(_model(b, cpu)) if cpu is not None and cpu.chosen else []
    named = bool(parts)
    for group in _PROPERTIES:
        parts += group(b)
    if not parts:
        return
    if not named:
        default = _FALLBACK_MODELS.get(b.domain.arch)
        if default is None:
            raise error.internal(
                f"CPU flags requested but can't determine default CPU for arch {b.domain.arch}"
            )
        parts.insert(0, default)
    source = cpu.node if cpu is not None else b.domain.node
    yield b.option("-cpu", ",".join(parts), source, "the model, and what is switched on or off in it")


# -- the model ---------------------------------------------------------------------------------------------


def _model(b: Build, cpu: Cpu) -> Parts:
    if cpu.mode in ("host-passthrough", "maximum"):
        yield "host" if cpu.mode == "host-passthrough" else "max"
        if b.domain.arch == "armv7l" and b.host.arch == "aarch64":
            # a 32-bit guest on a 64-bit host
            yield "aarch64=off"
        if cpu.migratable is not None and b.emulator.flag("cpu.migratable"):
            yield _switch("migratable", cpu.migratable)
    elif cpu.mode == "host-model":
        if not b.board.is_ppc64:
            raise error.internal("unexpected host-model CPU", cpu.node, "name a <model>")
        yield "host"
    else:
        yield cpu.model or ""
    if cpu.vendor_id:
        yield f"vendor={cpu.vendor_id}"
    yield from _features(b, cpu)


def _features(b: Build, cpu: Cpu) -> Parts:
    features = cpu.features
    if not features:
        return
    expansion = b.emulator.qapi("query-cpu-model-expansion")
    if (b.board.is_s390 or b.board.is_arm) and not expansion:
        message = f"CPU features not supported by hypervisor for {b.domain.arch} architecture"
        raise error.unsupported(message, cpu.node, "another mode=")
    x86 = b.board.is_x86
    known = _known_to_qemu(b) if x86 else None
    for feature in features:
        name = feature.name or ""
        if feature.policy in _ON:
            yield _switch(TO_QEMU.get(name, name) if x86 else name, True)
        elif feature.policy in _OFF and (known is None or name in known):
            # what this QEMU does not know at all is off anyway
            yield _switch(TO_QEMU.get(name, name) if x86 else name, False)


def _known_to_qemu(b: Build) -> frozenset[str] | None:
    """The features that QEMU's expansion of its best CPU speaks of; ``None`` where it was not asked."""
    accelerator = b.emulator.accelerator(b.domain.virt)
    if accelerator is None or accelerator.host_cpu is None:
        return None
    return frozenset(expansion_names(accelerator.host_cpu))


def _switch(name: str, state: bool) -> str:
    return f"{name}={'on' if state else 'off'}"


# -- what other elements ask of the CPU --------------------------------------------------------------------


def _timers(b: Build) -> Parts:
    clock = b.domain.node.child("clock")
    for timer in clock.all("timer") if clock is not None else ():
        name, present = timer.get("name"), timer.get("present")
        if name == "kvmclock" and present:
            yield _switch("kvmclock", present == "yes")
        elif name == "hypervclock" and present == "yes":
            yield "hv-time=on"
        elif name == "tsc" and parse_integer(timer.get("frequency") or "0"):
            yield f"tsc-frequency={parse_integer(timer.get('frequency') or '0')}"
        elif name == "armvtimer" and timer.get("tickpolicy") in ("delay", "discard"):
            yield _switch("kvm-no-adjvtime", timer.get("tickpolicy") == "discard")


def _paravirtual(b: Build) -> Parts:
    """End of interrupt and spin locks that KVM helps with."""
    for element, attribute, name in (
        ("features/apic", "eoi", "kvm-pv-eoi"),
        ("features/pvspinlock", "state", "kvm-pv-unhalt"),
    ):
        state = b.domain.node.value(f"{element}/@{attribute}")
        if state:
            yield _switch(name, state == "on")


def _hyperv(b: Build) -> Parts:
    node = b.domain.node.find("features/hyperv")
    if node is None:
        return
    if node.get("mode") == "passthrough":
        yield "hv-passthrough=on"
        return
    for name in ENLIGHTENMENTS:
        feature = node.child(name)
        if feature is None or feature.get("state") != "on":
            continue
        if name == "spinlocks":
            yield f"hv-spinlocks=0x{parse_integer(feature.get('retries') or '4095'):x}"
        elif name == "vendor_id":
            yield f"hv-vendor-id={feature.get('value') or ''}"
        else:
            yield f"hv-{name.replace('_', '-') if b.board.is_x86 else name}=on"
        for child, suffix in PARTS_OF.get(name, ()):
            if feature.value(f"{child}/@state") == "on":
                yield f"hv-{name}-{suffix}=on"


#: Hyper-V enlightenments in the order of their properties
ENLIGHTENMENTS = (
    "relaxed",
    "vapic",
    "spinlocks",
    "vpindex",
    "runtime",
    "synic",
    "stimer",
    "reset",
    "vendor_id",
    "frequencies",
    "reenlightenment",
    "tlbflush",
    "ipi",
    "evmcs",
    "avic",
    "emsr_bitmap",
    "xmm_input",
)
#: enlightenment → children that are properties of their own
PARTS_OF = {"stimer": (("direct", "direct"),), "tlbflush": (("direct", "direct"), ("extended", "ext"))}


def _hyperv_panic(b: Build) -> Parts:
    if any(panic.node.get("model") == "hyperv" for panic in b.domain.lists["panic"]):
        yield "hv-crash"


def _kvm(b: Build) -> Parts:
    node = b.domain.node.find("features/kvm")
    for name, state, text in KVM_FEATURES if node is not None else ():
        if node is not None and node.value(f"{name}/@state") == state:
            yield text


#: child of ``<kvm>``, the state that asks for a property, the property
KVM_FEATURES = (
    ("hidden", "on", "kvm=off"),
    ("hint-dedicated", "on", "kvm-hint-dedicated=on"),
    ("poll-control", "on", "kvm-poll-control=on"),
    ("pv-ipi", "off", "kvm-pv-ipi=off"),
)


def _pmu(b: Build) -> Parts:
    state = b.domain.node.value("features/pmu/@state")
    if state and not b.board.is_ppc64:
        yield _switch("pmu", state == "on")


def _cache(b: Build) -> Parts:
    cpu = b.domain.cpu
    mode = cpu.cache_mode if cpu is not None else None
    host = cpu is not None and cpu.mode in ("host-passthrough", "maximum")
    if mode == "emulate":
        yield "l3-cache=on"
        if host:
            yield "host-cache-info=off"
    elif mode == "passthrough":
        yield "host-cache-info=on"
        yield "l3-cache=off"
    elif mode == "disable":
        if host:
            yield "host-cache-info=off"
        yield "l3-cache=off"


def _address_size(b: Build) -> Parts:
    cpu = b.domain.cpu
    mode = cpu.address_mode if cpu is not None else None
    if cpu is None or mode is None:
        return
    if mode == "passthrough":
        yield "host-phys-bits=on"
        if cpu.address_limit:
            yield f"host-phys-bits-limit={cpu.address_limit}"
    elif cpu.address_bits:
        yield f"phys-bits={cpu.address_bits}"
    else:
        yield "host-phys-bits=off"


#: in order
_PROPERTIES: tuple[Callable[[Build], Parts], ...] = (
    _timers,
    _paravirtual,
    _hyperv,
    _hyperv_panic,
    _kvm,
    _pmu,
    _cache,
    _address_size,
)
