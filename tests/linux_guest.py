"""A small Linux that boots in a guest of ours and says what it calls its network cards and disks.

Kernel and drivers are Debian's package, unpacked by tools/test; the rest is this machine's udev, kmod and busybox, in a
file system in memory.
"""

from __future__ import annotations

import fcntl
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.standalone import standalone

#: where tools/test unpacks the kernel
UNPACKED = Path(sys.prefix, "linux")
#: seconds that a guest has to boot, to look and to go; emulated, it takes ten on an idle machine
PATIENCE = 240.0
#: sectors of the first disk's image; every further one has a CD's sector more, by which it is known in the guest
_SECTORS, _STEP = 2048, 4
_SECTOR = 512

#: the drivers of what the guests have; udev asks for those that it finds devices for
_MODULES = (
    *("virtio_pci", "virtio_net", "virtio_blk", "virtio_scsi"),
    *("e1000", "e1000e", "8139cp", "pcnet32", "ne2k-pci", "vmxnet3"),
    *("ahci", "ata_piix", "sd_mod", "sr_mod", "sym53c8xx", "megaraid_sas", "vmw_pvscsi"),
    *("uhci-hcd", "ehci-pci", "xhci-pci", "usb-storage", "usbnet", "cdc_ether", "rndis_host"),
)
_PROGRAMS = ("busybox", "kmod", "udevadm")
#: what udev needs to name things
_FILES = (
    *("lib/udev/rules.d", "lib/udev/ata_id", "lib/udev/scsi_id", "lib/udev/cdrom_id"),
    *("lib/systemd/network", "etc/group", "etc/passwd"),
)
_LIBRARY = re.compile(r"(/\S+)\s+\(0x")

_INIT = r"""#!/bin/busybox sh
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
disks=$(sed -n 's/.*disks=\([0-9]*\).*/\1/p' /proc/cmdline)
tries=0
while [ $tries -lt 300 ] && [ "$(ls /sys/block | grep -c -v -E '^(loop|ram|fd)')" -lt "$disks" ]; do
    tries=$((tries+1)); usleep 100000
done
udevadm settle --timeout=120
{
echo
for card in /sys/class/net/*; do
    [ -e $card/device ] || continue
    names=$(udevadm info --query=property --path=$card | grep -E '^ID_NET_NAME_(ONBOARD|SLOT|PATH|MAC)=' | cut -d= -f2)
    echo CARD $(cat $card/address) ${card##*/} $names
done
find /dev/disk/by-path /dev/disk/by-id -type l | while read -r link; do
    name=$(readlink -f $link); name=${name##*/}
    echo "DISK $(cat /sys/class/block/$name/size) $link"
done
echo THE END
} > /dev/ttyS0
# without ACPI nothing can be switched off, but QEMU ends at a reset
reboot -f
"""


class Linux(NamedTuple):
    """What a guest boots."""

    kernel: Path
    initramfs: Path


@dataclass
class Seen:
    """What the guest says."""

    #: MAC address → the name of the card, and every name that udev had for it
    cards: dict[str, tuple[str, set[str]]] = field(default_factory=dict)
    #: number of the disk in the document → links to it
    disks: dict[int, set[str]] = field(default_factory=dict)


def missing() -> str:
    """What is needed for such a guest and is not on this machine; ``""``: nothing."""
    for name in _PROGRAMS:
        if shutil.which(name) is None:
            return f"{name} (apt-get install udev kmod busybox-static)"
    return (
        "" if list(UNPACKED.glob("boot/vmlinuz-*")) else f"a Linux in {UNPACKED} (tools/test puts it there)"
    )


def make_linux(folder: Path) -> Linux:
    """The kernel and a file system in memory; made once in ``folder``, whoever of many processes comes first."""
    folder.mkdir(exist_ok=True)
    [kernel] = UNPACKED.glob("boot/vmlinuz-*")
    image = folder / "initramfs"
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            _fill(folder / "tree", kernel.name.partition("-")[2])
            _pack(folder / "tree", image)
    return Linux(kernel, image)


