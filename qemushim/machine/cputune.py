"""``<cputune>``: what the host gives to the guest's threads.  https://libvirt.org/formatdomain.html#cpu-tuning"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.document.fields import Choice, Integer, Long, Many, NumberSet, Positive, Text, Unsigned
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.document.units import format_set, parse_set, to_bytes
from qemushim.errors import ConfigError, error
from qemushim.machine.vcpu import iothread_ids, vcpu_maximum

if TYPE_CHECKING:
    from qemushim.context import Define

SCHEDULERS = ("other", "batch", "idle", "fifo", "rr")
#: schedulers of the real-time classes, the only ones with priorities
_REALTIME = ("fifo", "rr")
#: microseconds
_PERIODS = (1000, 1000000)
_QUOTAS = (1000, 18446744073709551)


class VcpuPin(Item):
    tag = "vcpupin"
    vcpu = Unsigned("@vcpu", required=True)
    cpuset = NumberSet("@cpuset")


class IothreadPin(Item):
    tag = "iothreadpin"
    iothread = Positive("@iothread", required=True)
    cpuset = NumberSet("@cpuset")


class VcpuScheduler(Item):
    tag = "vcpusched"
    vcpus = NumberSet("@vcpus")
    scheduler = Choice("@scheduler", SCHEDULERS, required=True)
    priority = Integer("@priority")


class IothreadScheduler(Item):
    tag = "iothreadsched"
    iothreads = NumberSet("@iothreads")
    scheduler = Choice("@scheduler", SCHEDULERS, required=True)
    priority = Integer("@priority")


class _Members(NumberSet["list[int] | None"]):
    """The vCPUs that something is for."""

    def __init__(self, owner: str) -> None:
        super().__init__("@vcpus")
        self.says(f"Invalid {owner} attribute 'vcpus' value '{{}}'", "XML error")
        self.needs(f"Missing {owner} attribute 'vcpus'")

    def wrong(self, raw: str, place: Node) -> ConfigError:
        return error.plain(self.words.format(raw), place, "numbers and ranges: 0-3")


class CacheShare(Item):
    """``<cache>`` of ``<cachetune>``: a part of the host's cache."""

    tag = "cache"
    id = Unsigned("@id", required=True)
    level = Unsigned("@level", required=True)
    type = Choice("@type", ("both", "code", "data"), required=True)
    size = Long("@size", required=True)
    unit = Text("@unit")


class Monitor(Item):
    """``<monitor>``: what is counted, for which vCPUs."""

    tag = "monitor"
    level = Unsigned("@level")
    vcpus = _Members("monitor")


class CacheTune(Item):
    tag = "cachetune"
    vcpus = _Members("cachetune")
    caches = Many("cache", CacheShare)
    monitors = Many("monitor", Monitor)


class Bandwidth(Item):
    """``<node>`` of ``<memorytune>``: a part of a host node's memory bandwidth, in percent."""

    tag = "node"
    id = Unsigned("@id", required=True)
    bandwidth = Unsigned("@bandwidth", required=True)


class MemoryTune(Item):
    tag = "memorytune"
    vcpus = _Members("memorytune")
    nodes = Many("node", Bandwidth)
    monitors = Many("monitor", Monitor)


class Cputune(Item):
    """``<cputune>``: what the host gives to the guest's threads.  Periods and quotas are microseconds."""

    tag = "cputune"
    shares = Unsigned("shares").says("can't parse cputune shares value", "XML error")
    period = Unsigned("period").says("can't parse cputune period value", "XML error")
    quota = Integer("quota").says("can't parse cputune quota value", "XML error")
    global_period = Unsigned("global_period").says("can't parse cputune global period value", "XML error")
    global_quota = Integer("global_quota").says("can't parse cputune global quota value", "XML error")
    emulator_period = Unsigned("emulator_period").says(
        "can't parse cputune emulator period value", "XML error"
    )
    emulator_quota = Integer("emulator_quota").says("can't parse cputune emulator quota value", "XML error")
    iothread_period = Unsigned("iothread_period").says(
        "can't parse cputune iothread period value", "XML error"
    )
    iothread_quota = Integer("iothread_quota").says("can't parse cputune iothread quota value", "XML error")
    vcpupins = Many("vcpupin", VcpuPin)
    emulatorpin = NumberSet("emulatorpin/@cpuset")
    iothreadpins = Many("iothreadpin", IothreadPin)
    emulator_scheduler = Choice("emulatorsched/@scheduler", SCHEDULERS)
    emulator_priority = Integer("emulatorsched/@priority")
    vcpuscheds = Many("vcpusched", VcpuScheduler)
    iothreadscheds = Many("iothreadsched", IothreadScheduler)
    cachetunes = Many("cachetune", CacheTune)
    memorytunes = Many("memorytune", MemoryTune)


