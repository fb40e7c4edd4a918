"""``<vcpu>``, ``<vcpus>``, ``<iothreads>``, ``<cputune>``.  https://libvirt.org/formatdomain.html#cpu-allocation"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.document.fields import Choice, Long, Many, Natural, NumberSet, Positive, Switch, Unsigned
from qemushim.document.item import Item, Tail
from qemushim.document.node import Node
from qemushim.document.units import parse_unsigned
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build, Context, Define
    from qemushim.machine.domain import Domain

#: how many vCPUs libvirt's own tables hold
_MAX_VCPUS = 16384
#: IOThreads that a definition may number on its own: a mistyped count must not fill the memory
_MAX_THREADS = 16384


class Vcpu(Item):
    """``<vcpu>``: how many the guest can have, how many it starts with, and where the host runs them."""

    tag = "vcpu"
    placement = Choice("@placement", ("static", "auto"))
    cpuset = NumberSet("@cpuset")
    current = Unsigned("@current")
    count = Unsigned(".", required=True).says("maximum vcpus count must be an integer", "XML error")


class VcpuState(Item):
    """``<vcpu>`` of ``<vcpus>``."""

    tag = "vcpu"
    id = Unsigned("@id", required=True)
    enabled = Switch("@enabled", required=True)
    hotpluggable = Switch("@hotpluggable")
    order = Unsigned("@order")


class Vcpus(Item):
    """``<vcpus>``: each vCPU's state."""

    tag = "vcpus"
    vcpus = Many("vcpu", VcpuState)


class WorkerPool(Item):
    """``<defaultiothread>``: how many worker threads QEMU's own loop keeps and may have."""

    tag = "defaultiothread"
    pool_min = Natural("@thread_pool_min")
    pool_max = Natural("@thread_pool_max")


class Iothread(WorkerPool):
    """``<iothread>``: one thread for I/O, its workers, and how it polls."""

    tag = "iothread"
    id = Positive("@id", required=True)
    workers = Tail()
    #: nanoseconds
    poll_max = Long("poll/@max")
    poll_grow = Long("poll/@grow")
    poll_shrink = Long("poll/@shrink")


class IothreadIds(Item):
    """``<iothreadids>``"""

    tag = "iothreadids"
    iothreads = Many("iothread", Iothread)


# -- what others ask ---------------------------------------------------------------------------------------


def vcpu_maximum(domain: Domain) -> int:
    """How many vCPUs the guest can have."""
    vcpu = domain.vcpu
    count = vcpu.count if vcpu is not None else None
    return 1 if count is None else count


def vcpu_current(domain: Domain) -> int:
    """How many vCPUs the guest starts with, hotplugged ones included."""
    vcpu = domain.vcpu
    current = vcpu.current if vcpu is not None else None
    return vcpu_maximum(domain) if current is None else current


def iothread_ids(domain: Domain) -> list[int]:
    """The guest's IOThreads: those with an element in document order, then the lowest ids that are free."""
    explicit = domain.iothreadids
    ids = [thread.id for thread in explicit.iothreads] if explicit is not None else []
    known = [number for number in ids if number is not None]
    return [*known, *_free_ids(known, _iothread_count(domain) - len(known))]


def _iothread_count(domain: Domain) -> int:
    raw = domain.iothreads
    if not raw:
        return 0
    try:
        count = parse_unsigned(raw)
    except ValueError:
        count = -1
    if not 0 <= count <= _MAX_THREADS:
        message = f"invalid iothreads count '{raw}'"
        raise error.xml(message, domain.node.child("iothreads"), f"a number from 0 to {_MAX_THREADS}")
    return count


def _free_ids(taken: list[int], count: int) -> Iterator[int]:
    used = set(taken)
    number = 1
    while count > 0:
        if number not in used:
            yield number
            count -= 1
        number += 1


# -- defaults ----------------------------------------------------------------------------------------------


