"""A guest that a real libvirtd runs, read back from its process: libvirtd takes it, and starts the same command."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qemushim.emulator.bundled import from_path
from qemushim.errors import DriverError
from qemushim.fromargv import Reading, read_command
from qemushim.host import Host
from qemushim.running import read_process
from tests.libvirt_daemons import PATIENCE, Daemons

libvirt = pytest.importorskip("libvirt", reason="needs libvirt-python (pip install libvirt-python)")
pytestmark = [pytest.mark.libvirt, pytest.mark.qemu]

NAME = f"qemushim-argv-{os.getpid()}"
UUID = "6f1d5f0e-0000-4000-8000-0000000fa001"
DOCUMENT = f"""<domain type='qemu'><name>{NAME}</name><uuid>{UUID}</uuid>
<memory unit='MiB'>64</memory><currentMemory unit='MiB'>64</currentMemory><vcpu current='1'>2</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type><boot dev='hd'/><bootmenu enable='yes'/></os>
<features><acpi/><apic/></features><clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>
<devices>
<disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' discard='unmap'/>
<source file='/tmp/{NAME}.img'/><target dev='vda' bus='virtio'/><serial>S1</serial></disk>
<disk type='file' device='cdrom'><target dev='sda' bus='sata'/></disk>
<interface type='user'><mac address='52:54:00:0f:a0:01'/><model type='virtio'/></interface>
<serial type='pty'/><channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
<serial type='unix'><source mode='bind' path='/tmp/{NAME}.sock'/></serial>
<input type='tablet' bus='usb'/><video><model type='vga'/></video><sound model='ich9'/>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><memballoon model='virtio'/>
<watchdog model='i6300esb' action='reset'/><panic model='isa'/>
</devices></domain>"""


@pytest.fixture
def connection(daemons: Daemons) -> Iterator[Any]:
    libvirt.registerErrorHandler(lambda *_: None, None)
    image = Path(f"/tmp/{NAME}.img")
    with image.open("wb") as file:
        file.truncate(1 << 20)
    image.chmod(0o666)
    raw = libvirt.open(daemons.uri("system"))
    try:
        yield raw
    finally:
        raw.close()
        image.unlink()
        Path(f"/tmp/{NAME}.sock").unlink(missing_ok=True)


def process() -> int:
    """The id of the guest's QEMU."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    words = read_process(int(entry.name)).words.words
                except DriverError:
                    continue
                if any(word.text.startswith(f"guest={NAME},") for word in words):
                    return int(entry.name)
        time.sleep(0.05)
    raise AssertionError("no process of the guest")


def read_running(pid: int) -> Reading:
    running = read_process(pid)
    emulator = from_path(running.binary)
    return read_command(
        running.words, emulator, Host.nominal(), known=running.known, directory=running.directory
    )


def test_a_guest_of_libvirt_comes_back(connection: Any) -> None:
    before = connection.defineXML(DOCUMENT)
    try:
        wanted = connection.domainXMLToNative("qemu-argv", before.XMLDesc(2), 0)
        before.create()
        try:
            reading = read_running(process())
        finally:
            before.destroy()
    finally:
        before.undefine()
    assert reading.refusal is None
    assert not reading.kept
    assert [note.message for note in reading.notes] == []
    again = connection.defineXML(reading.to_xml())
    try:
        assert connection.domainXMLToNative("qemu-argv", again.XMLDesc(2), 0) == wanted
        assert again.UUIDString() == UUID
    finally:
        again.undefine()
