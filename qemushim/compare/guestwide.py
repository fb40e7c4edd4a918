"""What has to stay of the guest beside its devices and features, in libvirt's words and order.

https://libvirt.org/formatdomain.html
"""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.compare.checks import (
    BARE,
    GUEST,
    NO_NUMBER,
    NO_SWITCH,
    NOMINAL,
    PLAIN,
    QUOTED,
    VOLATILE,
    Check,
    Difference,
)
from qemushim.compare.features import Compare
from qemushim.document.node import Node
from qemushim.machine.domain import Domain
from qemushim.machine.memory import initial_memory

_COUNT = "Target {what} '{new}' doesn't match source '{old}'"
IDENTITY = (
    Check("@type", "domain virt type"),
    Check("uuid", "domain uuid"),
    Check("genid", "domain genid"),
    Check("name", "domain name", QUOTED),
)
SYSTEM = (
    Check("os/type", "domain OS type"),
    Check("os/type/@arch", "domain architecture"),
    Check("os/type/@machine", "domain machine type"),
    Check("os/smbios/@mode", "domain SMBIOS mode", null="emulate"),
)
BACKING = (
    Check(
        "memoryBacking/source/@type",
        "memoryBacking",
        "Target {what} source '{new}' doesn't match source {what} source'{old}'",
        null="none",
    ),
)
_CPU = (
    Check("cpu", "CPU", BARE, value=lambda node: "present" if node.child("cpu") else ""),
    Check("cpu/@mode", "CPU mode", default="custom", null="custom"),
    Check("cpu/@check", "CPU check", default="none", null="none"),
    Check("cpu/model", "CPU model"),
    Check("cpu/vendor", "CPU vendor"),
    Check("cpu/model/@vendor_id", "CPU vendor id"),
    Check("cpu/topology/@sockets", "CPU sockets", null=NO_NUMBER),
    Check("cpu/topology/@dies", "CPU dies", null=NO_NUMBER, default="1"),
    Check("cpu/topology/@clusters", "CPU clusters", null=NO_NUMBER, default="1"),
    Check("cpu/topology/@cores", "CPU cores", null=NO_NUMBER),
    Check("cpu/topology/@threads", "CPU threads", null=NO_NUMBER),
    Check("cpu/maxphysaddr/@mode", "CPU maxphysaddr", BARE),
    Check("cpu/maxphysaddr/@bits", "CPU maxphysaddr", BARE),
)
_CACHE = (Check("cpu/cache/@mode", "CPU cache", BARE), Check("cpu/cache/@level", "CPU cache", BARE))


def compared(checks: tuple[Check, ...]) -> Compare:
    """A comparison that looks at one thing after the other."""

    def compare(old: Domain, new: Domain) -> Iterator[Difference]:
        for check in checks:
            yield from check.differs(old.node, new.node)

    return compare


def compare_identity(old: Domain, new: Domain) -> Iterator[Difference]:
    """Type, UUID, generation id, name; of a generation id that comes or goes libvirt does not tell the value."""
    for found in compared(IDENTITY)(old, new):
        if found.path == "genid" and not (found.old and found.new):
            yield found._replace(message=BARE.format(what="domain requested genid"))
        else:
            yield found


# -- memory and vCPUs ----------------------------------------------------------------------------------------


def compare_memory(old: Domain, new: Domain) -> Iterator[Difference]:
    """What the guest starts with, has now, and can grow to."""
    yield from _sizes("memory", "domain max memory", PLAIN, initial_memory(old), initial_memory(new))
    before, after = old.current_memory or old.memory, new.current_memory or new.memory
    yield from _sizes("currentMemory", "domain current memory", PLAIN, before, after, VOLATILE)
    yield from _sizes("maxMemory", "maximum memory size", _COUNT, old.max_memory, new.max_memory)
    slots = (old.max_memory_slots, new.max_memory_slots)
    yield from _sizes("maxMemory/@slots", "domain memory slots count", _COUNT, *slots, unit="")


def _sizes(
    path: str,
    what: str,
    words: str,
    old: int | None,
    new: int | None,
    severity: str = GUEST,
    unit: str = " KiB",
) -> Iterator[Difference]:
    if (old or 0) != (new or 0):
        text = words.format(what=what, old=old or 0, new=new or 0)
        yield Difference(path, f"{old or 0}{unit}", f"{new or 0}{unit}", text, severity)


