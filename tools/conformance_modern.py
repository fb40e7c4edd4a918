"""Cases of the modern corpus: libvirt 11.3.0's documents, recorded QMP conversations, and the host its tests assume."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from qemushim.command.layout import shell
from qemushim.document.parse import MalformedError
from qemushim.emulator import snapshot
from qemushim.emulator.model import Accelerator, Emulator, Gic
from qemushim.emulator.qmp import from_qmp
from qemushim.errors import ShimError, error
from qemushim.guest import Guest
from qemushim.host import CpuDefinition, Descriptors, Host, Hugepages, NumaNode, Paths, PciDevice, QemuConf

#: qemu.conf as the corpus assumes it
CONF = QemuConf(
    vnc_sasl_dir="/etc/sasl2",
    spice_sasl_dir="/etc/sasl2",
    spice_password="123456",
    chardev_tls_x509_cert_dir="/etc/pki/libvirt-chardev",
    nbd_tls_x509_cert_dir="/etc/pki/libvirt-nbd",
    vxhs_tls_x509_cert_dir="/etc/pki/libvirt-vxhs",
)
#: manifest key → field of QemuConf
CONF_KEYS = {
    "dumpGuestCore": "dump_guest_core",
    "nogfxAllowHostAudio": "nographics_allow_host_audio",
    "vncAllowHostAudio": "vnc_allow_host_audio",
    "nbdTLSx509secretUUID": "nbd_tls_x509_secret_uuid",
    "vxhsTLS": "vxhs_tls",
    "vxhsTLSx509secretUUID": "vxhs_tls_x509_secret_uuid",
    "nbdTLS": "nbd_tls",
    "storageUseNbdkit": "storage_use_nbdkit",
    "vncAutoUnixSocket": "vnc_auto_unix_socket",
    "vncSASL": "vnc_sasl",
    "vncTLS": "vnc_tls",
    "vncTLSx509verify": "vnc_tls_x509_verify",
    "vncTLSx509secretUUID": "vnc_tls_x509_secret_uuid",
    "spiceTLS": "spice_tls",
    "spiceSASL": "spice_sasl",
    "spiceAutoUnixSocket": "spice_auto_unix_socket",
    "chardevTLS": "chardev_tls",
    "chardevTLSx509verify": "chardev_tls_x509_verify",
    "chardevTLSx509secretUUID": "chardev_tls_x509_secret_uuid",
}

_CORE2DUO = tuple("ds acpi ss ht tm pbe ds_cpl vmx est tm2 cx16 xtpr lahf_lm".split())
_HASWELL = tuple(
    "vme ds acpi ss ht tm pbe dtes64 monitor ds_cpl vmx smx est tm2 xtpr pdcm osxsave f16c rdrand cmt "
    "pdpe1gb abm invtsc lahf_lm".split()
)

#: the host's own CPU, by the name that a case gives it
CPUS = {
    "core2duo": CpuDefinition("core2duo", "Intel", _CORE2DUO),
    "haswell": CpuDefinition("Haswell", "Intel", _HASWELL),
    "power8": CpuDefinition("POWER8"),
    "power9": CpuDefinition("POWER9"),
    "power10": CpuDefinition("POWER10"),
}

_ARCH_NAMES = {"i686": "i386", "armv7l": "arm", "armv6l": "arm", "ppc64le": "ppc64"}
EMULATORS = {
    arch: f"/usr/bin/qemu-system-{_ARCH_NAMES.get(arch, arch)}"
    for arch in (
        "x86_64 i686 aarch64 armv6l armv7l ppc ppc64 ppc64le s390x riscv32 riscv64 loongarch64 "
        "sparc sparc64 mips alpha"
    ).split()
}

#: PCI devices of the host: address → (IOMMU group, is PCI Express)
PCI = {
    "0000:00:00.0": (0, False),
    "0000:00:01.0": (1, False),
    "0000:00:02.0": (2, False),
    "0000:00:03.0": (3, False),
    "0001:01:00.0": (5, False),
    "0001:01:00.1": (5, False),
    "0005:90:01.0": (7, False),
    "0005:90:01.1": (7, False),
    "0005:90:01.2": (7, False),
    "0005:90:01.3": (7, False),
    "0000:0a:01.0": (8, False),
    "0000:0a:02.0": (8, False),
    "0000:0a:03.0": (8, False),
    "0000:06:12.0": (9, False),
    "0000:06:12.1": (10, False),
    "0000:06:12.2": (11, False),
    "0021:de:1f.0": (12, False),
    "0021:de:1f.1": (13, False),
    "0000:01:00.0": (14, False),
    "0000:02:00.0": (15, False),
    "0000:03:00.0": (16, False),
}

#: what the faked network driver says of NETWORK;PORT
NETWORKS: dict[str, dict[str, Any]] = {
    "nat-network;plug-network-basic": {"type": "network"},
    "nat-network;plug-bridge-basic": {"type": "bridge"},
    "nat-network;": {"type": "network"},
    "openvswitch-net;plug-bridge-basic": {"type": "bridge"},
    "vepa-net;plug-bridge-basic": {"type": "bridge"},
    "hostdev;plug-hostdev-pci": {"type": "hostdev", "pci": "0001:02:03.4"},
}

SECRET = b"AQCVn5hO6HzFAhAAq0NCv8jtJcIcE+HOBlMQ1A"
#: secrets that are found by usage: (kind, start of the usage)
USAGES = (("volume", "/storage/guest_disks/"), ("ceph", "mycluster_myname"), ("ceph", "client.admin secret"),
          ("iscsi", "mycluster_myname"), ("iscsi", "client.admin secret"))  # fmt: skip
MASTER_KEY = bytes(range(32))


def encrypt(secret: bytes, iv: bytes) -> str:
    """AES-256-CBC with PKCS#7 padding, as libvirt encrypts secrets with a guest's master key."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    pad = 16 - len(secret) % 16
    encryptor = Cipher(algorithms.AES(MASTER_KEY), modes.CBC(iv)).encryptor()
    return base64.b64encode(encryptor.update(secret + bytes([pad]) * pad) + encryptor.finalize()).decode()


