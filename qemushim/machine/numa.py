"""``<numatune>`` and the NUMA cells of the guest.  https://libvirt.org/formatdomain.html#numa-node-tuning"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.membackend import Memory, backend_options, backing_of, hugepage_path, is_needed
from qemushim.document.fields import Choice, Many, NumberSet, Switch, Unsigned
from qemushim.document.item import Item, Schema
from qemushim.document.sizes import KibUnit, SizeAttribute
from qemushim.document.units import format_set, parse_set
from qemushim.errors import error
from qemushim.machine.interconnect import (
    Bandwidth,
    Cache,
    Latency,
    check_hmat,
    complete_hmat,
    hmat_options,
    initiator,
)
from qemushim.machine.vcpu import vcpu_maximum

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.document.node import Node
    from qemushim.machine.domain import Domain

MODES = ("strict", "preferred", "interleave", "restrictive")
#: distance of a cell to itself, and to another one where the document is silent
LOCAL, REMOTE = 10, 20


class Sibling(Item):
    """``<sibling>``: how far away another cell is."""

    tag = "sibling"
    id = Unsigned("@id", 0)
    value = Unsigned("@value", 0)


class Cell(Item):
    """``<cell>``: vCPUs and memory that belong together."""

    tag = "cell"
    id = Unsigned("@id", 0)
    cpus = NumberSet("@cpus", [])
    #: KiB
    memory = SizeAttribute("@memory", 0)
    unit = KibUnit("@unit")
    access = Choice("@memAccess", ("shared", "private"))
    discard = Switch("@discard")
    siblings = Many("distances/sibling", Sibling)
    caches = Many("cache", Cache)


class Numa(Item):
    """``<numa>``: the cells, in the order of their ids."""

    tag = "numa"
    cells = Many("cell", Cell)
    latencies = Many("interconnects/latency", Latency)
    bandwidths = Many("interconnects/bandwidth", Bandwidth)

    @classmethod
    def make_schema(cls) -> Schema:
        schema = super().make_schema()
        schema.children["interconnects"].own.mixed = True
        return schema


class MemNode(Item):
    """``<memnode>``: where the memory of one cell comes from."""

    tag = "memnode"
    cell = Unsigned("@cellid", 0)
    mode = Choice("@mode", MODES)
    nodes = NumberSet("@nodeset")


class NumaTune(Item):
    """``<numatune>``: where the memory of the guest comes from."""

    tag = "numatune"
    mode = Choice("memory/@mode", MODES).says("Unsupported NUMA memory tuning mode '{}'")
    nodes = NumberSet("memory/@nodeset")
    placement = Choice("memory/@placement", ("static", "auto")).says(
        "Unsupported NUMA memory placement mode '{}'"
    )
    bindings = Many("memnode", MemNode)


def cells_of(domain: Domain) -> list[Cell]:
    """The guest's NUMA cells, empty for a guest without."""
    node = domain.node.find("cpu/numa")
    return Numa(node).cells if node is not None else []


def has_cells(domain: Domain) -> bool:
    """Whether the guest has NUMA cells."""
    node = domain.node.find("cpu/numa")
    return node is not None and node.child("cell") is not None


def has_hmat(domain: Domain) -> bool:
    """Whether the guest is told how fast its memory is."""
    node = domain.node.find("cpu/numa")
    if node is None:
        return False
    links = node.child("interconnects")
    if links is not None and links.children:
        return True
    return any(cell.child("cache") is not None for cell in node.all("cell"))


# -- defaults -----------------------------------------------------------------------------------


def complete_cells(d: Define) -> None:
    """Ids of cells, their order, distances in both directions; ``<numatune>``."""
    node = d.domain.node.find("cpu/numa")
    if node is not None and node.child("cell") is not None:
        _number(node)
        cells = Numa(node).cells
        _complete_distances(cells)
        for cell in cells:
            cell.memory = cell.memory
            if not cell.cpus:
                cell.node.drop("cpus")
        _check_overlap(cells)
        complete_hmat(d)
    _complete_tuning(d)


