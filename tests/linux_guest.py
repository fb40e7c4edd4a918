"""A small Linux that boots in a guest of ours and says what it calls its network cards and disks.

Kernel and modules are Debian's package, unpacked; the rest is Debian's udev, kmod and busybox in a file system in memory.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.standalone import standalone

#: seconds that a guest has to boot, to look and to go; emulation takes a tenth of them on an idle machine
PATIENCE = 300.0
#: sectors of the first disk's image; every further one has a CD's sector more, by which it is known in the guest
_SECTORS, _STEP = 2048, 4
_SECTOR = 512

#: the drivers of what the guests have; udev asks for those that it finds devices for
_MODULES = (
    *("virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi", "nvme"),
    *("e1000", "e1000e", "igb", "8139cp", "8139too", "pcnet32", "ne2k-pci", "vmxnet3"),
    *("ahci", "ata_piix", "sd_mod", "sr_mod", "sym53c8xx", "megaraid_sas", "mptsas", "mptspi"),
    *("uhci-hcd", "ehci-pci", "xhci-pci", "usb-storage", "uas", "usbnet", "cdc_ether", "rndis_host"),
    *("shpchp", "pci-hyperv"),
)
_PROGRAMS = ("busybox", "kmod", "udevadm")
#: what udev needs to name things
_FILES = (
    *("lib/udev/rules.d", "lib/udev/ata_id", "lib/udev/scsi_id", "lib/udev/cdrom_id"),
    *("lib/systemd/network", "etc/group", "etc/passwd"),
)
_LIBRARY = re.compile(r"(/\S+)\s+\(0x")

_INIT = """#!/bin/busybox sh
export PATH=/bin
busybox mkdir -p /proc /sys /dev /run /tmp /sbin /etc
busybox mount -t proc proc /proc
busybox --install -s /bin
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs run /run
systemd-udevd --daemon
udevadm trigger --type=subsystems --action=add
udevadm trigger --type=devices --action=add
udevadm settle --timeout=120
# SCSI and USB disks are looked for in the background, and nothing of that is in udev's queue
tries=0
while [ $tries -lt 300 ] && [ "$(ls /sys/block | grep -c -v -E '^(loop|ram|fd)')" -lt $(sed -n 's/.*disks=\\([0-9]*\\).*/\\1/p' /proc/cmdline) ]; do
    tries=$((tries+1)); usleep 200000
done
udevadm settle --timeout=120
{
echo
for card in /sys/class/net/*; do
    [ -e $card/device ] || continue
    echo "CARD $(cat $card/address) ${card##*/} $(udevadm info --query=property --path=$card | grep -E '^ID_NET_NAME_(ONBOARD|SLOT|PATH|MAC)=' | cut -d= -f2 | tr '\\n' ' ')"
done
find /dev/disk/by-path /dev/disk/by-id -type l | while read -r link; do
    name=$(readlink -f $link); name=${name##*/}
    echo "DISK $(cat /sys/class/block/$name/size) $link"
done
for slot in /sys/bus/pci/slots/*; do
    [ -e $slot ] && echo "SLOT ${slot##*/} $(cat $slot/address)"
