"""Finding an emulator by what a person calls it: a version, a name, a file.

Snapshots of recorded emulators come with the package (``snapshots/``).  A modern one is named
``10.0.0-x86_64`` or ``10.0.0-x86_64+amdsev``, a classic one ``0.12.3``, ``qemu-kvm-0.12.3`` or ``kvm-83``.
"""

# types are given as they are: a NamedTuple compiles each that is text

import os
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import NamedTuple

from qemushim.emulator import snapshot
from qemushim.emulator.model import Emulator
from qemushim.errors import EmulatorError

#: the last QEMU without the QMP questions that the main way needs, so known by its help text
CLASSIC_BEFORE = (1, 3)

_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "snapshots")

#: bytes of a file that show what it is
_HEAD = 4096

_FORKS = r"(?P<fork>(?:qemu-)?kvm-)?"
_NUMBER = r"(?P<number>\d+(?:\.\d+)*)(?P<tag>-rc\d+|-rhel\d+(?:-beta)?)?"
_PLACE = r"(?:-(?P<arch>[a-z][a-z0-9_]*))?(?:\+(?P<variant>[a-z][a-z0-9_]*))?"
_NAME = re.compile(_FORKS + _NUMBER + _PLACE)
_LATEST = "latest" + _PLACE


#: takes a line for the user
Say = Callable[[str], object]


def _silent(text: str) -> None:
    """What is said to nobody."""


class Known(NamedTuple):
    """One emulator that comes with the package."""

    name: str
    #: ``10.0.0``; of a fork the version of QEMU that it is made of
    version: str
    arch: str
    #: ``amdsev``, ``hvf`` …; ``qemu-kvm`` for the fork of the classic years
    variant: str
    classic: bool


class _Entry(NamedTuple):
    """What the name of a snapshot says."""

    name: str
    fork: str
    #: the numbers of the version
    number: tuple[int, ...]
    #: ``-rc0`` and the like; sorts before the release
    tag: str
    arch: str
    variant: str

    @property
    def classic(self) -> bool:
        return not self.arch

    @property
    def age(self) -> tuple[tuple[int, ...], bool, str]:
        """Sorts releases by age, a candidate before its release."""
        return self.number, not self.tag.startswith("-rc"), self.tag


class _Wanted(NamedTuple):
    """What a name asks for."""

    fork: str
    #: empty: the newest
    number: tuple[int, ...]
    tag: str
    arch: str
    variant: str

    @property
    def classic(self) -> bool:
        return bool(self.fork) or () < self.number < CLASSIC_BEFORE

    def fits(self, entry: _Entry) -> bool:
        """Whether the entry is of that kind of emulator, of whatever version."""
        arches = ("x86_64", "i686") if entry.classic else (entry.arch,)
        kind = (entry.classic, entry.fork, entry.variant)
        return self.arch in arches and kind == (self.classic, self.fork, self.variant)

    def resembles(self, entry: _Entry) -> bool:
        """The same, whatever sets the entry apart from a plain one of its version."""
        return self.fits(entry._replace(variant=self.variant))

    def covers(self, entry: _Entry) -> bool:
        """Whether the entry has that version, or a more exact one; only a fork goes by one number."""
        if len(self.number) == 1 and self.fork != "kvm-":
            return False
        number = (*entry.number, 0, 0, 0)[: len(self.number)]
        return number == self.number and self.tag in ("", entry.tag)


def available() -> list[Known]:
    """The emulators that come with the package, oldest first."""
    return [_known(entry) for entry in _entries().values()]


def recorded(version: str, arch: str = "x86_64") -> Emulator:
    """An emulator that comes with the package.

    ``version`` is ``10.0.0``, ``10.0`` (the newest of these), ``latest``, or one of these with ``+VARIANT``;
    a classic one also by name (``kvm-83``).  Raises ``EmulatorError`` with a list of what there is.
    """
    found = _bundled(version, arch)
    if found is None:
        raise EmulatorError(f"no emulator is called '{version}'", hint=_what_there_is())
    return found


def find(spec: str, arch: str = "x86_64", *, say: Say = _silent) -> Emulator:
    """The emulator that ``spec`` names.

    ============================  =========================================================================
    ``10.0.0``, ``10.0``          comes with the package; ``arch`` is the one looked for
    ``10.0-aarch64``, ``…+hvf``   the same, with architecture and variant (none: a plain one, where there is)
    ``latest``                    the newest one of the architecture
    ``~9.1.3``                    the newest one that is not newer (else the oldest there is)
    ``qemu-kvm-0.12.3``           a classic one by name
    a file                        a snapshot, a recorded QMP conversation, or a help text
    an executable                 is started and asked (and remembered in the user's cache)
    ============================  =========================================================================

    ``say`` is told where another version than the named one is taken.  Raises ``EmulatorError`` with a list
    of what there is.
    """
    [found] = find_all([spec], arch, say=say)
    if isinstance(found, EmulatorError):
        raise found
    return found


