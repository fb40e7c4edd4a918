"""libvirt's capability names (the ``<flag>`` names of its capabilities files), each with the fact behind it.

``FACTS`` is in the order in which libvirt 11.3 lists them.  It serves both ways: a distilled emulator gets
its flags from it (``compute_flags``), and an emulator changed by name has the facts changed along
(``change_flags``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum, auto
from typing import NamedTuple

from qemushim.emulator.model import Accelerator, CpuModel, Emulator


class Kind(Enum):
    """Where a fact is looked up."""

    ACCELERATOR = auto()
    #: the architecture is one of the names
    ARCH = auto()
    #: a CPU model of any accelerator
    CPU_MODEL = auto()
    #: follows from another flag
    FLAG = auto()
    #: a migration capability
    MIGRATION = auto()
    #: set by hand alone
    NEVER = auto()
    #: ``GROUP`` or ``GROUP.PARAMETER`` of ``query-command-line-options``
    OPTION = auto()
    #: ``TYPE.PROPERTY`` of a device, object or machine
    PROPERTY = auto()
    QAPI = auto()
    #: seen in a reply that is not kept; the distiller says so
    REPLY = auto()
    TPM_MODEL = auto()
    TPM_TYPE = auto()
    #: a QOM type
    TYPE = auto()


class Fact(NamedTuple):
    """What makes a flag true: any one of the names, or every one of them."""

    kind: Kind
    names: tuple[str, ...] = ()
    every: bool = False


def qom(*names: str) -> Fact:
    """One of these QOM types is there."""
    return Fact(Kind.TYPE, names)


def prop(name: str, *types: str) -> Fact:
    """One of these types has the property."""
    return Fact(Kind.PROPERTY, tuple(f"{kind}.{name}" for kind in types))


def qapi(*paths: str, every: bool = False) -> Fact:
    """One of these paths (or ``every`` one) is in the QAPI schema."""
    return Fact(Kind.QAPI, paths, every)


def option(name: str) -> Fact:
    """The option group is there, or ``GROUP.PARAMETER`` is."""
    return Fact(Kind.OPTION, (name,))


BALLOON = ("virtio-balloon-pci", "virtio-balloon-ccw", "virtio-balloon-device")
MAX_CPU = ("max-x86_64-cpu", "max-arm-cpu")
VIRTIO_BLK = ("virtio-blk-pci", "virtio-blk-ccw")
VIRTIO_GPU = ("virtio-gpu-pci", "virtio-gpu-device", "virtio-gpu-ccw")
VIRTIO_NET = ("virtio-net-pci", "virtio-net-ccw")
VIRTIO_SCSI = ("virtio-scsi-pci", "virtio-scsi-ccw")
#: the cards that are asked for an ACPI index
CARDS = (*VIRTIO_BLK, *VIRTIO_NET, *VIRTIO_SCSI, *VIRTIO_GPU, *BALLOON)
#: the virtio cards that come as a pair of strict types
TRANSITIONAL = tuple(
    f"{card}-pci-{kind}"
    for card in (
        *("virtio-blk", "virtio-net", "vhost-scsi", "virtio-rng", "virtio-9p"),
        *("virtio-balloon", "vhost-vsock", "virtio-scsi", "virtio-serial"),
    )
    for kind in ("transitional", "non-transitional")
)

FACTS: dict[str, Fact] = {
    "kvm": Fact(Kind.ACCELERATOR, ("kvm",)),
    "sdl": qapi("query-display-options/ret-type/+sdl"),
    "spice": option("spice"),
    "hda-duplex": qom("hda-duplex"),
    "ccid-emulated": qom("ccid-card-emulated"),
    "ccid-passthru": qom("ccid-card-passthru"),
    "piix3-usb-uhci": qom("piix3-usb-uhci"),
    "piix4-usb-uhci": qom("piix4-usb-uhci"),
    "usb-ehci": qom("usb-ehci"),
    "ich9-usb-ehci1": qom("ich9-usb-ehci1"),
    "vt82c686b-usb-uhci": qom("vt82c686b-usb-uhci"),
    "pci-ohci": qom("pci-ohci"),
    "usb-redir": qom("usb-redir"),
    "usb-hub": qom("usb-hub"),
    "ich9-ahci": qom("ich9-ahci"),
    "virtio-blk-pci.scsi": prop("scsi", *VIRTIO_BLK),
    "scsi-disk.channel": prop("channel", "scsi-hd"),
    "scsi-block": qom("scsi-block"),
    "hda-micro": qom("hda-micro"),
    "nec-usb-xhci": qom("nec-usb-xhci"),
    "lsi": qom("lsi53c895a"),
    "virtio-scsi-pci": qom("virtio-scsi-pci", "virtio-scsi-ccw", "virtio-scsi-device"),
    "usb-redir.filter": prop("filter", "usb-redir"),
    "seccomp-sandbox": option("sandbox"),
    "vnc": qapi("query-vnc"),
    "qxl": qom("qxl"),
    "VGA": qom("VGA"),
    "cirrus-vga": qom("cirrus-vga"),
    "vmware-svga": qom("vmware-svga"),
    "s390-sclp": qom("sclpconsole"),
    "usb-serial": qom("usb-serial"),
    "virtio-rng": qom("virtio-rng-pci", "virtio-rng-ccw", "virtio-rng-device"),
    "rng-random": qom("rng-random"),
    "rng-egd": qom("rng-egd"),
    "virtio-ccw": qom("virtio-blk-ccw"),
    "megasas": qom("megasas"),
    "tpm-passthrough": Fact(Kind.TPM_TYPE, ("passthrough",)),
    "tpm-tis": Fact(Kind.TPM_MODEL, ("tpm-tis",)),
    "nvram": qom("spapr-nvram"),
    "pci-bridge": qom("pci-bridge"),
    "vfio-pci": qom("vfio-pci"),
    "dmi-to-pci-bridge": qom("i82801b11-bridge"),
    "usb-storage": qom("usb-storage"),
    "virtio-mmio": qom("virtio-mmio"),
    "ich9-intel-hda": qom("ich9-intel-hda"),
    "kvm-pit-lost-tick-policy": prop("lost_tick_policy", "kvm-pit"),
    "pvpanic": qom("pvpanic"),
    "usb-kbd": qom("usb-kbd"),
    "usb-audio": qom("usb-audio"),
    "rtc-reset-reinjection": qapi("rtc-reset-reinjection"),
    "migrate-rdma": Fact(Kind.MIGRATION, ("rdma-pin-all",)),
    "VGA.vgamem_mb": prop("vgamem_mb", "VGA"),
    "vmware-svga.vgamem_mb": prop("vgamem_mb", "vmware-svga"),
    "qxl.vgamem_mb": prop("vgamem_mb", "qxl"),
    "pc-dimm": qom("pc-dimm"),
    "machine-vmport-opt": qom("vmport"),
    "pci-serial": qom("pci-serial"),
    "ioh3420": qom("ioh3420"),
    "x3130-upstream": qom("x3130-upstream"),
    "xio3130-downstream": qom("xio3130-downstream"),
    "rtl8139": qom("rtl8139"),
    "e1000": qom("e1000"),
    "virtio-net": qom("virtio-net-pci", "virtio-net-ccw", "virtio-net-device"),
    "virtio-gpu": qom("virtio-gpu-pci", "virtio-gpu-device"),
    "virtio-gpu.virgl": prop("virgl", *VIRTIO_GPU),
    "virtio-keyboard": qom("virtio-keyboard-device", "virtio-keyboard-pci"),
    "virtio-mouse": qom("virtio-mouse-device", "virtio-mouse-pci"),
    "virtio-tablet": qom("virtio-tablet-device", "virtio-tablet-pci"),
    "virtio-input-host": qom("virtio-input-host-device", "virtio-input-host-pci"),
    "virtio-balloon-pci.deflate-on-oom": prop("deflate-on-oom", *BALLOON),
    "mptsas1068": qom("mptsas1068"),
    "spice-gl": option("spice.gl"),
    "qxl.vram64_size_mb": prop("vram64_size_mb", "qxl"),
    "pxb": qom("pxb"),
    "pxb-pcie": qom("pxb-pcie"),
    "intel-iommu": qom("intel-iommu"),
    "virtio-vga": qom("virtio-vga"),
    "ivshmem-plain": qom("ivshmem-plain"),
    "ivshmem-doorbell": qom("ivshmem-doorbell"),
    "vhost-scsi": qom("vhost-scsi"),
    "query-cpu-model-expansion": qapi("query-cpu-model-expansion"),
    "spice-rendernode": option("spice.rendernode"),
    "nvdimm": qom("nvdimm"),
    "pcie-root-port": qom("pcie-root-port"),
    "query-cpu-definitions": qapi("query-cpu-definitions"),
    "qemu-xhci": qom("qemu-xhci"),
    "intel-iommu.intremap": prop("intremap", "intel-iommu"),
    "intel-iommu.caching-mode": prop("caching-mode", "intel-iommu"),
    "intel-iommu.eim": prop("eim", "intel-iommu"),
    "intel-iommu.device-iotlb": prop("device-iotlb", "intel-iommu"),
    "spapr-pci-host-bridge": qom("spapr-pci-host-bridge"),
    "spapr-pci-host-bridge.numa_node": prop("numa_node", "spapr-pci-host-bridge"),
    "chardev-reconnect": qapi("chardev-add/arg-type/backend/+socket/data/reconnect"),
    "vmcoreinfo": qom("vmcoreinfo"),
    "spapr-vty": qom("spapr-vty"),
    "sclplmconsole": qom("sclplmconsole"),
    "isa-serial": qom("isa-serial"),
    "pl011": qom("pl011"),
    "virtio-gpu-ccw": qom("virtio-gpu-ccw"),
    "virtio-keyboard-ccw": qom("virtio-keyboard-ccw"),
    "virtio-mouse-ccw": qom("virtio-mouse-ccw"),
    "virtio-tablet-ccw": qom("virtio-tablet-ccw"),
    "pcie-pci-bridge": qom("pcie-pci-bridge"),
    "nbd-tls": qapi("nbd-server-start/arg-type/tls-creds"),
    "tpm-crb": Fact(Kind.TPM_MODEL, ("tpm-crb",)),
    "pr-manager-helper": qom("pr-manager-helper"),
    "vfio-ccw": qom("vfio-ccw"),
    "screendump_device": qapi("screendump/arg-type/device"),
    "hda-output": qom("hda-output"),
    "vmgenid": qom("vmgenid"),
    "vhost-vsock": qom("vhost-vsock-device"),
    "tpm-emulator": Fact(Kind.TPM_TYPE, ("emulator",)),
    "mch": qom("mch"),
    "mch.extended-tseg-mbytes": prop("extended-tseg-mbytes", "mch"),
    "sev-guest": qom("sev-guest"),
    "egl-headless": qapi("query-display-options/ret-type/+egl-headless"),
    "vfio-ap": qom("vfio-ap"),
    "zpci": qom("zpci"),
    "memory-backend-memfd": qom("memory-backend-memfd"),
    "memory-backend-memfd.hugetlb": prop("hugetlb", "memory-backend-memfd"),
    "egl-headless.rendernode": qapi("query-display-options/ret-type/+egl-headless/rendernode"),
    "memory-backend-file.pmem": prop("pmem", "memory-backend-file"),
    "nvdimm.unarmed": prop("unarmed", "nvdimm"),
    "virtio-pci-non-transitional": qom(*TRANSITIONAL),
    "machine.virt.iommu": prop("iommu", "virt-machine"),
    "x86-max-cpu": qom("max-x86_64-cpu"),
    "cpu-unavailable-features": prop("unavailable-features", *MAX_CPU),
    "canonical-cpu-features": Fact(Kind.FLAG, ("cpu-unavailable-features",)),
    "bochs-display": qom("bochs-display"),
    "migration-file-drop-cache": qapi("blockdev-add/arg-type/+file/drop-cache"),
    "dbus-vmstate": qom("dbus-vmstate"),
    "vhost-user-gpu": qom("vhost-user-gpu"),
    "vhost-user-vga": qom("vhost-user-vga"),
    "query-cpu-model-baseline": qapi("query-cpu-model-baseline"),
    "query-cpu-model-comparison": qapi("query-cpu-model-comparison"),
    "ramfb": qom("ramfb"),
    "arm-max-cpu": qom("max-arm-cpu"),
    "drive-nvme": qapi("blockdev-add/arg-type/+nvme"),
    "smp-dies": qapi("query-hotpluggable-cpus/ret-type/props/die-id"),
    "i8042": qom("i8042"),
    "rng-builtin": qom("rng-builtin"),
    "tpm-spapr": qom("tpm-spapr"),
    "cpu.kvm-no-adjvtime": prop("kvm-no-adjvtime", *MAX_CPU),
    "vhost-user-fs": qom("vhost-user-fs-device"),
    "fsdev.multidevs": option("fsdev.multidevs"),
    "pcie-root-port.hotplug": prop("hotplug", "pcie-root-port"),
    "aio.io_uring": qapi("blockdev-add/arg-type/+file/aio/^io_uring"),
    "tcg": qom("tcg-accel"),
    "virtio-blk-pci.scsi.default.disabled": Fact(Kind.REPLY),
    "pvscsi": qom("pvscsi"),
    "cpu.migratable": prop("migratable", *MAX_CPU),
    "intel-iommu.aw-bits": prop("aw-bits", "intel-iommu"),
    "spapr-tpm-proxy": qom("spapr-tpm-proxy"),
    "numa.hmat": qapi("set-numa-node/arg-type/+hmat-lb"),
    "usb-host.hostdevice": prop("hostdevice", "usb-host"),
    "virtio-balloon.free-page-reporting": prop("free-page-reporting", *BALLOON),
    "netdev.vhost-vdpa": qapi("netdev_add/arg-type/+vhost-vdpa"),
    "ncr53c90": Fact(Kind.ARCH, ("sparc", "m68k", "mips")),
    "dc390": qom("dc390"),
    "am53c974": qom("am53c974"),
    "virtio-pmem-pci": qom("virtio-pmem-pci"),
    "vhost-user-fs.bootindex": prop("bootindex", "vhost-user-fs-device"),
    "vhost-user-blk": qom("vhost-user-blk"),
    "cpu-max": Fact(Kind.CPU_MODEL, ("max",)),
    "memory-backend-file.x-use-canonical-path-for-ramblock-id": prop(
        "x-use-canonical-path-for-ramblock-id", "memory-backend-file"
    ),
    "vnc-power-control": option("vnc.power-control"),
    "rotation-rate": prop("rotation_rate", "scsi-hd"),
    "acpi-index": prop("acpi-index", *CARDS),
    "input-linux": qom("input-linux"),
    "virtio-gpu-gl-pci": qom("virtio-gpu-gl-pci"),
    "virtio-vga-gl": qom("virtio-vga-gl"),
    "confidential-guest-support": prop("confidential-guest-support", "none-machine"),
    "s390-pv-guest": qom("s390-pv-guest"),
    "set-action": qapi("set-action"),
    "virtio-blk.queue-size": prop("queue-size", *VIRTIO_BLK),
    "virtio-mem-pci": qom("virtio-mem-pci"),
    "memory-backend-file.reserve": prop("reserve", "memory-backend-file"),
    "piix4.acpi-root-pci-hotplug": prop("acpi-root-pci-hotplug", "PIIX4_PM"),
    "netdev.json": qapi("netdev_add/arg-type/type/^dgram"),
    "chardev.json": Fact(Kind.NEVER),
    "query-dirty-rate": qapi("query-dirty-rate"),
    "rbd-encryption": qapi("blockdev-add/arg-type/+rbd/encrypt"),
    "sev-guest-kernel-hashes": qapi("object-add/arg-type/+sev-guest/kernel-hashes"),
    "sev-inject-launch-secret": qapi("sev-inject-launch-secret"),
    "device.json+hotplug": qapi("device_add/$json-cli-hotplug"),
    "hvf": Fact(Kind.ACCELERATOR, ("hvf",)),
    "virtio-mem-pci.prealloc": prop("prealloc", "virtio-mem-pci"),
    "calc-dirty-rate": qapi("calc-dirty-rate"),
    "dirtyrate-param.mode": qapi("calc-dirty-rate/arg-type/mode"),
    "blockdev.nbd.tls-hostname": qapi("blockdev-add/arg-type/+nbd/tls-hostname"),
    "memory-backend-file.prealloc-threads": prop("prealloc-threads", "memory-backend-file"),
    "virtio-iommu-pci": qom("virtio-iommu-pci"),
    "virtio-iommu.boot-bypass": prop("boot-bypass", "virtio-iommu-pci"),
    "virtio-net.rss": prop("rss", *VIRTIO_NET),
    "chardev.qemu-vdagent": qapi("chardev-add/arg-type/backend/+qemu-vdagent"),
    "display-dbus": qapi("query-display-options/ret-type/+dbus"),
    "iothread.thread-pool-max": qapi("object-add/arg-type/+iothread/thread-pool-max"),
    "usb-host.guest-resets-all": prop("guest-resets-all", "usb-host"),
    "migration.blocked-reasons": qapi("query-migrate/ret-type/blocked-reasons"),
    "query-stats": qapi("query-stats"),
    "query-stats-schemas": qapi("query-stats-schemas"),
    "sgx-epc": qom("sgx-epc"),
    "thread-context": qom("thread-context"),
    "screenshot-format-png": qapi("screendump/arg-type/format/^png"),
    "machine-hpet": option("machine.hpet"),
    "netdev.stream": qapi("netdev_add/arg-type/+stream"),
    "virtio-crypto": qom("virtio-crypto-pci", "virtio-crypto-device"),
    "cryptodev-backend-lkcf": qom("cryptodev-backend-lkcf"),
    "pvpanic-pci": qom("pvpanic-pci"),
    "netdev.stream.reconnect": qapi("netdev_add/arg-type/+stream/reconnect"),
    "virtio-gpu.blob": prop("blob", *VIRTIO_GPU),
    "rbd-encryption-layering": qapi("blockdev-add/arg-type/+rbd/encrypt/parent"),
    "rbd-encryption-luks-any": qapi("blockdev-add/arg-type/+rbd/encrypt/format/^luks-any"),
    "qcow2-discard-no-unref": qapi("blockdev-add/arg-type/+qcow2/discard-no-unref"),
    "run-with.async-teardown": option("run-with.async-teardown"),
    "virtio-blk-vhost-vdpa": qapi("blockdev-add/arg-type/+virtio-blk-vhost-vdpa/$fdset"),
    "virtio-blk.iothread-mapping": prop("iothread-vq-mapping", *VIRTIO_BLK),
    "smp-clusters": qapi("query-hotpluggable-cpus/ret-type/props/cluster-id"),
    "virtio-mem-pci.dynamic-memslots": prop("dynamic-memslots", "virtio-mem-pci"),
    "blockjob.backing-mask-protocol": qapi(
        "block-commit/arg-type/backing-mask-protocol",
        "block-stream/arg-type/backing-mask-protocol",
        every=True,
    ),
    "display-reload": qapi("display-reload"),
    "usb-mtp": qom("usb-mtp"),
    "machine.virt.ras": prop("ras", "virt-machine"),
    "virtio-sound": qom("virtio-sound-pci", "virtio-sound-device"),
    "sev-snp-guest": qom("sev-snp-guest"),
    "netdev.user": qapi("netdev_add/arg-type/+user"),
    "acpi-erst": qom("acpi-erst"),
    "intel-iommu.dma-translation": prop("dma-translation", "intel-iommu"),
    "machine-i8042-opt": prop("i8042", "generic-pc-machine"),
    "chardev-reconnect-miliseconds": qapi("chardev-add/arg-type/backend/+socket/data/reconnect-ms"),
    "virtio-ccw.loadparm": prop("loadparm", "virtio-blk-ccw"),
    "netdev-stream-reconnect-miliseconds": qapi("netdev_add/arg-type/+stream/reconnect-ms"),
    "query-cpu-model-expansion.deprecated-props": qapi("query-cpu-model-expansion/ret-type/deprecated-props"),
    "migrate-incoming.exit-on-error": qapi("migrate-incoming/arg-type/exit-on-error"),
    "machine.virt.aia": prop("aia", "virt-machine"),
    "virtio-mem-ccw": qom("virtio-mem-ccw"),
    "blockdev-set-active": qapi("blockdev-set-active"),
    "shim": prop("shim", "none-machine"),
    "virtio-scsi.iothread-mapping": prop("iothread-vq-mapping", *VIRTIO_SCSI),
}


def compute_flags(emulator: Emulator, replies: Iterable[str] = ()) -> frozenset[str]:
    """The flags that the facts make true; ``replies`` are those that the replies alone could tell."""
    flags = set(replies)
    for name, fact in FACTS.items():
        if _holds(emulator, fact, flags):
            flags.add(name)
    return frozenset(flags)


def ordered(flags: Iterable[str]) -> list[str]:
    """Flags in libvirt's order; those of other releases behind, by name."""
    places = {name: place for place, name in enumerate(FACTS)}
    return sorted(flags, key=lambda name: (places.get(name, len(places)), name))