# -- defaults ----------------------------------------------------------------------------------------------


def complete_cputune(d: Define) -> None:
    """One element per vCPU and IOThread, in their order; sizes in the largest unit."""
    domain = d.domain
    tune = domain.cputune
    if tune is None:
        return
    _check_bandwidth(tune)
    others = [
        n for n in tune.node.children if n.tag not in ("vcpupin", "vcpusched", "iothreadsched", "iothreadpin")
    ]
    ids = iothread_ids(domain)
    pins = _vcpu_pins(tune, vcpu_maximum(domain)) + _iothread_pins(tune, ids)
    scheds = _schedulers(tune.node, "vcpusched", "vcpus", list(range(vcpu_maximum(domain))))
    scheds += _schedulers(tune.node, "iothreadsched", "iothreads", ids)
    tune.node.children = others + pins + scheds
    for tag in ("emulatorpin", "emulatorsched"):
        if len(tune.node.all(tag)) > 1:
            raise error.xml(f"only one {tag} is supported", tune.node.all(tag)[1], "keep one")
    _check_shares(tune)
    for emulator in tune.node.all("emulatorpin"):
        _check_cpuset(emulator)
    for emulator in tune.node.all("emulatorsched"):
        _drop_priority(emulator)
    for share in (share for item in tune.cachetunes for share in item.caches):
        _write_pretty(share.node)
    # of vCPUs that are given nothing there is nothing to say
    tune.node.children = [
        node for node in tune.node.children if node.tag not in ("cachetune", "memorytune") or node.children
    ]


def _check_bandwidth(tune: Cputune) -> None:
    for name in ("period", "global_period", "emulator_period", "iothread_period"):
        value = getattr(tune, name)
        if value is not None and value and not _PERIODS[0] <= value <= _PERIODS[1]:
            raise _out_of_range(tune, name, _PERIODS)
    for name in ("quota", "global_quota", "emulator_quota", "iothread_quota"):
        value = getattr(tune, name)
        if value is not None and value > 0 and not _QUOTAS[0] <= value <= _QUOTAS[1]:
            raise _out_of_range(tune, name, _QUOTAS)


def _out_of_range(tune: Cputune, name: str, limits: tuple[int, int]) -> ConfigError:
    low, high = limits
    message = f"Value of cputune '{name}' must be in range [{low}, {high}]"
    return error.unsupported(message, tune.node.child(name), "microseconds")


def _vcpu_pins(tune: Cputune, maximum: int) -> list[Node]:
    """Ordered by vCPU; those of vCPUs that can not be are dropped."""
    found: dict[int, Node] = {}
    for pin in tune.vcpupins:
        number = pin.vcpu or 0
        if number >= maximum:
            continue
        if number in found:
            raise error.internal(f"duplicate vcpupin for vcpu '{number}'", pin.node, "keep one")
        _check_cpuset(pin.node)
        found[number] = pin.node
    return [found[number] for number in sorted(found)]


def _iothread_pins(tune: Cputune, ids: list[int]) -> list[Node]:
    """In the order of the IOThreads."""
    found: dict[int, Node] = {}
    for pin in tune.iothreadpins:
        number = pin.iothread or 0
        if number not in ids:
            raise error.unsupported(
                f"Cannot find 'iothread' : {number}", pin.node, "<iothreads>N</iothreads>"
            )
        if number in found:
            raise error.internal(f"duplicate iothreadpin for same iothread '{number}'", pin.node, "keep one")
        _check_cpuset(pin.node)
        found[number] = pin.node
    return [found[number] for number in ids if number in found]


