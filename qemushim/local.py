"""The facts of this machine, read once into a ``Host``.  What can not be read is left at the nominal value.

Linux: /proc, /sys, and libvirt's own configuration where it is installed (https://libvirt.org/drvqemu.html).
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import re
import secrets
import shutil
import subprocess
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from qemushim.document.units import parse_set
from qemushim.host import (
    Descriptors,
    Host,
    Hugepages,
    NumaNode,
    Paths,
    PciDevice,
    QemuConf,
    no_secret,
    no_volume,
)

#: what ``uname -m`` says → libvirt's name, where they differ
_ARCH = {"i386": "i686", "i586": "i686", "armv8l": "armv7l", "arm64": "aarch64"}

#: variables of the caller that a guest's process inherits
INHERITED = (
    "LD_PRELOAD LD_LIBRARY_PATH PATH HOME USER LOGNAME TMPDIR QEMU_AUDIO_DRV SDL_AUDIODRIVER "
    "PIPEWIRE_CORE PIPEWIRE_REMOTE PIPEWIRE_RUNTIME_DIR XDG_RUNTIME_DIR"
).split()

#: folders of descriptors, the first wins
DESCRIPTORS = ("/etc/qemu", "/usr/share/qemu")

#: seconds that a helper has to say what it can do
_PATIENCE = 10
#: asks KVM what it can do (https://docs.kernel.org/virt/kvm/api.html#kvm-check-extension), and what is asked
_KVM_CHECK_EXTENSION, _KVM_CAP_MAX_VCPUS = 0xAE03, 66

_SETTING = re.compile(r"^\s*([a-z0-9_]+)\s*=\s*(?:\"([^\"]*)\"|(\d+))", re.MULTILINE)


def local_arch() -> str:
    """libvirt's name of this machine's architecture."""
    machine = platform.machine()
    return _ARCH.get(machine, machine)


def local_host(nominal: Host) -> Host:
    """``nominal`` with what this machine says instead."""
    privileged = os.geteuid() == 0
    return nominal._replace(
        arch=local_arch(),
        privileged=privileged,
        paths=Paths() if privileged else session_paths(),
        config=read_qemu_conf(privileged),
        environment={name: os.environ[name] for name in INHERITED if name in os.environ},
        page_size=os.sysconf("SC_PAGE_SIZE") // 1024,
        hugepages=tuple(read_hugepages(_read("/proc/mounts"), _read("/proc/meminfo"))),
        numa=tuple(read_numa(Path("/sys/devices/system/node"))) or nominal.numa,
        firmware=read_descriptors("firmware", privileged),
        vhost_user=read_descriptors("vhost-user", privileged),
        emulators=find_emulators(nominal.emulators),
        pci=read_pci(Path("/sys/bus/pci/devices")),
        cdrom_drives=frozenset({"/dev/cdrom", *(f"/dev/{p.name}" for p in Path("/sys/block").glob("sr*"))}),
        vhost_net=os.path.exists("/dev/vhost-net"),
        tpm_versions=read_tpm_versions(),
        physical_address_bits=read_address_bits(_read("/proc/cpuinfo")),
        kvm_max_vcpus=read_max_vcpus(),
        sev_guests=read_sev_guests(_read("/sys/fs/cgroup/misc.capacity")),
        protected_guests=read_protection(_read("/proc/cmdline")),
        qemu_rdp=shutil.which("qemu-rdp") is not None,
        descriptors=Descriptors(),
        now=int(time.time()),
        utc_offset=time.localtime().tm_gmtoff,
        new_uuid=lambda purpose: str(uuid.uuid4()),
        new_mac=lambda purpose: "52:54:00:" + ":".join(f"{b:02x}" for b in secrets.token_bytes(3)),
        random_iv=secrets.token_bytes(16),
        find_network=lambda name: None,
        find_volume=no_volume,
        find_secret=no_secret,
    )


def session_paths() -> Paths:
    """Where an unprivileged libvirtd keeps what belongs to guests (XDG base directories)."""
    home = Path.home()
    config = os.environ.get("XDG_CONFIG_HOME") or f"{home}/.config"
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    lib = f"{config}/libvirt/qemu/lib"
    return Paths(
        lib=lib,
        nvram=f"{config}/libvirt/qemu/nvram",
        channel=f"{runtime}/libvirt/qemu/channel",
        ram=f"{lib}/ram",
        run=f"{runtime}/libvirt/qemu/run",
        config=f"{config}/libvirt/qemu",
    )


def read_qemu_conf(privileged: bool) -> QemuConf:
    """``qemu.conf``, as far as a command line depends on it."""
    file = "/etc/libvirt/qemu.conf" if privileged else os.path.expanduser("~/.config/libvirt/qemu.conf")
    known = QemuConf()._asdict()
    given: dict[str, Any] = {}
    for name, text, number in _SETTING.findall(_read(file)):
        default = known.get(name)
        if isinstance(default, bool):
            given[name] = number == "1"
        elif isinstance(default, int):
            given[name] = int(number or 0)
        elif isinstance(default, str):
            given[name] = text
    return QemuConf(**given)


def read_hugepages(mounts: str, meminfo: str) -> Iterable[Hugepages]:
    """The mounts of hugetlbfs; the page size of one that names none is the system's default."""
    found = re.search(r"^Hugepagesize:\s*(\d+) kB", meminfo, re.MULTILINE)
    default = int(found[1]) if found else 2048
    for line in mounts.splitlines():
        _, place, kind, options, *_ = [*line.split(), "", "", "", ""][:5]
        if kind != "hugetlbfs":
            continue
        size = re.search(r"pagesize=(\d+)([KMG]?)", options)
        kib = int(size[1]) * {"": 1, "K": 1, "M": 1024, "G": 1048576}[size[2]] if size else default
        yield Hugepages(kib, place.encode().decode("unicode_escape"), kib == default)


