#!/usr/bin/env python3
"""Start guests on a real QEMU, stopped before their first instruction, and say which command lines it accepts.

usage: real_qemu.py DOCUMENT… [--qemu BINARY] [--only TEXT] [--show]

What a guest names of its host is made for it where that is easy: disk images, sockets, a network of its own.  A guest
that needs more (PCI devices of the host, servers, firmware, huge pages …) is counted as such and not started.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qemushim.command.command import Command
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.document.writer import keep
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host, Paths

#: seconds that QEMU has to say that it is ready
PATIENCE = 20.0
#: a disk image that is made: bytes
IMAGE = 1 << 20
#: bytes of memory that a guest may have here (some take it all at once)
MEMORY = 8 << 30
#: what QEMU says of itself before a guest runs: waiting for a start, or for a migration
READY = ("prelaunch", "inmigrate")

#: elements of a guest that only a host with the thing can serve
_HOST_DEVICES = ("hostdev", "smartcard", "tpm", "vsock", "lease", "redirdev", "shmem", "filesystem", "crypto")
#: elements of ``<interface>`` that a network of the guest's own can't have
_NETWORKED = (
    *("source", "backend", "driver", "bandwidth", "virtualport", "vlan", "filterref", "target", "guest"),
    *("tune", "port", "mtu", "coalesce", "teaming", "script", "ip", "route"),
)
#: back ends of character devices that wait for nobody
_QUIET = ("pty", "null", "vc", "file", "unix", "stdio", "spicevmc", "qemu-vdagent", "dbus")


@dataclass(frozen=True)
class Outcome:
    """``accepted``, ``refused`` (by QEMU), ``unsupported`` (refused by us, for this QEMU), ``needs`` (the host)."""

    kind: str
    why: str = ""


#: what QEMU says where the kernel or the accelerator of this machine lacks something, not the command line
_HOSTS_FAULT = (
    *(
        "kernel doesn't allow",
        "requires accel=kvm",
        "failed to set MSR",
        "Could not access KVM kernel module",
    ),
    # a ROM of the document's own, a module that is another package
    *("failed to find romfile", "missing object type", "is not a valid device model name"),
)


def _refusal(why: str) -> Outcome:
    """What QEMU refused, put down to the host where that is what it says."""
    return Outcome("needs" if any(words in why for words in _HOSTS_FAULT) else "refused", why)


def try_guest(text: str | bytes, emulator: Emulator, folder: Path) -> Outcome:
    """Define the guest for the emulator and start it stopped, with everything of its own in ``folder``."""
    try:
        node = parse(text, "guest")
    except ShimError as problem:
        return Outcome("unsupported", problem.message)
    why = needs(node)
    if why:
        return Outcome("needs", why)
    try:
        make_host(node, folder)
    except RuntimeError as problem:
        return Outcome("needs", str(problem))
    if node.get("type") == "kvm" and not kvm_works(emulator.binary):
        without_kvm(node)
    try:
        command = Guest.from_xml(keep(node), file="guest").command(emulator, folder_host(emulator, folder))
    except ShimError as refused:
        return Outcome("unsupported", refused.message)
    return start(replace_binary(command, emulator.binary), folder)


@cache
def kvm_works(emulator_path: str) -> bool:
    """Whether KVM here starts a guest with the host's processor: some that are KVM guests themselves do not."""
    emulator = Emulator.probe(emulator_path)
    if emulator.accelerator("kvm") is None:
        return False
    text = """<domain type='kvm'><name>kvm</name><memory>65536</memory><os><type>hvm</type></os>
    <cpu mode='host-passthrough'/></domain>"""
    with tempfile.TemporaryDirectory(prefix="guest-") as name:
        folder = Path(name)
        command = Guest.from_xml(text).command(emulator, folder_host(emulator, folder))
        return start(replace_binary(command, emulator_path), folder).kind == "accepted"


def without_kvm(domain: Node) -> None:
    """The guest with a processor that is emulated."""
    domain.set("type", "qemu")
    for cpu in domain.all("cpu"):
        if cpu.get("mode") in ("host-passthrough", "host-model"):
            cpu.set("mode", "maximum")
            cpu.children = [child for child in cpu.children if child.tag in ("topology", "numa")]


def needs(domain: Node) -> str:
    """What the guest needs that can not be made for it here; ``""``: nothing."""
    return next(_needs(domain), "")


