"""``<memory>``, ``<memoryBacking>``.  https://libvirt.org/formatdomain.html#memory-allocation

All sizes are KiB.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from qemushim.command.option import Option
from qemushim.devices.membackend import Memory, backend_options
from qemushim.document.fields import Choice, Many, NumberSet, Present, Unsigned
from qemushim.document.item import Item
from qemushim.document.sizes import KibUnit, SizeAttribute
from qemushim.errors import error
from qemushim.machine.numa import cells_of, has_cells, prealloc_options

if TYPE_CHECKING:
    from qemushim.context import Build, Define
    from qemushim.devices.base import Device
    from qemushim.devices.memory import MemoryDevice
    from qemushim.machine.domain import Domain

#: the largest amount of memory that libvirt can hold: 2^63 - 1 bytes
LARGEST = (1 << 53) - 1


class Page(Item):
    """``<page>``: huge pages of one size, for all or for some of the guest's NUMA cells."""

    tag = "page"
    size = SizeAttribute("@size", 0)
    unit = KibUnit("@unit")
    cells = NumberSet("@nodeset")


class MemoryBacking(Item):
    """``<memoryBacking>``: what the guest's memory is made of."""

    tag = "memoryBacking"
    hugepages = Present("hugepages")
    pages = Many("hugepages/page", Page)
    nosharepages = Present("nosharepages")
    locked = Present("locked")
    source = Choice("source/@type", ("", "file", "anonymous", "memfd")).says(
        "unknown memoryBacking/source/type '{}'"
    )
    access = Choice("access/@mode", ("", "shared", "private")).says("unknown memoryBacking/access/mode '{}'")
    allocation = Choice("allocation/@mode", ("", "immediate", "ondemand")).says(
        "unknown memoryBacking/allocation/mode '{}'"
    )
    threads = Unsigned("allocation/@threads").says("Failed to parse memory allocation threads", "XML error")
    discard = Present("discard")


# -- defaults -----------------------------------------------------------------------------------


def complete_memory(d: Define) -> None:
    """Memory sums, hugepages."""
    domain = d.domain
    pluggable = sum(device.size for device in domain.memory_devices)
    cells = cells_of(domain)
    total = domain.memory or 0
    if not total or (d.update and cells):
        total = sum(cell.memory for cell in cells) + pluggable
    if total <= pluggable:
        raise error.xml(
            "Memory size must be specified via <memory> or in the <numa> configuration",
            domain.node.child("memory") or domain.node,
            "<memory unit='MiB'>512</memory>",
        )
    most = domain.max_memory
    if most is not None:
        _complete_max(d, most, total)
    domain.memory = total
    current = domain.current_memory
    domain.current_memory = total if not current or current > total else current
    _complete_pages(d, bool(cells))


def _complete_max(d: Define, most: int, total: int) -> None:
    domain = d.domain
    if not most:
        if domain.max_memory_slots:
            raise error.xml(
                "maximum memory size must be specified when specifying number of memory slots",
                domain.node.child("maxMemory"),
                "<maxMemory slots='16' unit='GiB'>…",
            )
        domain.node.discard("maxMemory")
        return
    if most < total:
        raise error.xml(
            "maximum memory size must be equal or greater than the actual memory size",
            domain.node,
            "<maxMemory> no less than <memory>",
        )
    domain.max_memory = most
    if domain.max_memory_slots == 0:
        domain.max_memory_slots = None


def _complete_pages(d: Define, cells: bool) -> None:
    backing = d.domain.memory_backing
    for page in backing.pages if backing is not None else ():
        page.size = page.size
        given = page.cells
        if given is not None and not cells and not any(number > 0 for number in given):
            # without cells all memory belongs to node 0: naming it says nothing
            page.node.drop("nodeset")
        elif given is not None:
            page.cells = given


# -- checks -----------------------------------------------------------------------------------


def check_memory(d: Define) -> None:
    """Hugepages, and what they are combined with."""
    backing = d.domain.memory_backing
    if backing is None:
        return
    if backing.source == "memfd" and not d.emulator.has_object("memory-backend-memfd"):
        raise error.unsupported(
            "hugepages is not supported with memfd memory source",
            backing.node,
            "<source type='memfd'/> without <hugepages>, or a newer QEMU",
        )
    if backing.hugepages:
        if backing.allocation == "ondemand":
            raise error.unsupported(
                "hugepages are not allowed with memory allocation ondemand",
                backing.node,
                "<allocation mode='immediate'/>",
            )
        if backing.source == "anonymous":
            raise error.unsupported(
                "hugepages are not allowed with anonymous memory source",
                backing.node,
                "drop <source>, or <hugepages>",
            )


