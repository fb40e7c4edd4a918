"""Probed binaries, remembered: a snapshot of each in the user's cache folder.

An entry is good as long as nothing that decides the answers has changed: the binary, QEMU's loadable modules,
KVM, the host's CPU and kernel, and the questions that this program asks.  A bad or unreadable entry is as
good as none, and a folder that can not be written to is no error: the binary is asked again each time.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from qemushim.emulator import snapshot
from qemushim.emulator.model import Emulator
from qemushim.emulator.qapi import QUESTIONS
from qemushim.errors import EmulatorError

#: folders from which a QEMU loads parts of itself; a package can add some without a change to the binary
_MODULES = ("/usr/lib/qemu", "/usr/lib64/qemu", "/usr/lib64/qemu-kvm", "/usr/lib/*/qemu")

#: what of ``/proc/cpuinfo`` changes while a host runs
_VOLATILE = ("mhz", "bogomips")


def probed(path: str, *, refresh: bool = False, folder: str = "") -> Emulator:
    """What the binary can do: remembered, or asked for now (always so with ``refresh``).

    ``folder`` is the cache folder, by default the user's.  Raises ``EmulatorError``.
    """
    [found] = probed_all([path], refresh=refresh, folder=folder)
    if isinstance(found, EmulatorError):
        raise found
    return found


def probed_all(
    paths: Sequence[str],
    *,
    refresh: bool = False,
    folder: str = "",
    done: Callable[[str], object] = lambda path: None,
) -> list[Emulator | EmulatorError]:
    """The same for several binaries; those that must be asked are asked at once.

    ``done`` is called with the path of each when it is known what it can do, or that it can't be known.
    """
    folder = folder or _folder()
    known: dict[str, Emulator | EmulatorError] = {}
    names: dict[str, str] = {}
    paths = [os.path.abspath(path) for path in paths]
    for path in dict.fromkeys(paths):
        try:
            names[path] = _entry_name(path)
        except EmulatorError as problem:
            known[path] = problem
            continue
        if not refresh:
            with contextlib.suppress(EmulatorError, OSError):
                known[path] = _read(os.path.join(folder, names[path]), path)
    for path in known:
        done(path)
    missing = [path for path in names if path not in known]
    known.update(zip(missing, _ask(missing, done), strict=True))
    for path in missing:
        found = known[path]
        if not isinstance(found, EmulatorError):
            with contextlib.suppress(OSError):
                _write(folder, names[path], snapshot.dump(found))
    return [known[path] for path in paths]


def _ask(paths: list[str], done: Callable[[str], object]) -> list[Emulator | EmulatorError]:
    if not paths:
        return []
    try:
        from qemushim.emulator.probe import probe_all
    except ImportError as problem:
        hint = "install qemu.qmp, or name a version such as 10.0.0"
        return [EmulatorError(f"cannot ask '{path}': {problem}", hint=hint) for path in paths]
    return probe_all(paths, done=done)


def _folder() -> str:
    from platformdirs import user_cache_dir

    return os.path.join(user_cache_dir("qemushim"), "emulators")


def _read(file: str, path: str) -> Emulator:
    with open(file, "rb") as data:
        emulator = snapshot.load(data.read())
    if emulator.binary != path:
        raise EmulatorError("the entry is of another binary")
    return emulator


def _write(folder: str, name: str, data: bytes) -> None:
    """Put an entry in place in one step, and remove what was known of the same path before."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=".new-", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(folder, name))
    except BaseException:
        os.unlink(temporary)
        raise
    start = name.partition("-")[0]
    for other in os.listdir(folder):
        if other.startswith(f"{start}-") and other != name:
            with contextlib.suppress(OSError):
                os.unlink(os.path.join(folder, other))


def _entry_name(path: str) -> str:
    """``PATH-STATE.snapshot``: a digest of the path, and one of all that decides the answers."""
    try:
        stat = os.stat(path)
    except OSError as problem:
        raise EmulatorError(f"cannot run '{path}': {problem.strerror}") from problem
    state = {
        "binary": (os.path.realpath(path), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino),
        "modules": _modules(),
        "kvm": os.access("/dev/kvm", os.R_OK | os.W_OK),
        "nested": [_first_line(file) for file in sorted(glob.glob("/sys/module/kvm_*/parameters/nested"))],
        "cpu": _cpu(),
        "kernel": tuple(os.uname())[2:4],
        "format": snapshot.FORMAT,
        "questions": zlib.crc32("\n".join(QUESTIONS).encode()),
    }
    return f"{_digest(path)}-{_digest(state)}{snapshot.SUFFIX}"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:20]


def _modules() -> list[tuple[str, int]]:
    found = sorted(folder for pattern in _MODULES for folder in glob.glob(pattern))
    return [(folder, os.stat(folder).st_mtime_ns) for folder in found if os.path.isdir(folder)]


def _cpu() -> list[str]:
    """The first processor of the host, line by line."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            first = file.read().partition("\n\n")[0]
    except OSError:
        return []
    return [line for line in first.splitlines() if not any(word in line.lower() for word in _VOLATILE)]


def _first_line(file: str) -> str:
    try:
        with open(file, encoding="utf-8") as lines:
            return lines.readline().strip()
    except OSError:
        return ""
