"""Golden tests of domain documents for pytest: the command line and what the guest sees, for several QEMUs.

Set ``qemushim_guests`` in the configuration to folders of ``*.xml``; nothing is collected without it.  Beside each
document stand ``NAME.QEMU.args`` (the command line) and ``NAME.QEMU.abi`` (what the guest sees), written by
``pytest --qemushim-update``.  docs/pytest.md tells more.

Nothing of qemushim is loaded before the first test that needs it: the plugin is there in every project of the
environment that it is installed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from qemushim.emulator.model import Emulator
    from qemushim.guest import Guest
    from qemushim.host import Host

#: the first comment of a document may pick its QEMUs: ``<!-- qemu: 7.2 10.0 -->``
_COMMENT = re.compile(r"\A(?:\s|<\?.*?\?>)*<!--(.*?)-->", re.DOTALL)
_PICKED = re.compile(r"^\s*qemu:[ \t]*(.+?)\s*$", re.MULTILINE)
#: bytes of a document in which its first comment begins and ends
_HEAD = 4096


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("qemushim", "golden tests of libvirt domain documents")
    group.addoption(
        "--qemushim-update", action="store_true", help="write the golden files of domain documents anew"
    )
    group.addoption(
        "--qemushim-qemu",
        action="append",
        default=[],
        metavar="VERSION",
        help="a QEMU to test with in place of those of qemushim_qemu (may be given several times)",
    )
    parser.addini(
        "qemushim_guests", "folders of domain documents to test (none: the plugin rests)", "args", []
    )
    parser.addini(
        "qemushim_qemu", "the QEMUs to test with: versions, or what --qemu takes", "args", ["latest"]
    )


def _versions(config: pytest.Config) -> list[str]:
    chosen: list[str] = config.getoption("qemushim_qemu") or config.getini("qemushim_qemu")
    return chosen


# -- golden tests ----------------------------------------------------------------------------------------------------


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Documents of the folders that the project names."""
    if file_path.suffix != ".xml":
        return None
    config = parent.config
    base = config.inipath.parent if config.inipath is not None else config.rootpath
    folders = [base / folder for folder in config.getini("qemushim_guests")]
    if not any(file_path.is_relative_to(folder) for folder in folders):
        return None
    collected: pytest.Collector = Document.from_parent(parent, path=file_path)
    return collected


class Document(pytest.File):
    """One document: two tests for every QEMU."""

    def collect(self) -> Iterator[pytest.Item]:
        with self.path.open(encoding="utf-8", errors="replace") as file:
            comment = _COMMENT.match(file.read(_HEAD))
        picked = _PICKED.search(comment[1]) if comment is not None else None
        own = picked[1].split() if picked is not None and not self.config.getoption("qemushim_qemu") else []
        for version in own or _versions(self.config):
            for kind in (ArgvTest, AbiTest):
                yield kind.from_parent(self, name=f"{kind.label}[{version}]", version=version)


