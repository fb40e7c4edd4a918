"""Asking real and pretended binaries; remembering the answers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemushim.emulator import cache
from qemushim.emulator.bundled import find
from qemushim.emulator.cache import probed, probed_all
from qemushim.emulator.model import Emulator
from qemushim.emulator.probe import probe
from qemushim.errors import EmulatorError
from tests.conftest import children

Fake = Callable[[str], str]


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Temporary and cache folders of its own; nothing is left in the former, and no child process."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = children()
    yield
    assert list(temporary.iterdir()) == []
    assert children() <= before


@pytest.fixture
def fake(tmp_path: Path) -> Fake:
    """Makes an executable script."""

    def make(script: str) -> str:
        path = tmp_path / "emulator"
        path.write_text(script if script.startswith("#!") else f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        return str(path)

    return make


CLASSIC = """
case "$1" in
-help) echo "QEMU PC emulator version 0.12.9 (qemu-kvm-0.12.9), Copyright"; echo "-device driver";;
-M) echo "Supported machines are:"; echo "pc   PC (alias of pc-0.12)"; echo "pc-0.12  PC (default)";;
-device) echo 'name "usb-hub", bus USB' >&2; exit 1;;
*) echo "qemu: invalid option" >&2; exit 1;;
esac
"""

TALKER = f"""#!{sys.executable}
import json, socket, sys, time
if "-qmp" not in sys.argv:
    sys.exit("no help from me")
link = socket.socket(socket.AF_UNIX)
link.connect(sys.argv[sys.argv.index("-qmp") + 1].partition(":")[2])
VERSION = {{"qemu": {{"major": 9, "minor": 0, "micro": 0}}, "package": ""}}
def send(message):
    link.sendall(json.dumps(message).encode() + b"\\r\\n")
"""
GREET = 'send({"QMP": {"version": VERSION, "capabilities": []}})\n'


# -- a real one ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(qemu: str) -> Emulator:
    return probe(qemu)


@pytest.mark.qemu
def test_real_binary(qemu: str, real: Emulator) -> None:
    version = subprocess.run((qemu, "-version"), capture_output=True, text=True, check=True).stdout
    assert ".".join(map(str, real.version)) in version
    assert (real.arch, real.binary, real.classic) == ("x86_64", qemu, False)
    assert real.machine("q35") is not None
    assert real.machine("pc") == real.default_machine()
    assert real.has_device("virtio-blk-pci")
    assert real.accelerator("qemu") is not None
    assert real.cpu_model("qemu64") is not None
    assert real.flag("tcg")
    if real.accelerator("kvm"):
        assert real.kernel_version
        assert real.accelerators[0].host_cpu is not None


@pytest.mark.qemu
def test_real_binary_resembles_its_recording(real: Emulator) -> None:
    """A distribution leaves out this and that; what it has was recorded of the release too."""
    bundled = find(f"~{'.'.join(map(str, real.version))}")
    if bundled.version[:2] != real.version[:2]:
        pytest.skip("no recording of this release")
    assert len(bundled.flags & real.flags) > 0.9 * len(bundled.flags)
    assert {m.name for m in bundled.accelerators[0].machines} >= {
        m.name for m in real.accelerators[0].machines
    }


@pytest.mark.qemu
def test_inside_an_event_loop(qemu: str, real: Emulator) -> None:
    async def inside() -> Emulator:
        return probe(qemu)

    assert asyncio.run(inside()) == real


@pytest.mark.qemu
def test_found_by_path_and_by_command(qemu: str, real: Emulator) -> None:
    assert find(qemu) == real
    assert find(os.path.basename(qemu)) == real
    assert Emulator.probe(qemu) == real


# -- pretended ones ------------------------------------------------------------------------------------------


def test_classic_binary(fake: Fake) -> None:
    path = fake(CLASSIC)
    emulator = probe(path)
    assert (emulator.version, emulator.package, emulator.binary) == ((0, 12, 9), "qemu-kvm-0.12.9", path)
    assert emulator.classic
    assert emulator.has_device("usb-hub")
    assert emulator.canonical_machine("pc") == "pc-0.12"


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'can not' >&2; kill -SEGV $$", r"killed by SIGSEGV \(can not\)"),
        ("echo 'bad flag'; exit 7", r"ended with status 7 \(bad flag\)"),
        ("exit 0", "ended with status 0"),
        ("exec yes garbage", "prints without end"),
        ("head -c 5000 /dev/urandom; exit 1", "ended with status 1"),
        ("sleep 100 & exit 4", "ended with status 4"),
        (TALKER + "link.sendall(b'nonsense\\r\\n'); time.sleep(100)", "closed the QMP connection"),
        (TALKER + GREET + "link.recv(99); sys.exit(5)", "ended with status 5"),
        (TALKER + "link.close(); time.sleep(100)", "closed the QMP connection"),
        (
            TALKER + GREET + "while data := link.recv(9999):\n"
            "    send({'return': 5, 'id': json.loads(data).get('id')})\n",
            "reply to query-version has an unexpected shape",
        ),
    ],
)
def test_no_emulator(fake: Fake, script: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=message) as caught:
        probe(fake(script), patience=10)
    assert caught.value.hint


@pytest.mark.parametrize(
    "script",
    [
        "sleep 100",
        "trap '' TERM; while :; do sleep 1; done",
        TALKER + "time.sleep(100)",
        TALKER + GREET + "time.sleep(100)",
        'case "$*" in *-qmp*) exit 1;; esac; sleep 100',
    ],
)
def test_never_answers(fake: Fake, script: str) -> None:
    start = time.monotonic()
    with pytest.raises(EmulatorError, match=r"within 0\.5 seconds"):
        probe(fake(script), patience=0.5)
    assert time.monotonic() - start < 5


def test_another_architecture(tmp_path: Path) -> None:
    path = tmp_path / "foreign"
    path.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x00" + bytes(44))
    path.chmod(0o755)
    with pytest.raises(EmulatorError, match="Exec format error"):
        probe(str(path))


def test_not_executable(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text("text")
    with pytest.raises(EmulatorError, match="Permission denied"):
        probe(str(path))


@pytest.mark.parametrize("path", ["/no/such/binary", "/"])
def test_no_file(path: str) -> None:
    with pytest.raises(EmulatorError, match="cannot run"):
        probe(path)


def test_long_temporary_folder(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(EmulatorError, match="within"):
        probe(fake(TALKER + "time.sleep(100)"), patience=0.5)
    assert list(folder.iterdir()) == []


# -- the cache -----------------------------------------------------------------------------------------------


@pytest.fixture
def counted(fake: Fake, tmp_path: Path) -> str:
    """A classic binary that leaves a line in ``calls`` each time it is asked for its help."""
    return fake(f"[ \"$1\" = -help ] && echo x >> '{tmp_path}/calls'\n" + CLASSIC)


def calls(tmp_path: Path) -> int:
    return len((tmp_path / "calls").read_text().splitlines())


def entries(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "cache/qemushim/emulators").iterdir())


def test_remembered(counted: str, tmp_path: Path) -> None:
    first = probed(counted)
    assert probed(counted) == first == find(counted)
    assert calls(tmp_path) == 1
    assert probed(counted, refresh=True) == first
    assert calls(tmp_path) == 2
    assert len(entries(tmp_path)) == 1


def test_changed_binary_is_asked_again(counted: str, tmp_path: Path) -> None:
    probed(counted)
    text = Path(counted).read_text()
    Path(counted).write_text(text.replace("0.12.9", "0.12.8"))
    assert probed(counted).version == (0, 12, 8)
    assert len(entries(tmp_path)) == 1


def test_changed_host_is_another(counted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed(counted)
    monkeypatch.setattr(cache, "_cpu", lambda: ["another"])
    probed(counted)
    assert calls(tmp_path) == 2


@pytest.mark.parametrize("data", [b"", b"rubbish", b"qemushim emulator snapshot 0\nx"])
def test_bad_entry_is_asked_again(counted: str, tmp_path: Path, data: bytes) -> None:
    first = probed(counted)
    [entry] = entries(tmp_path)
    entry.write_bytes(data)
    assert probed(counted) == first
    assert calls(tmp_path) == 2
    assert probed(counted) == first
    assert calls(tmp_path) == 2


def test_several_processes_at_once(counted: str, tmp_path: Path) -> None:
    """They ask, refresh and overwrite each other, while the entry is damaged again and again."""
    code = """