def change_flags(emulator: Emulator, add: frozenset[str], remove: frozenset[str]) -> Emulator:
    """The emulator with flags added, then removed, and the facts behind them; every other flag stays as it
    is.

    Names that have no fact (those of a classic binary, or of another libvirt) are changed as names alone.
    """
    changes = [(FACTS[name], True) for name in sorted(add) if name in FACTS]
    changes += [(FACTS[name], False) for name in sorted(remove) if name in FACTS]
    for fact, wanted in changes:
        change = _CHANGES.get(fact.kind)
        if change is not None and not emulator.classic:
            emulator = change(emulator, frozenset(fact.names), wanted)
    return emulator._replace(flags=(emulator.flags | add) - remove)


def _holds(emulator: Emulator, fact: Fact, flags: set[str]) -> bool:
    known = _known(emulator, fact.kind, flags)
    if fact.kind is Kind.PROPERTY:
        hits = (emulator.device_property(*name.split(".", 1)) for name in fact.names)
    elif fact.kind is Kind.OPTION:
        hits = (emulator.option(*name.split(".", 1)) for name in fact.names)
    else:
        hits = (name in known for name in fact.names)
    return all(hits) if fact.every else any(hits)


def _known(emulator: Emulator, kind: Kind, flags: set[str]) -> Iterable[str]:
    match kind:
        case Kind.TYPE:
            return emulator.types
        case Kind.QAPI:
            return emulator.schema
        case Kind.FLAG:
            return flags
        case Kind.ACCELERATOR:
            return tuple(accelerator.name for accelerator in emulator.accelerators)
        case Kind.ARCH:
            return (emulator.arch,)
        case Kind.CPU_MODEL:
            return {cpu.name for accelerator in emulator.accelerators for cpu in accelerator.cpus}
        case Kind.MIGRATION:
            return emulator.migration
        case Kind.TPM_MODEL:
            return emulator.tpm_models
        case Kind.TPM_TYPE:
            return emulator.tpm_types
        case _:
            return ()


