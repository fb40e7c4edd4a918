"""``<features>``.  https://libvirt.org/formatdomain.html#hypervisor-features"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qemushim.command.option import Option
from qemushim.document.fields import Choice, Field, One, OnOff, Present, Switch, Text, Unsigned
from qemushim.document.item import Item, Schema
from qemushim.document.sizes import Size
from qemushim.document.units import TooLargeError, parse_unsigned, to_bytes
from qemushim.errors import error
from qemushim.machine.vcpu import vcpu_maximum

if TYPE_CHECKING:
    from qemushim.context import Build, Context, Define
    from qemushim.document.node import Node

#: features of ``<hyperv>`` that have a state and nothing else
_HYPERV = (
    *("relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic", "stimer", "reset", "vendor_id"),
    *("frequencies", "reenlightenment", "tlbflush", "ipi", "evmcs", "avic", "emsr_bitmap", "xmm_input"),
)


class _Retries(Unsigned["int | None"]):
    """How often a guest tries to get a lock: decimal, octal or hexadecimal."""

    base = 0

    def __init__(self, path: str) -> None:
        Field.__init__(self, path)


class _Group(Item):
    """Switches that belong together."""

    @classmethod
    def make_schema(cls) -> Schema:
        schema = super().make_schema()
        schema.opened = True
        return schema


class Hyperv(_Group):
    """``<hyperv>``: enlightenments that a Windows guest looks for."""

    tag = "hyperv"
    closed = "unsupported HyperV Enlightenment feature: {}"
    mode = Choice("@mode", ("custom", "passthrough"))
    relaxed = OnOff("relaxed/@state", required=True)
    vapic = OnOff("vapic/@state", required=True)
    spinlocks = OnOff("spinlocks/@state", required=True)
    spinlock_retries = _Retries("spinlocks/@retries")
    vpindex = OnOff("vpindex/@state", required=True)
    runtime = OnOff("runtime/@state", required=True)
    synic = OnOff("synic/@state", required=True)
    stimer = OnOff("stimer/@state", required=True)
    stimer_direct = OnOff("stimer/direct/@state", required=True)
    reset = OnOff("reset/@state", required=True)
    vendor_id = OnOff("vendor_id/@state", required=True)
    vendor_id_value = Text("vendor_id/@value")
    frequencies = OnOff("frequencies/@state", required=True)
    reenlightenment = OnOff("reenlightenment/@state", required=True)
    tlbflush = OnOff("tlbflush/@state", required=True)
    tlbflush_direct = OnOff("tlbflush/direct/@state", required=True)
    tlbflush_extended = OnOff("tlbflush/extended/@state", required=True)
    ipi = OnOff("ipi/@state", required=True)
    evmcs = OnOff("evmcs/@state", required=True)
    avic = OnOff("avic/@state", required=True)
    emsr_bitmap = OnOff("emsr_bitmap/@state", required=True)
    xmm_input = OnOff("xmm_input/@state", required=True)

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        """What the host passes through is not read."""
        return cls.only("mode") if node.get("mode") == "passthrough" else cls.schema


class Kvm(_Group):
    """``<kvm>``: what the guest sees of KVM."""

    tag = "kvm"
    closed = "unsupported KVM feature: {}"
    hidden = OnOff("hidden/@state", required=True)
    hint_dedicated = OnOff("hint-dedicated/@state", required=True)
    poll_control = OnOff("poll-control/@state", required=True)
    pv_ipi = OnOff("pv-ipi/@state", required=True)
    dirty_ring = OnOff("dirty-ring/@state", required=True)
    dirty_ring_size = Unsigned("dirty-ring/@size")


class Xen(_Group):
    """``<xen>``"""

    tag = "xen"
    closed = "unsupported Xen feature: {}"
    e820_host = OnOff("e820_host/@state", required=True)
    passthrough = OnOff("passthrough/@state", required=True)
    passthrough_mode = Choice("passthrough/@mode", ("sync_pt", "share_pt"))


class ContainerCapabilities(Item):
    """``<capabilities>``: what the init process of a container may do."""

    tag = "capabilities"
    policy = Choice("@policy", ("default", "allow", "deny"))
    names = (
        *("audit_control", "audit_write", "block_suspend", "chown", "dac_override", "dac_read_search"),
        *("fowner", "fsetid", "ipc_lock", "ipc_owner", "kill", "lease", "linux_immutable", "mac_admin"),
        *("mac_override", "mknod", "net_admin", "net_bind_service", "net_broadcast", "net_raw", "setgid"),
        *("setfcap", "setpcap", "setuid", "sys_admin", "sys_boot", "sys_chroot", "sys_module", "sys_nice"),
        *("sys_pacct", "sys_ptrace", "sys_rawio", "sys_resource", "sys_time", "sys_tty_config", "syslog"),
        "wake_alarm",
    )

    @classmethod
    def make_schema(cls) -> Schema:
        switches: list[Field[Any]] = [OnOff(f"{name}/@state") for name in cls.names]
        schema = Schema.of([*cls.fields.values(), *switches])
        schema.closed = "unexpected capability feature '{}'"
        return schema


class Features(Item):
    """``<features>``, in libvirt's order."""

    tag = "features"
    closed = "unexpected feature '{}'"
    acpi = Present("acpi")
    apic = Present("apic")
    apic_eoi = OnOff("apic/@eoi")
    pae = Present("pae")
    hap = OnOff("hap/@state")
    viridian = Present("viridian")
    privnet = Present("privnet")
    hyperv = One("hyperv", Hyperv)
    kvm = One("kvm", Kvm, keep_empty=True)
    pvspinlock = OnOff("pvspinlock/@state")
    capabilities = One("capabilities", ContainerCapabilities)
    pmu = OnOff("pmu/@state")
    vmport = OnOff("vmport/@state")
    gic_version = Choice("gic/@version", ("2", "3", "host"))
    smm = OnOff("smm/@state")
    tseg_unit = Text("smm/tseg/@unit")
    tseg = Text("smm/tseg")
    ioapic = Choice("ioapic/@driver", ("kvm", "qemu"))
    hpt_resizing = Choice("hpt/@resizing", ("enabled", "disabled", "required"))
    hpt_max_page_size = Size("hpt/maxpagesize")
    vmcoreinfo = OnOff("vmcoreinfo/@state")
    htm = OnOff("htm/@state", required=True)
    nested_hv = OnOff("nested-hv/@state", required=True)
    msrs = Choice("msrs/@unknown", ("ignore", "fault"), required=True)
    ccf_assist = OnOff("ccf-assist/@state", required=True)
    xen = One("xen", Xen, keep_empty=True)
    cfpc = Choice("cfpc/@value", ("broken", "workaround", "fixed"))
    sbbc = Choice("sbbc/@value", ("broken", "workaround", "fixed"))
    ibs = Choice("ibs/@value", ("broken", "workaround", "fixed-ibs", "fixed-ccd", "fixed-na"))
    tb_cache = Size("tcg/tb-cache")
    async_teardown = Switch("async-teardown/@enabled")
    ras = OnOff("ras/@state", required=True)
    ps2 = OnOff("ps2/@state", required=True)
    aia = Choice("aia/@value", ("none", "aplic", "aplic-imsic"))