import sys
from qemushim.emulator.cache import probed
for turn in range(12):
    emulator = probed(sys.argv[1], refresh=turn % 3 == 0)
    assert emulator.version == (0, 12, 9), emulator
"""
    workers = [subprocess.Popen((sys.executable, "-c", code, counted)) for _ in range(5)]
    while any(worker.poll() is None for worker in workers):
        for entry in (tmp_path / "cache/qemushim/emulators").glob("*.snapshot"):
            entry.write_bytes(b"rubbish")
        time.sleep(0.02)
    assert [worker.returncode for worker in workers] == [0] * 5
    assert probed(counted).version == (0, 12, 9)
    [entry] = entries(tmp_path)
    assert entry.suffix == ".snapshot"


def test_several_binaries_at_once(counted: str, tmp_path: Path) -> None:
    """One that is remembered, one that is not, one that fails; each is told of once."""
    probed(counted)
    twin = tmp_path / "twin"
    twin.write_text(Path(counted).read_text().replace("0.12.9", "0.12.8"))
    twin.chmod(0o755)
    done: list[str] = []
    found = probed_all([counted, str(twin), "/no/such/binary", counted], done=done.append)
    assert [getattr(item, "version", None) for item in found] == [(0, 12, 9), (0, 12, 8), None, (0, 12, 9)]
    assert isinstance(found[2], EmulatorError)
    assert sorted(done) == sorted([counted, str(twin), "/no/such/binary"])
    assert calls(tmp_path) == 2


@pytest.mark.qemu
def test_speed(qemu: str) -> None:
    """A probe with and without KVM takes less than two seconds, a remembered one less than 50 ms."""
    start = time.perf_counter()
    first = probed(qemu)
    asked = time.perf_counter() - start
    times = []
    for _ in range(5):
        start = time.perf_counter()
        assert probed(qemu) == first
        times.append(time.perf_counter() - start)
    # generous, for a machine that is busy with other tests
    assert asked < 10
    assert min(times) < 0.05


def test_cache_that_can_not_be_written(counted: str, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert probed(counted, folder=str(blocked / "below")).classic
    assert probed(counted, folder=str(blocked / "below")).classic
    assert calls(tmp_path) == 2


def test_failure_is_not_remembered(fake: Fake, tmp_path: Path) -> None:
    with pytest.raises(EmulatorError):
        probed(fake("exit 1"))
    assert not (tmp_path / "cache").exists()
    with pytest.raises(EmulatorError, match="cannot run"):
        probed(str(tmp_path / "missing"))


def test_without_the_qmp_library(counted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qemushim.emulator.probe", None)
    with pytest.raises(EmulatorError, match="cannot ask"):
        probed(counted)