def read_numa(folder: Path) -> Iterable[NumaNode]:
    """The host's NUMA nodes with their CPUs and memory in KiB."""
    for node in sorted(folder.glob("node[0-9]*"), key=lambda p: int(p.name[4:])):
        cpus = _read(node / "cpulist").strip()
        total = re.search(r"MemTotal:\s*(\d+) kB", _read(node / "meminfo"))
        yield NumaNode(
            int(node.name[4:]), frozenset(parse_set(cpus) if cpus else ()), int(total[1]) if total else 0
        )


def read_descriptors(kind: str, privileged: bool) -> tuple[tuple[str, Mapping[str, Any] | None], ...]:
    """JSON descriptors by file name; one in a folder before masks one of that name behind, an empty one removes it."""
    folders = [f"{base}/{kind}" for base in DESCRIPTORS]
    if not privileged:
        config = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
        folders.insert(0, f"{config}/qemu/{kind}")
    found: dict[str, Mapping[str, Any] | None] = {}
    for folder in folders:
        for file in sorted(Path(folder).glob("*.json")):
            if file.name in found or file.name.startswith("."):
                continue
            text = _read(file)
            try:
                found[file.name] = json.loads(text) if text.strip() else None
            except ValueError:
                continue  # what is no JSON is no descriptor, and masks nothing
    return tuple(sorted(found.items()))


def find_emulators(nominal: Mapping[str, str]) -> dict[str, str]:
    """Architecture → binary on PATH, or the usual place."""
    return {arch: shutil.which(os.path.basename(path)) or path for arch, path in nominal.items()}


def read_pci(folder: Path) -> dict[str, PciDevice]:
    """The host's PCI devices: IOMMU group, and whether they are PCI Express (4096 bytes of configuration)."""
    devices = {}
    for device in folder.glob("*"):
        group = device / "iommu_group"
        try:
            number = int(os.path.basename(os.readlink(group)))
        except OSError:
            number = -1
        try:
            express = (device / "config").stat().st_size >= 4096
        except OSError:
            express = True
        devices[device.name] = PciDevice(express, number)
    return devices


def read_tpm_versions() -> frozenset[str]:
    """The versions of TPM that swtpm can be, by its own word."""
    program = shutil.which("swtpm_setup")
    if program is None or shutil.which("swtpm") is None:
        return frozenset()
    try:
        asked = subprocess.run(
            (program, "--print-capabilities"), capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return frozenset()
    found = frozenset(re.findall(r"\btpm-(1\.2|2\.0)\b", asked.stdout))
    # releases before 0.7.3 do not say, and can be both
    return found or frozenset({"1.2", "2.0"})


def read_address_bits(cpuinfo: str) -> int:
    """The width of physical addresses, 0 where the processor does not say (all but x86)."""
    found = re.search(r"^address sizes\s*:\s*(\d+) bits physical", cpuinfo, re.MULTILINE)
    return int(found[1]) if found else 0


def read_max_vcpus() -> int:
    """The most vCPUs that KVM gives to one guest, 0 where there is no KVM."""
    try:
        device = os.open("/dev/kvm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        return max(fcntl.ioctl(device, _KVM_CHECK_EXTENSION, _KVM_CAP_MAX_VCPUS), 0)
    except OSError:
        return 0
    finally:
        os.close(device)


def read_sev_guests(capacity: str) -> tuple[int, int] | None:
    """How many guests with SEV, and with SEV-ES, the processor has room for; ``None`` where it has neither."""
    found = dict(re.findall(r"^(sev|sev_es) (\d+)$", capacity, re.MULTILINE))
    return (int(found.get("sev", 0)), int(found.get("sev_es", 0))) if found else None


def read_protection(cmdline: str) -> bool:
    """Whether an s390 runs below its ultravisor, and was started to make use of it."""
    wanted = re.search(r"(?:^|\s)prot_virt=(?:y|on|1)", cmdline)
    return wanted is not None and os.path.isdir("/sys/firmware/uv")


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""