#: features that are on where the element says nothing of a state
_ON_BY_DEFAULT = ("hap", "pvspinlock", "pmu", "vmport", "smm", "vmcoreinfo")
#: features that are not there where the element does not say which
_NAMELESS = {"ioapic": "driver", "cfpc": "value", "sbbc": "value", "ibs": "value", "aia": "value"}


def strip_acpi(d: Define) -> None:
    """s390 guests that exist lose an ACPI feature their machine never had."""
    features = d.domain.node.child("features")
    machine = d.machine
    if features is None or d.update or not d.board.is_s390 or machine is None or machine.acpi is not False:
        return
    features.discard("acpi")


def complete_features(d: Define) -> None:
    """Feature defaults."""
    features = d.domain.node.child("features")
    if features is not None:
        for name in _ON_BY_DEFAULT:
            given = features.child(name)
            if given is not None:
                given.attrib.setdefault("state", "on")
        for name, attribute in _NAMELESS.items():
            given = features.child(name)
            if given is not None and not given.get(attribute):
                features.remove(given)
        teardown = features.child("async-teardown")
        if teardown is not None:
            teardown.attrib.setdefault("enabled", "yes")
        hyperv = features.child("hyperv")
        if hyperv is not None:
            _complete_hyperv(hyperv)
        through = features.find("xen/passthrough")
        if through is not None and through.get("state") != "on":
            through.drop("mode")
        ring = features.find("kvm/dirty-ring")
        if ring is not None and ring.get("state") != "on":
            ring.drop("size")
        _complete_sizes(features)
        allowed = features.child("capabilities")
        if allowed is not None and allowed.get("policy", "default") == "default" and not allowed.children:
            features.remove(allowed)
    if d.board.is_arm_virt:
        _complete_gic(d)
    if _wants_split_irqchip(d):
        features = d.domain.node.ensure("features")
        features.ensure("ioapic").attrib.setdefault("driver", "qemu")


def _complete_hyperv(hyperv: Node) -> None:
    if hyperv.attrib.setdefault("mode", "custom") == "passthrough":
        hyperv.children = []
    for child in hyperv.children:
        if child.tag not in _HYPERV:
            continue
        if child.get("state") == "on":
            _check_hyperv(child)
        if child.get("state") != "on":
            child.children = []
            child.drop("retries", "value")
        child.children = [part for part in child.children if part.get("state") == "on"]


