"""A process below a keeper: it never outlives who is responsible for it, and how it ended is known."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from qemushim.driver import process
from qemushim.driver.process import Keeper, Process, describe_end, process_of, start_kept
from qemushim.driver.state import Folder
from qemushim.errors import DriverError
from tests.conftest import ROOT, children
from tests.machines import descriptors, eventually

SECONDS = 20.0
SLEEP = "/bin/sleep"


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "GRACE", 0.5)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    found = Folder(tmp_path, "web")
    found.make()
    return found


def start(folder: Folder, words: Sequence[str], passed: dict[int, int] | None = None) -> Keeper:
    log = os.open(folder.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)
    end = folder.open_end()
    try:
        return start_kept("web", words, {"A": "b"}, passed or {}, log=log, end=end)
    finally:
        os.close(log)
        os.close(end)


def test_status_is_kept(folder: Folder) -> None:
    keeper = start(folder, [sys.executable, "-c", "import os; print(dict(os.environ)); raise SystemExit(3)"])
    said = keeper.hear(SECONDS)
    assert said is not None
    assert said["status"] == 3
    assert folder.end() == said
    assert "'A': 'b'" in folder.log_path.read_text()
    assert keeper.process.wait(SECONDS)
    keeper.close()


def test_signal_is_kept(folder: Folder) -> None:
    keeper = start(folder, [SLEEP, "60"])
    assert keeper.qemu.alive
    assert keeper.qemu.signal(signal.SIGKILL)
    assert keeper.qemu.wait(SECONDS)
    assert keeper.process.wait(SECONDS)
    assert folder.end()["status"] == -signal.SIGKILL
    assert not keeper.qemu.signal(signal.SIGKILL)
    keeper.close()


def test_it_ends_with_who_started_it(folder: Folder) -> None:
    keeper = start(folder, [SLEEP, "60"])
    keeper.close()
    assert keeper.qemu.wait(SECONDS)
    assert keeper.process.wait(SECONDS)
    assert folder.end()["status"] == -signal.SIGTERM
    assert folder.end()["reason"] == "who had started it was gone"


def test_one_that_does_not_listen_is_killed(folder: Folder) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    keeper = start(folder, [sys.executable, "-c", code])
    assert eventually(lambda: "deaf" in folder.log_path.read_text())
    keeper.close()
    assert keeper.process.wait(SECONDS)
    assert folder.end()["status"] == -signal.SIGKILL


def test_it_goes_on_when_it_was_let_go(folder: Folder) -> None:
    keeper = start(folder, [SLEEP, "60"])
    keeper.let_go()
    keeper.close()
    assert not keeper.qemu.wait(0.3)
    assert eventually(lambda: folder.end() == {"let go": True})
    keeper.qemu.signal(signal.SIGTERM)
    assert keeper.process.wait(SECONDS)
    assert (folder.end()["status"], folder.end()["reason"]) == (-signal.SIGTERM, "")


def test_it_ends_with_its_keeper(folder: Folder) -> None:
    keeper = start(folder, [SLEEP, "60"])
    keeper.let_go()
    keeper.process.signal(signal.SIGKILL)
    assert keeper.qemu.wait(SECONDS)
    assert "status" not in folder.end()
    keeper.close()


def test_keeper_that_is_told_to_end(folder: Folder) -> None:
    keeper = start(folder, [SLEEP, "60"])
    keeper.process.signal(signal.SIGTERM)
    assert keeper.process.wait(SECONDS)
    assert not keeper.qemu.alive
    assert folder.end()["reason"] == "its keeper was told to end"
    keeper.close()


def test_it_ends_when_its_starter_is_killed(folder: Folder) -> None:
    code = f"""if True:
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        from pathlib import Path
        from tests.test_driver_machine_process import start
        from qemushim.driver.state import Folder
        keeper = start(Folder(Path({str(folder.home)!r}), "web"), ["/bin/sleep", "60"])
        print(keeper.qemu.pid, keeper.qemu.started, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, timeout=SECONDS, check=False
    )
    pid, started = map(int, done.stdout.split())
    assert Process(pid, started).wait(SECONDS)
    assert eventually(lambda: folder.end().get("reason") == "who had started it was gone")


def test_descriptors_have_the_numbers_that_were_asked_for(folder: Folder) -> None:
    pipes = [os.pipe() for _ in range(3)]
    wanted = {number: writes for number, (_, writes) in zip((24, 70, 25), pipes, strict=True)}
    code = """if True:
        import os
        for number in (24, 70, 25):
            os.write(number, b"%d" % number)
        print(sorted(int(n) for n in os.listdir("/proc/self/fd")), os.read(0, 1))
    """
    before = descriptors()
    keeper = start(folder, [sys.executable, "-c", code], wanted)
    assert keeper.process.wait(SECONDS)
    keeper.close()
    assert [os.read(reads, 10) for reads, _ in pipes] == [b"24", b"70", b"25"]
    for pipe in pipes:
        for end in pipe:
            os.close(end)
    # nothing else is inherited; 3 is the folder that is listed
    assert folder.log_path.read_text() == "[0, 1, 2, 3, 24, 25, 70] b''\n"
    assert descriptors() == before - len(pipes) * 2


def test_binary_that_can_not_be_run(folder: Folder) -> None:
    before = descriptors()
    with pytest.raises(DriverError, match="cannot run '/nowhere/qemu': No such file"):
        start(folder, ["/nowhere/qemu"])
    with pytest.raises(DriverError, match="Permission denied"):
        start(folder, [str(folder.home)])
    assert descriptors() == before


def test_no_zombies(folder: Folder) -> None:
    # daemons of other tests in this process may be its children too
    before = children()
    keeper = start(folder, ["/bin/true"])
    assert keeper.process.wait(SECONDS)
    keeper.close()
    assert children() <= before


def test_a_number_is_not_a_process() -> None:
    own = process_of(os.getpid())
    assert own.alive
    other = Process(own.pid, own.started - 1)
    assert not other.alive
    assert not other.signal(signal.SIGKILL)
    assert other.wait(0)
    assert not own.wait(0.01)
    with pytest.raises(DriverError, match="is gone"):
        process_of(1 << 22)


def test_dead_child_is_not_alive() -> None:
    child = subprocess.Popen(("/bin/true",))
    found = process_of(child.pid)
    begin = time.monotonic()
    assert found.wait(SECONDS)
    assert time.monotonic() - begin < SECONDS
    assert not found.alive
    child.wait()


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (0, "ended"),
        (1, "ended with status 1"),
        (-11, "was killed by SIGSEGV"),
        (-99, "was killed by signal 99"),
        (None, "ended, and nobody saw how"),
    ],
)
def test_words_for_an_end(status: int | None, words: str) -> None:
    assert describe_end(status) == words
