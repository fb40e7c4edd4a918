"""What guest memory is made of: the ``memory-backend-…`` object behind RAM, NUMA cells and memory devices.

https://libvirt.org/formatdomain.html#memory-backing
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

from qemushim.command.option import Option, Value
from qemushim.document.units import parse_set, parse_unsigned, to_kib
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.document.node import Node
    from qemushim.host import Hugepages

#: ``<numatune>`` mode → policy of the back end; ``restrictive`` is left to cgroups
POLICIES = {"strict": "bind", "preferred": "preferred", "interleave": "interleave"}


class Memory(NamedTuple):
    """A piece of memory that wants a back end."""

    #: QEMU's id of the object
    alias: str
    #: KiB
    size: int
    #: guest NUMA cell, -1 for none
    cell: int = -1
    #: the memory device that it is for
    device: Node | None = None
    #: the guest's main memory
    system: bool = False
    source: Node | None = None


class Backing:
    """What the document says of all memory: ``<memoryBacking>``, ``<numatune>``, the cells' own settings."""

    def __init__(self) -> None:
        #: size of huge pages in KiB (0: the host's default) → guest cells that want them; ``None`` where all do
        self.pages: list[tuple[int, frozenset[int] | None]] = []
        self.source = ""
        self.access = ""
        self.discard = False
        self.immediate = False
        self.threads = 0
        self.cell_access: dict[int, str] = {}
        self.cell_discard: dict[int, bool] = {}
        #: mode and host nodes of all memory, and of single cells
        self.mode = "strict"
        self.nodes: list[int] | None = None
        self.bindings: dict[int, tuple[str, list[int]]] = {}
        #: host CPUs that QEMU's own threads may run on
        self.cpus: list[int] | None = None
        #: the guest starts with ``-mem-prealloc``: no back end needs to say it again
        self.prealloc_all = False


def backing_of(b: Build) -> Backing:
    """The settings of the guest that is built, read once."""
    return b.once("memory backing", lambda: _read(b))


def _read(b: Build) -> Backing:
    found = Backing()
    root = b.domain.node
    node = root.child("memoryBacking")
    if node is not None:
        found.pages = _pages(node)
        found.source = node.value("source/@type") or ""
        found.access = node.value("access/@mode") or ""
        found.discard = node.child("discard") is not None
        found.immediate = node.value("allocation/@mode") == "immediate"
        found.threads = parse_unsigned(node.value("allocation/@threads") or "0")
    numa = root.find("cpu/numa")
    for cell in numa.all("cell") if numa is not None else ():
        number = parse_unsigned(cell.get("id") or "0")
        access, discard = cell.get("memAccess"), cell.get("discard")
        if access:
            found.cell_access[number] = access
        if discard:
            found.cell_discard[number] = discard == "yes"
    _read_tuning(found, root, b)
    return found


def _pages(node: Node) -> list[tuple[int, frozenset[int] | None]]:
    hugepages = node.child("hugepages")
    if hugepages is None:
        return []
    pages = hugepages.all("page")
    if not pages:
        return [(0, None)]
    return [
        (
            to_kib(page.get("size") or "0", page.get("unit")),
            frozenset(parse_set(page.attrib["nodeset"])) if page.get("nodeset") else None,
        )
        for page in pages
    ]


def _read_tuning(found: Backing, root: Node, b: Build) -> None:
    tune = root.child("numatune")
    memory = tune.child("memory") if tune is not None else None
    if memory is not None:
        found.mode = memory.get("mode") or "strict"
        if memory.get("placement") == "auto":
            found.nodes = list(b.host.auto_nodeset)
        elif memory.get("nodeset"):
            found.nodes = parse_set(memory.attrib["nodeset"])
    for binding in tune.all("memnode") if tune is not None else ():
        nodes = parse_set(binding.get("nodeset") or "0")
        found.bindings[parse_unsigned(binding.get("cellid") or "0")] = (
            binding.get("mode") or "strict",
            nodes,
        )
    vcpu = root.child("vcpu")
    pinned = root.value("cputune/emulatorpin/@cpuset")
    if pinned:
        found.cpus = parse_set(pinned)
    elif vcpu is not None and vcpu.get("placement") == "auto":
        found.cpus = list(b.host.auto_nodeset)
    elif vcpu is not None and vcpu.get("cpuset"):
        found.cpus = parse_set(vcpu.attrib["cpuset"])