def complete_vcpus(d: Define) -> None:
    """vCPU count, placement, hotpluggable vCPUs, IOThread ids."""
    _complete_vcpu(d.domain)
    _complete_states(d.domain)
    _complete_iothreads(d.domain)


def _complete_vcpu(domain: Domain) -> None:
    vcpu = Vcpu(domain.node.ensure("vcpu"))
    node = vcpu.node
    maximum, current = vcpu_maximum(domain), vcpu_current(domain)
    if maximum == 0:
        # libvirt looks at the CPUs of NUMA cells first, and says so even where there is no cell
        raise error.internal("CPU IDs in <numa> exceed the <vcpu> count", node, "a number from 1")
    if current == 0:
        raise error.unsupported("vcpu 0 can't be offline", node, "current='1' or more")
    if maximum > _MAX_VCPUS:
        raise error.xml(
            f"Maximum vCPU count must not be more than {_MAX_VCPUS}", node, f"at most {_MAX_VCPUS}"
        )
    if current > maximum:
        message = "maximum vCPU count must not be less than current vCPU count"
        raise error.unsupported(message, node, "current= is how many of them the guest starts with")
    node.text = str(maximum)
    if current == maximum:
        node.drop("current")
    placement = node.attrib.setdefault("placement", "static")
    if placement != "auto":
        cpuset = node.get("cpuset")
        if cpuset is not None and not vcpu.cpuset:
            raise error.unsupported(
                f"Invalid value of 'cpuset': {cpuset}", node, "numbers of host CPUs: 0-3,7"
            )
        if cpuset is None and not _pinned(domain) and _automatic_memory(domain):
            node.set("placement", "auto")
    else:
        node.drop("cpuset")


def _pinned(domain: Domain) -> bool:
    """Whether any thread of the guest has host CPUs of its own."""
    tune = domain.node.child("cputune")
    pins = ("vcpupin", "emulatorpin", "iothreadpin")
    return tune is not None and any(tune.child(tag) is not None for tag in pins)


def _automatic_memory(domain: Domain) -> bool:
    return domain.node.value("numatune/memory/@placement") == "auto"


def _complete_states(domain: Domain) -> None:
    """Every vCPU gets an element where any has one; ``current`` follows."""
    vcpus = domain.vcpus
    if vcpus is None or not vcpus.vcpus:
        domain.node.discard("vcpus")
        return
    given: dict[int, Node] = {}
    maximum, current = vcpu_maximum(domain), vcpu_current(domain)
    for state in vcpus.vcpus:
        number = state.id or 0
        if number >= maximum:
            raise error.xml(
                f"vcpu id '{number}' is out of range of maximum vcpu count",
                state.node,
                f"numbers to {maximum - 1}",
            )
        given[number] = state.node
    states = []
    for number in range(maximum):
        enabled = "yes" if number < current else "no"
        node = given.get(number) or Node(
            "vcpu", {"id": str(number), "enabled": enabled}, line=vcpus.node.line
        )
        if "hotpluggable" not in node.attrib:
            node.set("hotpluggable", "no" if node.get("enabled") == "yes" else "yes")
        states.append(node)
    vcpus.node.children = states
    _check_states(vcpus)
    online = sum(1 for node in states if node.get("enabled") == "yes")
    vcpu = domain.node.ensure("vcpu")
    if online == maximum:
        vcpu.drop("current")
    else:
        vcpu.set("current", online)