def find_secret(kind: str, reference: str) -> bytes:
    """Every UUID is known; usages are the few that the faked secret driver knows."""
    by_usage = [start for k, start in USAGES if k == kind]
    is_uuid = len(reference) == 36 and reference.count("-") == 4
    if not is_uuid and not any(reference.startswith(start) for start in by_usage):
        raise error.plain(f"no secret for {kind} {reference}")
    return SECRET


#: what pools at a server add to what is known of their volumes
POOLS: dict[str, dict[str, Any]] = {
    pool: {"pool_type": "iscsi", "device": "demo-target", "hosts": [{"name": "iscsi.example.com"}]}
    for pool in ("pool-iscsi", "pool-iscsi-auth")
}


def find_volume(pool: str, name: str) -> dict[str, Any]:
    """Volume ``TYPE+NAME`` of a pool is of that type (block where it has none)."""
    if pool == "inactive":
        raise error.plain("storage pool 'inactive' is not active")
    if name == "nonexistent":
        raise error.plain(f"no storage vol with matching name '{name}'")
    kind, _, rest = name.partition("+")
    if not rest:
        kind, rest = "block", name
    return {"type": kind, "path": f"/some/{kind}/device/{rest}", **POOLS.get(pool, {})}


def read_descriptors(*folders: Path) -> tuple[tuple[str, Any], ...]:
    """JSON descriptors of folders in falling precedence: (name, content), ``None`` for an empty (masking) file."""
    found: dict[str, Any] = {}
    for folder in folders:
        for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
            if file.name in found:
                continue
            text = file.read_text()
            try:
                found[file.name] = json.loads(text) if text.strip() else None
            except ValueError:
                continue
    return tuple(sorted(found.items()))


def strip_aliases(emulator: Emulator) -> Emulator:
    """Machines under their alias, with a copy under the versioned name at the end: what “latest” cases run with."""
    accelerators = []
    for accelerator in emulator.accelerators:
        named = [m._replace(name=m.alias, alias="") if m.alias else m for m in accelerator.machines]
        copies = [m._replace(alias="", is_default=False) for m in accelerator.machines if m.alias]
        accelerators.append(
            Accelerator(accelerator.name, (*named, *copies), accelerator.cpus, accelerator.host_cpu)
        )
    return emulator._replace(accelerators=tuple(accelerators))