# -- huge pages -----------------------------------------------------------------------------------


def page_size(b: Build, want: Memory) -> tuple[int | None, bool]:
    """Size of the huge pages of the memory (KiB; ``None``: ordinary pages), and whether it must be."""
    size: int | None = None
    must = False
    own = want.device.find("source/pagesize") if want.device is not None else None
    if own is not None and own.text.strip():
        size, must = to_kib(own.text, own.get("unit")), True
    else:
        for amount, cells in backing_of(b).pages:
            if cells is None:
                size = amount if size is None else size
            elif want.cell in cells:
                size, must = amount, True
                break
    return (None, False) if size == b.host.page_size else (size, must)


def hugepage_mount(b: Build, size: int, source: Node | None = None) -> Hugepages:
    """The mount of huge pages of a size (KiB; 0: the default one); or ``ConfigError``."""
    for mount in b.host.hugepages:
        if mount.size == size or (not size and mount.default):
            return mount
    if not b.host.hugepages or not size:
        raise error.internal(
            "hugetlbfs filesystem is not mounted or disabled by administrator config",
            source,
            "mount hugetlbfs, or drop <hugepages>",
        )
    raise error.internal(
        f"Unable to find any usable hugetlbfs mount for {size} KiB",
        source,
        "sizes that this host has: " + ", ".join(f"{mount.size} KiB" for mount in b.host.hugepages),
    )


def hugepage_path(b: Build, size: int, source: Node | None = None) -> str:
    """The guest's own directory in that mount."""
    mount = hugepage_mount(b, size, source).mount
    return mount if b.alone else f"{mount}/libvirt/qemu/{b.short_name}"


# -- the object -----------------------------------------------------------------------------------


def is_needed(b: Build, want: Memory) -> bool:
    """Whether memory of a NUMA cell can be had only from a back end of its own."""
    backing = backing_of(b)
    _, must = page_size(b, want)
    return (
        must or want.cell in backing.bindings or bool(_access(b, want)) or backing.source in ("file", "memfd")
    )


def _access(b: Build, want: Memory) -> str:
    backing = backing_of(b)
    own = want.device.get("access") if want.device is not None else None
    return own or backing.cell_access.get(want.cell) or backing.access


def _discard(b: Build, want: Memory) -> bool | None:
    backing = backing_of(b)
    own = want.device.get("discard") if want.device is not None else None
    if own:
        return own == "yes"
    return backing.cell_discard.get(want.cell, True if backing.discard else None)


def _nodes(b: Build, want: Memory) -> tuple[str, list[int] | None]:
    """Mode and host nodes of the memory."""
    backing = backing_of(b)
    mode, nodes = backing.bindings.get(want.cell, (backing.mode, backing.nodes))
    mask = want.device.value("source/nodemask") if want.device is not None else None
    return mode, parse_set(mask) if mask else nodes


def _kind(b: Build, want: Memory, model: str, path: str) -> tuple[str, dict[str, Value], bool]:
    """Type of the object, the properties that depend on it, and whether huge pages ask for preallocation."""
    backing = backing_of(b)
    size, _ = page_size(b, want)
    access = _access(b, want)
    share: Value = access == "shared" if access else None
    if model == "sgx-epc":
        return "memory-backend-epc", {}, True
    if backing.source == "memfd" and not path:
        huge: dict[str, Value] = {}
        if size is not None:
            huge = {"hugetlb": True, "hugetlbsize": hugepage_mount(b, size, want.source).size * 1024}
        return "memory-backend-memfd", {**huge, "share": share}, size is not None
    if path:
        return "memory-backend-file", {"mem-path": path, "share": share}, False
    if size is not None:
        path = hugepage_path(b, size, want.source)
    elif access or backing.source == "file":
        path = f"{b.ram_dir}/{_file_name(want)}"
    else:
        return "memory-backend-ram", {}, False
    return (
        "memory-backend-file",
        {"mem-path": path, "discard-data": _discard(b, want), "share": share},
        size is not None,
    )


