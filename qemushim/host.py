"""``Host``: the facts of a host that a definition and a command line depend on.

Nothing else in the core knows the host: a dry run passes ``Host.nominal()`` (the same everywhere), a real run
``Host.local()``.  All sizes are KiB unless a name says otherwise.
"""

# types are given as they are: a NamedTuple compiles each that is text, and here are a hundred fields

import binascii
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NamedTuple

from qemushim.errors import error

#: a table with nothing in it
_NONE: Mapping[str, Any] = {}


class Paths(NamedTuple):
    """Where a privileged libvirtd keeps what belongs to guests."""

    lib: str = "/var/lib/libvirt/qemu"
    nvram: str = "/var/lib/libvirt/qemu/nvram"
    channel: str = "/run/libvirt/qemu/channel"
    ram: str = "/var/lib/libvirt/qemu/ram"
    run: str = "/run/libvirt/qemu"
    config: str = "/etc/libvirt/qemu"
    #: the directory of the only guest there is; ``""``: every guest has one of its own below ``lib``
    guest: str = ""


class QemuConf(NamedTuple):
    """The settings of libvirt's ``qemu.conf`` that a command line depends on, with their defaults."""

    vnc_listen: str = "127.0.0.1"
    vnc_password: str = ""
    vnc_tls: bool = False
    vnc_tls_x509_cert_dir: str = "/etc/pki/libvirt-vnc"
    vnc_tls_x509_verify: bool = False
    vnc_tls_x509_secret_uuid: str = ""
    vnc_sasl: bool = False
    vnc_sasl_dir: str = ""
    vnc_allow_host_audio: bool = False
    vnc_auto_unix_socket: bool = False
    spice_listen: str = "127.0.0.1"
    spice_password: str = ""
    spice_tls: bool = False
    spice_tls_x509_cert_dir: str = "/etc/pki/libvirt-spice"
    spice_sasl: bool = False
    spice_sasl_dir: str = ""
    spice_auto_unix_socket: bool = False
    nographics_allow_host_audio: bool = False
    chardev_tls: bool = False
    chardev_tls_x509_cert_dir: str = "/etc/pki/qemu"
    chardev_tls_x509_verify: bool = False
    chardev_tls_x509_secret_uuid: str = ""
    nbd_tls: bool = False
    nbd_tls_x509_cert_dir: str = "/etc/pki/qemu"
    nbd_tls_x509_secret_uuid: str = ""
    vxhs_tls: bool = False
    vxhs_tls_x509_cert_dir: str = "/etc/pki/qemu"
    vxhs_tls_x509_secret_uuid: str = ""
    storage_use_nbdkit: bool = False
    dump_guest_core: bool = False
    set_process_name: bool = False
    seccomp_sandbox: int = -1
    deprecation_behavior: str = "none"
    gluster_debug_level: int = 4
    log_timestamp: bool = True


class ClassicHost(NamedTuple):
    """What matters only to a QEMU that is known by its help text."""

    #: path of the monitor's UNIX socket; ``""``: one of the guest's own below ``Paths.lib``
    monitor: str = ""
    #: the monitor speaks QMP rather than text
    monitor_json: bool = False
    #: follow libvirt 0.8.0 even where no QEMU accepts what it said (an ISA card with a PCI address and the like)
    to_the_letter: bool = False


class Hugepages(NamedTuple):
    """One mount of hugetlbfs."""

    size: int
    mount: str
    default: bool = False


class NumaNode(NamedTuple):
    """One NUMA node of the host."""

    id: int
    cpus: frozenset[int] = frozenset()
    memory: int = 0


class PciDevice(NamedTuple):
    """A PCI device of the host."""

    express: bool = True
    iommu_group: int = -1


class CpuDefinition(NamedTuple):
    """The host's own CPU: a model of the CPU map and features beyond it."""

    model: str
    vendor: str = ""
    features: tuple[str, ...] = ()


#: the next free number: for what is passed only where ``Descriptors`` says so
NEXT = -1


class Descriptors(NamedTuple):
    """The numbers under which file descriptors are passed, by what they are open on.

    ``None``: the next free one, counted from ``first`` in the order of the command line.
    """

    first: int = 24
    #: ``None``: QEMU opens sockets and files itself, by their path (what a dry run shows); ``NEXT``: each is passed
    unix_listen: int | None = None
    file_source: int | None = None
    file_log: int | None = None
    tpm: int | None = None
    tpm_cancel: int | None = None
    vdpa: int | None = None
    vdpa_disk: Mapping[str, int] = _NONE
    #: first of the run of every interface, one per queue
    tap: int | None = None
    #: the same for interfaces that libvirt itself connects to a bridge
    bridge: int | None = None
    vhost_net: int | None = None
    vhost_scsi: int | None = None
    vsock: int | None = None
    migration: int | None = None
    slirp: int | None = None


def bundled_cpu_map() -> Any:
    """The CPU map that comes with this package: read when it is first asked for, and only then."""
    return import_module("qemushim.machine.cpumap").CpuMap.bundled()