def check_pages(d: Define) -> None:
    """One size of huge pages for all of the memory, and one for each cell."""
    backing = d.domain.memory_backing
    if backing is not None and backing.hugepages:
        _check_pages(backing.pages, len(cells_of(d.domain)))


def _check_pages(pages: list[Page], cells: int) -> None:
    master: Page | None = None
    seen: dict[int, Page] = {}
    for page in pages:
        given = page.cells
        if given is None:
            if master is not None:
                raise error.plain(
                    f"two master hugepages detected: {page.size} and {master.size}",
                    page.node,
                    "one size may be for all of the memory; the others need nodeset=",
                )
            master = page
            continue
        beyond = next((number for number in given if number > max(0, cells - 1)), None)
        if beyond is not None:
            raise error.plain(
                f"hugepages: node {beyond} not found", page.node, f"the guest has {cells} NUMA cells"
            )
        for number in given:
            other = seen.setdefault(number, page)
            if other is not page:
                raise error.plain(
                    f"nodeset attribute of hugepages of sizes {other.size} and {page.size} intersect",
                    page.node,
                    "each node once",
                )


# -- start -----------------------------------------------------------------------------------


def align(size: int, step: int) -> int:
    """The next multiple of ``step`` KiB."""
    return -(-size // step) * step


def align_memory(d: Define) -> None:
    """Round sizes to what machines can map.  A guest that migrates in keeps what its source had."""
    if d.incoming:
        return
    domain = d.domain
    step = (256 if d.board.is_ppc64 else 1) * 1024
    initial = initial_memory(domain)
    cells = cells_of(domain)
    for cell in cells:
        cell.memory = align(cell.memory, step)
        if cell.memory > LARGEST:
            raise error.unsupported(
                f"memory size of NUMA node '{cell.id}' overflowed after alignment", cell.node, "less memory"
            )
    initial = sum(cell.memory for cell in cells) or align(initial, step)
    if initial > LARGEST:
        raise error.unsupported(
            "initial memory size overflowed after alignment", domain.node.child("memory"), "less memory"
        )
    most = domain.max_memory
    if most is not None:
        most = align(most, step)
        if most > LARGEST:
            raise error.unsupported(
                "maximum memory size overflowed after alignment",
                domain.node.child("maxMemory"),
                "less memory",
            )
        domain.max_memory = most
    pluggable = 0
    for place, device in enumerate(domain.memory_devices):
        device.align(d.board)
        pluggable += device.size
        if pluggable > LARGEST:
            raise error.unsupported(
                f"size of memory module '{place}' overflowed after alignment", device.node, "less memory"
            )
    domain.memory = initial + pluggable


def count_memory(domain: Domain, device: Device, *, leaves: bool = False) -> None:
    """A device joined the guest, or leaves it: memory that is a device is part of all memory."""
    if device.tag != "memory" or not domain.memory:
        return
    size = cast("MemoryDevice", device).size
    change = -size if leaves else size
    if domain.current_memory is not None:
        domain.current_memory = max(domain.current_memory + change, 0)
    domain.memory = max(domain.memory + change, 0)


def initial_memory(domain: Domain) -> int:
    """What the guest has before any memory device is plugged in."""
    total: int = domain.memory or 0
    pluggable: int = sum(device.size for device in domain.memory_devices)
    return total - pluggable


# -- options -----------------------------------------------------------------------------------


def memory_options(b: Build) -> Iterator[Option]:
    """``-m``, the default RAM, ``-overcommit``."""
    domain = b.domain
    size = initial_memory(domain)
    most = domain.max_memory
    source = domain.node.child("memory")
    if most is None:
        # QEMU < 2.1 takes a bare number of MiB
        named = b.emulator.option("memory", "size")
        text = f"size={size // 512 * 512}k" if named else str(size >> 10)
        yield b.option("-m", text, source, "the memory of the guest")
    else:
        pairs = {"size": f"{size}k", "slots": domain.max_memory_slots, "maxmem": f"{most}k"}
        yield b.pairs("-m", "", pairs, source, "the memory of the guest, and how far it may grow")
    if not has_cells(domain):
        machine = b.machine
        if machine is not None and machine.default_ram_id:
            want = Memory(machine.default_ram_id, size, system=True, source=source)
            yield from backend_options(b, want, "the memory of the guest, as one object")
        else:
            yield from prealloc_options(b)
    backing = domain.memory_backing
    locked = backing is not None and backing.locked
    rule = "whether the host may swap guest memory out"
    if b.emulator.option("overcommit", "mem-lock"):
        yield b.pairs("-overcommit", "", {"mem-lock": locked}, source, rule)
    elif b.emulator.option("realtime", "mlock"):
        # the name until QEMU 3.0
        yield b.pairs("-realtime", "", {"mlock": locked}, source, rule)