def _file_name(want: Memory) -> str:
    return want.alias.removeprefix("mem") if want.device is not None else want.alias


def backend_properties(b: Build, want: Memory) -> dict[str, Value]:
    """The properties of the object, in order."""
    backing, device = backing_of(b), want.device
    model = (device.get("model") or "") if device is not None else ""
    path = (
        (device.value("source/path") or "")
        if device is not None and model in ("nvdimm", "virtio-pmem")
        else ""
    )
    pmem = device is not None and model == "nvdimm" and device.find("source/pmem") is not None
    kind, properties, huge = _kind(b, want, model, path)
    out: dict[str, Value] = {"qom-type": kind, "id": want.alias, **properties}
    named = want.system and kind in ("memory-backend-file", "memory-backend-memfd")
    if named and b.emulator.device_property("memory-backend-file", "x-use-canonical-path-for-ramblock-id"):
        # the name of the RAM block is part of what migrates
        out["x-use-canonical-path-for-ramblock-id"] = False
    prealloc = backing.immediate or huge or (model == "nvdimm" and not pmem)
    if model == "virtio-mem":
        out.update(_virtio_mem(b, backing))
    elif prealloc and not backing.prealloc_all:
        out["prealloc"] = True
        if backing.threads:
            out["prealloc-threads"] = backing.threads
    out["size"] = want.size * 1024
    if model == "nvdimm" and device is not None:
        align = device.find("source/alignsize")
        known = align is not None and align.text.strip()
        out["align"] = to_kib(align.text, align.get("unit")) * 1024 if align is not None and known else None
        out["pmem"] = True if pmem else None
    mode, nodes = _nodes(b, want)
    if nodes:
        _require_nodes(b, nodes, want)
        if mode in POLICIES:
            out.update({"host-nodes": list(nodes), "policy": POLICIES[mode]})
    return out


def _virtio_mem(b: Build, backing: Backing) -> dict[str, Value]:
    """Memory that comes and goes is neither reserved nor filled before it is plugged."""
    out: dict[str, Value] = {}
    if backing.prealloc_all and not b.emulator.device_property("virtio-mem-pci", "prealloc"):
        out["prealloc"] = False
    if b.emulator.device_property("memory-backend-file", "reserve"):
        out["reserve"] = False
    return out


def wants_prealloc(b: Build, want: Memory) -> bool:
    """Whether pages of the memory are to be there from the start (what a virtio-mem device is told)."""
    size, _ = page_size(b, want)
    return size is not None or backing_of(b).immediate


def _require_nodes(b: Build, nodes: list[int], want: Memory) -> None:
    known = {node.id for node in b.host.numa}
    for node in nodes:
        if node not in known:
            raise error.unsupported(
                f"NUMA node {node} is unavailable",
                b.domain.node.child("numatune") or want.source,
                "nodes that this host has: " + ", ".join(str(n) for n in sorted(known)),
            )


def backend_options(b: Build, want: Memory, rule: str) -> Iterator[Option]:
    """The back end, behind the thread context that fills its pages where there is one."""
    properties = backend_properties(b, want)
    context = _thread_context(b, properties)
    if context:
        name = f"tc-{want.alias}"
        affinity: Mapping[str, Value] = {"qom-type": "thread-context", "id": name, "node-affinity": context}
        yield b.object(affinity, want.source, "threads that fill the pages run where the pages shall be")
        properties["prealloc-context"] = name
    yield b.object(properties, want.source, rule)


def _thread_context(b: Build, properties: Mapping[str, Value]) -> list[Value]:
    """Host nodes of the threads that fill pages; empty where they are not bound."""
    nodes = properties.get("host-nodes")
    if not isinstance(nodes, list) or properties.get("prealloc") is not True:
        return []
    if not b.emulator.has_object("thread-context"):
        return []
    cpus = backing_of(b).cpus
    if cpus is None:
        return nodes
    allowed = {node.id for node in b.host.numa if not node.cpus.isdisjoint(cpus)}
    return [node for node in nodes if node in allowed]
