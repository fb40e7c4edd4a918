"""Killed at every step: whatever the tool or QEMU has just come to, documents are whole, and the next call knows.

A step of the tool is whatever reaches beyond its own memory: a file of the guest's that is opened, written down,
renamed or removed, a lock, a socket, a process, a word to QEMU.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from qemushim.driver import Machine
from qemushim.driver.qmpmonitor import QmpMonitor
from qemushim.errors import DriverError, ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.conftest import ROOT
from tests.machines import booting, card, eventually, guest, processes_below
from tests.test_driver_machine import wait_for_firmware
from tests.test_driver_machine_interrupted import home, host, tmp_path
from tests.test_driver_machine_state import fill, small_disk

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("qemu")]

__all__ = ["home", "host", "small_disk", "tmp_path"]

#: more steps than anything takes
MOST = 300
#: bytes that a small file takes of a tmpfs
PAGE = 4096
#: what stays of a guest that runs, and of one that is off
RUNNING = {"definition.xml", "end", "lock", "log", "run", "state.json"}
OFF = {"definition.xml", "end", "lock", "log"}

#: does the work in a child for every number that it is told, and kills the child before the step of that number
_VICTIM = """if True:
    import os, signal, sys
    sys.path.insert(0, {root!r})
    from pathlib import Path
    from qemushim.driver import Machine
    from qemushim.driver.qmpmonitor import QmpMonitor
    from qemushim.host import Host
    # not an argument: processes are looked for by what their command lines name
    home, host, left = sys.stdin.readline().strip(), Host.local(), 0
    FILES = {{"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}}
    OTHERS = {{"fcntl.flock", "socket.bind", "socket.connect", "subprocess.Popen"}}

    def step():
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def happens(event, given):
        if event in OTHERS or event in FILES and str(given[0]).startswith(home):
            step()

    def stepping(real):
        def call(*given, **named):
            step()
            return real(*given, **named)
        return call

    os.fsync = stepping(os.fsync)
    QmpMonitor.execute = stepping(QmpMonitor.execute)
    QmpMonitor.execute_with = stepping(QmpMonitor.execute_with)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            left = int(line)
            sys.addaudithook(happens)
            try:
                {work}
            except BaseException as problem:
                print(repr(problem), file=sys.stderr)
                os._exit(1)
            os._exit(0)
        print(os.waitpid(child, 0)[1], flush=True)
"""


@contextmanager
def victims(folder: Path, work: str) -> Iterator[Callable[[int], bool]]:
    """What does the work, and says whether it was killed before the step of a number; else it has done all of it."""
    words = (sys.executable, "-c", _VICTIM.format(root=str(ROOT), work=work))
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{folder}\n")

        def is_killed(number: int) -> bool:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(f"{number}\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            assert status in (0, signal.SIGKILL), os.waitstatus_to_exitcode(status)
            return status != 0

        try:
            yield is_killed
        finally:
            process.stdin.close()


def files(machine: Machine) -> set[str]:
    return {path.name for path in machine.folder.path.iterdir()}


def is_off(machine: Machine) -> bool:
    return machine.running is None


def has_card(text: str, number: int = 2) -> bool:
    return f"52:54:00:00:00:{number:02x}" in text


@pytest.mark.parametrize("operation", ["attach", "detach"])
def test_tool_is_killed_while_it_changes_a_guest(
    home: Path, host: Host, tmp_path: Path, operation: str
) -> None:
    machine = Machine.start(guest("web", booting(tmp_path) + card(1)), home=home, host=host, detached=True)
    assert wait_for_firmware(machine)
    without = machine.definition
    machine.attach(card(2))
    full = machine.definition
    work = f"Machine.open('web', home=Path(home), host=host).attach({card(2)!r})"
    if operation == "detach":
        work = "Machine.open('web', home=Path(home), host=host).detach('52:54:00:00:00:02', patience=30)"
    told = set()
    with victims(home, work) as is_killed:
        for number in range(1, MOST, 2):
            again = Machine.open("web", home=home, host=host)
            if operation == "attach" and has_card(again.live):
                again.detach("52:54:00:00:00:02", patience=30)
            if operation == "detach" and not has_card(again.live):
                again.attach(card(2))
            killed = is_killed(number)
            # before anybody has looked, each document is a whole one
            assert machine.definition in (without, full)
            Guest.from_xml(machine.live)
            again = Machine.open("web", home=home, host=host)
            assert again.verify() == []
            told |= {note.partition("had been")[2] for note in again.notes}
            assert has_card(again.live) == has_card(again.definition)
            assert again.definition == (full if has_card(again.live) else without)
            with again.monitor() as monitor:
                assert isinstance(monitor, QmpMonitor)
                network = monitor.execute("human-monitor-command", {"command-line": "info network"})
            assert ("hostnet1" in network) == has_card(again.live)
            assert files(again) == RUNNING
            if not killed:
                break
    assert not killed
    assert number > 20
    assert told == {
        " interrupted, and did not take place",
        " interrupted, and is complete now",
    }


@pytest.mark.parametrize("detached", [False, True], ids=["bound", "detached"])
def test_tool_is_killed_while_it_starts_a_guest(
    home: Path, host: Host, tmp_path: Path, detached: bool
) -> None:
    text = guest("web", card(1))
    work = f"Machine.start({text!r}, home=Path(home), host=host, detached={detached})"
    stored, told = None, set()
    with victims(home, work) as is_killed:
        for number in range(1, MOST, 3):
            killed = is_killed(number)
            if not (home / "guests" / "web").exists():
                assert killed, "before it had a folder"
                continue
            machine = Machine.open("web", home=home, host=host)
            told |= {note.partition(": ")[0].partition(" at ")[0] for note in machine.notes}
            definition = machine.folder.definition()
            assert stored in (None, definition), "what was stored once is not lost"
            stored = definition
            if machine.running is not None:
                # let go at the very end: it goes on by itself
                assert detached
                assert machine.verify() == []
                machine.kill()
            else:
                assert eventually(lambda: not processes_below(home))
                assert files(machine) <= OFF
            if not killed:
                break
    assert not killed
    assert number > 20
    assert stored is not None
    assert told >= {"the start of guest 'web' was interrupted"}


def refusal(work: Callable[[], object]) -> ShimError | None:
    """What it is refused with, ``None`` where it is done."""
    try:
        work()
    except ShimError as problem:
        return problem
    return None


# -- QEMU is killed ----------------------------------------------------------------------------------------------------


def kill_before(monkeypatch: pytest.MonkeyPatch, machine: Machine, number: int) -> Callable[[], bool]:
    """Kill QEMU before it hears the word of that number; returned is whether it came to that."""
    heard = 0

    def dying(real: Callable[..., object]) -> Callable[..., object]:
        def call(*given: object, **named: object) -> object:
            nonlocal heard
            heard += 1
            running = machine.folder.running()
            if heard == number and running is not None:
                os.kill(running.pid, signal.SIGKILL)
            return real(*given, **named)

        return call

    for name in ("execute", "execute_with"):
        monkeypatch.setattr(QmpMonitor, name, dying(getattr(QmpMonitor, name)))
    return lambda: heard >= number


@pytest.mark.parametrize("operation", ["attach", "detach"])
def test_qemu_is_killed_at_every_word_of_a_change(
    home: Path, host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    text = guest("web", booting(tmp_path) + card(1) + (card(2) if operation == "detach" else ""))
    change: dict[str, Callable[[Machine], object]] = {
        "attach": lambda machine: machine.attach(card(2)),
        "detach": lambda machine: machine.detach("52:54:00:00:00:02", patience=30),
    }
    came = True
    number = 0
    while came:
        number += 1
        machine = Machine.start(text, home=home, host=host, detached=True)
        if operation == "detach":
            assert wait_for_firmware(machine)
        before = machine.definition
        with monkeypatch.context() as patch:
            killed = kill_before(patch, machine, number)
            done = refusal(partial(change[operation], machine)) is None
            came = killed()
        if came:
            assert eventually(partial(is_off, machine))
            again = Machine.open("web", home=home)
            assert any("was killed by SIGKILL" in note for note in (*machine.notes, *again.notes))
            assert files(again) == OFF
            assert (again.definition == before) == (not done)
            Guest.from_xml(again.definition)
        machine.kill()
        machine.forget()
    assert number > 3


def test_qemu_is_killed_at_words_of_its_start(
    home: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = guest("web", card(1))
    machine = Machine.start(text, home=home, host=host, paused=True)
    stored = machine.definition
    machine.kill()
    came = True
    number = -3
    while came:
        number += 4
        with monkeypatch.context() as patch:
            killed = kill_before(patch, machine, number)
            problem = refusal(lambda: Machine.start(text, home=home, host=host).kill())
            came = killed()
        if came and problem is not None:
            assert "was killed by SIGKILL" in problem.message
        assert machine.definition == stored
        assert eventually(lambda: not processes_below(home))
        assert Machine.open("web", home=home).running is None
        assert files(machine) == OFF
    assert number > 10


# -- the disk is nearly full -------------------------------------------------------------------------------------------


def leave(place: Path, pages: int) -> None:
    """Let the file system have room for so many more pages."""
    (place / "ballast").unlink(missing_ok=True)
    ballast = fill(place)
    os.truncate(ballast, max(0, ballast.stat().st_size - pages * PAGE))


def test_disk_that_is_full_to_every_degree(small_disk: Path, host: Host) -> None:
    """A start and a change take place as a whole, or not at all; it is said what to do."""
    text = guest("web", card(1))
    refused = 0
    for pages in range(MOST):
        leave(small_disk, pages)
        problem = refusal(lambda: Machine.start(text, home=small_disk, host=host, detached=True))
        if problem is None:
            break
        assert isinstance(problem, DriverError)
        assert "No space left" in problem.message
        assert "make room" in problem.hint
        refused += 1
        assert eventually(lambda: not processes_below(small_disk))
        assert all(Machine.open(name, home=small_disk).running is None for name in Machine.names(small_disk))
    assert refused > 2
    machine = Machine.open("web", home=small_disk, host=host)
    try:
        assert Guest.from_xml(machine.definition).domain.uuid
        before = (machine.live, machine.definition)
        refused = 0
        for pages in range(MOST):
            leave(small_disk, pages)
            problem = refusal(lambda: machine.attach(card(2)))
            if problem is None:
                break
            assert "No space left" in problem.message
            refused += 1
            assert (machine.live, machine.definition) == before
            assert machine.verify() == []
            with machine.monitor() as monitor:
                assert isinstance(monitor, QmpMonitor)
                network = monitor.execute("human-monitor-command", {"command-line": "info network"})
            assert "hostnet1" not in network
        assert refused > 2
        assert has_card(machine.live)
        assert has_card(machine.definition)
        # there is no room for the notes of an end either, but what has been set aside for them
        leave(small_disk, 0)
        assert machine.stop(0) == "quit"
        assert has_card(machine.definition)
    finally:
        machine.kill()
    assert eventually(lambda: not processes_below(small_disk))
