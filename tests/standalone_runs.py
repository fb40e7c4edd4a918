"""Starting a guest by hand: its command line as printed, through a shell, with images made for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.standalone import standalone

#: seconds that a QEMU has to answer, and to end
PATIENCE = 20.0
_IMAGE = 1 << 20


def local(text: str, folder: Path, *, kvm: bool) -> Guest:
    """A guest whose images are in ``folder`` (empty, raw), and which this machine can run."""
    guest = Guest.from_xml(text)
    root = guest.domain.node
    if not kvm:
        root.set("type", "qemu")
        cpu = root.child("cpu")
        if cpu is not None:
            cpu.attrib = {}
            cpu.children = [child for child in cpu.children if child.tag in ("topology", "numa")]
    devices = root.child("devices")
    for number, disk in enumerate(devices.all("disk") if devices is not None else ()):
        source = disk.child("source")
        if source is not None:
            _replace_image(disk, source, folder / f"{number}.img")
    for screen in devices.all("graphics") if devices is not None else ():
        # there are no certificates
        screen.drop("tlsPort")
    return Guest.from_xml(guest.to_xml("libvirt"))


def _replace_image(disk: Node, source: Node, path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(_IMAGE)
    disk.set("type", "file")
    source.attrib = {"file": str(path)}
    source.children = []
    for name in ("backingStore", "encryption", "auth"):
        disk.discard(name)
    driver = disk.child("driver")
    if driver is not None:
        driver.drop("io", "cache")
        driver.set("type", "raw")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def run(guest: Guest, emulator: Emulator, folder: Path) -> str:
    """Start it in a shell, wait for its monitor, ask for its state, and end it.  The state, or what QEMU said."""
    host = Host.nominal()._replace(vnc_port=free_port())
    script = standalone(guest, emulator, host, "./run").shell()
    with open(folder / "log", "wb") as log:
        # exec: the process that is ended is QEMU itself
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        try:
            return _ask(process, folder / "run" / "monitor.sock") or (folder / "log").read_text(
                errors="replace"
            )
        finally:
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE / 4)
            if process.poll() is None:
                process.kill()
                process.wait()


def _ask(process: subprocess.Popen[bytes], path: Path) -> str:
    end = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.settimeout(PATIENCE)
            try:
                _connect(monitor, path)
                return _talk(monitor)
            except (FileNotFoundError, ConnectionRefusedError):
                time.sleep(0.02)  # not there yet, or nobody listens yet
            except OSError:
                break
    return ""


def _connect(monitor: socket.socket, path: Path) -> None:
    """The path of a socket can not be long: it is reached through the descriptor of its folder."""
    folder = os.open(path.parent, os.O_PATH)
    try:
        monitor.connect(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


def _talk(monitor: socket.socket) -> str:
    """The state of the guest, which is told to end."""
    status = ""
    lines = monitor.makefile("rw", encoding="utf-8")
    lines.readline()
    for command in ("qmp_capabilities", "query-status", "quit"):
        lines.write(json.dumps({"execute": command, "id": command}) + "\n")
        lines.flush()
        reply: dict[str, object] = {}
        while reply.get("id") != command:
            line = lines.readline()
            if not line:
                return status
            reply = json.loads(line)
        if command == "query-status":
            status = str(reply["return"]["status"])  # type: ignore[index]
    return status