def _needs(domain: Node) -> Iterator[str]:
    devices = domain.child("devices") or Node("devices")
    for tag in _HOST_DEVICES:
        if devices.child(tag) is not None:
            yield tag
    for disk in devices.all("disk"):
        if disk.get("type", "file") not in ("file", "block") or disk.child("mirror") is not None:
            yield f"{disk.get('type')} disk"
        if disk.value("driver/@io") == "io_uring" or disk.find("source/reservations") is not None:
            yield "a disk with reservations or io_uring"
        if any(child.tag == "encryption" for child in disk.iter()):
            yield "an encrypted disk"
        if disk.get("device") == "lun":
            yield "a SCSI disk of the host"
    for tag in ("serial", "parallel", "console", "channel"):
        for device in devices.all(tag):
            kind = device.get("type", "pty")
            if kind not in _QUIET or device.value("source/@mode") == "connect":
                yield f"a {tag} of type {kind}"
    os_ = domain.child("os")
    if os_ is not None:
        given = any(os_.child(tag) is not None for tag in ("kernel", "loader", "nvram", "shim"))
        if given or os_.get("firmware"):
            yield "firmware or a kernel"
        if os_.find("acpi/table") is not None:
            yield "an ACPI table"
    if any(sysinfo.get("type") == "fwcfg" for sysinfo in domain.all("sysinfo")):
        yield "files for the firmware"
    if domain.find("memoryBacking/hugepages") is not None or domain.child("launchSecurity") is not None:
        yield "huge pages or encrypted memory"
    if domain.child("numatune") is not None or domain.child("qemu:commandline") is not None:
        yield "NUMA nodes, or words of the user's own"
    for path in ("rng", "memory", "input", "graphics", "interface", "sound", "audio"):
        yield from (why for device in devices.all(path) for why in _of_device(device))
    memory = domain.child("memory")
    if memory is not None and _kib(memory) << 10 > MEMORY:
        yield "more memory than there is"


def _of_device(device: Node) -> Iterator[str]:
    tag, kind = device.tag, device.get("type", "")
    if tag == "rng" and device.value("backend/@model") == "egd":
        yield "an entropy daemon"
    if tag == "memory" and device.get("model") in ("nvdimm", "virtio-pmem", "sgx-epc"):
        yield f"memory of model {device.get('model')}"
    if tag == "input" and kind in ("passthrough", "evdev"):
        yield "an input device of the host"
    if tag == "graphics" and kind not in ("vnc", "egl-headless"):
        yield f"graphics of type {kind}"
    if tag == "interface" and kind in ("hostdev", "vdpa", "vhostuser"):
        yield f"an interface of type {kind}"
    if tag == "audio" and kind not in ("none", "file"):
        yield "sound of the host"


def _kib(memory: Node) -> int:
    units = {"b": -10, "k": 0, "m": 10, "g": 20, "t": 30}
    shift = units.get((memory.get("unit") or "KiB")[0].lower(), 0)
    amount = int(memory.text)
    return amount << shift if shift >= 0 else amount >> -shift


# -- what is made for a guest ------------------------------------------------------------------------------


def make_host(domain: Node, folder: Path) -> None:
    """Make the disk images that the guest names, and take away what would need a network or root."""
    devices = domain.ensure("devices")
    devices.discard("emulator")
    for number, disk in enumerate(devices.all("disk")):
        _make_disk(disk, folder / f"disk{number}.img")
    for interface in devices.all("interface"):
        interface.set("type", "user")
        for tag in _NETWORKED:
            interface.discard(tag)
    for graphics in devices.all("graphics"):
        graphics.drop("socket", "port", "websocket", "tlsPort", "passwd", "listen")
        graphics.discard("listen")
        graphics.set("autoport", "yes")
    for tag in ("serial", "parallel", "console", "channel"):
        for number, device in enumerate(devices.all(tag)):
            for source in device.all("source"):
                if "path" in source.attrib:
                    source.set("path", str(folder / f"{tag}{number}.sock"))
            for log in device.all("log"):
                log.set("file", str(folder / f"{tag}{number}.log"))
    for rng in devices.all("rng"):
        for backend in rng.all("backend"):
            if backend.get("model") == "random":
                backend.text = "/dev/urandom"
    for tag in ("seclabel", "resource"):
        domain.discard(tag)


