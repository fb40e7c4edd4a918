"""``-m``, ``-numa``, memory back ends and memory devices.

The inverse of ``qemushim.machine.memory``, ``qemushim.machine.numa`` and ``qemushim.devices.membackend``.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from qemushim.devices.alias import SLOTTED_MEMORY
from qemushim.devices.membackend import POLICIES
from qemushim.document.node import Node
from qemushim.document.units import format_set, parse_set
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line, put, yes_no
from qemushim.fromargv.places import place, split_driver, virtio_settings
from qemushim.fromargv.syntax import NOWHERE, Bag, UnreadableError, wrong
from qemushim.host import Host
from qemushim.machine.interconnect import ASSOCIATIVITY, HIERARCHY, POLICY

#: memory of a guest where nothing is said, in KiB (since QEMU 2.?: 128 MiB)
DEFAULT_KIB = 128 * 1024
_POLICIES = {qemu: mode for mode, qemu in POLICIES.items()}


@dataclass(slots=True)
class Backend:
    """What one ``memory-backend-…`` object says, in terms of the document."""

    kind: str = "ram"
    size: int = 0
    path: str = ""
    #: size of its huge pages in KiB, ``None``: ordinary ones
    pages: int | None = None
    share: bool | None = None
    discard: bool | None = None
    prealloc: bool = False
    threads: int = 0
    nodes: list[int] = field(default_factory=list)
    policy: str = ""
    align: int | None = None
    pmem: bool = False
    readonly: bool = False
    #: the path is one that libvirt makes up
    generated: bool = False


def read_backend(line: Line, argument: Argument, host: Host) -> Backend:
    """One object.  Raises ``UnreadableError`` where it has a property that no element says."""
    bag = line.use(argument)
    kind = (bag.take("qom-type") or "").removeprefix("memory-backend-")
    if kind not in ("ram", "file", "memfd", "epc"):
        raise UnreadableError(f"memory of {kind}")
    found = Backend(kind, bag.size("size") or 0)
    name = bag.take("id") or ""
    found.path = bag.take("mem-path") or ""
    found.share = bag.switch("share")
    found.discard = bag.switch("discard-data")
    found.prealloc = bool(bag.switch("prealloc"))
    found.threads = bag.number("prealloc-threads") or 0
    found.policy = bag.take("policy") or ""
    texts = bag.texts("host-nodes")
    found.nodes = sorted({n for text in texts for n in parse_set(text)})
    found.align = bag.size("align")
    found.pmem = bool(bag.switch("pmem"))
    found.readonly = bool(bag.switch("readonly"))
    if bag.switch("hugetlb"):
        size = bag.size("hugetlbsize")
        found.pages = 0 if size is None else size // 1024
    context = bag.take("prealloc-context")
    if context:
        line.use(line.object(context))
    bag.drop("x-use-canonical-path-for-ramblock-id", "reserve", "merge", "dump")
    _read_path(found, name, host)
    if bag.pairs:
        raise UnreadableError(f"{bag.what} {name}: {', '.join(bag.keys)}")
    return found


_LIBVIRT_RAM = re.compile(r"/qemu/ram/|/domain--?\d*-?[^/]*/|/libvirt/qemu/")


def _read_path(found: Backend, name: str, host: Host) -> None:
    """Whether the path of a file is of huge pages, or one that libvirt makes up for a plain file."""
    if found.kind != "file":
        return
    for mount in sorted(host.hugepages, key=lambda m: -len(m.mount)):
        if found.path == mount.mount or found.path.startswith(f"{mount.mount}/"):
            found.pages = mount.size
            return
    tail = found.path.rpartition("/")[2]
    found.generated = tail in (name, name.removeprefix("mem"))


# -- the guest's own memory ---------------------------------------------------------------------------


def read_memory(line: Line, host: Host) -> None:
    """``-m``, ``-numa``, ``-mem-path``, ``-mem-prealloc``, ``-overcommit``, and the objects they name."""
    argument = line.last("-m")
    bag = argument.bag if argument is not None else None
    size = bag.size("size", default="m") if bag is not None else None
    kib = DEFAULT_KIB if size is None else -(-size // 1024)
    most = bag.size("maxmem", default="m") if bag is not None else None
    slots = bag.number("slots") if bag is not None else None
    if most is not None:
        node = line.root.add("maxMemory", {"unit": "KiB"}, text=str(most // 1024))
        if slots:
            node.set("slots", slots)
    memory = line.root.ensure("memory")
    memory.set("unit", "KiB")
    memory.text = str(kib)
    _read_global_backing(line, host)
    numa = any(a.bag.peek("type") == "node" for a in line.all("-numa"))
    if numa:
        _read_or_keep(line, "-numa", partial(_read_cells, line, host, kib))
    elif line.chipset.main_memory:
        _read_or_keep(line, "-machine memory-backend", partial(_read_main, line, host))
    for flag, key in (("-overcommit", "mem-lock"), ("-realtime", "mlock")):
        for option in line.all(flag):
            locked = line.use(option).switch(key)
            option.bag.drop("cpu-pm")
            if locked:
                line.root.ensure("memoryBacking/locked")


def _read_or_keep(line: Line, what: str, reader: Callable[[], None]) -> None:
    """Memory that no document can say stays as it is, in ``<qemu:commandline>``."""
    before = line.root.copy()
    reason = line.try_all(reader)
    if not reason:
        return
    line.root.children = before.children
    if what == "-numa":
        for argument in line.all("-numa"):
            line.reasons[id(argument)] = reason
    else:
        line.keep(["-machine", f"memory-backend={line.chipset.main_memory}"], f"{what} ({reason})", NOWHERE)


def _read_main(line: Line, host: Host) -> None:
    _say_backing(line, [(None, read_backend(line, line.object(line.chipset.main_memory), host))])


def _read_global_backing(line: Line, host: Host) -> None:
    """``-mem-path`` and ``-mem-prealloc``: all memory alike."""
    path = line.last("-mem-path")
    prealloc = line.given("-mem-prealloc")
    if path is not None:
        found = Backend("file", path=path.text or "", prealloc=prealloc)
        _read_path(found, "", host)
        if found.pages is None and "hugepage" in found.path:
            found.pages = 0
        found.generated = found.pages is None and bool(_LIBVIRT_RAM.search(found.path))
        if found.pages is None and not found.generated:
            line.note(
                "changed",
                f"-mem-path {found.path}: libvirt keeps the file in a folder of its own",
                path,
            )
        _say_backing(line, [(None, found)])
    elif prealloc:
        put(line.root, "memoryBacking/allocation/@mode", "immediate")


def _read_cells(line: Line, host: Host, kib: int) -> None:
    """``-numa``: cells, distances, and what connects them."""
    nodes = [a for a in line.all("-numa") if a.bag.peek("type") == "node"]
    numa = line.root.ensure("cpu").ensure("numa")
    backends: list[tuple[int | None, Backend]] = []
    cells: dict[int, Node] = {}
    for number, argument in enumerate(nodes):
        bag = line.use(argument)
        bag.drop("type", "initiator")
        cell_id = bag.number("nodeid")
        cell_id = number if cell_id is None else cell_id
        cell = numa.add("cell", {"id": str(cell_id)})
        cpus = [c for text in bag.texts("cpus") for c in parse_set(text)]
        if cpus:
            cell.set("cpus", format_set(cpus))
        memdev, amount = bag.take("memdev"), bag.size("mem", default="m")
        if memdev:
            backend = read_backend(line, line.object(memdev), host)
            backends.append((cell_id, backend))
            amount = backend.size
        if amount is None:
            amount = kib * 1024 // len(nodes)
        cell.attrib |= {"memory": str(amount // 1024), "unit": "KiB"}
        cells[cell_id] = cell
        line.say_left(bag)
    _say_backing(line, backends)
    _read_links(line, numa, cells)


def _read_links(line: Line, numa: Node, cells: dict[int, Node]) -> None:
    for argument in line.all("-numa"):
        bag = argument.bag
        kind = bag.peek("type")
        if kind == "dist":
            line.use(argument)
            source, target, value = bag.number("src"), bag.number("dst"), bag.take("val")
            if source in cells:
                sibling = {"id": str(target), "value": value or ""}
                cells[source].ensure("distances").add("sibling", sibling)
        elif kind == "hmat-lb":
            line.use(argument)
            _read_link(bag, numa)
        elif kind == "hmat-cache":
            line.use(argument)
            _read_cache(bag, cells)


def _read_link(bag: Bag, numa: Node) -> None:
    data = bag.take("data-type") or ""
    access, _, tag = data.partition("-")
    link = {"initiator": bag.take("initiator") or "0", "target": bag.take("target") or "0"}
    level = HIERARCHY.index(bag.take("hierarchy") or "memory")
    if level:
        link["cache"] = str(level)
    link["type"] = access
    if tag == "latency":
        link["value"] = bag.take("latency") or ""
    else:
        amount = bag.size("bandwidth") or 0
        link |= {"value": str(amount // 1024), "unit": "KiB"}
    numa.ensure("interconnects").add(tag or "latency", link)


def _read_cache(bag: Bag, cells: dict[int, Node]) -> None:
    owner = cells.get(bag.number("node-id") or 0)
    if owner is None:
        raise wrong("-numa hmat-cache: there is no such node", bag.place)
    cache = owner.add("cache", {"level": bag.take("level") or "1"})
    for name, table in (("associativity", ASSOCIATIVITY), ("policy", POLICY)):
        wanted = bag.take(name)
        cache.set(name, next((ours for ours, theirs in table.items() if theirs == wanted), "none"))
    size = bag.size("size") or 0
    cache.add("size", {"value": str(size // 1024), "unit": "KiB"})
    line_size = bag.take("line")
    if line_size:
        cache.add("line", {"value": line_size, "unit": "B"})


# -- memoryBacking and numatune -----------------------------------------------------------------------


def _say_backing(line: Line, backends: list[tuple[int | None, Backend]]) -> None:
    """``<memoryBacking>``, ``<numatune>`` and attributes of the cells, from the objects of the guest's memory."""
    if not backends:
        return
    root = line.root
    kinds = {b.kind for _, b in backends}
    pages = {b.pages for _, b in backends}
    if pages != {None}:
        holder = root.ensure("memoryBacking/hugepages")
        if len(pages) > 1 or pages != {0}:
            for size in sorted(p for p in pages if p is not None):
                cells = [cell for cell, b in backends if b.pages == size and cell is not None]
                page = holder.add("page", {"size": str(size), "unit": "KiB"})
                if cells:
                    page.set("nodeset", format_set(cells))
    if kinds == {"memfd"}:
        put(root, "memoryBacking/source/@type", "memfd")
    elif kinds == {"file"} and pages == {None} and _says_file(backends):
        put(root, "memoryBacking/source/@type", "file")
    _say_shares(line, backends)
    if any(b.prealloc and b.pages is None for _, b in backends):
        put(root, "memoryBacking/allocation/@mode", "immediate")
    threads = {b.threads for _, b in backends} - {0}
    if threads:
        put(root, "memoryBacking/allocation/@threads", max(threads))
    _say_nodes(line, backends)


