"""What of a definition the guest can see, and what it means to the guest when that changes.

https://libvirt.org/formatdomain.html tells what each element is.  What is not listed here stays on the host.
"""

from __future__ import annotations

from qemushim.compare.devices import KINDS, VIRTIO
from qemushim.devices import BY_TAG

#: kind of device → what the guest sees of it beside that which libvirt compares (``devices.KINDS``); a path stands for
#: all that is below it
_BESIDE: dict[str, tuple[str, ...]] = {
    "channel": ("@type", "target"),
    "controller": ("driver/@queues", "driver/@iothread", "model", "target", "pcihole64"),
    "crypto": ("@model", "@type"),
    "disk": ("target/@removable", "vendor", "product", "geometry", "blockio", "@rawio", "@sgio", "transient"),
    "filesystem": ("readonly",),
    "hostdev": ("@model", "rom", "readonly", "driver/@model"),
    "interface": (
        *("model", "rom", "teaming", "link", "driver/@queues", "driver/@rx_queue_size"),
        *("driver/@tx_queue_size", "driver/@event_idx", "driver/host", "driver/guest", "driver/@rss"),
    ),
    "iommu": ("driver",),
    "memory": ("target", "@access"),
    "redirfilter": ("usbdev",),
    "serial": ("target",),
    "smartcard": ("@mode",),
    "sound": ("codec",),
    "video": ("model", "driver/@vgaconf"),
    "vsock": ("cid",),
}
#: kinds that the guest does not see at all
HOST_KINDS = frozenset(("audio", "graphics", "lease"))
#: what the guest sees of every kind
_EVERYWHERE = ("acpi/@index", *(check.path for check in VIRTIO))


def _visible(tag: str) -> tuple[str, ...]:
    compared = (check.path for kind in KINDS if kind.tag == tag for check in kind.checks)
    return () if tag in HOST_KINDS else (*compared, *_BESIDE.get(tag, ()), *_EVERYWHERE)


#: kind of device → what the guest sees of its element, beside the address
DEVICES: dict[str, tuple[str, ...]] = {tag: _visible(tag) for tag in BY_TAG}
#: (kind, path) → what a missing value means
DEFAULTS = {
    (tag, check.path): check.default
    for tag, checks in (
        *((kind.tag, kind.checks) for kind in KINDS),
        *((kind.tag, VIRTIO) for kind in KINDS if kind.virtio),
    )
    for check in checks
    if check.default
}

#: element of the domain → (part of the guest, does the guest see it)
ELEMENTS: dict[str, tuple[str, bool]] = {
    "uuid": ("identity", True),
    "genid": ("identity", True),
    "name": ("identity", False),
    "memory": ("memory", True),
    "maxMemory": ("memory", True),
    "currentMemory": ("memory", False),
    "memoryBacking": ("memory", False),
    "vcpu": ("vcpus", True),
    "vcpus": ("vcpus", True),
    "cpu": ("cpu", True),
    "os": ("firmware", True),
    "sysinfo": ("smbios", True),
    "features": ("features", True),
    "clock": ("clock", True),
    "pm": ("power management", True),
    "launchSecurity": ("launch security", True),
    "keywrap": ("key wrapping", True),
    "qemu:commandline": ("qemu:commandline", True),
    "qemu:override": ("qemu:override", True),
    "qemu:capabilities": ("qemu:capabilities", False),
}
#: parts below those that the guest does not see after all
HOST_SIDE = (
    *("cpu/@check", "cpu/@match", "cpu/model/@fallback", "cpu/@migratable", "cpu/numa/cell/@memAccess"),
    *("cpu/numa/cell/@discard", "vcpu/@placement", "vcpu/@cpuset", "memory/@dumpCore", "features/tcg"),
    *("features/async-teardown", "features/msrs", "memory/@unit", "maxMemory/@unit", "os/loader/@readonly"),
    *(
        "os/nvram/@template",
        "os/firmware",
        "os/loader/@format",
        "os/nvram/@format",
        "os/nvram/@templateFormat",
    ),
    "features/kvm/dirty-ring",
)
#: modes of the CPU that make of it what the host has
HOST_CPUS = ("host-model", "host-passthrough", "maximum")
#: of the element ``os``, what is part of the machine rather than of the firmware
MACHINE = {"os/type/@machine": "type", "os/type/@arch": "architecture", "os/type": "OS type"}

#: properties of ``-device`` that name something on the host, or that libvirt makes up
HOST_PROPERTIES = frozenset(
    "id drive netdev chardev audiodev tpmdev memdev iothread rng filename fd vhostfd vhostfds fsdev cryptodev "
    "host hostbus hostaddr hostdevice sysfsdev werror rerror share-rw evdev display ioeventfd failover_pair_id "
    "masterbus failover guestfwd wwpn guest-reset x-pci-vendor-id prealloc dynamic-memslots backend "
    "iommufd tx x-txtimer x-txburst".split()
)
#: those that say where the device sits, or repeat what the element says
PLACE_PROPERTIES = frozenset(
    "bus addr multifunction devno reg nr port unit channel scsi-id lun driver mac acpi-index slot chassis "
    "chassis_nr iobase irq serial wwn vendor product name cyls heads secs logical_block_size "
    "physical_block_size rotation_rate ports index cid".split()
)

_DRIVER = "another driver is needed; where it is missing the guest goes without the device"
_BOOT_DRIVER = (
    "another driver is needed before the disk can be read: a Linux initramfs must hold it, "
    "Windows stops with INACCESSIBLE_BOOT_DEVICE"
)
_CARD = (
    "the guest takes it for another card: settings, DHCP leases and licences bound to the old one are lost"
)