def _make_disk(disk: Node, image: Path) -> None:
    source = disk.child("source")
    if source is None or not source.attrib.keys() & {"file", "dev"}:
        return
    disk.set("type", "file")
    form = disk.value("driver/@type") or "raw"
    disk.discard("backingStore")
    source.attrib = {"file": str(image)}
    source.children = []
    for driver in disk.all("driver"):
        # neither works on every file system
        driver.drop("io", "cache")
    if form in ("raw", "iso", "dir", "fat"):
        with image.open("wb") as file:
            file.truncate(IMAGE)
        return
    program = shutil.which("qemu-img")
    if program is None:
        raise RuntimeError("qemu-img")
    made = subprocess.run(
        (program, "create", "-q", "-f", form, image, str(IMAGE)), capture_output=True, check=False
    )
    if made.returncode:
        raise RuntimeError(f"a {form} image")


def folder_host(emulator: Emulator, folder: Path) -> Host:
    """A host with a libvirt of its own in the folder."""
    return Host.nominal(emulator.arch)._replace(
        paths=Paths(
            lib=f"{folder}/l",
            nvram=f"{folder}/n",
            channel=f"{folder}/c",
            ram=f"{folder}/m",
            run=f"{folder}/r",
            config=f"{folder}/e",
        ),
        environment={"PATH": os.environ["PATH"]},
        vnc_port=free_port(),
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        found: int = probe.getsockname()[1]
        return max(found, 5900)


def replace_binary(command: Command, binary: str) -> Command:
    return Command(binary, command.options, command.environment, command.descriptors, command.files)


# -- starting ----------------------------------------------------------------------------------------------


def start(command: Command, folder: Path) -> Outcome:
    """Run the command until it is ready for a guest's first instruction, or ends."""
    for made in command.files:
        Path(made.path).parent.mkdir(parents=True, exist_ok=True)
        Path(made.path).write_bytes(os.urandom(32))
    monitor = ""
    for option in command.options:
        for path in _own_paths(option.text or "", folder):
            path.parent.mkdir(parents=True, exist_ok=True)
            if "id=charmonitor" in (option.text or ""):
                monitor = str(path)
    with (folder / "said").open("w+") as said:
        process = subprocess.Popen(
            command.argv,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=command.environment,
            start_new_session=True,
        )
        try:
            status = _ask(process, monitor)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        said.seek(0)
        lines = said.read().strip().splitlines()
    if status in READY:
        return Outcome("accepted", "; ".join(lines))
    return _refusal(status or (lines[-1] if lines else f"status {process.returncode}"))


def _own_paths(text: str, folder: Path) -> list[Path]:
    """The paths in an option that lie below the folder (commas in them are doubled)."""
    found = re.findall(rf"{re.escape(str(folder))}/(?:[^,\"]|,,)+", text)
    return [Path(path.replace(",,", ",")) for path in found]


def _ask(process: subprocess.Popen[bytes], monitor: str) -> str:
    """What the guest's monitor says of its state; ``""`` where QEMU ended."""
    deadline = time.monotonic() + PATIENCE
    connection = None
    while connection is None:
        if process.poll() is not None:
            return ""
        if time.monotonic() > deadline:
            return "no answer in time"
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(monitor)
        except OSError:
            connection.close()
            connection = None
            time.sleep(0.01)
    with connection, connection.makefile("rw") as monitor_file:
        connection.settimeout(PATIENCE)
        try:
            for words in ("qmp_capabilities", "query-status"):
                monitor_file.write(json.dumps({"execute": words, "id": words}) + "\n")
                monitor_file.flush()
                reply = next(r for r in map(json.loads, monitor_file) if r.get("id") == words)
            return str(reply["return"]["status"])
        except (OSError, ValueError, StopIteration, KeyError):
            return ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="+", type=Path, metavar="DOCUMENT")
    parser.add_argument("--qemu", default="qemu-system-x86_64", metavar="BINARY")
    parser.add_argument("--only", default="", metavar="TEXT", help="only documents whose name holds this")
    parser.add_argument("--show", action="store_true", help="say why guests were not started")
    options = parser.parse_args()
    binary = shutil.which(options.qemu)
    if binary is None:
        print(f"there is no {options.qemu}", file=sys.stderr)
        return 1
    emulator = Emulator.probe(binary)
    count: Counter[str] = Counter()
    for document in options.documents:
        if options.only not in document.name:
            continue
        with tempfile.TemporaryDirectory(prefix="guest-") as folder:
            outcome = try_guest(document.read_bytes(), emulator, Path(folder))
        count[outcome.kind] += 1
        if outcome.kind == "refused" or options.show:
            print(f"{outcome.kind:11} {document.name}: {outcome.why}", flush=True)
    print(", ".join(f"{number} {kind}" for kind, number in count.most_common()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