def _says_file(backends: list[tuple[int | None, Backend]]) -> bool:
    """Shared and private memory are files by themselves; anything else has to say so."""
    return any(b.share is None for _, b in backends) or all(not b.generated for _, b in backends)


def _say_shares(line: Line, backends: list[tuple[int | None, Backend]]) -> None:
    cells = {cell.get("id"): cell for cell in (line.root.find("cpu/numa") or Node("numa")).all("cell")}
    words = {True: "shared", False: "private"}
    shares = {b.share for _, b in backends}
    if len(shares) == 1:
        share = shares.pop()
        if share is not None:
            put(line.root, "memoryBacking/access/@mode", words[share])
    else:
        for number, backend in backends:
            if backend.share is not None and str(number) in cells:
                cells[str(number)].set("memAccess", words[backend.share])
    discards = {b.discard for _, b in backends}
    if discards == {True}:
        line.root.ensure("memoryBacking/discard")
    else:
        for number, backend in backends:
            if backend.discard is not None and str(number) in cells:
                cells[str(number)].set("discard", yes_no(backend.discard) or "")


def _say_nodes(line: Line, backends: list[tuple[int | None, Backend]]) -> None:
    bound = [(cell, b) for cell, b in backends if b.nodes]
    for cell, backend in bound:
        mode = _POLICIES.get(backend.policy, "strict")
        binding = {"mode": mode, "nodeset": format_set(backend.nodes)}
        tune = line.root.ensure("numatune")
        if cell is None:
            tune.add("memory", binding)
        else:
            tune.add("memnode", {"cellid": str(cell), **binding})


