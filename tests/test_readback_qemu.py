"""A real QEMU with legacy options: what it says of its cards is what the live document says."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from qemushim.devices.address import PciAddress
from qemushim.document.item import Item
from qemushim.document.parse import parse
from qemushim.driver.hmp import HumanMonitor
from qemushim.driver.readback import read_back

pytestmark = pytest.mark.qemu

SECONDS = 20
#: sound goes nowhere
QUIET = {"PATH": os.environ.get("PATH", ""), "QEMU_AUDIO_DRV": "none"}
NICS = ("virtio", "e1000", "rtl8139", "pcnet", "virtio")
DISKS = ("vdb", "vda", "vdc")


@contextmanager
def running(qemu: str, folder: Path, options: list[str]) -> Iterator[HumanMonitor]:
    """A QEMU that waits at its first instruction; gone at the end, whatever happens."""
    path = folder / "monitor"
    words = [qemu, "-S", "-machine", "pc,accel=tcg", "-m", "64", "-display", "none", "-nodefaults"]
    words += [*options, "-monitor", f"unix:{path},server,nowait"]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=QUIET)
    try:
        with HumanMonitor(str(path), SECONDS) as monitor:
            yield monitor
    finally:
        process.terminate()
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(SECONDS)
        path.unlink(missing_ok=True)
        print(log.read_text())


def options(folder: Path) -> list[str]:
    words = ["-vga", "cirrus", "-usb"]
    for number, name in enumerate(DISKS):
        image = folder / f"{name}.img"
        image.write_bytes(bytes(512 * (number + 1)))
        words += ["-drive", f"file={image},if=virtio,format=raw"]
    for number, model in enumerate(NICS):
        words += ["-net", f"nic,model={model},macaddr=52:54:00:00:00:{number:02x}"]
    return [*words, "-device", "AC97", "-device", "lsi", "-device", "i6300esb"]


def document(folder: Path) -> str:
    disks = "".join(
        f"<disk type='file'><source file='{folder}/{name}.img'/><target dev='{name}' bus='virtio'/></disk>"
        for name in DISKS
    )
    nics = "".join(
        f"<interface type='user'><mac address='52:54:00:00:00:{number:02x}'/>"
        f"<model type='{model}'/></interface>"
        for number, model in enumerate(NICS)
    )
    rest = (
        "<controller type='ide' index='0'/><controller type='scsi' index='0'/><sound model='ac97'/>"
        "<video><model type='cirrus'/></video><watchdog model='i6300esb'/>"
    )
    return f"<domain type='qemu'><name>live</name><devices>{disks}{nics}{rest}</devices></domain>"


def places_by_name(monitor: HumanMonitor) -> dict[str, str]:
    """Image path or MAC → slot and function, as the device tree of the monitor has it."""
    images = dict(re.findall(r"^(virtio\d+).*?: (/\S+)", monitor.command("info block"), re.MULTILINE))
    found = {}
    for card in re.split(r"^ +dev: (?=\S+, id)", monitor.command("info qtree"), flags=re.MULTILINE):
        address = re.search(r"^ +addr = ([0-9a-f]{2}\.\d)$", card, re.MULTILINE)
        if address:
            place = address[1]
        mac = re.search(r'^ +mac = "(\S+)"', card, re.MULTILINE)
        drive = re.search(r'^ +drive = "(virtio\d+)"', card, re.MULTILINE)
        if mac:
            found[mac[1]] = place
        if drive:
            found[images[drive[1]]] = place
    return found


def test_live_addresses_are_qemus(qemu: str, tmp_path: Path) -> None:
    root = parse(document(tmp_path))
    with running(qemu, tmp_path, options(tmp_path)) as monitor:
        text = monitor.command("info pci")
        records = monitor.pci()
        by_name = places_by_name(monitor)
    assert len(records) == text.count("Bus  ")
    assert all(bar.size & (bar.size - 1) == 0 for record in records for bar in record.bars)

    result = read_back(root, records)
    listed = {(r.slot, r.function): r.ids for r in records}
    checked = 0
    for node in result.root.ensure("devices"):
        address = node.child("address")
        assert address is not None, node
        place = (int(address.get("slot") or "", 16), int(address.get("function") or "", 16))
        assert place in listed
        name = node.value("source/@file") or node.value("mac/@address")
        if name:
            # the same from another source: which disk and which MAC is where
            assert by_name[name] == f"{place[0]:02x}.{place[1]}", name
            checked += 1
    assert checked == len(DISKS) + len(NICS)
    taken = set(result.addresses.values())
    assert len(taken) == len(result.addresses) == len(DISKS) + len(NICS) + 5


def test_a_wrong_prediction_is_told(qemu: str, tmp_path: Path) -> None:
    root = parse(
        "<domain><devices><interface type='user'><model type='e1000'/></interface></devices></domain>"
    )
    interface = Item(root.ensure("devices").children[0])
    with running(qemu, tmp_path, ["-net", "nic,model=e1000"]) as monitor:
        records = monitor.pci()
    right = read_back(root, records).addresses[interface]
    assert not read_back(root, records, {interface: right}).differences
    wrong = PciAddress(0, 0, 30, 0)
    (difference,) = read_back(root, records, {interface: wrong}).differences
    assert (difference.expected, difference.actual) == (wrong, right)


def test_nothing_is_left_behind(qemu: str, tmp_path: Path) -> None:
    with running(qemu, tmp_path, []) as monitor:
        assert monitor.command("info status").startswith("VM status: paused")
    assert not (tmp_path / "monitor").exists()
    processes = b"".join(file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline") if file.exists())
    assert bytes(tmp_path / "monitor") not in processes
