"""What is kept of guests that were started here: one folder for each, below the user's state folder.

``definition.xml`` is the definition that outlives a run, ``state.json`` describes the run, ``log`` has what QEMU
printed, ``end`` how it ended.  Every file is replaced in one step and is on the disk before the old one goes, so
whatever is killed, and whenever, a file is the old one or the new one.  A change of both documents is first prepared
beside them and announced in ``pending.json``; who finds that announcement finishes or forgets the change.  One
process at a time works on a guest (a lock on ``lock``).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from qemushim.errors import DriverError

#: of ``state.json``
FORMAT = 1
#: seconds that another process has to finish its work on a guest
PATIENCE = 30.0

#: what ends a prepared file's name
_NEW = ".new"
#: bytes that a name in a file system has at most, less what is put behind it
_LONGEST = 200
#: what begins the name of a folder that is being removed; no guest's begins with a dot
_GONE = ".gone-"
#: what QEMU says of every terminal, and what is told better elsewhere
_CHATTER = "char device redirected to "
#: bytes that are set aside for how a guest ended, so that a full disk can not keep it from being told
END_BYTES = 512


def default_home() -> Path:
    """Where guests are kept: ``$XDG_STATE_HOME/qemushim``, or the system's own idea of it."""
    from platformdirs import user_state_path

    return Path(user_state_path("qemushim"))


@dataclass
class Running:
    """A guest that runs, or did when this was written."""

    name: str
    uuid: str
    #: libvirt's number of a running guest: the next one that no other had
    id: int
    binary: str
    #: the live document
    live: str = ""
    #: ``starting`` until QEMU has answered, then ``running``
    phase: str = "starting"
    #: what the monitor speaks: ``qmp``, ``human``
    dialect: str = "qmp"
    monitor: str = ""
    #: QEMU and its keeper: process ids, and when they were started (ticks since the host's own start)
    pid: int = 0
    started: int = 0
    keeper: int = 0
    keeper_started: int = 0
    #: the process that the guest ends with, 0 once it was let go
    owner: int = 0
    owner_started: int = 0
    #: which start of the host that was
    boot: str = ""
    #: seconds since 1970
    since: float = 0.0
    #: goes on running without the process that started it
    detached: bool = False
    #: the flag way, though the binary knows QMP
    legacy: bool = False
    #: number of the last block node that was named
    nodes: int = 0
    #: folders outside the guest's own that were made for the run
    made: list[str] = field(default_factory=list)
    #: ids that QEMU had a device for when it was last asked
    devices: list[str] = field(default_factory=list)

    def dump(self) -> bytes:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1).encode() + b"\n"

    @classmethod
    def load(cls, data: bytes, path: Path) -> Running:
        try:
            given = json.loads(data)
            if given["format"] != FORMAT:
                raise DriverError(
                    f"'{path}' was written by another version of qemushim (format {given['format']})",
                    hint="use that version to stop the guest",
                )
            known = {f.name for f in fields(cls)}
            return cls(**{key: value for key, value in given.items() if key in known})
        except (ValueError, KeyError, TypeError) as problem:
            raise DriverError(
                f"cannot read '{path}': {problem}", hint="remove the file if the guest does not run"
            ) from problem


