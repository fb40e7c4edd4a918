"""What Linux says of a QEMU that runs: its command line, its environment, what its descriptors are open on.

Read from ``/proc`` and ``/sys``; https://www.kernel.org/doc/html/latest/filesystems/proc.html
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from qemushim.errors import DriverError
from qemushim.fromargv.arguments import is_emulator
from qemushim.fromargv.line import Known
from qemushim.fromargv.shell import Word
from qemushim.fromargv.words import Words

#: more than any kernel gives out
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class Running:
    """One process."""

    pid: int
    words: Words
    known: Known
    #: the binary that runs, ``""`` where that may not be read
    binary: str = ""
    #: the working directory, ``""`` where that may not be read
    directory: str = ""


def read_process(pid: int, proc: Path = Path("/proc"), sys: Path = Path("/sys")) -> Running:
    """A process by its id.

    Raises ``DriverError`` where there is none, it may not be read, or it is no QEMU.
    """
    folder = proc / str(pid)
    argv = _words(folder / "cmdline", pid)
    if not argv or not is_emulator(argv[0]):
        what = argv[0] if argv else "a thread of the kernel"
        raise DriverError(
            f"process {pid} is no QEMU: {what}", hint="the id of a qemu-system-… process is needed"
        )
    words = Words([Word(word) for word in argv])
    try:
        variables = _words(folder / "environ", pid)
        words.words[:0] = [Word(text) for text in variables if _matters(text, argv)]
    except DriverError:
        words.notes.append(("its environment may not be read by this user", 0))
    descriptors = _descriptors(folder)
    sockets = _sockets(folder, descriptors)
    known = Known(sockets, _networks(folder, descriptors, sys), _shared_directories(proc))
    return Running(pid, words, known, _link(folder / "exe"), _link(folder / "cwd"))


def _words(path: Path, pid: int) -> list[str]:
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES)
    except FileNotFoundError:
        raise DriverError(f"there is no process {pid}") from None
    except OSError as problem:
        raise DriverError(f"process {pid}: {problem.strerror}", hint="root may read it") from None
    text = data.decode(errors="surrogateescape").encode("utf-8", "replace").decode()
    return text.removesuffix("\0").split("\0") if text else []


#: what variables begin with that QEMU or its libraries look at
_PREFIXES = (
    "QEMU_",
    "SDL_",
    "PULSE_",
    "PIPEWIRE_",
    "MESA_",
    "LIBGL_",
    "EGL_",
    "VIRGL_",
    "ALSA_",
    "GLIBC_TUNABLES=",
)


def _matters(variable: str, argv: list[str]) -> bool:
    """Whether a variable is QEMU's: libvirt gives it few, a terminal all that its user has."""
    by_libvirt = any(word.startswith("socket,id=charmonitor,") for word in argv)
    return by_libvirt or variable.startswith(_PREFIXES)


def _link(path: Path) -> str:
    try:
        target = os.readlink(path)
    except OSError:
        return ""
    return "" if target.endswith(" (deleted)") else target


def _sockets(folder: Path, descriptors: dict[int, str]) -> dict[int, str]:
    """Number → path, for UNIX sockets that are bound to one."""
    try:
        lines = (folder / "net" / "unix").read_text().splitlines()
    except OSError:
        return {}
    # Num RefCount Protocol Flags Type St Inode Path
    columns = [line.split(None, 7) for line in lines[1:]]
    paths = {parts[6]: parts[7] for parts in columns if len(parts) == 8 and parts[7].startswith("/")}
    inodes = {
        number: target[len("socket:[") : -1]
        for number, target in descriptors.items()
        if target[:7] == "socket:"
    }
    return {number: paths[inode] for number, inode in inodes.items() if inode in paths}


def _descriptors(folder: Path) -> dict[int, str]:
    """Number → what it is open on: a path, ``socket:[INODE]``.

    Not of those that ``-add-fd`` names: QEMU makes descriptors of its own of them, and closes them.
    """
    found: dict[int, str] = {}
    try:
        entries = list(os.scandir(folder / "fd"))
    except OSError:
        return found
    for entry in entries:
        target = _link(Path(entry.path))
        if target and entry.name.isdigit():
            found[int(entry.name)] = target
    return found


def _networks(folder: Path, descriptors: dict[int, str], sys: Path) -> dict[int, tuple[str, dict[str, str]]]:
    """Number of a tap's descriptor → type of interface, and its ``<source>``."""
    found: dict[int, tuple[str, dict[str, str]]] = {}
    for number, target in descriptors.items():
        if target == "/dev/net/tun":
            name = _tun_name(folder / "fdinfo" / str(number))
            bridge = _link(sys / "class/net" / name / "master").rpartition("/")[2] if name else ""
            if bridge:
                found[number] = ("bridge", {"bridge": bridge})
        elif target.startswith("/dev/tap"):
            source = _macvtap(sys, target.removeprefix("/dev/tap"))
            if source is not None:
                found[number] = ("direct", source)
    return found


def _tun_name(path: Path) -> str:
    """The interface of a tun descriptor: the line ``iff:`` of its fdinfo."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("iff:")), "")


def _macvtap(sys: Path, index: str) -> dict[str, str] | None:
    """The card that a macvtap with an interface index sits on."""
    for interface in sorted((sys / "class/net").glob("macvtap*")):
        try:
            if (interface / "ifindex").read_text().strip() != index:
                continue
        except OSError:
            continue
        lower = next((path.name for path in interface.glob("lower_*")), "")
        if lower:
            return {"dev": lower.removeprefix("lower_"), "mode": "bridge"}
    return None


def _shared_directories(proc: Path) -> dict[str, str]:
    """Socket of every virtiofsd that runs → the directory that it serves."""
    found: dict[str, str] = {}
    for entry in proc.iterdir() if proc.is_dir() else ():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes()[:65536].decode(errors="replace").split("\0")
        except OSError:
            continue
        if not words or words[0].rpartition("/")[2] != "virtiofsd":
            continue
        socket, directory = _option(words, "--socket-path"), _option(words, "--shared-dir")
        for word in words:
            if word.startswith("source="):
                directory = word.removeprefix("source=").partition(",")[0]
        if socket and directory:
            found[socket] = directory
    return found


def _option(words: list[str], name: str) -> str:
    """The value of an option, behind an equals sign or as the next word."""
    for number, word in enumerate(words):
        if word.startswith(f"{name}="):
            return word.removeprefix(f"{name}=")
        if word == name and number + 1 < len(words):
            return words[number + 1]
    return ""
