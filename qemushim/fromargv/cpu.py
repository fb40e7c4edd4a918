"""``-cpu`` and ``-smp``: the inverse of ``qemushim.machine.cpuoption`` and ``qemushim.machine.vcpu``."""

from __future__ import annotations

from collections.abc import Callable

from qemushim.document.node import Node
from qemushim.fromargv.line import Line, put
from qemushim.fromargv.machine import machine_version
from qemushim.fromargv.syntax import Bag, Place, parse_number, split_commas, wrong
from qemushim.machine.cpunames import FROM_QEMU
from qemushim.machine.cpuoption import ENLIGHTENMENTS, KVM_FEATURES, PARTS_OF

#: what each model is called that libvirt has modes for
_MODES = {"host": "host-passthrough", "max": "maximum"}
#: property of the CPU → what is made of it
Reader = Callable[[Line, Node, str], None]


def read_cpu(line: Line) -> None:
    """``-cpu``."""
    argument = line.last("-cpu")
    if argument is None:
        return
    parts = split_commas(argument.text or "")
    model, settings = parts[0], _settings(parts[1:])
    cpu = Node("cpu")
    _read_model(line, cpu, model, settings)
    strange = [name for name, value in settings if not _read_setting(line, cpu, name, value)]
    if strange:
        # of several -cpu the last one counts
        line.keep(
            argument.tokens, f"-cpu …,{','.join(strange)} (no element says this): all of -cpu", argument.place
        )
    if cpu.attrib:
        line.root.append(cpu)


def _settings(parts: list[str]) -> list[tuple[str, str]]:
    """``+x``, ``-x``, ``x``, ``x=value``: names and values."""
    found = []
    for part in parts:
        name, equals, value = part.partition("=")
        if name[:1] in "+-" and name:
            found.append((name[1:], "on" if name[0] == "+" else "off"))
        elif name:
            found.append((name, value if equals else "on"))
    return found


def _read_model(line: Line, cpu: Node, model: str, settings: list[tuple[str, str]]) -> None:
    if model in _MODES and not (line.board.is_ppc64 and line.chipset.cpu_compat):
        cpu.set("mode", _MODES[model])
        # host-passthrough of libvirt is checked by nobody
        cpu.set("check", "none")
        return
    if model == "host":
        cpu.set("mode", "host-model")
        cpu.add("model", text=line.chipset.cpu_compat)
        return
    cpu.attrib |= {"mode": "custom", "match": "exact", "check": "none"}
    cpu.add("model", {"fallback": "forbid"}, text=model)


def _read_setting(line: Line, cpu: Node, name: str, value: str) -> bool:
    """One property of the CPU; whether an element says it."""
    dashed = name.replace("_", "-")
    reader = _PROPERTIES.get(dashed)
    if reader is not None:
        reader(line, cpu, value)
    elif dashed in _CHECKS:
        line.note(
            "changed", f"-cpu …,{name}: libvirt itself checks what the host's CPU can do (check= of <cpu>)"
        )
    elif dashed.startswith("hv-"):
        return _hyperv(line, dashed[3:], value)
    elif value in ("on", "off", "true", "false"):
        on = value in ("on", "true")
        feature = FROM_QEMU.get(name) or FROM_QEMU.get(dashed) or name
        if not line.board.is_x86:
            feature = name
        cpu.add("feature", {"policy": "require" if on else "disable", "name": feature})
    else:
        return False
    return True


#: properties that ask QEMU to compare the model with the host's CPU
_CHECKS = frozenset({"check", "enforce"})

# -- properties that other elements stand for ----------------------------------------------------------


def _timer(name: str, **attributes: str) -> Reader:
    def read(line: Line, cpu: Node, value: str) -> None:
        timer = (
            {"name": name, "present": "yes" if value == "on" else "no"} if not attributes else {"name": name}
        )
        line.root.ensure("clock").add("timer", timer | attributes)

    return read


def _frequency(line: Line, cpu: Node, value: str) -> None:
    line.root.ensure("clock").add("timer", {"name": "tsc", "frequency": value})


def _adjust(line: Line, cpu: Node, value: str) -> None:
    policy = "discard" if value == "on" else "delay"
    line.root.ensure("clock").add("timer", {"name": "armvtimer", "tickpolicy": policy})


def _set(path: str, inverted: bool = False) -> Reader:
    """A state of an element of ``<features>``."""

    def read(line: Line, cpu: Node, value: str) -> None:
        put(line.root, path, value)

    return read


def _eoi(line: Line, cpu: Node, value: str) -> None:
    put(line.root, "features/apic/@eoi", value)


def _vendor(line: Line, cpu: Node, value: str) -> None:
    model = cpu.child("model")
    if model is not None:
        model.set("vendor_id", value)


def _migratable(line: Line, cpu: Node, value: str) -> None:
    cpu.set("migratable", value)


def _cache(line: Line, cpu: Node, value: str) -> None:
    """``l3-cache`` and ``host-cache-info`` together say where the guest's caches come from."""
    node = cpu.ensure("cache")
    mode = node.get("mode")
    if mode == "passthrough":
        return
    node.attrib = {"mode": "emulate" if value == "on" else "disable"}
    if value == "on":
        node.set("level", "3")


def _host_cache(line: Line, cpu: Node, value: str) -> None:
    node = cpu.ensure("cache")
    if value == "on":
        node.attrib = {"mode": "passthrough"}
    elif node.get("mode") is None:
        node.set("mode", "disable")