def compare_numa(old: Domain, new: Domain) -> Iterator[Difference]:
    """The cells: how many, how much memory, which processors, how far apart."""
    before, after = (domain.node.find("cpu/numa") for domain in (old, new))
    cells = [node.all("cell") if node is not None else [] for node in (before, after)]
    if len(cells[0]) != len(cells[1]):
        text = f"Target NUMA node count '{len(cells[1])}' doesn't match source '{len(cells[0])}'"
        yield Difference("cpu/numa", str(len(cells[0])), str(len(cells[1])), text)
        return
    for number, (one, other) in enumerate(zip(*cells, strict=True)):
        size = f"Size of target NUMA node {number} ({{new}}) doesn't match source ({{old}})"
        mask = f"Processor mask of target NUMA node {number} doesn't match source"
        for check in (Check("@memory", "", size), Check("@cpus", "", mask)):
            yield from check.differs(one, other, f"cpu/numa/cell[{number}]/")
        theirs, ours = _distances(one), _distances(other)
        for sibling in dict.fromkeys((*theirs, *ours)):
            pair = theirs.get(sibling, ""), ours.get(sibling, "")
            if pair[0] != pair[1]:
                text = f"Target NUMA distance from {number} to {sibling} doesn't match source"
                yield Difference(f"cpu/numa/cell[{number}]/distances/sibling[{sibling}]", *pair, text)


def _distances(cell: Node) -> dict[str, str]:
    """Those that are not what ACPI takes for granted: 10 to itself, 20 to any other."""
    distances, own = cell.child("distances"), cell.get("id") or ""
    siblings = distances.all("sibling") if distances is not None else ()
    found = {node.get("id") or "": node.get("value") or "" for node in siblings}
    return {sibling: value for sibling, value in found.items() if value != ("10" if sibling == own else "20")}


def compare_vcpus(old: Domain, new: Domain) -> Iterator[Difference]:
    """How many there can be, which of them are there, and the order in which they are plugged."""
    yield from Check("vcpu", "domain vCPU max", default="1").differs(old.node, new.node)
    before, after = _vcpus(old), _vcpus(new)
    for number, (one, other) in enumerate(zip(before, after, strict=False)):
        if one[0] != other[0]:
            text = f"State of vCPU '{number}' differs between source and destination definitions"
        elif one[1] != other[1]:
            text = f"vcpu enable order of vCPU '{number}' differs between source and destination definitions"
        else:
            continue
        yield Difference(f"vcpus/vcpu[{number}]", _shown(*one), _shown(*other), text, VOLATILE)


def _shown(on: bool, order: str) -> str:
    return f"{'on' if on else 'off'}{f', order {order}' if order else ''}"


def _vcpus(domain: Domain) -> list[tuple[bool, str]]:
    """Of each vCPU whether it is there, and its order."""
    most = int(domain.node.value("vcpu") or "1")
    current = int(domain.node.value("vcpu/@current") or most)
    listed = domain.node.child("vcpus")
    known = {node.get("id"): node for node in (listed.all("vcpu") if listed is not None else ())}
    if not known:
        return [(number < current, "") for number in range(most)]
    found = []
    for number in range(most):
        node = known.get(str(number))
        found.append((node is not None and node.get("enabled") == "yes", (node and node.get("order")) or ""))
    return found


# -- timers, CPU ---------------------------------------------------------------------------------------------


def compare_timers(old: Domain, new: Domain) -> Iterator[Difference]:
    """Which there are, whether they are there, and how fast the TSC goes."""

    def timers(domain: Domain) -> dict[str, Node]:
        clock = domain.node.child("clock")
        return {node.get("name") or "": node for node in (clock.all("timer") if clock is not None else ())}

    before, after = timers(old), timers(new)
    checks = (
        Check("@present", "timer presence", QUOTED, NO_SWITCH),
        Check("@frequency", "TSC frequency", null=NO_NUMBER),
        Check("@mode", "TSC mode"),
    )
    alone = [
        [name for name in side if name not in other] for side, other in ((before, after), (after, before))
    ]
    same_number = len(before) == len(after)
    for number, name in enumerate(dict.fromkeys((*before, *after))):
        if name in before and name in after:
            for check in checks[: 1 if name != "tsc" else None]:
                yield from check.differs(before[name], after[name], f"clock/timer[{name}]/")
            continue
        text = "Target domain timers do not match source"
        if same_number and number < len(alone[0]):
            text = PLAIN.format(what="timer", old=alone[0][0], new=alone[1][0])
        one, other = (name if name in side else "" for side in (before, after))
        yield Difference(f"clock/timer[{name}]", one, other, text)