def nominal_uuid(purpose: str) -> str:
    """A UUID that is the same wherever it is asked for, and another one for every purpose."""
    digest = bytearray(import_module("hashlib").sha256(f"uuid {purpose}".encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x40
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def nominal_mac(purpose: str) -> str:
    """The same for a MAC address, with the prefix of QEMU's cards."""
    digest = import_module("hashlib").sha256(f"mac {purpose}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def assumed_secret(kind: str, reference: str) -> bytes:
    """What a dry run shows in place of a secret."""
    return f"the {kind} secret {reference}".encode()


def assumed_volume(pool: str, name: str) -> Mapping[str, Any]:
    """Where a dry run takes a volume to be: an image in libvirt's usual folder."""
    return {"type": "file", "path": f"/var/lib/libvirt/images/{name}"}


def assumed_network(name: str) -> Mapping[str, Any]:
    """What a dry run takes a network to be: one of libvirt's own, with the address that its first one has."""
    return {"type": "network", "address": "192.168.122.1"}


_PC = ("pc-i440fx-*", "pc-q35-*")
#: firmware under the names of Debian's packages: architecture, machine types, code, variables (``""``: the code is
#: ROM), features
_FIRMWARE = (
    ("x86_64", _PC[1:], "OVMF/OVMF_CODE_4M.ms.fd", "OVMF/OVMF_VARS_4M.ms.fd",
     "acpi-s3 enrolled-keys requires-smm secure-boot"),
    ("x86_64", _PC[1:], "OVMF/OVMF_CODE_4M.secboot.fd", "OVMF/OVMF_VARS_4M.fd", "acpi-s3 requires-smm secure-boot"),
    ("x86_64", _PC, "OVMF/OVMF_CODE_4M.fd", "OVMF/OVMF_VARS_4M.fd", "acpi-s3 amd-sev amd-sev-es"),
    ("x86_64", _PC, "seabios/bios-256k.bin", "", "acpi-s3 acpi-s4"),
    ("i386", _PC, "seabios/bios-256k.bin", "", "acpi-s3 acpi-s4"),
    ("aarch64", ("virt", "virt-*"), "AAVMF/AAVMF_CODE.fd", "AAVMF/AAVMF_VARS.fd", ""),
    ("riscv64", ("virt", "virt-*"), "qemu-efi-riscv64/RISCV_VIRT_CODE.fd",
     "qemu-efi-riscv64/RISCV_VIRT_VARS.fd", ""),
    ("loongarch64", ("virt", "virt-*"), "qemu-efi-loongarch64/QEMU_EFI.fd",
     "qemu-efi-loongarch64/QEMU_VARS.fd", ""),
)  # fmt: skip


def assumed_firmware() -> tuple[tuple[str, Mapping[str, Any] | None], ...]:
    """Descriptors of the firmware that a dry run takes to be installed."""
    found = []
    for number, (arch, machines, code, variables, features) in enumerate(_FIRMWARE):
        image = {"filename": f"/usr/share/{code}", "format": "raw"}
        template = {"filename": f"/usr/share/{variables}", "format": "raw"}
        flash = {"device": "flash", "executable": image, "nvram-template": template}
        content = {
            "interface-types": ["uefi" if variables else "bios"],
            "mapping": flash if variables else {"device": "memory", "filename": image["filename"]},
            "targets": [{"architecture": arch, "machines": list(machines)}],
            "features": features.split(),
        }
        found.append((f"{number:02}-{arch}.json", content))
    return tuple(found)


def no_encryption(secret: bytes, iv: bytes) -> str:
    """What stands for a secret where nobody is to use it: its base64."""
    return binascii.b2a_base64(secret, newline=False).decode()


def no_secret(kind: str, reference: str) -> bytes:
    """A host that keeps no secrets.  Raises ``ConfigError``."""
    how = "uuid" if len(reference) == 36 and reference.count("-") == 4 else "usage"
    raise error.plain(
        f"Secret not found: no secret with matching {how} '{reference}'", hint="try --host nominal"
    )


def no_volume(pool: str, name: str) -> Mapping[str, Any] | None:
    """A host that has no storage pools.  Raises ``ConfigError``."""
    raise error.plain(
        f"Storage pool not found: no storage pool with matching name '{pool}'", hint="try --host nominal"
    )


class Host(NamedTuple):
    """One host, as far as a command line can see it.

    ``host._replace(domain_id=3)`` is the same but for what is named.
    """

    arch: str = "x86_64"
    cpu: CpuDefinition | None = None
    #: the CPU map: features, vendors and models of every architecture (``machine.cpumap``), or a function that
    #: gives it when it is first needed; ``None``: ``host-model`` of x86 can not be told
    cpu_map: Any = None
    privileged: bool = True
    #: libvirt's first security driver on the host (``selinux``, ``apparmor``, ``none``)
    security_model: str = "none"
    paths: Paths = Paths()
    config: QemuConf = QemuConf()
    classic: ClassicHost = ClassicHost()
    #: the environment of the process that starts guests
    environment: Mapping[str, str] = _NONE
    page_size: int = 4
    hugepages: tuple[Hugepages, ...] = ()
    numa: tuple[NumaNode, ...] = (NumaNode(0),)
    #: nodes that ``placement='auto'`` is advised to use
    auto_nodeset: tuple[int, ...] = ()
    #: firmware descriptors in order of precedence: (file name, parsed JSON); ``None`` masks a lower file of that name
    firmware: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()
    #: vhost-user back ends, like ``firmware``
    vhost_user: tuple[tuple[str, Mapping[str, Any] | None], ...] = ()
    #: architecture → emulator binary
    emulators: Mapping[str, str] = _NONE
    pci: Mapping[str, PciDevice] = _NONE
    #: paths that are a CD-ROM drive of the host
    cdrom_drives: frozenset[str] = frozenset({"/dev/cdrom", "/dev/sr0"})
    #: SCSI address of the host → its generic device
    scsi_generic: str = "sg0"
    render_node: str = "/dev/dri/renderD128"
    #: versions of TPM that swtpm can emulate; ``None``: not asked
    tpm_versions: frozenset[str] | None = None
    tpm_socket: str = ""
    #: plugins of nbdkit
    nbdkit: frozenset[str] = frozenset()
    #: names of file descriptor groups that the caller passes for disks: (numbers, writable)
    fd_groups: Mapping[str, tuple[tuple[int, ...], bool]] = _NONE
    #: the host's kernel can move packets for virtio cards
    vhost_net: bool = True
    #: an external slirp process serves ``<interface type='user'>``
    slirp_helper: bool = False
    #: network name → what an interface on it is connected to: ``type`` (``network``, ``bridge``, ``direct``,
    #: ``hostdev``) and for a host device ``pci``, its address; ``None``: unknown, taken for ``network``
    find_network: Callable[[str], Mapping[str, Any] | None] = lambda name: None
    find_volume: Callable[[str, str], Mapping[str, Any] | None] = lambda pool, name: None
    #: (kind, UUID or usage) → plain secret; raises ``ConfigError`` where there is none
    find_secret: Callable[[str, str], bytes] = no_secret
    #: secret, initialisation vector → what is printed (base64 of AES-256-CBC with the master key)
    encrypt: Callable[[bytes, bytes], str] = no_encryption
    #: initialisation vector of the next secret
    random_iv: bytes = bytes(range(16))
    #: a UUID / MAC for what has none: called with what it is for, the guest's own name or UUID included
    new_uuid: Callable[[str], str] = nominal_uuid
    new_mac: Callable[[str], str] = nominal_mac
    #: seconds since 1970 (UTC), and local time's distance from UTC in seconds
    now: int = 0
    utc_offset: int = 0
    descriptors: Descriptors = Descriptors()
    #: domain id of the guest that is built; -1: not running
    domain_id: int = -1
    #: guest context id of a vsock with ``auto='yes'``
    vsock_cid: int = 3
    #: ports of graphics with ``autoport='yes'``
    vnc_port: int = 5900
    vnc_websocket_port: int = 5700
    spice_port: int = 5901
    spice_tls_port: int = 5902
    #: version of the libvirt that decides, where its rules have changed: 11.3.0 is 11,003,000
    libvirt: int = 11_003_000
    #: highest physical address bits that KVM gives (0: unknown)
    physical_address_bits: int = 0
    #: most vCPUs that KVM gives to one guest (0: unknown)
    kvm_max_vcpus: int = 0
    #: guests with SEV and with SEV-ES that the CPU has room for; ``None``: unknown
    sev_guests: tuple[int, int] | None = None
    #: guests can be protected from the host itself (s390 with its ultravisor)
    protected_guests: bool = True
    #: firmware images that ``qemu.conf`` names; ``None``: those of the descriptors
    loaders: tuple[str, ...] | None = None
    #: the server behind ``<graphics type='rdp'>`` is installed
    qemu_rdp: bool = True

    @classmethod
    def local(cls) -> "Host":
        """This machine: its paths, pages, nodes, firmware, devices, clock (reads /proc, /sys, libvirt's files)."""
        found: Host = import_module("qemushim.local").local_host(cls.nominal())
        return found

    @classmethod
    def nominal(cls, arch: str = "x86_64") -> "Host":
        """A host that is the same everywhere, for dry runs: ordinary paths, one NUMA node, 2 MiB and 1 GiB pages.

        What a document names is taken to be there: a network is a tap, a volume a file, a secret a placeholder, and
        the usual firmware is installed.
        """
        names = {"i686": "i386", "armv7l": "arm", "ppc64le": "ppc64"}
        every = (
            "x86_64",
            "i686",
            "aarch64",
            "armv7l",
            "ppc",
            "ppc64",
            "ppc64le",
            "s390x",
            "riscv64",
            "loongarch64",
        )
        return cls(
            arch=arch,
            cpu_map=bundled_cpu_map,
            environment={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            hugepages=(Hugepages(2048, "/dev/hugepages", True), Hugepages(1048576, "/dev/hugepages1G")),
            emulators={a: f"/usr/bin/qemu-system-{names.get(a, a)}" for a in (*every, "sparc")},
            firmware=assumed_firmware(),
            find_network=assumed_network,
            find_volume=assumed_volume,
            find_secret=assumed_secret,
        )