class Runner:
    def __init__(self, corpus: Path) -> None:
        self.corpus = corpus
        self.data = corpus / "qemuxmlconfdata"

    @cached_property
    def base_host(self) -> Host:
        firmware = self.corpus / "qemufirmwaredata"
        vhost_user = self.corpus / "qemuvhostuserdata"
        return Host(
            cpu_map=load_cpu_map(self.corpus / "cpu_map"),
            paths=Paths(channel="/var/run/libvirt/qemu/channel", run="/var/run/libvirt/qemu"),
            config=CONF,
            environment={"PATH": "/bin", "HOME": "/home/test", "USER": "test", "LOGNAME": "test"},
            hugepages=(Hugepages(2048, "/dev/hugepages2M", True), Hugepages(1048576, "/dev/hugepages1G")),
            numa=tuple(NumaNode(n, frozenset(range(4 * n, 4 * n + 4)), 1048576 * (n + 1)) for n in range(4)),
            auto_nodeset=(0, 1, 2, 3),
            firmware=read_descriptors(firmware / "etc/qemu/firmware", firmware / "usr/share/qemu/firmware"),
            vhost_user=read_descriptors(vhost_user / "etc/qemu/vhost-user", vhost_user / "usr/share/qemu/vhost-user"),
            emulators=EMULATORS,
            pci={address: PciDevice(express, group) for address, (group, express) in PCI.items()},
            cdrom_drives=frozenset({"/dev/cdrom"}),
            render_node="/dev/dri/foo",
            tpm_versions=frozenset({"1.2", "2.0"}),
            tpm_socket="/dev/test",
            find_network=NETWORKS.get,
            find_volume=find_volume,
            find_secret=find_secret,
            encrypt=encrypt,
            now=1234567890,
            utc_offset=-1800,
            # randomness is faked: bytes 0, 1, 2, … become a UUID of version 4
            new_mac=lambda purpose: "52:54:00:00:00:00",
            new_uuid=lambda purpose: "00010203-0405-4607-8809-0a0b0c0d0e0f",
            descriptors=Descriptors(
                unix_listen=1729, file_source=1750, file_log=1751, tpm=1730, tpm_cancel=1731, vdpa=1732,
                vdpa_disk={"/dev/vhost-vdpa-0": 201}, tap=3, bridge=102, vhost_net=44, vhost_scsi=3, vsock=6789,
                migration=7, slirp=42,
            ),
            vsock_cid=42,
            physical_address_bits=64,
        )  # fmt: skip

    def host(self, case: dict[str, Any], emulator: Emulator) -> Host:
        arch = case.get("host_arch", case["arch"])
        default = {"x86_64": "core2duo", "i686": "core2duo", "ppc64": "power8"}.get(arch, "")
        cpu = CPUS.get(case.get("host_cpu", default))
        config = CONF._replace(**{CONF_KEYS[k]: v for k, v in case.get("config", {}).items()})
        environment = {**self.base_host.environment, **case.get("env", {})}
        tpm = case.get("env", {}).get("TEST_TPM_ENV_VAR")
        groups = {n: (tuple(g["fds"]), bool(g["writable"])) for n, g in case.get("fd_groups", {}).items()}
        return self.base_host._replace(
            arch=arch,
            cpu=cpu,
            config=config,
            environment={k: v for k, v in environment.items() if not k.startswith("TEST_")},
            tpm_versions=frozenset({tpm}) if tpm else self.base_host.tpm_versions,
            nbdkit=frozenset(p.removeprefix("plugin-") for p in case.get("nbdkit", ())),
            fd_groups=groups,
            slirp_helper=case.get("slirp_helper", False),
            physical_address_bits=0 if arch == "s390x" else 64,
        )

    def emulator(self, case: dict[str, Any]) -> Emulator:
        found = recorded(self.corpus / "qemucapabilitiesdata" / f"{case['capabilities']}.replies")
        if case.get("caps_add") or case.get("caps_del"):
            found = found.with_flags(add=case.get("caps_add", ()), remove=case.get("caps_del", ()))
        if "host_cpu" in case:
            # a host CPU of the case's own choice: what QEMU said of the real one does not count
            found = found._replace(accelerators=tuple(a._replace(host_cpu=None) for a in found.accelerators))
        if "gic" in case:
            versions = {"none": None, "v2": (2,), "v3": (3,), "both": (2, 3)}[case["gic"]]
            if versions is not None:
                found = found._replace(gic=tuple(Gic(v, kernel=True, emulated=True) for v in versions))
        return strip_aliases(found) if case.get("qemu_latest") else found

    def run(self, case: dict[str, Any]) -> dict[str, Any]:
        emulator = self.emulator(case)
        host = self.host(case, emulator)
        path = self.data / case["xml"]
        out: dict[str, Any] = {}
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return {"error": f"Failed to open file '{path.name}': No such file or directory"}
        incoming = case.get("migrate_from", "")
        try:
            guest = Guest.from_xml(text, file=f"ABS_SRCDIR/qemuxmlconfdata/{path.name}").define(
                emulator, host, update=case["abi_update"]
            )
            out["xml"] = guest.to_xml()
            command = guest.command(emulator, host, update=False, incoming=incoming)
        except MalformedError as broken:
            # libvirt prints libxml2's words with file, line and the place
            return {"error": f"{broken.where}{broken.message}\n{broken.context}"}
        except ShimError as refused:
            return {**out, "error": refused.message}
        return {**out, "argv": command.tokens, "text": shell(command)}


@cache
def recorded(path: Path) -> Emulator:
    """The emulator of a recording, distilled once and kept in the cache folder."""
    text = path.read_bytes()
    sources = b"".join(
        (Path(__file__).resolve().parent.parent / "qemushim/emulator" / f"{name}.py").read_bytes()
        for name in ("model", "qmp", "flags", "qapi", "snapshot")
    )
    key = hashlib.sha256(text + sources).hexdigest()[:24]
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    file = root / "qemushim" / "conformance" / f"{key}.snapshot"
    try:
        return snapshot.load(file.read_bytes())
    except (OSError, ShimError):
        pass
    _, _, variant = path.stem.partition("+")
    emulator = from_qmp(text.decode(), variant=variant)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as out:
        out.write(snapshot.dump(emulator))
    os.replace(out.name, file)
    return emulator


@cache
def load_cpu_map(folder: Path) -> Any:
    """The CPU map of the corpus."""
    try:
        from qemushim.machine.cpumap import CpuMap
    except ImportError:
        return None
    return CpuMap.read({file.name: file.read_text() for file in folder.glob("*.xml")})