def _fill(tree: Path, version: str) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    for name in _PROGRAMS:
        program = shutil.which(name)
        assert program is not None
        _copy(Path(program), tree / "bin" / name)
        said = subprocess.run(("ldd", program), capture_output=True, text=True, check=False).stdout
        for library in _LIBRARY.findall(said):
            _copy(Path(library), tree / library.lstrip("/"))
    (tree / "bin/systemd-udevd").symlink_to("udevadm")
    for name in _FILES:
        _copy(Path("/", name), tree / name)
    _fill_modules(tree, version)
    (tree / "init").write_text(_INIT)
    (tree / "init").chmod(0o755)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    else:
        shutil.copy(source, target)


def _fill_modules(tree: Path, version: str) -> None:
    """The drivers and what they need."""
    modules = UNPACKED / "lib/modules" / version
    _kmod("depmod", "-b", str(UNPACKED), version)
    said = _kmod("modprobe", "-d", str(UNPACKED), "-S", version, "--show-depends", "--all", *_MODULES)
    paths = [Path(line.split()[1]) for line in said.splitlines() if line.startswith("insmod ")]
    target = tree / "lib/modules" / version
    for path in (*paths, *(modules / f"modules.{name}" for name in ("builtin", "builtin.modinfo", "order"))):
        _copy(path, target / path.relative_to(modules))
    _kmod("depmod", "-b", str(tree), version)


def _kmod(name: str, *words: str) -> str:
    """Run kmod as the program of a name: it is what it is called."""
    done = subprocess.run(
        (name, *words), executable=shutil.which("kmod"), capture_output=True, text=True, check=True
    )
    return done.stdout


def _pack(tree: Path, image: Path) -> None:
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*")))
    words = ("busybox", "cpio", "-o", "-H", "newc")
    packed = subprocess.run(words, cwd=tree, input=names.encode(), capture_output=True, check=True).stdout
    image.with_suffix(".new").write_bytes(packed)
    image.with_suffix(".new").rename(image)
    shutil.rmtree(tree)


# -- a guest -----------------------------------------------------------------------------------------------


def bootable(text: str, linux: Linux, folder: Path) -> Guest:
    """A guest with the disks and cards of a document that boots the Linux; its images are in ``folder``."""
    guest = Guest.from_xml(text)
    root = guest.domain.node
    os_, devices = root.ensure("os"), root.ensure("devices")
    disks = list(devices.all("disk"))
    for number, disk in enumerate(disks):
        path = folder / f"{number}.img"
        with open(path, "wb") as file:
            file.truncate((_SECTORS + number * _STEP) * _SECTOR)
        disk.ensure("source").attrib = {"file": str(path)}
    os_.ensure("kernel").text = str(linux.kernel)
    os_.ensure("initrd").text = str(linux.initramfs)
    os_.ensure("cmdline").text = f"console=ttyS0 quiet panic=-1 disks={len(disks)}"
    return Guest.from_xml(guest.to_xml("libvirt"))


def boot(guest: Guest, emulator: Emulator, folder: Path) -> Seen:
    """Boot a definition whose serial port is the file ``console`` of ``folder``; what it has seen."""
    (folder / "run").mkdir()
    command = standalone(guest, emulator, Host.nominal(), str(folder / "run")).command
    with open(folder / "said", "wb") as said:
        process = subprocess.Popen(
            [*command.argv, "-no-reboot"], stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=folder
        )
        try:
            process.wait(PATIENCE)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    console = folder / "console"
    text = console.read_text(errors="replace") if console.exists() else ""
    assert "THE END" in text, (folder / "said").read_text(errors="replace") + text[-4000:]
    return _read(text)


def _read(text: str) -> Seen:
    seen = Seen()
    for words in _lines(text):
        if words[0] == "CARD":
            seen.cards[words[1]] = (words[2], set(words[3:]))
        elif words[1].isdecimal() and int(words[1]) >= _SECTORS:
            seen.disks.setdefault((int(words[1]) - _SECTORS) // _STEP, set()).add(words[2])
    return seen


def _lines(text: str) -> Iterator[list[str]]:
    for line in text.splitlines():
        words = line.split()
        if len(words) > 2 and words[0] in ("CARD", "DISK"):
            yield words