def _number(numa: Node) -> None:
    """Cells are sorted by id; one without has the place where it stands."""
    cells = numa.all("cell")
    seen: set[int] = set()
    for place, cell in enumerate(cells):
        cell.attrib.setdefault("id", str(place))
        number = Cell(cell).id
        if number >= len(cells):
            raise error.xml(
                "Exactly one 'cell' element per guest NUMA cell allowed, non-contiguous ranges or ranges not "
                "starting from 0 are not allowed",
                cell,
                "ids 0, 1, 2, … each once",
            )
        if number in seen:
            raise error.xml(f"Duplicate NUMA cell info for cell id '{number}'", cell, "each id once")
        seen.add(number)
    rest = [child for child in numa.children if child.tag != "cell"]
    numa.children = sorted(cells, key=lambda cell: Cell(cell).id) + rest


def _check_overlap(cells: list[Cell]) -> None:
    owner: dict[int, int] = {}
    for cell in cells:
        for cpu in cell.cpus:
            other = owner.setdefault(cpu, cell.id)
            if other != cell.id:
                raise error.unsupported(
                    f"NUMA cells {other} and {cell.id} have overlapping vCPU ids",
                    cell.node,
                    "each vCPU in one cell",
                )


def _complete_distances(cells: list[Cell]) -> None:
    """What one cell says of another holds in the other direction too, where that one is silent."""
    table: dict[tuple[int, int], int] = {}
    for cell in cells:
        for sibling in cell.siblings:
            _check_sibling(cell, sibling, len(cells))
            table[cell.id, sibling.id] = sibling.value
    if not table:
        return
    for (near, far), value in tuple(table.items()):
        table.setdefault((far, near), value)
        table.setdefault((near, near), LOCAL)
        table.setdefault((far, far), LOCAL)
    for cell in cells:
        row = [(far, value) for (near, far), value in sorted(table.items()) if near == cell.id]
        if row:
            distances = cell.node.ensure("distances")
            distances.children = []
            for far, value in row:
                distances.add("sibling", {"id": str(far), "value": str(value)})


def _check_sibling(cell: Cell, sibling: Sibling, count: int) -> None:
    near, far, value = cell.id, sibling.id, sibling.value
    if far >= count:
        raise error.xml(
            f"'sibling_id {far}' does not refer to a valid cell within NUMA 'cell id {near}'",
            sibling.node,
            "the id of a <cell>",
        )
    if not LOCAL <= value <= 255 or (value == LOCAL) != (near == far):
        raise error.xml(
            f"'value {value}' is invalid for 'sibling id {far}' under NUMA 'cell id {near}'",
            sibling.node,
            "10 for the cell itself, 11 to 254 for another, 255 for one out of reach",
        )


def _complete_tuning(d: Define) -> None:
    root = d.domain.node
    tune = root.child("numatune")
    memory = tune.child("memory") if tune is not None else None
    vcpu = root.child("vcpu")
    automatic = vcpu is not None and vcpu.get("placement") == "auto"
    if memory is None and automatic:
        # advice that is asked for the vCPUs is taken for their memory
        tune = root.ensure("numatune")
        memory = tune.ensure("memory")
        memory.attrib = {"mode": "strict", "placement": "auto"}
    if tune is None:
        return
    if memory is not None and memory.attrib:
        _complete_tuned_memory(memory, automatic)
    _complete_bindings(d, tune, memory)


def _complete_tuned_memory(memory: Node, automatic: bool) -> None:
    attrib = memory.attrib
    nodes = _nodeset(memory)
    placement = attrib.get("placement") or ("static" if nodes or not automatic else "auto")
    attrib.setdefault("mode", "strict")
    if placement == "auto":
        memory.drop("nodeset")
        attrib["placement"] = "auto"
        return
    if not nodes:
        raise error.unsupported(
            "nodeset for NUMA memory tuning must be set if 'placement' is 'static'", memory, "nodeset='0-1'"
        )
    attrib["nodeset"] = format_set(nodes)
    memory.drop("placement")