def _check_states(vcpus: Vcpus) -> None:
    """vCPU 0 is there first and stays; those that stay come before those that may go."""
    first, *_ = states = vcpus.vcpus
    if not first.enabled:
        raise error.xml("vCPU0 can't be offline", first.node, "enabled='yes'")
    if first.hotpluggable:
        raise error.xml("vCPU0 can't be hotpluggable", first.node, "hotpluggable='no'")
    if first.order not in (None, 0, 1):
        raise error.xml("vCPU0 must be enabled first", first.node, "order='1'")
    ordered = [state for state in states if state.order]
    if not ordered:
        return
    seen = set()
    for state in states:
        if not state.enabled:
            if not state.hotpluggable:
                message = f"vcpu '{state.id}' is both offline and not hotpluggable"
                raise error.xml(message, state.node, "enabled='yes', or hotpluggable='yes'")
            continue
        if not state.order:
            raise error.xml(
                "all vcpus must have either set or unset order", state.node, "order= for all, or for none"
            )
        if state.order in seen or state.order > len(states):
            raise error.xml(
                f"vcpu order '{state.order}' is invalid or not unique", state.node, "1, 2, 3, … each once"
            )
        seen.add(state.order)
    last_fixed = max((s.order or 0 for s in ordered if not s.hotpluggable), default=0)
    first_loose = min((s.order or 0 for s in ordered if s.hotpluggable), default=last_fixed + 1)
    if first_loose < last_fixed:
        message = "online non-hotpluggable vcpus need to be ordered prior to hotplugable vcpus"
        raise error.xml(message, vcpus.node, "enabled='yes', or hotpluggable='yes'")


def _complete_iothreads(domain: Domain) -> None:
    ids = iothread_ids(domain)
    threads = domain.iothreadids.iothreads if domain.iothreadids is not None else []
    seen = set()
    for thread in threads:
        if thread.id in seen:
            raise error.xml(f"duplicate iothread id '{thread.id}' found", thread.node, "each id once")
        seen.add(thread.id)
    if not ids:
        domain.node.discard("iothreads")
        domain.node.discard("iothreadids")
        return
    domain.node.ensure("iothreads").text = str(len(ids))
    if threads:
        holder = domain.node.ensure("iothreadids")
        for number in ids[len(threads) :]:
            holder.add("iothread", {"id": str(number)})
    else:
        domain.node.discard("iothreadids")


# -- checks ------------------------------------------------------------------------------------------------


def check_vcpus(d: Define) -> None:
    """vCPU limits and topology, hotplug granularity."""
    node = d.domain.node.child("vcpu")
    maximum = vcpu_maximum(d.domain)
    machine = d.machine
    limit = machine.max_cpus if machine is not None else 0
    if limit and maximum > limit:
        message = f"Maximum CPUs greater than specified machine type limit {limit}"
        raise error.unsupported(message, node, f"at most {limit}")
    _check_topology(d, maximum)
    _check_granularity(d)


def _check_topology(d: Define, maximum: int) -> None:
    cpu = d.domain.cpu
    topology = cpu.topology if cpu is not None else None
    if cpu is None or topology is None:
        return
    sockets, dies, clusters, cores, threads = topology
    product = sockets * dies * clusters * cores * threads
    if product != maximum:
        message = "CPU topology doesn't match maximum vcpu count"
        hint = f"the topology has {product} vCPUs, <vcpu> {maximum}"
        raise error.unsupported(message, cpu.node.child("topology"), hint)
    if dies != 1 and not has_dies(d):
        raise error.unsupported("Only 1 die per socket is supported", cpu.node.child("topology"), "dies='1'")
    if clusters != 1 and not has_clusters(d):
        raise error.unsupported(
            "Only 1 cluster per die is supported", cpu.node.child("topology"), "clusters='1'"
        )


def _check_granularity(d: Define) -> None:
    """A pSeries machine plugs whole cores."""
    cpu = d.domain.cpu
    topology = cpu.topology if cpu is not None else None
    if not d.board.is_pseries or topology is None:
        return
    threads = topology[-1]
    if vcpu_current(d.domain) % threads:
        message = f"vCPUs count must be a multiple of the vCPU hotplug granularity ({threads})"
        raise error.unsupported(message, d.domain.node.child("vcpu"), "whole cores")


