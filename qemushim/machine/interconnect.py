"""How fast the memory of NUMA cells is: caches and links between cells (ACPI HMAT).

https://libvirt.org/formatdomain.html#guest-numa-topology
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from qemushim.command.option import Option, Value
from qemushim.document.fields import Choice, Field, Long, Positive, Unsigned
from qemushim.document.item import Item, Tail
from qemushim.document.sizes import KibUnit, SizeAttribute
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.document.node import Node
    from qemushim.machine.domain import Domain
    from qemushim.machine.numa import Cell

#: libvirt's word → QEMU's
ASSOCIATIVITY = {"none": "none", "direct": "direct", "full": "complex"}
POLICY = {"none": "none", "writeback": "write-back", "writethrough": "write-through"}
#: by the level of the cache that is measured, 0 for memory itself
HIERARCHY = ("memory", "first-level", "second-level", "third-level")


class _Amount(Long[int]):
    """An amount whose unit libvirt does not look at: KiB of a cache, bytes of its lines."""

    def __init__(self, path: str) -> None:
        super().__init__(path, 0)

    def wrong(self, raw: str, place: Node) -> ConfigError:
        where = f"./{place.tag}/@value"
        message = f"Invalid value '{raw}' for element or attribute '{where}'"
        if not raw:
            message = f"missing element or attribute '{where}'"
        return error.xml(message, place, "a number")


class _ByteUnit(Field[str]):
    def canonical(self, raw: str, node: Node) -> str | None:
        return "B"


class Cache(Item):
    """``<cache>``: a cache in front of the memory of a cell."""

    tag = "cache"
    level = Positive("@level", 0, required=True)
    associativity = Choice("@associativity", ASSOCIATIVITY, required=True)
    policy = Choice("@policy", POLICY, required=True)
    #: KiB
    size = _Amount("size/@value")
    size_unit = KibUnit("size/@unit")
    #: bytes
    line = _Amount("line/@value")
    line_unit = _ByteUnit("line/@unit")


class Link(Item):
    """How one cell reaches the memory of another."""

    initiator = Unsigned("@initiator", 0)
    target = Unsigned("@target", 0)
    cache = Unsigned("@cache")
    type = Choice("@type", ("access", "read", "write"), required=True)


class Latency(Link):
    """``<latency>``: nanoseconds."""

    tag = "latency"
    common = Tail()
    value = Unsigned("@value", 0)


class Bandwidth(Link):
    """``<bandwidth>``: KiB a second."""

    tag = "bandwidth"
    common = Tail()
    value = SizeAttribute("@value", 0)
    unit = KibUnit("@unit")


_KINDS: Mapping[str, type[Latency] | type[Bandwidth]] = {"latency": Latency, "bandwidth": Bandwidth}


def links_of(domain: Domain) -> list[Latency | Bandwidth]:
    """All links, in the order of the document."""
    node = domain.node.find("cpu/numa/interconnects")
    return [_KINDS[n.tag](n) for n in node.children if n.tag in _KINDS] if node is not None else []


def complete_hmat(d: Define) -> None:
    """Sizes in KiB, lines in bytes."""
    numa = d.domain.node.find("cpu/numa")
    for cell in numa.all("cell") if numa is not None else ():
        levels: set[int] = set()
        for node in cell.all("cache"):
            cache = Cache(node)
            for tag, unit in (("size", "KiB"), ("line", "B")):
                amount = node.child(tag)
                if amount is None or amount.get("value") is None:
                    message = f"missing element or attribute './{tag}/@value'"
                    raise error.xml(message, node, f"<{tag} value='64' unit='{unit}'/>")
                amount.set("unit", unit)
            if cache.level in levels:
                raise error.xml(f"Cache level '{cache.level}' already defined", node, "one <cache> a level")
            levels.add(cache.level)
    for link in links_of(d.domain):
        if isinstance(link, Bandwidth):
            link.value = link.value


def check_hmat(d: Define, cells: int) -> None:
    """Links name cells that there are, and caches that those cells have."""
    for link in links_of(d.domain):
        for name, number in (("initiator", link.initiator), ("target", link.target)):
            if number >= cells:
                raise error.xml(
                    f"'{name}' refers to a non-existent NUMA node", link.node, "the id of a <cell>"
                )
        if link.cache:
            numa = d.domain.node.find("cpu/numa")
            target = numa.all("cell")[link.target] if numa is not None else None
            levels = [Cache(node).level for node in target.all("cache")] if target is not None else []
            if link.cache not in levels:
                raise error.xml(
                    "'cache' refers to a non-existent NUMA node cache",
                    link.node,
                    "the level of a <cache> of that cell",
                )


def initiator(domain: Domain, cell: int, cpus: Mapping[int, list[int]]) -> int:
    """The cell whose vCPUs are nearest to the memory of a cell."""
    if cpus.get(cell):
        return cell
    links = [link for link in links_of(domain) if link.target == cell and cpus.get(link.initiator)]
    latencies = [link for link in links if isinstance(link, Latency)]
    if latencies:
        return min(latencies, key=lambda link: link.value).initiator
    bandwidths = [link for link in links if isinstance(link, Bandwidth)]
    if bandwidths:
        return max(bandwidths, key=lambda link: link.value).initiator
    first = next((number for number, owned in cpus.items() if owned), None)
    if first is None:
        raise error.internal(
            "at least one NUMA node has to have vCPUs", domain.node.find("cpu/numa"), "cpus= for a cell"
        )
    return first


def hmat_options(b: Build, cells: list[Cell]) -> Iterator[Option]:
    """``-numa hmat-lb``, ``-numa hmat-cache``."""
    for link in links_of(b.domain):
        pairs: dict[str, Any] = {"initiator": link.initiator, "target": link.target}
        pairs["hierarchy"] = HIERARCHY[min(link.cache or 0, 3)]
        pairs["data-type"] = f"{link.type}-{link.tag}"
        pairs[link.tag] = f"{link.value}K" if isinstance(link, Bandwidth) else link.value
        yield b.pairs("-numa", "hmat-lb", pairs, link.node, "how fast memory is reached")
    for cell in cells:
        for cache in cell.caches:
            values: dict[str, Value] = {"node-id": cell.id, "size": f"{cache.size}K", "level": cache.level}
            values["associativity"] = ASSOCIATIVITY[cache.associativity or "none"]
            values["policy"] = POLICY[cache.policy or "none"]
            values["line"] = cache.line or None
            yield b.pairs("-numa", "hmat-cache", values, cache.node, "a cache in front of the memory")
