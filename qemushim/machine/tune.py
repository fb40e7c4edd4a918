"""What is tuned on the host side and never reaches the command line.

https://libvirt.org/formatdomain.html#block-i-o-tuning
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qemushim.devices.idmap import IdRange
from qemushim.document.fields import Choice, Many, Switch, Text, Unsigned
from qemushim.document.item import Item
from qemushim.document.sizes import Size
from qemushim.document.units import parse_integer
from qemushim.errors import error

if TYPE_CHECKING:
    from qemushim.context import Define

#: KiB: as much as libvirt can hold means no limit at all
UNLIMITED = (1 << 53) - 1


class _Rate(Unsigned["int | None"]):
    """How much of a block device the guest gets; as in C, a negative number is a large one."""

    def __init__(self, path: str, bits: int, words: str) -> None:
        super().__init__(path)
        self.bits = bits
        self.says(words)

    def read(self, raw: str) -> int:
        number = parse_integer(raw)
        if not -(1 << self.bits) < number < 1 << self.bits:
            raise ValueError(raw)
        return number % (1 << self.bits)


class BlkioDevice(Item):
    """``<device>`` of ``<blkiotune>``: limits of one block device of the host."""

    tag = "device"
    path = Text("path")
    weight = _Rate("weight", 32, "could not parse weight {}")
    read_iops = _Rate("read_iops_sec", 32, "could not parse read iops sec {}")
    write_iops = _Rate("write_iops_sec", 32, "could not parse write iops sec {}")
    read_bytes = _Rate("read_bytes_sec", 64, "could not parse read bytes sec {}")
    write_bytes = _Rate("write_bytes_sec", 64, "could not parse write bytes sec {}")


class Blkiotune(Item):
    """``<blkiotune>``"""

    tag = "blkiotune"
    weight = Unsigned("weight")
    devices = Many("device", BlkioDevice)


class Memtune(Item):
    """``<memtune>``, in KiB."""

    tag = "memtune"
    hard_limit = Size("hard_limit")
    soft_limit = Size("soft_limit")
    min_guarantee = Size("min_guarantee")
    swap_hard_limit = Size("swap_hard_limit")


class Resource(Item):
    """``<resource>``"""

    tag = "resource"
    partition = Text("partition")
    appid = Text("fibrechannel/@appid")


class Idmap(Item):
    """``<idmap>``"""

    tag = "idmap"
    users = Many("uid", IdRange)
    groups = Many("gid", IdRange)


class PowerManagement(Item):
    """``<pm>``: sleep states that the guest is offered."""

    tag = "pm"
    suspend_to_mem = Switch("suspend-to-mem/@enabled")
    suspend_to_disk = Switch("suspend-to-disk/@enabled")


EVENTS = (
    *("cmt", "mbmt", "mbml", "cpu_cycles", "instructions", "cache_references", "cache_misses"),
    *("branch_instructions", "branch_misses", "bus_cycles", "stalled_cycles_frontend"),
    *("stalled_cycles_backend", "ref_cpu_cycles", "cpu_clock", "task_clock", "page_faults"),
    *("context_switches", "cpu_migrations", "page_faults_min", "page_faults_maj"),
    *("alignment_faults", "emulation_faults"),
)


class Event(Item):
    """``<event>``"""

    tag = "event"
    name = Choice("@name", EVENTS, required=True)
    enabled = Switch("@enabled", required=True)


class Perf(Item):
    """``<perf>``: events that are counted."""

    tag = "perf"
    events = Many("event", Event)


def complete_tune(d: Define) -> None:
    """Block I/O, memory limits, resource, id map, performance events."""
    domain = d.domain
    blkio = domain.blkiotune
    paths: set[str | None] = set()
    for device in blkio.devices if blkio is not None else ():
        if not device.path:
            raise error.unsupported("missing per-device path", device.node, "<path>/dev/sda</path>")
        if device.path in paths:
            message = f"duplicate blkio device path '{device.path}'"
            raise error.unsupported(message, device.node, "keep one")
        paths.add(device.path)
        if not any(
            (device.weight, device.read_iops, device.write_iops, device.read_bytes, device.write_bytes)
        ):
            device.node.children = []
        for tag in ("weight", "read_iops_sec", "write_iops_sec", "read_bytes_sec", "write_bytes_sec"):
            if device.node.value(tag) == "0":
                device.node.discard(tag)
    if blkio is not None:
        blkio.weight = blkio.weight or None
        blkio.node.children = [c for c in blkio.node.children if c.tag != "device" or c.children]
    limits = domain.memtune
    if limits is not None:
        for name in ("hard_limit", "soft_limit", "min_guarantee", "swap_hard_limit"):
            value = getattr(limits, name)
            if value is not None:
                setattr(limits, name, None if value >= UNLIMITED else value)
        limits.min_guarantee = limits.min_guarantee or None
    perf = domain.perf
    if perf is not None:
        _check_events(perf)
        place = {name: number for number, name in enumerate(EVENTS)}
        perf.node.children = [e.node for e in sorted(perf.events, key=lambda e: place[e.name or ""])]
    ids = domain.idmap
    if ids is not None:
        for tag in ("uid", "gid"):
            ranges = sorted(ids.node.all(tag), key=lambda node: IdRange(node).start)
            ids.node.discard(tag)
            ids.node.children.extend(ranges)


def _check_events(perf: Perf) -> None:
    seen: set[str | None] = set()
    for event in perf.events:
        if event.name in seen:
            message = f"perf event '{event.name}' was already specified"
            raise error.xml(message, event.node, "keep one")
        seen.add(event.name)


def check_limits(d: Define) -> None:
    """Memory limits that QEMU knows."""
    limits = d.domain.memtune
    if limits is not None and limits.min_guarantee:
        raise error.unsupported("Parameter 'min_guarantee' not supported by QEMU.", limits.node, "drop it")


def check_tune(d: Define) -> None:
    """Resource partition and id map."""
    domain = d.domain
    resource = domain.resource
    if resource is not None and resource.partition is not None and not resource.partition.startswith("/"):
        raise error.unsupported(
            f"Resource partition '{resource.partition}' must start with '/'",
            resource.node,
            "an absolute path: /machine/production",
        )
    ids = domain.idmap
    if ids is not None and bool(ids.users) != bool(ids.groups):
        raise error.unsupported("uid and gid should be mapped both", ids.node, "a <uid> and a <gid>")


def check_power(d: Define) -> None:
    """Sleep states can be switched where the chipset has them."""
    power = d.domain.pm
    if power is None:
        return
    device = "ICH9-LPC" if d.board.is_q35 else "PIIX4_PM"
    given = power.suspend_to_mem is not None or power.suspend_to_disk is not None
    if given and not d.emulator.has_device(device):
        raise error.unsupported("setting ACPI S3/S4 not supported", power.node, "leave out <pm>")