#: (kind or part, fact) → consequence; ``""`` for any kind or any fact
CONSEQUENCES: dict[tuple[str, str], str] = {
    ("", "address"): "the guest finds the device in another place and may set it up as a new one",
    ("", "acpi/@index"): "systems that name devices by firmware index (eno1) name it anew",
    ("", "presence"): "a device comes or goes",
    ("", "property"): "the device is made with another property",
    ("", "property bootindex"): "the firmware tries boot devices in another order",
    ("channel", "target/@name"): "programs in the guest look for the port by its name (/dev/virtio-ports)",
    ("clock", ""): "the guest's clock runs or starts differently",
    ("clock", "offset"): "the guest's clock jumps at the next boot (Windows wants localtime, others utc)",
    ("controller", "@model"): _DRIVER,
    ("controller ide", "@model"): _BOOT_DRIVER,
    ("controller pci", "@model"): "a bus of another kind: what sits on it is found in another place",
    ("controller sata", "@model"): _BOOT_DRIVER,
    ("controller scsi", "@model"): _BOOT_DRIVER,
    ("controller", "address"): "everything behind the controller moves with it",
    ("controller", "presence"): "a bus comes or goes, with what can be plugged there",
    ("cpu", ""): "features of the CPU come or go: software built for them fails, licences may notice",
    ("cpu", "topology"): "licences count sockets and cores; schedulers lay out work anew",
    ("disk", "@device"): "a disk becomes a drive or the other way round",
    ("disk", "address"): "/dev/disk/by-path changes; with several disks of a bus so may sda, sdb, vda …",
    ("disk", "blockio"): "file systems and databases laid out for the old block size may not be readable",
    ("disk", "serial"): "/dev/disk/by-id changes; licences bound to the disk's serial notice",
    ("disk", "target/@bus"): _BOOT_DRIVER,
    ("disk", "wwn"): "/dev/disk/by-id and multipath names change",
    ("features", ""): "the firmware tables tell of another board, or the hypervisor offers other interfaces",
    ("features", "acpi"): "no power button, no hotplug, no modern interrupt routing without ACPI",
    ("firmware", ""): "another firmware: what it has stored and how it boots may change",
    ("firmware", "boot"): "the firmware tries boot devices in another order",
    (
        "firmware",
        "loader",
    ): "unless both files hold the same firmware; BIOS and UEFI do not boot each other's disks",
    ("firmware", "nvram"): "boot entries and enrolled keys live in that file",
    ("hostdev", "address"): "the guest finds the card in another place and names it anew",
    ("identity", "genid"): "Windows takes it for a copy: domain controllers and databases react",
    (
        "identity",
        "uuid",
    ): "activation and licences bound to the system UUID, cloud-init takes it for a new instance",
    (
        "interface",
        "address",
    ): "names of network cards are made of the slot (enp1s0, ens3): another slot, another name, "
    "and its configuration no longer applies",
    ("interface", "mac"): _CARD,
    ("interface", "model"): _DRIVER + "; " + _CARD,
    ("interface", "presence"): "a network card comes or goes",
    ("launch security", ""): "the guest's attestation changes",
    ("machine", "architecture"): "nothing of the guest runs on another architecture",
    ("machine", "type"): "the board: firmware tables, chipset revisions and defaults of every device; "
    "Windows may ask for activation, saved states and migration are refused",
    ("machine", "virtualization"): "another hypervisor to the guest: CPU, clock and speed change",
    ("memory", ""): "the guest boots with another amount or layout of memory",
    ("memory", "presence"): "memory comes or goes",
    ("qemu:commandline", ""): "given to QEMU as it is: what the guest sees of it is not known here",
    ("qemu:override", ""): "given to QEMU as it is: what the guest sees of it is not known here",
    ("power management", ""): "sleep states appear or disappear",
    ("serial", "target"): "consoles of the kernel (console=ttyS0) may go elsewhere",
    ("smbios", ""): "activation, inventory and cloud-init read these strings",
    ("sound", ""): _DRIVER,
    ("tpm", ""): "sealed keys are gone: BitLocker and the like ask for the recovery key",
    ("tpm", "address"): "the guest finds the TPM in another place",
    ("tpm", "presence"): "sealed keys are gone: BitLocker and the like ask for the recovery key",
    ("vcpus", ""): "the guest has another number of CPUs: licences count them",
    ("video", ""): _DRIVER,
    ("vsock", "cid"): "peers of the guest's vsock must use another number",
    ("watchdog", "@model"): _DRIVER,
}


def consequence(kind: str, fact: str, name: str = "") -> str:
    """The most exact sentence that there is for a fact of a kind; ``name``: of the device (``scsi 0``)."""
    head = fact.split(" ")[0].split("[")[0]
    steps = head.split("/")
    names = [fact, *("/".join(steps[:n]) for n in range(len(steps), 0, -1))]
    if kind in HOST_KINDS:
        return "only the host's end changes"
    owners = (f"{kind} {name.split(' ')[0]}", kind, "")
    for key in ((owner, step) for owner in owners for step in names):
        if key in CONSEQUENCES:
            return CONSEQUENCES[key]
    if (kind, "") in CONSEQUENCES:
        return CONSEQUENCES[kind, ""]
    return "the guest sees a different device" if kind in DEVICES else ""


#: (family of machine types, version, what came with it)
MACHINE_NOTES = (
    ("pc", (2, 7), "since 2.7 virtio devices speak virtio 1.0 in conventional slots too"),
    (
        "pc",
        (5, 2),
        "since 5.2 virtio disks and SCSI controllers have a queue for each vCPU where none are asked for",
    ),
    (
        "pc-q35",
        (6, 1),
        "since 6.1 cards are plugged by ACPI rather than by PCI Express itself, and the guest is told of <acpi index=>",
    ),
)