@dataclass
class Pending:
    """A change that was begun."""

    #: ``attach``, ``detach``
    operation: str
    #: ids of the devices that come or go
    devices: list[str]
    #: what to say of the device
    what: str
    #: monitor commands that take away what may be left of it, with their arguments
    leftovers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class Folder:
    """The folder of one guest."""

    def __init__(self, home: Path, name: str) -> None:
        self.home = home
        self.name = name
        self.path = home / "guests" / _encode(name)
        self.definition_path = self.path / "definition.xml"
        self.state_path = self.path / "state.json"
        self.pending_path = self.path / "pending.json"
        self.end_path = self.path / "end"
        self.log_path = self.path / "log"
        #: what lives as long as a run: sockets, keys
        self.run_path = self.path / "run"

    # -- locking -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def locked(self, patience: float = PATIENCE) -> Iterator[None]:
        """Keep others away.  Raises ``DriverError`` where one does not come to an end within ``patience`` seconds."""
        self.make()
        with _lock(self.path / "lock", patience, f"guest '{self.name}'"):
            yield

    def make(self) -> None:
        if self.path.is_dir():
            return
        with storing(self.path):
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if unquote(self.path.name) != self.name:
                write_new(self.path / "name", self.name.encode())
                put_in_place(self.path / "name")

    # -- documents ---------------------------------------------------------------------------------------------------

    def definition(self) -> str | None:
        """The stored definition; ``None`` where there is none."""
        data = _read(self.definition_path)
        return None if data is None else data.decode()

    @property
    def legacy(self) -> bool:
        """The definition is one for the flag way."""
        return (self.path / "legacy").exists()

    def mark_legacy(self, legacy: bool) -> None:
        mark = self.path / "legacy"
        with storing(mark):
            if legacy:
                mark.touch(mode=0o600)
            else:
                mark.unlink(missing_ok=True)

    def running(self) -> Running | None:
        """What is known of the run; ``None``: the guest is off."""
        data = _read(self.state_path)
        return None if data is None else Running.load(data, self.state_path)

    def pending(self) -> Pending | None:
        data = _read(self.pending_path)
        if data is None:
            return None
        try:
            given = json.loads(data)
            given["leftovers"] = [(command, arguments) for command, arguments in given["leftovers"]]
            return Pending(**given)
        except (ValueError, KeyError, TypeError) as problem:
            raise DriverError(f"cannot read '{self.pending_path}': {problem}") from problem

    def store(self, *, definition: str | None = None, running: Running | None = None) -> None:
        """Replace documents, each in one step.  Raises ``DriverError``; then the old ones are still there."""
        with storing(self.path):
            files = self._contents(definition, running)
            for path, data in files.items():
                write_new(path, data)
            for path in files:
                put_in_place(path)

    def prepare(self, pending: Pending, *, definition: str | None, running: Running | None) -> None:
        """Write a change beside the documents, and announce it.  Raises ``DriverError``; then nothing is announced."""
        try:
            with storing(self.path):
                for path, data in self._contents(definition, running).items():
                    write_new(path, data)
                write_new(self.pending_path, json.dumps(asdict(pending), indent=1).encode())
                put_in_place(self.pending_path)
        except DriverError:
            self.abandon()
            raise

    def prepare_again(self, running: Running) -> None:
        """Better knowledge of the run for a change that is announced; no matter where it can't be written."""
        with contextlib.suppress(OSError):
            again = self.state_path.with_name("state.json.again")
            write_new(again, running.dump())
            os.replace(_new(again), _new(self.state_path))

    def commit(self) -> None:
        """Put a prepared change in place.  Raises ``DriverError``; then the next who looks does it."""
        with storing(self.path):
            put_in_place(self.state_path, missing_ok=True)
            put_in_place(self.definition_path, missing_ok=True)
            self.pending_path.unlink(missing_ok=True)
        self._sweep()

    def abandon(self) -> None:
        """Forget a prepared change."""
        with contextlib.suppress(OSError):
            self.pending_path.unlink(missing_ok=True)
        self._sweep()

    def forget_run(self, made: Iterable[str] = ()) -> None:
        """The guest is off: what belonged to its run goes, the definition stays."""
        for path in made:
            with contextlib.suppress(OSError):
                os.rmdir(path)
        with storing(self.path):
            self.state_path.unlink(missing_ok=True)
        shutil.rmtree(self.run_path, ignore_errors=True)

    def remove(self) -> None:
        """Everything of the guest goes, its log included; whoever is killed on the way leaves no half of it."""
        gone = self.path.with_name(f"{_GONE}{self.path.name}")
        with storing(self.path):
            shutil.rmtree(gone, ignore_errors=True)
            os.rename(self.path, gone)
            shutil.rmtree(gone)

    # -- how it ended ------------------------------------------------------------------------------------------------

    def open_end(self) -> int:
        """A descriptor to write how the guest ended, with room that a full disk can't take away."""
        with storing(self.end_path):
            descriptor = os.open(self.end_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.pwrite(descriptor, b" " * END_BYTES, 0)
                os.fsync(descriptor)
            except OSError:
                os.close(descriptor)
                raise
        return descriptor

    def end(self) -> dict[str, Any]:
        """How the last run ended, as its keeper has written it; empty where that is not known."""
        data = _read(self.end_path) or b""
        try:
            found = json.loads(data.strip() or b"{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def last_words(self, lines: int = 1) -> list[str]:
        """The last lines that QEMU has printed in this run, or the last one."""
        try:
            with open(self.log_path, "rb") as log:
                log.seek(max(0, os.fstat(log.fileno()).st_size - 8192))
                text = log.read().decode(errors="replace")
        except OSError:
            return []
        every = text.splitlines()
        start = next((at for at in range(len(every), 0, -1) if every[at - 1].startswith("#")), 0)
        return [line for line in every[start:] if line.strip() and not line.startswith(_CHATTER)][-lines:]

    # -- inside ------------------------------------------------------------------------------------------------------

    def _contents(self, definition: str | None, running: Running | None) -> dict[Path, bytes]:
        files = {}
        if running is not None:
            files[self.state_path] = running.dump()
        if definition is not None:
            files[self.definition_path] = definition.encode()
        return files

    def _sweep(self) -> None:
        for path in (self.definition_path, self.state_path, self.pending_path):
            with contextlib.suppress(OSError):
                _new(path).unlink(missing_ok=True)


# -- all guests ------------------------------------------------------------------------------------------------------


def guest_names(home: Path) -> list[str]:
    """Every guest that is kept."""
    try:
        entries = sorted(os.scandir(home / "guests"), key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as problem:
        raise DriverError(f"cannot read '{home}': {problem.strerror}") from problem
    names = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if (Path(entry) / "name").is_file():
            names.append((Path(entry) / "name").read_text())
        elif entry.is_dir():
            names.append(unquote(entry.name))
    return names


def next_id(home: Path) -> int:
    """A number that no running guest had before."""
    with storing(home):
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home / "last-id"
    with _lock(home / "lock", PATIENCE, "the state folder"):
        try:
            number = int(_read(path) or 0) + 1
        except ValueError:
            number = 1
        with storing(path):
            write_new(path, str(number).encode())
            put_in_place(path)
    return number


# -- files -----------------------------------------------------------------------------------------------------------


def write_new(path: Path, data: bytes) -> None:
    """Write what a file is to become, beside it, and wait until it is on the disk.  Raises ``OSError``."""
    new = _new(path)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        new.unlink(missing_ok=True)
        raise


def put_in_place(path: Path, *, missing_ok: bool = False) -> None:
    """Let what ``write_new`` has written be the file.  Raises ``OSError``."""
    try:
        os.replace(_new(path), path)
    except FileNotFoundError:
        if not missing_ok:
            raise
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """What goes wrong with files becomes a ``DriverError`` that says what to do."""
    try:
        yield
    except OSError as problem:
        where = problem.filename or str(path)
        hints = {
            errno.ENOSPC: "make room on the disk and try again; what was stored before is as it was",
            errno.EDQUOT: "make room in your quota and try again; what was stored before is as it was",
            errno.EACCES: "the folder must be your own; XDG_STATE_HOME names another",
            errno.EROFS: "XDG_STATE_HOME names a folder elsewhere",
        }
        raise DriverError(
            f"cannot write '{where}': {problem.strerror}", hint=hints.get(problem.errno or 0, "")
        ) from problem


@contextlib.contextmanager
def _lock(path: Path, patience: float, what: str) -> Iterator[None]:
    with storing(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + patience
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise DriverError(
                        f"another process has worked on {what} for more than {patience:g} seconds",
                        hint="wait for it, or end it",
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as problem:
        raise DriverError(f"cannot read '{path}': {problem.strerror}") from problem


def _new(path: Path) -> Path:
    return path.with_name(path.name + _NEW)


def _encode(name: str) -> str:
    """The guest's name as that of a folder."""
    text = quote(name, safe=" ()+,=@[]{}")
    if text.startswith("."):
        text = "%2E" + text[1:]
    if len(text) <= _LONGEST:
        return text
    import hashlib

    return f"{text[:100]}~{hashlib.sha256(name.encode()).hexdigest()[:16]}"


__all__ = ["Folder", "Pending", "Running", "default_home", "guest_names", "next_id"]