# -- memory devices -----------------------------------------------------------------------------------


def read_memory_device(line: Line, argument: Argument, host: Host) -> None:
    """``-device pc-dimm`` and its like, with the object behind it."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    base, _, _ = split_driver(driver)
    model = "dimm" if driver == "pc-dimm" else base
    node = Node("memory", {"model": model})
    memdev = bag.take("memdev")
    source = line.object(memdev)
    backend = read_backend(line, source, host)
    _say_device_source(node, backend, model)
    target = node.ensure("target")
    target.add("size", {"unit": "KiB"}, text=str(backend.size // 1024))
    put(target, "node", bag.take("node"))
    for tag, key in (("block", "block-size"), ("requested", "requested-size")):
        amount = bag.size(key)
        if amount is not None:
            target.add(tag, {"unit": "KiB"}, text=str(amount // 1024))
    label = bag.size("label-size")
    if label is not None:
        target.ensure("label").add("size", {"unit": "KiB"}, text=str(label // 1024))
    if bag.switch("unarmed"):
        target.add("readonly")
    put(node, "uuid", bag.take("uuid"))
    base_address = bag.number("memaddr")
    put(target, "address/@base", None if base_address is None else hex(base_address))
    put(target, "@dynamicMemslots", yes_no(bag.switch("dynamic-memslots")))
    bag.drop("prealloc")
    if model in SLOTTED_MEMORY:
        slot, address = bag.take("slot"), bag.number("addr")
        if slot is not None or address:
            place_node = node.add("address", {"type": "dimm", "slot": slot or "0"})
            if address:
                place_node.set("base", hex(address))
        bag.drop("bus")
    else:
        virtio_settings(bag, node)
        place(line, bag, node)
    line.count_device_memory(backend.size // 1024)
    line.finish(bag, node, argument, source)


def _say_device_source(node: Node, backend: Backend, model: str) -> None:
    if backend.share is not None and model != "virtio-pmem":
        node.set("access", "shared" if backend.share else "private")
    if backend.discard is not None:
        node.set("discard", yes_no(backend.discard) or "")
    if model in ("nvdimm", "virtio-pmem"):
        put(node, "source/path", backend.path)
    if backend.align is not None:
        put(node, "source/alignsize/@unit", "KiB")
        put(node, "source/alignsize", backend.align // 1024)
    if backend.pmem:
        node.ensure("source/pmem")
    if backend.pages:
        put(node, "source/pagesize/@unit", "KiB")
        put(node, "source/pagesize", backend.pages)
    if backend.nodes:
        put(node, "source/nodemask", format_set(backend.nodes))


def read_enclaves(line: Line, host: Host) -> None:
    """SGX enclave memory, which is a property of the machine."""
    for key, memdev in line.chipset.enclaves.items():
        if key.endswith(".memdev"):
            reason = line.try_all(partial(_read_enclave, line, host, key, memdev))
            if reason:
                node = line.chipset.enclaves.get(key.replace("memdev", "node"), "0")
                tokens = ["-machine", f"{key}={memdev},{key.replace('memdev', 'node')}={node}"]
                line.keep(tokens, f"{key} ({reason})", NOWHERE)


def _read_enclave(line: Line, host: Host, key: str, memdev: str) -> None:
    source = line.object(memdev)
    backend = read_backend(line, source, host)
    node = Node("memory", {"model": "sgx-epc"})
    _say_device_source(node, backend, "sgx-epc")
    put(node, "target/size/@unit", "KiB")
    put(node, "target/size", backend.size // 1024)
    put(node, "target/node", line.chipset.enclaves.get(key.replace("memdev", "node")))
    line.count_device_memory(backend.size // 1024)
    line.add(node, source)