# -- changing the facts --------------------------------------------------------------------------------------


def _put(known: frozenset[str], names: frozenset[str], wanted: bool) -> frozenset[str]:
    return known | names if wanted else known - names


def _change_types(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    return emulator._replace(types=_put(emulator.types, names, wanted))


def _change_members(
    before: Mapping[str, frozenset[str]], names: frozenset[str], wanted: bool
) -> dict[str, frozenset[str]]:
    """A two-storey table with ``A`` or ``A.B`` put in or taken out."""
    known = dict(before)
    for name in sorted(names):
        key, _, member = name.partition(".")
        if member:
            known[key] = _put(known.get(key, frozenset()), frozenset((member,)), wanted)
        elif wanted:
            known.setdefault(key, frozenset())
        else:
            known.pop(key, None)
    return known


def _change_properties(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    return emulator._replace(properties=_change_members(emulator.properties, names, wanted))


def _change_options(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    return emulator._replace(options=_change_members(emulator.options, names, wanted))


def _change_schema(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    return emulator._replace(schema=_put(emulator.schema, names, wanted))


def _change_migration(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    return emulator._replace(migration=_put(emulator.migration, names, wanted))


def _change_tpm_models(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    return emulator._replace(tpm_models=_put(emulator.tpm_models, names, wanted))


def _change_tpm_types(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    return emulator._replace(tpm_types=_put(emulator.tpm_types, names, wanted))


def _change_accelerators(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    """An accelerator that is added does what the first one does, without a host CPU of its own."""
    kept = tuple(a for a in emulator.accelerators if a.name not in names)
    if not wanted:
        return emulator._replace(accelerators=kept)
    if len(kept) < len(emulator.accelerators):
        return emulator
    model = emulator.accelerators[0] if emulator.accelerators else Accelerator("")
    added = tuple(model._replace(name=name, host_cpu=None) for name in sorted(names))
    return emulator._replace(accelerators=added + kept)


def _change_cpu_models(emulator: Emulator, names: frozenset[str], wanted: bool) -> Emulator:
    changed = []
    for accelerator in emulator.accelerators:
        cpus = tuple(cpu for cpu in accelerator.cpus if cpu.name not in names)
        if wanted:
            known = {cpu.name for cpu in accelerator.cpus}
            cpus = accelerator.cpus + tuple(CpuModel(name) for name in sorted(names - known))
        changed.append(accelerator._replace(cpus=cpus))
    return emulator._replace(accelerators=tuple(changed))


_CHANGES = {
    Kind.ACCELERATOR: _change_accelerators,
    Kind.CPU_MODEL: _change_cpu_models,
    Kind.MIGRATION: _change_migration,
    Kind.OPTION: _change_options,
    Kind.PROPERTY: _change_properties,
    Kind.QAPI: _change_schema,
    Kind.TPM_MODEL: _change_tpm_models,
    Kind.TPM_TYPE: _change_tpm_types,
    Kind.TYPE: _change_types,
}