def _nodeset(node: Node) -> list[int]:
    raw = node.get("nodeset")
    if raw is None:
        return []
    try:
        found = parse_set(raw)
    except ValueError:
        raise error.argument(f"Failed to parse bitmap '{raw}'", node, "numbers and ranges: 0-3,7") from None
    if not found:
        raise error.unsupported(f"Invalid value of 'nodeset': {raw}", node, "at least one node must be left")
    return found


def _complete_bindings(d: Define, tune: Node, memory: Node | None) -> None:
    bindings = tune.all("memnode")
    if not bindings:
        return
    if memory is not None and memory.get("placement") == "auto":
        raise error.unsupported(
            "Per-node binding is not compatible with automatic NUMA placement.",
            bindings[0],
            "placement='static'",
        )
    cells = cells_of(d.domain)
    if not cells:
        raise error.xml(
            "Element 'memnode' is invalid without any guest NUMA cells",
            bindings[0],
            "<cpu><numa><cell …/></numa></cpu>",
        )
    seen: set[int] = set()
    for binding in bindings:
        if "cellid" not in binding.attrib:
            raise error.xml("Missing required attribute 'cellid' in element 'memnode'", binding, "cellid='0'")
        cell = MemNode(binding).cell
        if cell >= len(cells):
            raise error.xml(
                "Argument 'cellid' in memnode element must correspond to existing guest's NUMA cell",
                binding,
                "the id of a <cell>",
            )
        if cell in seen:
            raise error.xml(f"Multiple memnode elements with cellid {cell}", binding, "keep one")
        seen.add(cell)
        binding.attrib.setdefault("mode", "strict")
        if "nodeset" not in binding.attrib:
            raise error.xml(
                "Missing required attribute 'nodeset' in element 'memnode'", binding, "nodeset='0'"
            )
        binding.attrib["nodeset"] = format_set(_nodeset(binding))
    rest = [child for child in tune.children if child.tag != "memnode"]
    tune.children = rest + sorted(bindings, key=lambda binding: MemNode(binding).cell)


def complete_numa(d: Define) -> None:
    """A cell for a guest whose memory can grow; vCPUs that no cell names belong to the first."""
    domain = d.domain
    if d.update and domain.max_memory and not has_cells(domain) and not d.board.is_ccw:
        _add_cell(d)
    cells = cells_of(domain)
    if not cells:
        return
    count = vcpu_maximum(domain)
    others = {cpu for cell in cells[1:] for cpu in cell.cpus}
    if len(others | set(cells[0].cpus)) < count:
        cells[0].cpus = [cpu for cpu in range(count) if cpu not in others]


def _add_cell(d: Define) -> None:
    devices = d.domain.memory_devices
    size = (d.domain.memory or 0) - sum(device.size for device in devices)
    cell = d.domain.node.ensure("cpu/numa").add("cell", {"id": "0"})
    Cell(cell).memory = max(size, 0)
    for device in devices:
        if device.model in ("dimm", "nvdimm", "virtio-mem") and device.cell is None:
            device.cell = 0


# -- checks -----------------------------------------------------------------------------------