def find_all(
    specs: Sequence[str],
    arch: str = "x86_64",
    *,
    refresh: bool = False,
    say: Say = _silent,
    done: Say = _silent,
) -> list[Emulator | EmulatorError]:
    """The same for several; executables are asked at once (``refresh``: even where they are remembered).

    ``done`` is called with the path of each executable when it is known what it can do, or that it can't be.
    """
    located: list[Emulator | EmulatorError | str] = []
    for spec in specs:
        try:
            located.append(_locate(spec, arch, say))
        except EmulatorError as problem:
            located.append(problem)
    programs = [item for item in located if isinstance(item, str)]
    answers = iter(_probed_all(programs, refresh, done) if programs else ())
    return [next(answers) if isinstance(item, str) else item for item in located]


def from_path(path: str) -> Emulator:
    """The emulator of a snapshot, a recorded conversation, a help text, a binary; or ``EmulatorError``."""
    found = _open(path)
    return Emulator.probe(found) if isinstance(found, str) else found


def is_program(spec: str) -> bool:
    """Whether ``spec`` names a binary that ``find`` would start, rather than something recorded."""
    try:
        return isinstance(_locate(spec, "x86_64", _silent), str)
    except EmulatorError:
        return False


def _locate(spec: str, arch: str, say: Say) -> Emulator | str:
    """The emulator that ``spec`` names, or the path of the binary that is to be asked."""
    found = _bundled(spec, arch, say)
    if found is not None:
        return found
    path = os.path.expanduser(spec)
    if os.path.exists(path):
        return _open(path)
    import shutil

    program = shutil.which(spec)
    if program is not None:
        return _open(program)
    if os.sep in spec:
        raise EmulatorError(f"there is no file '{spec}'", hint=_what_there_is())
    raise EmulatorError(f"no emulator is called '{spec}'", hint=_what_there_is())


def _open(path: str) -> Emulator | str:
    """What is in a file, or its full path where it is to be run."""
    if os.path.isdir(path):
        path = os.path.join(path, "help.txt")
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            readable = not _is_program(path, head)
            data = head + file.read() if readable else b""
    except OSError as problem:
        raise EmulatorError(f"cannot read '{path}': {problem.strerror}") from problem
    if not readable:
        return os.path.abspath(path)
    if snapshot.is_snapshot(data):
        return snapshot.load(data)
    if data.lstrip()[:1] == b"{":
        return _from_recording(path, data)
    if data.startswith(b"QEMU "):
        return _from_help_files(path, data)
    hint = "give a QEMU binary, a snapshot, a recorded QMP conversation or a help text"
    raise EmulatorError(f"'{path}' is no emulator", hint=hint)


def _probed_all(paths: list[str], refresh: bool, done: Say) -> list[Emulator | EmulatorError]:
    from qemushim.emulator.cache import probed_all

    return probed_all(paths, refresh=refresh, done=done)


# -- what comes with the package -----------------------------------------------------------------------------


@cache
def _entries() -> dict[str, _Entry]:
    """Name → entry, oldest version first, plain ones before forks and variants."""
    entries = []
    try:
        files = os.listdir(_DIRECTORY)
    except OSError as problem:
        raise EmulatorError(f"the snapshots of this package are missing: {problem.strerror}") from problem
    for file in files:
        name, suffix = os.path.splitext(file)
        match = _NAME.fullmatch(name)
        if suffix == snapshot.SUFFIX and match:
            entries.append(_Entry(name, *_parts(match)))
    entries.sort(key=lambda entry: (not entry.classic, entry.fork, entry.age, entry.arch, entry.variant))
    return {entry.name: entry for entry in entries}


def _parts(match: re.Match[str]) -> tuple[str, tuple[int, ...], str, str, str]:
    fork, number, tag, arch, variant = (
        match[part] or "" for part in ("fork", "number", "tag", "arch", "variant")
    )
    return fork, tuple(int(part) for part in number.split(".")), tag, arch, variant


@cache
def _load(name: str) -> Emulator:
    with open(os.path.join(_DIRECTORY, name + snapshot.SUFFIX), "rb") as file:
        return snapshot.load(file.read())


def _known(entry: _Entry) -> Known:
    if entry.classic:
        version = ".".join(map(str, _load(entry.name).version))
        return Known(entry.name, version, "x86_64", "qemu-kvm" if entry.fork else "", True)
    return Known(entry.name, ".".join(map(str, entry.number)), entry.arch, entry.variant, False)