def _host_bits(line: Line, cpu: Node, value: str) -> None:
    if value == "on":
        put(cpu, "maxphysaddr/@mode", "passthrough")
    else:
        put(cpu, "maxphysaddr/@mode", "emulate")


def _host_limit(line: Line, cpu: Node, value: str) -> None:
    put(cpu, "maxphysaddr/@limit", value)


def _bits(line: Line, cpu: Node, value: str) -> None:
    put(cpu, "maxphysaddr/@mode", "emulate")
    put(cpu, "maxphysaddr/@bits", value)


def _aarch64(line: Line, cpu: Node, value: str) -> None:
    if value == "off":
        line.root.ensure("os/type").set("arch", "armv7l")


def _kvm(line: Line, cpu: Node, value: str) -> None:
    put(line.root, "features/kvm/hidden/@state", "on" if value == "off" else "off")


def _hv_crash(line: Line, cpu: Node, value: str) -> None:
    line.devices.add("panic", {"model": "hyperv"})


def _passthrough(line: Line, cpu: Node, value: str) -> None:
    put(line.root, "features/hyperv/@mode", "passthrough")


_PROPERTIES: dict[str, Reader] = {
    "aarch64": _aarch64,
    "host-cache-info": _host_cache,
    "host-phys-bits": _host_bits,
    "host-phys-bits-limit": _host_limit,
    "hv-crash": _hv_crash,
    "hv-passthrough": _passthrough,
    "hv-time": _timer("hypervclock"),
    "kvm": _kvm,
    "kvm-no-adjvtime": _adjust,
    "kvm-pv-eoi": _eoi,
    "kvm-pv-unhalt": _set("features/pvspinlock/@state"),
    "kvmclock": _timer("kvmclock"),
    "l3-cache": _cache,
    "migratable": _migratable,
    "phys-bits": _bits,
    "pmu": _set("features/pmu/@state"),
    "tsc-frequency": _frequency,
    "vendor": _vendor,
    **{
        text.partition("=")[0]: _set(f"features/kvm/{name}/@state")
        for name, _, text in KVM_FEATURES
        if name != "hidden"
    },
}


def _hyperv(line: Line, name: str, value: str) -> bool:
    """An enlightenment, or a part of one (``stimer-direct``)."""
    hyperv = line.root.ensure("features/hyperv")
    hyperv.attrib.setdefault("mode", "custom")
    for whole, parts in PARTS_OF.items():
        for child, suffix in parts:
            if name == f"{whole}-{suffix}":
                put(hyperv, f"{whole}/@state", "on")
                put(hyperv, f"{whole}/{child}/@state", value)
                return True
    tag = name.replace("-", "_")
    if tag not in ENLIGHTENMENTS:
        return False
    if tag == "spinlocks":
        hyperv.ensure(tag).attrib |= {"state": "on", "retries": str(parse_number(value))}
    elif tag == "vendor_id":
        hyperv.ensure(tag).attrib |= {"state": "on", "value": value}
    else:
        put(hyperv, f"{tag}/@state", value)
    return True


# -- how many ---------------------------------------------------------------------------------------

_LEVELS = ("sockets", "dies", "clusters", "cores", "threads")
#: more than any machine has
_MOST = 1 << 16


def read_smp(line: Line) -> None:
    """``-smp``: vCPUs and their topology; what is left out is filled in as the machine type would."""
    argument = line.last("-smp")
    bag = argument.bag if argument is not None else Bag("-smp", Place(), [])
    given = {name: _count(bag, name) for name in ("cpus", "maxcpus", *_LEVELS, "books", "drawers", "modules")}
    product = 1
    for name in _LEVELS:
        product *= given[name] or 1
    cpus = given["cpus"] or given["maxcpus"] or product
    most = given["maxcpus"] or max(cpus, product if given["cpus"] else cpus)
    topology = _topology(line, given, most)
    vcpu = line.root.ensure("vcpu")
    vcpu.text = str(most)
    if cpus != most:
        vcpu.set("current", cpus)
    plain = topology["sockets"] == most and not (given["dies"] or given["clusters"])
    if not plain:
        holder = line.root.ensure("cpu").ensure("topology")
        for name in _LEVELS:
            if topology[name] and (name not in ("dies", "clusters") or given[name]):
                holder.set(name, topology[name])
    for name in ("books", "drawers", "modules"):
        if (given[name] or 1) > 1:
            line.note("lost", f"-smp {name}={given[name]}: libvirt has no element for it", argument)


def _count(bag: Bag, name: str) -> int:
    number = bag.number(name) or 0
    if not 0 <= number <= _MOST:
        raise wrong(f"-smp {name}={number}: a number from 1 to {_MOST} is needed", bag.place)
    return number


def _topology(line: Line, given: dict[str, int], most: int) -> dict[str, int]:
    """Every level, as QEMU fills them in: since machine types of 6.2 cores are preferred, before that sockets.

    https://www.qemu.org/docs/master/system/invocation.html (``-smp``)
    """
    found = {name: given[name] for name in _LEVELS}
    version = machine_version(line.board.machine)
    order = ["cores", "sockets", "threads"]
    if version is not None and version < (6, 2):
        order = ["sockets", "cores", "threads"]
    missing = next((name for name in order if not found[name]), None)
    rest = 1
    for name in _LEVELS:
        if name != missing:
            found[name] = found[name] or 1
            rest *= found[name]
    if missing is not None:
        found[missing] = max(most // rest, 1)
    return found
