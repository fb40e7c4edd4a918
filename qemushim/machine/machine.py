"""``-machine`` and ``-accel``.  https://www.qemu.org/docs/master/system/invocation.html"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option, Value
from qemushim.devices.bootindex import boot_index
from qemushim.errors import error
from qemushim.machine.firmware import loader_nodes
from qemushim.machine.numa import has_cells, has_hmat

if TYPE_CHECKING:
    from qemushim.context import Build
    from qemushim.document.node import Node

Pair = tuple[str, Value]
Part = Callable[["Build"], Iterator[Pair]]


def _usb(b: Build) -> Iterator[Pair]:
    # the machine shall bring no USB controller of its own
    yield "usb", False


def _keywrap(b: Build) -> Iterator[Pair]:
    keywrap = b.domain.keywrap
    states = {c.name: c.state for c in keywrap.ciphers} if keywrap is not None else {}
    if keywrap is not None and states and not b.board.is_s390:
        raise error.unsupported(
            "key wrap support is only available on S390 guests", keywrap.node, "drop <keywrap>"
        )
    for name in ("aes", "dea"):
        if name in states:
            yield f"{name}-key-wrap", states[name]


#: feature element → machine property: those whose state or value is taken as it is, in order
EARLY_FEATURES = (("vmport", "state", "vmport"), ("smm", "state", "smm"))
LATE_FEATURES = (
    ("htm", "state", "cap-htm"),
    ("nested-hv", "state", "cap-nested-hv"),
    ("ccf-assist", "state", "cap-ccf-assist"),
    ("cfpc", "value", "cap-cfpc"),
    ("sbbc", "value", "cap-sbbc"),
    ("ibs", "value", "cap-ibs"),
    ("ras", "state", "ras"),
    ("ps2", "state", "i8042"),
    ("aia", "value", "aia"),
)


def _plain(features: Node, table: tuple[tuple[str, str, str], ...]) -> Iterator[Pair]:
    for tag, attribute, name in table:
        node = features.child(tag)
        if node is not None:
            value = node.get(attribute)
            if value:
                yield name, value


def _gic(b: Build, version: str) -> Iterator[Pair]:
    if b.emulator.arch == "aarch64":
        yield "gic-version", version
    elif version != "2":
        # a 32-bit binary has version 2 and no property for it
        raise error.unsupported(
            "gic-version option is not available with this QEMU binary",
            b.domain.node.find("features/gic"),
            "<gic version='2'/>",
        )


def _features(b: Build) -> Iterator[Pair]:
    node = b.domain.node.child("features")
    features = b.domain.features
    if node is None or features is None:
        return
    yield from _plain(node, EARLY_FEATURES)
    if features.gic_version:
        yield from _gic(b, features.gic_version)
    if features.ioapic:
        yield "kernel_irqchip", "split" if features.ioapic == "qemu" else "on"
    if features.hpt_resizing:
        yield "resize-hpt", features.hpt_resizing
    if features.hpt_max_page_size:
        yield "cap-hpt-max-page-size", f"{features.hpt_max_page_size}k"
    yield from _plain(node, LATE_FEATURES)


def _iommu(b: Build) -> Iterator[Pair]:
    for unit in b.domain.lists["iommu"]:
        if unit.node.get("model") == "smmuv3":
            yield "iommu", "smmuv3"


def _memory(b: Build) -> Iterator[Pair]:
    dump = b.domain.memory_dump_core
    yield "dump-guest-core", b.host.config.dump_guest_core if dump is None else dump
    backing = b.domain.memory_backing
    if backing is not None and backing.nosharepages:
        yield "mem-merge", False
    nvdimms = epcs = 0
    for device in b.domain.lists["memory"]:
        model = device.node.get("model")
        if model == "nvdimm":
            if not nvdimms:
                yield "nvdimm", True
            nvdimms += 1
        elif model == "sgx-epc":
            yield f"sgx-epc.{epcs}.memdev", f"mem{device.alias}"
            yield f"sgx-epc.{epcs}.node", device.node.value("target/node") or "0"
            epcs += 1
    machine = b.machine
    if machine is not None and machine.default_ram_id and not has_cells(b.domain):
        yield "memory-backend", machine.default_ram_id


def _compatibility(b: Build) -> Iterator[Pair]:
    cpu = b.domain.node.child("cpu")
    model = cpu.child("model") if cpu is not None else None
    name = model.text.strip() if model is not None else ""
    if b.board.is_pseries and cpu is not None and cpu.get("mode") == "host-model" and name:
        yield "max-cpu-compat", name


def _loadparm(b: Build) -> Iterator[Pair]:
    """What an s390 boot loader is told, where the boot device itself has no property for it (QEMU < 9.2)."""
    if not b.board.is_s390 or b.emulator.device_property("virtio-blk-ccw", "loadparm"):
        return
    for tag in ("disk", "interface", "hostdev"):
        for device in b.domain.lists[tag]:
            if device.loadparm and boot_index(device, b) == 1:
                yield "loadparm", device.loadparm
                return


def _security(b: Build) -> Iterator[Pair]:
    security = b.domain.launch_security
    if security is None:
        return
    if b.emulator.device_property("none-machine", "confidential-guest-support"):
        yield "confidential-guest-support", "lsec0"
    elif security.type == "sev":
        yield "memory-encryption", "lsec0"


def _pflash(b: Build) -> Iterator[Pair]:
    for number, node in enumerate(loader_nodes(b)):
        yield f"pflash{number}", node


def _rest(b: Build) -> Iterator[Pair]:
    domain = b.domain
    if has_hmat(domain):
        yield "hmat", True
    if b.board.is_x86 and domain.node.value("os/bios/@useserial") == "yes":
        yield "graphics", False
    clock = domain.clock
    hpet = next((t for t in clock.timers if t.name == "hpet"), None) if clock is not None else None
    if hpet is not None and hpet.present is not None and b.emulator.option("machine", "hpet"):
        yield "hpet", hpet.present
    for sound in domain.lists["sound"]:
        if sound.node.get("model") == "pcspk":
            first = next((audio.node.get("id") for audio in domain.lists["audio"]), None)
            yield "pcspk-audiodev", f"audio{sound.node.value('audio/@id') or first or '1'}"
            break
    machine = b.machine
    if machine is not None and machine.acpi:
        features = domain.features
        yield "acpi", features is not None and features.acpi


#: the properties of ``-machine``, in order
PARTS: tuple[Part, ...] = (
    _usb,
    _keywrap,
    _features,
    _iommu,
    _memory,
    _compatibility,
    _loadparm,
    _security,
    _pflash,
    _rest,
)


def machine_options(b: Build) -> Iterator[Option]:
    """``-machine``."""
    pairs = [pair for part in PARTS for pair in part(b)]
    if not b.emulator.option("accel"):
        # QEMU < 2.9 has the accelerator among the properties of the machine
        pairs.insert(0, ("accel", _accelerator(b)))
    source = b.domain.node.find("os/type")
    yield b.pairs("-machine", b.domain.machine_type, pairs, source, "the board, and what it is made of")


def _accelerator(b: Build) -> str:
    return "tcg" if b.domain.virt == "qemu" else b.domain.virt


def accel_options(b: Build) -> Iterator[Option]:
    """``-accel``."""
    if not b.emulator.option("accel"):
        return
    features = b.domain.features
    pairs: dict[str, Value] = {}
    if b.domain.virt == "kvm":
        kvm = features.kvm if features is not None else None
        if kvm is not None and kvm.dirty_ring:
            pairs["dirty-ring-size"] = kvm.dirty_ring_size
    elif b.domain.virt == "qemu" and features is not None and features.tb_cache:
        pairs["tb-size"] = features.tb_cache >> 10
    yield b.pairs("-accel", _accelerator(b), pairs, b.domain.node, "the type of the domain")