def _bundled(spec: str, arch: str, say: Say = _silent) -> Emulator | None:
    """The emulator of the package that ``spec`` names; ``None`` where it is no name of one at all."""
    entries = _entries()
    if spec in entries and not entries[spec].classic:
        return _load(spec)
    latest = re.fullmatch(_LATEST, spec)
    nearest = spec.startswith("~") and not spec.startswith("~/")
    match = latest or _NAME.fullmatch(spec[1:] if nearest else spec)
    if match is None:
        return None
    if latest:
        wanted = _Wanted("", (), "", latest["arch"] or arch, latest["variant"] or "")
    else:
        fork, number, tag, own_arch, variant = _parts(match)
        wanted = _Wanted(fork, number, tag, own_arch or arch, variant)
    entry = _choose(wanted, [entry for entry in entries.values() if wanted.fits(entry)], nearest)
    if entry is None and not wanted.variant:
        entry = _choose(wanted, [entry for entry in entries.values() if wanted.resembles(entry)], False)
        if entry is not None:
            say(f"no plain QEMU {spec} for {wanted.arch} comes with this package; taking {entry.name}")
    if entry is None:
        text = f"no QEMU '{spec}' for {wanted.arch} comes with this package"
        raise EmulatorError(text, hint=_what_there_is(wanted))
    if nearest and not wanted.covers(entry):
        say(f"no QEMU {spec[1:]} for {wanted.arch} comes with this package; taking the nearest: {entry.name}")
    emulator = _load(entry.name)
    return emulator._replace(arch=wanted.arch) if emulator.arch != wanted.arch else emulator


def _choose(wanted: _Wanted, entries: list[_Entry], nearest: bool) -> _Entry | None:
    """The newest of the entries (given oldest first) that the wish covers."""
    if not wanted.number:
        covered = entries
    elif nearest:
        # 9.1 stands for all of 9.1.0, 9.1.1 …
        digits = len(wanted.number)
        covered = [entry for entry in entries if entry.number[:digits] <= wanted.number] or entries[:1]
    else:
        covered = [entry for entry in entries if wanted.covers(entry)]
        covered = [entry for entry in covered if entry.tag == wanted.tag] or covered
    return covered[-1] if covered else None


def _what_there_is(wanted: _Wanted | None = None) -> str:
    """A hint that lists the emulators of the package; where one was nearly found, only its like."""
    entries = list(_entries().values())
    classic = "classic: " + ", ".join(entry.name for entry in entries if entry.classic)
    modern = [entry for entry in entries if not entry.classic]
    if wanted is not None:
        same = [entry for entry in modern if entry.arch == wanted.arch]
        if wanted.classic or same:
            listed = classic if wanted.classic else f"{wanted.arch}: {_names(same)}"
            return f"there are {listed}; a ~ before the version takes the nearest"
    arches = sorted({entry.arch for entry in modern})
    texts = [f"{arch}: {_names(entry for entry in modern if entry.arch == arch)}" for arch in arches]
    return "there are " + "; ".join([*texts, classic])


def _names(entries: Iterable[_Entry]) -> str:
    """``6.2.0, 10.0.0, 10.0.0+amdsev``"""
    return ", ".join(
        ".".join(map(str, entry.number)) + (f"+{entry.variant}" if entry.variant else "") for entry in entries
    )


# -- files ---------------------------------------------------------------------------------------------------


def _from_recording(path: str, data: bytes) -> Emulator:
    stem = os.path.basename(path).removesuffix(".replies")
    try:
        text = data.decode()
    except UnicodeDecodeError as problem:
        raise EmulatorError(f"'{path}' is no recorded QMP conversation: {problem}") from problem
    return Emulator.from_qmp(text, variant=stem.partition("+")[2])


def _is_program(path: str, head: bytes) -> bool:
    """Whether a file is to be run: some file systems call every file executable, so a known text is none."""
    if snapshot.is_snapshot(head) or head.startswith(b"QEMU ") or head.lstrip()[:1] == b"{":
        return False
    return os.access(path, os.X_OK)


def _from_help_files(path: str, data: bytes) -> Emulator:
    """A help text with what lies beside it: ``machines.txt``, ``NAME-device.txt`` …"""
    stem = path.removesuffix(".txt").removesuffix("help")
    return Emulator.from_help(
        data.decode(errors="replace"),
        machines_text=_read_beside(stem, "machines", "machine"),
        devices_text=_read_beside(stem, "devices", "device"),
    )


def _read_beside(stem: str, *words: str) -> str:
    joint = "" if stem.endswith(os.sep) or not stem else "-"
    for word in words:
        try:
            with open(f"{stem}{joint}{word}.txt", encoding="utf-8", errors="replace") as file:
                return file.read()
        except FileNotFoundError:
            continue
    return ""