done
echo THE END
} > /dev/ttyS0
# without ACPI nothing can be switched off, but QEMU ends at a reset
reboot -f
"""


@dataclass
class Seen:
    """What the guest says."""

    #: MAC address → its name, and every name that udev offered for it
    cards: dict[str, tuple[str, set[str]]] = field(default_factory=dict)
    #: number of the disk in the document → links to it
    disks: dict[int, set[str]] = field(default_factory=dict)
    #: name of each hotplug slot → ``domain:bus:slot``
    slots: dict[str, str] = field(default_factory=dict)
    console: str = ""


def missing(folder: Path) -> str:
    """What is needed for such a guest and is not on this machine; ``""``: nothing."""
    for name in _PROGRAMS:
        if shutil.which(name) is None:
            return f"{name} (apt-get install udev kmod busybox-static)"
    if not list(folder.glob("boot/vmlinuz-*")):
        return f"an unpacked Linux in {folder} (tools/test puts it there)"
    return ""


def make_initramfs(linux: Path, folder: Path) -> tuple[Path, Path]:
    """The kernel, and a file system in memory made in ``folder``."""
    [kernel] = linux.glob("boot/vmlinuz-*")
    version = kernel.name.partition("-")[2]
    tree = folder / "tree"
    for name in ("bin", "lib/modules"):
        (tree / name).mkdir(parents=True)
    for name in _PROGRAMS:
        program = shutil.which(name)
        assert program is not None
        shutil.copy(program, tree / "bin" / name)
        for library in _libraries(program):
            target = tree / library.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, target)
    (tree / "bin/systemd-udevd").symlink_to("udevadm")
    for name in _FILES:
        source, target = Path("/", name), tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    _copy_modules(linux, tree, version)
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)
    image = folder / "initramfs"
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    packed = _run("busybox", "cpio", "-o", "-H", "newc", cwd=tree, input=names.encode())
    image.write_bytes(packed)
    shutil.rmtree(tree)
    return kernel, image


def _run(*words: str, cwd: Path | None = None, input: bytes = b"") -> bytes:
    return subprocess.run(words, cwd=cwd, input=input, capture_output=True, check=True).stdout


def _libraries(program: str) -> list[str]:
    said = subprocess.run(("ldd", program), capture_output=True, text=True, check=False).stdout
    return _LIBRARY.findall(said)


def _copy_modules(linux: Path, tree: Path, version: str) -> None:
    """The drivers and what they need; ``modules.dep`` is made where the package is unpacked."""
    modules = linux / "lib/modules" / version
    kmod = shutil.which("kmod") or "kmod"
    _as("depmod", kmod, "-b", str(linux), version)
    wanted: set[str] = set()
    for name in _MODULES:
        said = _as("modprobe", kmod, "-d", str(linux), "-S", version, "--show-depends", name, check=False)
        wanted |= {line.split()[1] for line in said.splitlines() if line.startswith("insmod ")}
    target = tree / "lib/modules" / version
    target.mkdir()
    for path in wanted:
        place = target / Path(path).relative_to(modules)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
        shutil.copy(modules / name, target)
    _as("depmod", kmod, "-b", str(tree), version)


def _as(name: str, program: str, *words: str, check: bool = True) -> str:
    """Run a program under another name: kmod is what it is called."""
    return subprocess.run(
        (name, *words), executable=program, capture_output=True, text=True, check=check
    ).stdout


def boot(
    text: str, emulator: Emulator, kernel: Path, initramfs: Path, folder: Path, scheme: str = ""
) -> tuple[Guest, Seen]:
    """Boot a guest with the disks and cards of a document; the guest as it was booted, and what it saw."""
    guest = Guest.from_xml(text)
    root = guest.domain.node
    os_ = root.ensure("os")
    disks = list(root.ensure("devices").all("disk"))
    for number, disk in enumerate(disks):
        path = folder / f"{number}.img"
        with open(path, "wb") as file:
            file.truncate((_SECTORS + number * _STEP) * _SECTOR)
        disk.ensure("source").attrib = {"file": str(path)}
    os_.children = [c for c in os_.children if c.tag not in ("boot", "kernel", "initrd", "cmdline")]
    naming = f" net.naming-scheme={scheme}" if scheme else ""
    for name, value in (
        ("kernel", str(kernel)),
        ("initrd", str(initramfs)),
        ("cmdline", f"console=ttyS0 quiet panic=-1 disks={len(disks)}{naming}"),
    ):
        os_.ensure(name).text = value
    host = Host.nominal()
    defined = Guest.from_xml(guest.to_xml("libvirt")).define(emulator, host)
    command = standalone(defined, emulator, host, str(folder / "run"))
    (folder / "run").mkdir()
    argv = [*command.command.argv, "-no-reboot"]
    console = folder / "console"
    process = subprocess.Popen(
        argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=open(folder / "said", "wb"), stderr=subprocess.STDOUT
    )
    try:
        process.wait(PATIENCE)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    said = console.read_text(errors="replace") if console.exists() else ""
    if "THE END" not in said:
        raise AssertionError(f"{(folder / 'said').read_text()}\n{said[-4000:]}")
    return defined, _read(said)


def _read(said: str) -> Seen:
    seen = Seen(console=said)
    for words in _lines(said):
        if words[0] == "CARD":
            seen.cards[words[1]] = (words[2], set(words[3:]))
        elif words[0] == "SLOT":
            seen.slots[words[1]] = words[2]
        elif words[0] == "DISK" and int(words[1]) >= _SECTORS:
            seen.disks.setdefault((int(words[1]) - _SECTORS) // _STEP, set()).add(words[2])
    return seen


def _lines(said: str) -> Iterator[list[str]]:
    for line in said.splitlines():
        words = line.split()
        if words and words[0] in ("CARD", "DISK", "SLOT"):
            yield words
