"""The ``Host`` that a guest of our own runs on: this machine, with everything of the guest below its own folder."""

from __future__ import annotations

import contextlib
import os
import secrets as random
import socket
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qemushim.command.option import Option
from qemushim.document.node import Node
from qemushim.driver.state import Folder, storing
from qemushim.errors import ConfigError, DriverError, error
from qemushim.host import NEXT, ClassicHost, Descriptors, Host, Paths, QemuConf

#: ports that displays are counted from, and how many are tried
_VNC, _WEBSOCKET, _SPICE = 5900, 5700, 5900
_PORTS = 1000
#: type of a disk → the attribute of its source that is a path of this host
_IMAGES = {"block": "dev", "file": "file"}
#: bytes of the key that a guest's secrets are encrypted with
KEY_BYTES = 32


@dataclass(frozen=True)
class Secrets:
    """Plain secrets by UUID or usage, as the document names them."""

    known: Mapping[str, bytes]

    def find(self, kind: str, reference: str) -> bytes:
        if reference not in self.known:
            raise error.failed(
                f"secret {reference} is not known",
                hint=f"run --secret {reference}=FILE, or Machine.start(secrets=…)",
            )
        return self.known[reference]


def own_host(host: Host, folder: Folder, domain_id: int, key: bytes, known: Mapping[str, bytes]) -> Host:
    """``host`` with the guest's own folders, and descriptors that are really passed.

    ``key``: the guest's master key; ``known``: plain secrets by UUID or usage.
    """
    run = folder.run_path
    return host._replace(
        # libvirt's settings are for libvirt's guests
        config=QemuConf(),
        classic=ClassicHost(monitor=str(run / "monitor.sock")),
        paths=Paths(
            lib=str(run),
            nvram=str(folder.path / "nvram"),
            channel=str(run / "channel"),
            ram=str(run / "ram"),
            run=str(run),
            config=str(folder.path),
        ),
        descriptors=Descriptors(unix_listen=NEXT),
        find_secret=Secrets(known).find,
        encrypt=encryption(key),
        random_iv=random.token_bytes(16),
        domain_id=domain_id,
    )


def with_free_ports(host: Host) -> Host:
    """``host`` with ports for displays that nobody listens on."""
    vnc, websocket, spice, tls = free_ports(_VNC, _WEBSOCKET, _SPICE, _SPICE)
    return host._replace(vnc_port=vnc, vnc_websocket_port=websocket, spice_port=spice, spice_tls_port=tls)


def free_ports(*firsts: int) -> list[int]:
    """For each the next port that nobody listens on, all of them different."""
    found: list[int] = []
    for first in firsts:
        port = next((p for p in range(first, first + _PORTS) if p not in found and _is_free(p)), None)
        if port is None:
            raise DriverError(f"every port from {first} to {first + _PORTS - 1} is taken")
        found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def encryption(key: bytes) -> Callable[[bytes, bytes], str]:
    """How secrets are printed on the command line: AES-256-CBC with the guest's key, in base64."""

    def encrypt(secret: bytes, iv: bytes) -> str:
        import base64

        try:
            from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
            from cryptography.hazmat.primitives.padding import PKCS7
        except ImportError as problem:
            raise DriverError(
                "a guest with secrets needs the package 'cryptography'",
                hint="pip install 'qemushim[secrets]'",
            ) from problem
        padder = PKCS7(algorithms.AES.block_size).padder()
        work = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
        padded = padder.update(secret) + padder.finalize()
        return base64.b64encode(work.update(padded) + work.finalize()).decode()

    return encrypt


# -- files -----------------------------------------------------------------------------------------------------------


def write_key(path: str, key: bytes) -> None:
    """The guest's master key, for QEMU alone.  Raises ``DriverError``."""
    with storing(Path(path)):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(key)


def make_folders(text: str, folder: Path) -> None:
    """The folders of what an option's text says is below the guest's own.  Raises ``DriverError``."""
    start = 0
    root = f"{folder}/"
    while (start := text.find(root, start)) >= 0:
        end = min((at for at in (text.find(mark, start) for mark in ',"') if at >= 0), default=len(text))
        with storing(folder):
            os.makedirs(os.path.dirname(text[start:end]), mode=0o700, exist_ok=True)
        start = end


def make_huge(option: Option, host: Host) -> list[str]:
    """The guest's folder in a mount of huge pages, where memory is to come from there.  Raises ``DriverError``."""
    path = str((option.properties or {}).get("mem-path") or "")
    if os.path.isdir(path) or not any(path.startswith(f"{pages.mount}/") for pages in host.hugepages):
        return []
    try:
        os.makedirs(path, mode=0o700)
    except OSError as problem:
        raise DriverError(
            f"cannot make '{path}': {problem.strerror}",
            hint=f"as root: mkdir -p {path}; chown {os.geteuid()} {path}",
        ) from problem
    return [path]


def copy_nvram(path: str, template: str) -> None:
    """The firmware's variables, from its template where the guest has none yet.  Raises ``DriverError``."""
    if os.path.exists(path):
        return
    try:
        data = Path(template).read_bytes()
    except OSError as problem:
        raise DriverError(
            f"cannot read the firmware's variables '{template}': {problem.strerror}",
            hint="<nvram template='…'> names the file that they begin with",
        ) from problem
    with storing(Path(path)):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        new = f"{path}.new"
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)


def require_images(devices: Node) -> None:
    """Raise ``ConfigError`` where a disk's file is not there: QEMU says so too, but not of which element it is."""
    for disk in devices.all("disk"):
        source = disk.child("source")
        path = source.get(_IMAGES.get(disk.get("type") or "", "")) if source is not None else None
        try:
            if path:
                os.stat(path)
        except OSError as problem:
            hint = (
                "give the drive no source where no medium is in it" if disk.get("device") == "cdrom" else ""
            )
            raise ConfigError(
                f"Cannot access storage file '{path}': {problem.strerror}",
                element=source,
                hint=hint
                or f"qemu-img create -f {disk.value('driver/@type') or 'raw'} {path} 20G makes a new one",
            ) from problem


def require_sockets(paths: Mapping[str, str]) -> None:
    """Raise ``DriverError`` where QEMU would wait for a helper that does not run (socket → what it is)."""
    for path, what in paths.items():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.stat(path).st_mode):
                continue
        raise DriverError(
            f"{what} is to be at '{path}', and nothing is", hint="qemushim runs no helpers: start it first"
        )