def compare_cpu(old: Domain, new: Domain) -> Iterator[Difference]:
    """The model, the topology, the features.  Their order is nothing to the guest, but it is to libvirt."""
    yield from compared(_CPU)(old, new)
    before, after = _cpu_features(old), _cpu_features(new)
    count = PLAIN.format(what="CPU feature count", old=len(before), new=len(after))
    same_number = len(before) == len(after)
    pairs = dict(zip(before, after, strict=False))
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, ""), after.get(name, "")
        if one == other:
            continue
        text = count
        if one and other:
            text = PLAIN.format(what="CPU feature policy", old=one, new=other)
        elif same_number:
            text = PLAIN.format(what="CPU feature", old=name, new=pairs.get(name, name))
        yield Difference(f"cpu/feature[{name}]", one, other, text)
    if before == after and list(before) != list(after):
        first, second = next((a, b) for a, b in zip(before, after, strict=True) if a != b)
        text = PLAIN.format(what="CPU feature", old=first, new=second)
        yield Difference("cpu/feature", " ".join(before), " ".join(after), text, NOMINAL)
    yield from compared(_CACHE)(old, new)


def _cpu_features(domain: Domain) -> dict[str, str]:
    cpu = domain.node.child("cpu")
    features = cpu.all("feature") if cpu is not None else []
    return {node.get("name") or "": node.get("policy") or "require" for node in features}


# -- SMBIOS --------------------------------------------------------------------------------------------------

#: table of SMBIOS → what libvirt calls it, and the entries that it calls otherwise
_TABLES = {
    "baseBoard": "base board",
    "bios": "BIOS",
    "chassis": "chassis",
    "system": "system",
}
_ENTRIES = {"manufacturer": "vendor"}


def compare_sysinfo(old: Domain, new: Domain) -> Iterator[Difference]:
    """Every entry; where a whole table comes or goes libvirt says no more than that."""
    before, after = _sysinfo(old), _sysinfo(new)
    counts = [len(domain.node.all("sysinfo")) for domain in (old, new)]
    tables = [{name.split(" ")[0] for name in side} for side in (before, after)]
    boards = [len(_boards(domain)) for domain in (old, new)]
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, ""), after.get(name, "")
        if one == other:
            continue
        table, _, entry = name.partition(" ")
        what = f"sysinfo {_TABLES.get(table, table)} {_ENTRIES.get(entry, entry)}"
        text = PLAIN.format(what=what, old=one or "<null>", new=other or "<null>")
        if counts[0] != counts[1]:
            text = "Target domain count of sysinfo does not match source"
        elif table.startswith("baseBoard") and boards[0] != boards[1]:
            text = QUOTED.format(what="sysinfo base board count", old=boards[0], new=boards[1])
        elif table not in _TABLES:
            text = ""
        elif (table in tables[0]) != (table in tables[1]):
            text = BARE.format(what="sysinfo")
        yield Difference(f"sysinfo/{name}", one, other, text)


def _boards(domain: Domain) -> list[Node]:
    return [board for table in domain.node.all("sysinfo") for board in table.all("baseBoard")]


def _sysinfo(domain: Domain) -> dict[str, str]:
    found: dict[str, str] = {}
    for table in domain.node.all("sysinfo"):
        seen: dict[str, int] = {}
        for part in table.children:
            number = seen.get(part.tag, 0)
            seen[part.tag] = number + 1
            title = part.tag if not number else f"{part.tag}[{number}]"
            for place, entry in enumerate(part.all("entry")):
                name = entry.get("name") or str(place)
                found[f"{title} {name}"] = entry.text.strip() or entry.get("file") or ""
    return found


__all__ = [
    "BACKING",
    "SYSTEM",
    "compare_cpu",
    "compare_identity",
    "compare_memory",
    "compare_numa",
    "compare_sysinfo",
    "compare_timers",
    "compare_vcpus",
    "compared",
]