#: characters of a vendor's name, as CPUID gives it
_VENDOR_LENGTH = 12
#: how often a guest tries to get a lock, at least
_SPINLOCK_RETRIES = 4095


def _check_hyperv(feature: Node) -> None:
    if feature.tag == "vendor_id":
        vendor = feature.get("value")
        if vendor is None:
            message = "missing 'value' attribute for HyperV feature 'vendor_id'"
            raise error.xml(message, feature, "value='KVM Hv'")
        if len(vendor) > _VENDOR_LENGTH:
            raise error.xml(
                f"HyperV vendor_id value must not be more than {_VENDOR_LENGTH} characters.",
                feature,
                "a shorter one",
            )
        if "," in vendor:
            raise error.xml("HyperV vendor_id value is invalid", feature, "no commas")
    elif feature.tag == "spinlocks":
        raw = feature.get("retries")
        if raw is None:
            raise error.xml(
                "Missing required attribute 'retries' in element 'spinlocks'",
                feature,
                f"retries='{2 * _SPINLOCK_RETRIES + 1}'",
            )
        if parse_unsigned(raw, 0) < _SPINLOCK_RETRIES:
            message = f"HyperV spinlock retry count must be at least {_SPINLOCK_RETRIES}"
            raise error.xml(message, feature, f"a number from {_SPINLOCK_RETRIES}")


def _complete_sizes(features: Node) -> None:
    item = Features(features)
    hpt = features.child("hpt")
    if hpt is not None:
        if item.hpt_max_page_size is not None:
            item.hpt_max_page_size = item.hpt_max_page_size
        elif item.hpt_resizing is None:
            features.remove(hpt)
    if item.tb_cache is not None:
        if item.tb_cache % 1024:
            raise error.unsupported(
                "tb-cache size must be an integer multiple of MiB",
                features.find("tcg/tb-cache"),
                "unit='MiB'",
            )
        item.tb_cache = item.tb_cache
    smm = features.child("smm")
    tseg = smm.child("tseg") if smm is not None else None
    if smm is None or tseg is None:
        return
    if smm.get("state") == "off" or not tseg.text:
        smm.remove(tseg)
        return
    hint = "<tseg unit='MiB'>48</tseg>"
    try:
        size = to_bytes(tseg.text, tseg.get("unit"), "MiB")
    except TooLargeError as reason:
        raise error.plain(f"numerical overflow: {reason}", tseg, hint) from None
    except ValueError as reason:
        if "unknown suffix" in str(reason):
            raise error.argument(str(reason), tseg, hint) from None
        message = f"Invalid value '{tseg.text}' for element or attribute 'string(./features/smm/tseg)'"
        raise error.xml(message, tseg, hint) from None
    tseg.text, unit = _pretty(size)
    tseg.set("unit", unit)


def _pretty(size: int) -> tuple[str, str]:
    """Bytes in the largest binary unit that leaves a whole number."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if not size or size % 1024:
            return str(size), unit
        size //= 1024
    return str(size), "EiB"


def _complete_gic(d: Define) -> None:
    """The newest interrupt controller that KVM knows; QEMU's own version 3 is not trusted for a default."""
    gic = d.domain.node.ensure("features").ensure("gic")
    if gic.get("version"):
        return
    # any other accelerator than KVM gets version 2, which all have
    kernel = {unit.version for unit in d.emulator.gic if unit.kernel and d.domain.virt == "kvm"}
    gic.set("version", 3 if 3 in kernel else 2)


def _wants_split_irqchip(d: Define) -> bool:
    """Interrupt remapping, and more vCPUs than an 8-bit APIC id can tell apart, need QEMU's I/O APIC."""
    units = d.domain.lists["iommu"]
    if not units:
        return False
    if any(unit.node.value("driver/@intremap") == "on" for unit in units):
        return True
    return d.board.is_q35 and vcpu_maximum(d.domain) > 255


# -- SMM -----------------------------------------------------------------------------------


def _tseg_bytes(c: Context) -> tuple[int, Node] | None:
    node = c.domain.node.find("features/smm/tseg")
    if node is None:
        return None
    return to_bytes(node.text, node.get("unit"), "MiB"), node


def check_tseg(d: Define) -> None:
    """SMM TSEG: what it needs, and its size."""
    found = _tseg_bytes(d)
    if found is None:
        return
    size, node = found
    if not d.board.is_q35:
        raise error.unsupported(
            "SMM TSEG is only supported with q35 machine type", node, "machine='q35', or no <tseg>"
        )
    if not d.emulator.device_property("mch", "extended-tseg-mbytes"):
        raise error.unsupported(
            "Setting TSEG size is not supported with this QEMU binary", node, "drop <tseg>"
        )
    if size % (1 << 20):
        raise error.unsupported(
            "SMM TSEG size must be divisible by 1 MiB", node, "<tseg unit='MiB'>48</tseg>"
        )