class GoldenTest(pytest.Item):
    """What comes out of a document for one QEMU is what is on file."""

    label = ""
    suffix = ""

    def __init__(self, *, version: str, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.version = version
        name = version.replace("/", "_").replace("~", "")
        self.golden = self.path.with_name(f"{self.path.stem}.{name}.{self.suffix}")

    def runtest(self) -> None:
        now = self.result(*_define(self.path, self.version))
        if self.config.getoption("qemushim_update"):
            self.golden.write_text(now, encoding="utf-8")
        elif not self.golden.exists():
            raise GoldenError(f"there is no {self.golden.name} yet; pytest --qemushim-update writes it")
        else:
            was = self.golden.read_text(encoding="utf-8")
            if was != now:
                why = f"{self.difference(was, now)}\nif this is meant: pytest --qemushim-update"
                raise GoldenError(why)

    def result(self, guest: Guest, emulator: Emulator, host: Host) -> str:
        raise NotImplementedError

    def difference(self, was: str, now: str) -> str:
        import difflib

        lines = difflib.unified_diff(was.splitlines(), now.splitlines(), self.golden.name, "now", lineterm="")
        return "\n".join(lines)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        from qemushim.errors import ShimError

        if isinstance(excinfo.value, GoldenError):
            return str(excinfo.value)
        if isinstance(excinfo.value, ShimError):
            hint = f"\nhint: {excinfo.value.hint}" if excinfo.value.hint else ""
            return f"{excinfo.value.where}{excinfo.value.message}{hint}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        return self.path, 0, f"{self.path.name} {self.name}"


class GoldenError(Exception):
    """A golden file is missing, or says something else."""


class ArgvTest(GoldenTest):
    """The command line."""

    label = "argv"
    suffix = "args"

    def result(self, guest: Guest, emulator: Emulator, host: Host) -> str:
        from qemushim.command.layout import shell

        return shell(guest.command(emulator, host))


class AbiTest(GoldenTest):
    """What the guest sees: machine, CPU, memory, devices and where they sit."""

    label = "abi"
    suffix = "abi"

    def result(self, guest: Guest, emulator: Emulator, host: Host) -> str:
        from qemushim.compare.sides import Side

        return Side(guest, emulator, host).build().seen.dump()

    def difference(self, was: str, now: str) -> str:
        from qemushim.compare.difference import lines
        from qemushim.compare.fingerprint import Fingerprint
        from qemushim.compare.layout import line_rows

        found = [line for line in lines(Fingerprint.load(was), Fingerprint.load(now)) if line.changes]
        told = [text for line in found for _, text in line_rows(line)]
        return "\n".join(told) or super().difference(was, now)


def _define(path: Path, version: str) -> tuple[Guest, Emulator, Host]:
    from qemushim.guest import Guest

    guest = Guest.from_xml(path.read_bytes(), file=str(path))
    emulator, host = _emulator(version, guest.domain.arch or "x86_64")
    return guest.define(emulator, host), emulator, host


def _emulator(version: str, arch: str = "x86_64") -> tuple[Emulator, Host]:
    """The emulator, and a host that is the same everywhere."""
    from qemushim.emulator.bundled import find
    from qemushim.host import Host

    emulator = find(version, arch)
    return emulator, Host.nominal(emulator.arch)


# -- fixtures --------------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for an emulator runs once for each QEMU, unless it picks its own."""
    if "qemu_emulator" not in metafunc.fixturenames:
        return
    for marker in metafunc.definition.iter_markers("parametrize"):
        names = marker.args[0] if marker.args else marker.kwargs.get("argnames", "")
        if "qemu_emulator" in (names.replace(",", " ").split() if isinstance(names, str) else names):
            return
    metafunc.parametrize("qemu_emulator", _versions(metafunc.config), indirect=True, scope="session")


@pytest.fixture(scope="session")
def qemu_emulator(request: pytest.FixtureRequest) -> Emulator:
    """What one QEMU can do, each of ``qemushim_qemu`` in turn.

    ``@pytest.mark.parametrize("qemu_emulator", ["8.2-aarch64"], indirect=True)`` picks others for a test.
    """
    return _emulator(request.param)[0]


@pytest.fixture
def qemu_guest(request: pytest.FixtureRequest, qemu_emulator: Emulator) -> Callable[[str | Path], Guest]:
    """Makes a definition: of a path (from the test's folder, or from the root of the project) or of XML text."""

    def define(document: str | Path) -> Guest:
        from qemushim.guest import Guest
        from qemushim.host import Host

        if isinstance(document, str) and document.lstrip().startswith("<"):
            guest = Guest.from_xml(document, file="<text>")
        else:
            path = request.path.parent / document
            path = path if path.exists() else request.config.rootpath / document
            guest = Guest.from_xml(path.read_bytes(), file=str(path))
        return guest.define(qemu_emulator, Host.nominal(qemu_emulator.arch))

    return define