def check_numa(d: Define) -> None:
    """NUMA cells and tuning."""
    domain = d.domain
    cells = cells_of(domain)
    numa = domain.node.find("cpu/numa")
    if numa is not None and not cells:
        message = "NUMA topology defined without NUMA cells"
        raise error.xml(message, numa, "<cell cpus='0' memory='1' unit='GiB'/>")
    if cells:
        named = {cpu for cell in cells for cpu in cell.cpus}
        count = vcpu_maximum(domain)
        if named and max(named) >= count:
            raise error.unsupported(
                "Number of CPUs in <numa> exceeds the desired maximum vcpu count",
                domain.node.find("cpu/numa"),
                "more <vcpu>, or fewer cpus=",
            )
        check_hmat(d, len(cells))
    tune = domain.numatune
    if tune is None or tune.mode is None:
        return
    for binding in tune.bindings:
        if (tune.mode == "restrictive") == (binding.mode == "restrictive"):
            continue
        inner, outer = ("memnode", "memory") if tune.mode == "restrictive" else ("memory", "memnode")
        raise error.xml(
            f"'restrictive' mode is required in {inner} element when mode is 'restrictive' in {outer} "
            "element",
            binding.node,
            "the same mode in both",
        )


# -- options -----------------------------------------------------------------------------------


def numa_options(b: Build) -> Iterator[Option]:
    """``-object memory-backend-…``, ``-numa``."""
    cells = cells_of(b.domain)
    if not cells:
        return
    wants = [Memory(f"ram-node{cell.id}", cell.memory, cell.id, source=cell.node) for cell in cells]
    machine = b.machine
    objects = machine is None or not machine.numa_mem_supported or has_hmat(b.domain)
    objects = objects or any(is_needed(b, want) for want in wants)
    if not objects:
        yield from prealloc_options(b)
    cpus = _cpus(b, cells)
    hmat = has_hmat(b.domain)
    for cell, want in zip(cells, wants, strict=True):
        if objects:
            yield from backend_options(b, want, "the memory of the cell")
        pairs: list[tuple[str, Value]] = [("nodeid", cell.id)]
        pairs += [("cpus", part) for part in format_set(cpus[cell.id]).split(",") if part]
        if hmat:
            pairs.append(("initiator", initiator(b.domain, cell.id, cpus)))
        pairs.append(("memdev", want.alias) if objects else ("mem", cell.memory // 1024))
        yield b.pairs("-numa", "node", pairs, cell.node, "vCPUs and memory that belong together")
    yield from _distances(b, cells)
    yield from hmat_options(b, cells)


def _cpus(b: Build, cells: list[Cell]) -> dict[int, list[int]]:
    """vCPUs of each cell; those that none names belong to the first."""
    cpus = {cell.id: cell.cpus for cell in cells}
    named = {cpu for owned in cpus.values() for cpu in owned}
    left = [cpu for cpu in range(vcpu_maximum(b.domain)) if cpu not in named]
    cpus[0] = sorted([*cpus[0], *left])
    return cpus


def prealloc_options(b: Build) -> Iterator[Option]:
    """``-mem-prealloc``, ``-mem-path``: all memory alike, where there is no object to say it of."""
    backing = backing_of(b)
    size = next((amount for amount, cells in backing.pages if cells is None), None)
    huge = size is not None and size != b.host.page_size
    source = b.domain.node.child("memoryBacking")
    if huge or backing.immediate:
        backing.prealloc_all = True
        yield b.option("-mem-prealloc", None, source, "all memory is taken at the start")
    if huge and size is not None:
        yield b.option("-mem-path", hugepage_path(b, size, source), source, "memory is made of huge pages")
    elif backing.source == "file":
        yield b.option("-mem-path", b.ram_dir, source, "memory is a file that others can map")


def _distances(b: Build, cells: list[Cell]) -> Iterator[Option]:
    table = {(cell.id, sibling.id): sibling.value for cell in cells for sibling in cell.siblings}
    if all(value in (LOCAL, REMOTE) for value in table.values()):
        return
    for near in cells:
        for far in cells:
            value = table.get((near.id, far.id), LOCAL if near.id == far.id else REMOTE)
            pairs: dict[str, Value] = {"src": near.id, "dst": far.id, "val": value}
            yield b.pairs("-numa", "dist", pairs, near.node, "how far apart cells are")
