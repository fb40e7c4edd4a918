"""What the guest would see of a change: the hardware of two definitions compared, in the order in which libvirt does.

libvirt stops at the first difference, and compares device by device in the order of the lists.  Here devices are
recognised first, and every difference is told, worst to least within a device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from qemushim.compare.devices import ADDRESSES, BARE, KINDS, PLAIN, QUOTED, VIRTIO, Check, Kind
from qemushim.devices.address import Address
from qemushim.devices.base import Device
from qemushim.devices.pairing import pair_devices
from qemushim.document.node import Node
from qemushim.machine.domain import Domain

#: the guest sees other hardware; or only what may change while it runs
GUEST, VOLATILE = "guest", "volatile"


class Difference(NamedTuple):
    """One thing that is not as it was."""

    #: ``devices/disk[vda]/target/@bus``: the element in the definition, devices by what they are known by
    path: str
    #: ``""``: it was not there, or will not be
    old: str
    new: str
    #: libvirt's words
    message: str
    severity: str = GUEST

    def __str__(self) -> str:
        if not self.old or not self.new:
            return f"{self.path}: {self.new or self.old} is {'added' if self.new else 'removed'}"
        return f"{self.path}: {self.old} becomes {self.new}"


def differences(old: Domain, new: Domain) -> list[Difference]:
    """Everything that differs between two complete definitions, as far as the guest can see it."""
    return [found for compare in _ORDER for found in compare(old, new)]


def breaks(found: list[Difference]) -> list[Difference]:
    """Those that keep the guest from being the same machine."""
    return [difference for difference in found if difference.severity == GUEST]


# -- guest-wide ----------------------------------------------------------------------------------------------

_COUNT = "Target {what} '{new}' doesn't match source '{old}'"
_IDENTITY = (
    Check("@type", "domain virt type"),
    Check("uuid", "domain uuid"),
    Check("genid", "domain genid"),
    Check("name", "domain name", QUOTED),
)
_SYSTEM = (
    Check("os/type", "domain OS type"),
    Check("os/type/@arch", "domain architecture"),
    Check("os/type/@machine", "domain machine type"),
    Check("os/smbios/@mode", "domain SMBIOS mode"),
)
_CPU = (
    Check("cpu/@mode", "CPU mode", default="custom"),
    Check("cpu/@check", "CPU check", default="none"),
    Check("cpu/model", "CPU model"),
    Check("cpu/vendor", "CPU vendor"),
    Check("cpu/model/@vendor_id", "CPU vendor id"),
    Check("cpu/topology/@sockets", "CPU sockets"),
    Check("cpu/topology/@dies", "CPU dies", default="1"),
    Check("cpu/topology/@clusters", "CPU clusters", default="1"),
    Check("cpu/topology/@cores", "CPU cores"),
    Check("cpu/topology/@threads", "CPU threads"),
    Check("cpu/maxphysaddr/@mode", "CPU maxphysaddr", BARE),
    Check("cpu/maxphysaddr/@bits", "CPU maxphysaddr", BARE),
    Check("cpu/cache/@mode", "CPU cache", BARE),
    Check("cpu/cache/@level", "CPU cache", BARE),
)
#: features that change nothing for the guest, or only how fast it is
_IGNORED_FEATURES = frozenset({"async-teardown", "msrs", "tcg"})
_FEATURE = "State of feature '{what}' differs: source: '{old}', destination: '{new}'"


def _compared(checks: tuple[Check, ...]) -> Callable[[Domain, Domain], Iterator[Difference]]:
    def compare(old: Domain, new: Domain) -> Iterator[Difference]:
        for check in checks:
            yield from _differs(check, old.node, new.node, "")

    return compare


def _differs(check: Check, old: Node, new: Node, path: str) -> Iterator[Difference]:
    before, after = _value(old, check), _value(new, check)
    if before != after:
        words = check.words.format(what=check.what, old=before, new=after)
        yield Difference(f"{path}{check.path}", before, after, words)


def _value(node: Node, check: Check) -> str:
    """The value as libvirt would write it, as far as spelling matters; ``present`` of an element that is empty."""
    raw = node.value(check.path)
    if raw is None:
        return check.default
    text = raw.strip()
    if not text and "@" not in check.path:
        return "present"
    return text.lower() if check.path.endswith("mac/@address") else text


def _compare_memory(old: Domain, new: Domain) -> Iterator[Difference]:
    yield from _sizes("memory", "domain max memory", PLAIN, old.memory, new.memory)
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


def _compare_numa(old: Domain, new: Domain) -> Iterator[Difference]:
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
            yield from _differs(check, one, other, f"cpu/numa/cell[{number}]/")


def _compare_vcpus(old: Domain, new: Domain) -> Iterator[Difference]:
    yield from _differs(Check("vcpu", "domain vCPU max", default="1"), old.node, new.node, "")
    current = Check("vcpu/@current", "domain vCPU count")
    for found in _differs(current, old.node, new.node, ""):
        yield found._replace(severity=VOLATILE)


def _compare_features(old: Domain, new: Domain) -> Iterator[Difference]:
    before, after = _features(old), _features(new)
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, ""), after.get(name, "")
        if one != other and name.split("/")[0] not in _IGNORED_FEATURES:
            text = _FEATURE.format(what=name, old=one or "off", new=other or "off")
            yield Difference(f"features/{name}", one, other, text)


def _features(domain: Domain) -> dict[str, str]:
    """Name of each feature (``hyperv/relaxed``) → its state and values."""
    features = domain.node.child("features")
    found: dict[str, str] = {}

    def walk(node: Node, path: str) -> None:
        for child in node.children:
            values = [value for _, value in sorted(child.attrib.items())]
            state = ",".join([*values, child.text.strip()] if child.text.strip() else values)
            if child.tag != "#comment" and state not in ("off", "no"):
                found[path + child.tag] = state or "on"
                walk(child, f"{path}{child.tag}/")

    if features is not None:
        walk(features, "")
    return found


def _compare_timers(old: Domain, new: Domain) -> Iterator[Difference]:
    def timers(domain: Domain) -> dict[str, Node]:
        clock = domain.node.child("clock")
        return {node.get("name") or "": node for node in (clock.all("timer") if clock is not None else ())}

    before, after = timers(old), timers(new)
    checks = (
        Check("@present", "timer presence", QUOTED),
        Check("@frequency", "TSC frequency"),
        Check("@mode", "TSC mode"),
    )
    for name in dict.fromkeys((*before, *after)):
        if name in before and name in after:
            for check in checks[: 1 if name != "tsc" else None]:
                yield from _differs(check, before[name], after[name], f"clock/timer[{name}]/")
        else:
            text = "Target domain timers do not match source"
            one, other = (name if name in side else "" for side in (before, after))
            yield Difference(f"clock/timer[{name}]", one, other, text)


def _compare_cpu(old: Domain, new: Domain) -> Iterator[Difference]:
    yield from _compared(_CPU)(old, new)
    before, after = _cpu_features(old), _cpu_features(new)
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, ""), after.get(name, "")
        if one != other:
            text = PLAIN.format(what="CPU feature policy", old=one, new=other)
            yield Difference(f"cpu/feature[{name}]", one, other, text)


def _cpu_features(domain: Domain) -> dict[str, str]:
    cpu = domain.node.child("cpu")
    features = cpu.all("feature") if cpu is not None else []
    return {node.get("name") or "": node.get("policy") or "require" for node in features}


def _compare_sysinfo(old: Domain, new: Domain) -> Iterator[Difference]:
    before, after = _sysinfo(old), _sysinfo(new)
    for name in dict.fromkeys((*before, *after)):
        one, other = before.get(name, ""), after.get(name, "")
        if one != other:
            text = PLAIN.format(what=f"sysinfo {name}", old=one, new=other)
            yield Difference(f"sysinfo/{name}", one, other, text)


def _sysinfo(domain: Domain) -> dict[str, str]:
    found: dict[str, str] = {}
    for table in domain.node.all("sysinfo"):
        for part in table.children:
            for number, entry in enumerate(part.all("entry")):
                name = entry.get("name") or str(number)
                found[f"{part.tag} {name}"] = entry.text.strip() or entry.get("file") or ""
    return found


# -- devices -------------------------------------------------------------------------------------------------


def _compare_devices(old: Domain, new: Domain) -> Iterator[Difference]:
    pairs = dict(pair_devices(new.lists, old.lists))
    for kind in KINDS:
        yield from _compare_kind(kind, old.lists[kind.tag], new.lists[kind.tag], pairs)


def _compare_kind(
    kind: Kind, old: list[Device], new: list[Device], pairs: dict[Device, Device]
) -> Iterator[Difference]:
    counted = PLAIN.format(what=f"domain {kind.name} count", old=len(old), new=len(new))
    kept = {pairs[device] for device in new if device in pairs}
    for number, before in enumerate(old):
        if before not in kept:
            yield Difference(_path(before, number), describe(before), "", counted)
    for number, after in enumerate(new):
        known = pairs.get(after)
        if known is None:
            yield Difference(_path(after, number), "", describe(after), counted)
        else:
            yield from _compare_device(kind, known, after, f"{_path(after, number)}/")


def _compare_device(kind: Kind, old: Device, new: Device, path: str) -> Iterator[Difference]:
    for check in (*kind.checks, *(VIRTIO if kind.virtio else ())):
        yield from _differs(check, old.node, new.node, path)
    if not kind.info:
        return
    before, after = old.address_type, new.address_type
    if before != after:
        text = PLAIN.format(what="device address type", old=before or "none", new=after or "none")
        yield Difference(f"{path}address/@type", place(old), place(new), text)
    elif place(old) != place(new):
        text = PLAIN.format(what=ADDRESSES.get(after, "device address"), old=place(old), new=place(new))
        yield Difference(f"{path}address", place(old), place(new), text)
    yield from _differs(Check("acpi/@index", "ACPI index", QUOTED), old.node, new.node, path)


def place(device: Device) -> str:
    """Where a device sits, as people write it: ``0000:01:00.0``, ``usb 0:1.2``, ``drive 0:0:0:1``; ``""``: nowhere."""
    node = device.node.child("address")
    if node is None or not node.get("type"):
        return ""
    address, kind = Address(node), node.get("type") or ""
    forms: dict[str, Callable[[], str]] = {
        "pci": lambda: str(address.pci),
        "drive": lambda: f"drive {':'.join(map(str, address.drive))}",
        "usb": lambda: f"usb {address.drive_bus}:{address.usb_port or ''}",
        "virtio-serial": lambda: (
            f"virtio-serial {address.controller}:{address.drive_bus}:{address.serial_port}"
        ),
        "ccid": lambda: f"ccid {address.controller}:{address.ccid_slot}",
        "ccw": lambda: f"ccw {address.cssid or 0:x}.{address.ssid or 0:x}.{address.devno or 0:04x}",
        "dimm": lambda: f"dimm {address.dimm_slot}",
        "isa": lambda: f"isa {address.iobase or 0:#x}",
        "spapr-vio": lambda: f"spapr-vio {address.reg or 0:#x}",
    }
    return forms[kind]() if kind in forms else kind


#: tag → what people know one of that kind by
_KNOWN_BY: dict[str, tuple[str, ...]] = {
    "channel": ("target/@name",),
    "controller": ("@type", "@index", "@model"),
    "disk": ("target/@dev",),
    "filesystem": ("target/@dir",),
    "hostdev": ("@type",),
    "input": ("@type", "@bus"),
    "interface": ("mac/@address",),
    "memory": ("@model",),
    "shmem": ("@name",),
    "video": ("model/@type",),
}


def describe(device: Device) -> str:
    """``disk vda``, ``interface 52:54:00:…``, ``controller pci 1 pcie-root-port``: what people know a device by."""
    paths = _KNOWN_BY.get(device.tag, ("@model", "model/@type"))
    words = [word for word in (device.node.value(path) for path in paths) if word]
    return " ".join([device.tag, *words])


def _path(device: Device, number: int) -> str:
    _, _, known_by = describe(device).partition(" ")
    return f"devices/{device.tag}[{known_by or number}]"


_ORDER: tuple[Callable[[Domain, Domain], Iterator[Difference]], ...] = (
    _compared(_IDENTITY),
    _compare_memory,
    _compare_numa,
    _compare_vcpus,
    _compared(_SYSTEM),
    _compare_features,
    _compare_timers,
    _compare_cpu,
    _compare_sysinfo,
    _compare_devices,
)

__all__ = ["GUEST", "VOLATILE", "Difference", "breaks", "describe", "differences", "place"]