def _check_cpuset(node: Node) -> None:
    """Host CPUs must be given, and be some."""
    raw = node.get("cpuset")
    if raw is None:
        raise error.internal(f"missing cpuset for {node.tag}", node, "cpuset='0-3'")
    if not _numbers(raw, node):
        raise error.unsupported(f"Invalid value of 'cpuset': {raw}", node, "numbers of host CPUs: 0-3,7")


def _schedulers(tune: Node, tag: str, attribute: str, members: list[int]) -> list[Node]:
    """An element for each vCPU or IOThread that has a scheduler."""
    found: dict[int, Node] = {}
    known = set(members)
    for node in tune.all(tag):
        raw = node.get(attribute)
        numbers = _numbers(raw, node) if raw else []
        if not numbers:
            message = f"Missing attribute '{attribute}' in element '{tag}'"
            raise error.xml(message, node, "numbers and ranges: 0-3")
        _drop_priority(node)
        for number in numbers:
            if number in found:
                raise error.plain(f"'{tag}' attributes '{attribute}' must not overlap", node, "each once")
            if number not in known:
                if tag == "iothreadsched":
                    message = f"Cannot find 'iothread' : {number}"
                    raise error.unsupported(message, node, "<iothreads>N</iothreads>")
                continue
            single = node.copy()
            single.set(attribute, format_set([number]))
            found[number] = single
    return [found[number] for number in members if number in found]


def _drop_priority(node: Node) -> None:
    """Only the real-time schedulers have priorities, and they must."""
    if node.get("scheduler") not in _REALTIME:
        node.drop("priority")
    elif node.get("priority") is None:
        message = f"Missing required attribute 'priority' in element '{node.tag}'"
        raise error.xml(message, node, "priority='1'")


def _check_shares(tune: Cputune) -> None:
    """What is given to the same vCPUs, or of the same cache, twice."""
    taken: list[list[int]] = []
    for item in tune.cachetunes:
        if item.vcpus in taken:
            raise error.xml("Identical vcpus in cachetunes found", item.node, "keep one")
        taken.append(item.vcpus or [])
        shares: set[tuple[int | None, int | None, str | None]] = set()
        for share in item.caches:
            key = (share.level, share.id, share.type)
            if key in shares:
                message = (
                    f"Colliding cache allocations for cache level '{share.level}' id '{share.id}', "
                    f"type '{share.type}'"
                )
                raise error.xml(message, share.node, "keep one")
            shares.add(key)
        for monitor in item.monitors:
            if not monitor.level:
                message = "Missing required attribute 'level' in element 'monitor'"
                if monitor.level is not None:
                    message = f"Invalid monitor cache level '{monitor.level}'"
                raise error.xml(message, monitor.node, "level='3'")
    for memory in tune.memorytunes:
        nodes: set[int | None] = set()
        for node in memory.nodes:
            if node.id in nodes:
                raise error.xml(f"Memory Bandwidth already defined for node {node.id}", node.node, "keep one")
            nodes.add(node.id)


def _write_pretty(node: Node) -> None:
    """A size in the largest binary unit that holds it whole."""
    try:
        size = to_bytes(node.get("size") or "", node.get("unit"), "KiB")
    except ValueError as reason:
        if "unknown suffix" in str(reason):
            raise error.argument(str(reason), node, "unit='KiB'") from None
        message = f"Invalid cache allocation size '{node.get('size')}'"
        raise error.xml(message, node, "a number") from None
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = 0
    while power < len(units) - 1 and size and size % 1024 == 0:
        size //= 1024
        power += 1
    node.set("size", size)
    node.set("unit", units[power])


def _numbers(text: str, node: Node) -> list[int]:
    try:
        return parse_set(text)
    except ValueError:
        raise error.argument(
            f"Failed to parse bitmap '{text}'", node, "numbers and ranges: 0-3,7,^2"
        ) from None