def check_iothreads(d: Define) -> None:
    """Worker pools of IOThreads and of QEMU's own loop."""
    pools = [WorkerPool(node) for node in d.domain.node.all("defaultiothread")]
    pools += d.domain.iothreadids.iothreads if d.domain.iothreadids is not None else []
    for pool in pools:
        sizes = _pool(pool)
        if sizes and not d.emulator.flag("iothread.thread-pool-max"):
            what = next(iter(sizes)).replace("-", "_")
            message = f"{what} is not supported by this QEMU binary"
            raise error.unsupported(message, pool.node, "QEMU 7.1 or newer")
        if pool.pool_max == 0:
            message = "thread_pool_max must be a positive integer"
            raise error.unsupported(message, pool.node, "a number from 1")
        least, most = pool.pool_min, pool.pool_max
        if least is not None and (most is None or least > most):
            message = "thread_pool_min must be smaller or equal to thread_pool_max"
            raise error.unsupported(message, pool.node, "give thread_pool_max=, and no less than the minimum")


def has_dies(c: Context) -> bool:
    """Whether this QEMU can have dies in a topology."""
    return c.emulator.qapi("query-hotpluggable-cpus/ret-type/props/die-id")


def has_clusters(c: Context) -> bool:
    """Whether this QEMU can have clusters in a topology."""
    return c.emulator.qapi("query-hotpluggable-cpus/ret-type/props/cluster-id")


# -- options -----------------------------------------------------------------------------------------------


def smp_options(b: Build) -> Iterator[Option]:
    """``-smp``: the vCPUs that are there from the start and stay, all that may be, and their topology."""
    maximum = vcpu_maximum(b.domain)
    states = b.domain.vcpus
    if states is not None:
        count = sum(1 for state in states.vcpus if state.enabled and not state.hotpluggable)
    else:
        count = vcpu_current(b.domain)
    parts = [str(count)]
    if count != maximum:
        parts.append(f"maxcpus={maximum}")
    cpu = b.domain.cpu
    topology = cpu.topology if cpu is not None else None
    if topology is None:
        parts.append(f"sockets={maximum},cores=1,threads=1")
    else:
        sockets, dies, clusters, cores, threads = topology
        parts.append(f"sockets={sockets}")
        if has_dies(b):
            parts.append(f"dies={dies}")
        if has_clusters(b):
            parts.append(f"clusters={clusters}")
        parts.append(f"cores={cores},threads={threads}")
    yield b.option("-smp", ",".join(parts), b.domain.node.child("vcpu"), "how many vCPUs, and their topology")


def iothread_options(b: Build) -> Iterator[Option]:
    """``-object iothread`` for each IOThread, ``-object main-loop`` for QEMU's own."""
    explicit = {t.id: t for t in b.domain.iothreadids.iothreads} if b.domain.iothreadids is not None else {}
    for number in iothread_ids(b.domain):
        properties: dict[str, str | int | None] = {"qom-type": "iothread", "id": f"iothread{number}"}
        thread = explicit.get(number)
        if thread is not None:
            properties.update(_pool(thread))
            properties["poll-max-ns"] = thread.poll_max
            properties["poll-grow"] = thread.poll_grow
            properties["poll-shrink"] = thread.poll_shrink
        source = thread.node if thread is not None else b.domain.node.child("iothreads")
        yield b.object(properties, source, "a thread for I/O")
    node = b.domain.node.child("defaultiothread")
    pool = _pool(WorkerPool(node)) if node is not None else {}
    if pool:
        properties = {"qom-type": "main-loop", "id": "main-loop", **pool}
        yield b.object(properties, node, "how many worker threads QEMU's main loop has")


def _pool(pool: WorkerPool) -> dict[str, int]:
    """The sizes that are given; a negative one is none."""
    sizes = {"thread-pool-min": pool.pool_min, "thread-pool-max": pool.pool_max}
    return {name: size for name, size in sizes.items() if size is not None and size >= 0}
