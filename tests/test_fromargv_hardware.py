"""What a guest sees of a command line, and of the libvirt guest that it becomes: two real QEMUs are asked."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from qemushim.emulator.bundled import from_path
from qemushim.fromargv import read_command, words_of
from qemushim.host import Host
from qemushim.standalone import standalone
from tests.machines import SECONDS

#: what QEMU has without being asked and the document leaves out
LEFT_OUT = frozenset({"floppy", "ide-cd", "isa-parallel"})

COMMANDS = {
    "defaults": "-hda a.img",
    "short": "-drive file=a.img,format=raw,if=virtio -cdrom b.img -nic user,model=virtio -vga virtio",
    "two-cards": "-M q35 -drive file=a.img,format=raw,if=virtio -device virtio-rng-pci "
    "-nic user -nic user,model=virtio",
    "usb": "-M q35 -hda a.img -usb -device usb-tablet -device usb-kbd",
    "ports": "-M q35 -device pcie-root-port,id=rp1,chassis=1 -device pcie-root-port,id=rp2,chassis=2 "
    "-device virtio-net-pci,bus=rp1,netdev=n -netdev user,id=n -device nec-usb-xhci,bus=rp2 "
    "-device usb-storage,drive=s -drive if=none,id=s,file=a.img,format=raw",
    "scsi": "-device virtio-scsi-pci,id=s0 -drive if=none,id=d0,file=a.img,format=raw -device scsi-hd,drive=d0 "
    "-device scsi-cd,drive=d1 -drive if=none,id=d1,file=b.img,media=cdrom",
    "bridge": "-nodefaults -device pci-bridge,id=br1,chassis_nr=1 -device e1000,netdev=n,bus=br1 -netdev user,id=n "
    "-device ich9-intel-hda -device hda-duplex",
    "sata": "-M q35 -device ahci,id=more -drive if=none,id=d,file=a.img,format=raw -device ide-hd,drive=d,bus=more.0 "
    "-vga qxl -device virtio-serial-pci -device i6300esb",
    "inputs": "-drive file=a.img,format=raw,index=1 -device virtio-keyboard-pci -device virtio-tablet-pci "
    "-virtfs local,path=/tmp,mount_tag=t,security_model=none",
    "strange": "-device edu -device virtio-rng-pci -netdev user,id=n,hostname=x -device virtio-net-pci,netdev=n "
    "-device nvme,drive=d,serial=s -drive if=none,id=d,file=a.img,format=raw -device virtio-balloon-pci",
    "memory": "-m 128,slots=2,maxmem=1G -object memory-backend-ram,id=m0,size=64M -numa node,memdev=m0,cpus=0 "
    "-object memory-backend-ram,id=m1,size=64M -numa node,memdev=m1,cpus=1 -smp 2 -vga cirrus "
    "-object memory-backend-ram,id=d0,size=128M -device pc-dimm,id=dimm0,memdev=d0,node=1",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_guest_sees_the_same_hardware(name: str, qemu: str, tmp_path: Path) -> None:
    """The same PCI functions in the same places, and the same devices on all buses."""
    memory = "" if "-m " in COMMANDS[name] else "-m 64 "
    # no display: ports are other people's too
    text = f"{qemu} -display none {memory}{COMMANDS[name]}"
    for image in ("a.img", "b.img"):
        (tmp_path / image).write_bytes(bytes(1 << 20))
    before = hardware(text.split(), tmp_path)
    emulator, host = from_path(qemu), Host.nominal()
    reading = read_command(words_of(text), emulator, host, directory=str(tmp_path))
    assert reading.refusal is None
    alone = standalone(reading.guest, emulator, host, str(tmp_path / "run"))
    for line in alone.prepare:
        subprocess.run(line, shell=True, cwd=tmp_path, check=True)
    after = hardware(alone.command.argv, tmp_path)
    assert after[0] == before[0]
    assert not after[1] - before[1]
    assert set(before[1] - after[1]) <= LEFT_OUT


def hardware(argv: list[str], folder: Path) -> tuple[list[str], Counter[str]]:
    """Addresses and ids of the PCI functions of a guest, and how many devices of each kind it has."""
    talk = [
        {"execute": "qmp_capabilities"},
        {"execute": "query-pci"},
        {"execute": "human-monitor-command", "arguments": {"command-line": "info qtree"}},
        {"execute": "quit"},
    ]
    done = subprocess.run(
        [*argv, "-S", "-qmp", "stdio"],
        input="".join(json.dumps(command) + "\n" for command in talk),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    results = [reply["return"] for reply in replies if "return" in reply]
    assert len(results) == len(talk), done.stderr
    functions = [text for bus in results[1] for text in walk(bus["devices"])]
    return sorted(functions), Counter(re.findall(r"dev: ([\w.-]+)", results[2]))


def walk(devices: list[dict[str, Any]]) -> list[str]:
    found = []
    for device in devices:
        ids = device["id"]
        found.append(
            f"{device['bus']:02x}:{device['slot']:02x}.{device['function']} {ids['vendor']:04x}:{ids['device']:04x}"
        )
        found += walk(device.get("pci_bridge", {}).get("devices", []))
    return found