def tseg_options(b: Build) -> Iterator[Option]:
    """``-global mch.extended-tseg-mbytes``."""
    found = _tseg_bytes(b)
    if found is not None:
        text = f"mch.extended-tseg-mbytes={found[0] >> 20}"
        yield b.option("-global", text, found[1], "memory that belongs to system management mode")


# -- checks -----------------------------------------------------------------------------------

#: features that only some boards have, in libvirt's order (none named: whether QEMU has it is asked)
_BOARDS = {
    "hyperv": ("is_x86", "is_arm"),
    "pvspinlock": ("is_x86",),
    "vmport": ("is_x86",),
    "gic": ("is_arm_virt",),
    "hpt": ("is_pseries",),
    "htm": ("is_pseries",),
    "nested-hv": ("is_pseries",),
    "ccf-assist": ("is_pseries",),
    "cfpc": ("is_pseries",),
    "sbbc": ("is_pseries",),
    "ibs": ("is_pseries",),
    "ras": ("is_arm_virt",),
    "ps2": (),
    "aia": ("is_riscv_virt",),
}


def check_features(d: Define) -> None:
    """Features that this machine or this QEMU can not have."""
    features = d.domain.node.child("features")
    if features is None:
        return
    for name, boards in _BOARDS.items():
        node = features.child(name)
        if node is None:
            continue
        if boards and not any(getattr(d.board, board) for board in boards):
            what = "Hyperv features are" if name == "hyperv" else f"The '{name}' feature is"
            raise error.unsupported(
                f"{what} not supported for architecture '{d.domain.arch}' or machine type "
                f"'{d.domain.machine_type}'",
                node,
                "leave it out",
            )
        check = _CHECKS.get(name)
        if check is not None:
            check(d, node)
    kvm = features.child("kvm")
    if kvm is not None:
        _check_kvm(d, kvm)
    cache = features.find("tcg/tb-cache")
    if cache is not None and cache.text and d.domain.virt != "qemu":
        message = f"TCG features are incompatible with domain type '{d.domain.virt}'"
        raise error.unsupported(message, cache, "a guest of type='qemu'")
    teardown = features.child("async-teardown")
    if teardown is not None and not d.emulator.option("run-with", "async-teardown"):
        raise error.unsupported(
            "asynchronous teardown is not available with this QEMU binary", teardown, "QEMU 8.0 or newer"
        )


def _check_ps2(d: Define, node: Node) -> None:
    if not d.emulator.device_property("generic-pc-machine", "i8042"):
        raise error.unsupported(
            "ps2 feature state cannot be controlled with this QEMU binary", node, "drop <ps2>"
        )
    if node.get("state") != "off":
        return
    inputs = (device.node for device in d.domain.lists["input"])
    if any(i.get("bus") == "ps2" for i in inputs):
        raise error.unsupported(
            "ps2 bus inputs require the ps2 feature not to be disabled", node, "USB or virtio input devices"
        )
    vmport = d.domain.node.find("features/vmport")
    if vmport is not None and vmport.get("state") == "on":
        raise error.unsupported(
            "vmport feature requires the ps2 feature not to be disabled", vmport, "<vmport state='off'/>"
        )


def _check_vmport(d: Define, node: Node) -> None:
    if not d.emulator.has_device("vmport"):
        raise error.unsupported("vmport is not available with this QEMU binary", node, "drop <vmport>")


def _check_ras(d: Define, node: Node) -> None:
    if not d.emulator.device_property("virt-machine", "ras"):
        raise error.unsupported("ras feature is not available with this QEMU binary", node, "drop <ras>")


def _check_aia(d: Define, node: Node) -> None:
    if not d.emulator.device_property("virt-machine", "aia"):
        raise error.unsupported("aia feature is not available with this QEMU binary", node, "drop <aia>")


def _check_kvm(d: Define, node: Node) -> None:
    item = Kvm(node)
    if item.dirty_ring:
        size = item.dirty_ring_size
        if size is None:
            raise error.xml("Missing required attribute 'size' in element 'dirty-ring'", node, "size='4096'")
        if not 1024 <= size <= 65536 or size & (size - 1):
            message = "dirty ring must be power of 2 and ranges [1024, 65536]"
            raise error.xml(message, node, "size='4096'")


_CHECKS = {"aia": _check_aia, "ps2": _check_ps2, "ras": _check_ras, "vmport": _check_vmport}
