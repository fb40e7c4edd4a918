"""Whatever is killed, and whenever: no definition is lost or half written, and the next call says what happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemushim.driver import Machine
from qemushim.driver.qmpmonitor import QmpMonitor
from qemushim.errors import DriverError, ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.conftest import ROOT
from tests.machines import SECONDS, booting, card, eventually, guest, processes_below
from tests.test_driver_machine_state import fill, small_disk

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("qemu")]

__all__ = ["small_disk"]

#: where the tool is killed → where in the code that is
MOMENTS = {
    "before the keeper": "qemushim.driver.starting.start_kept",
    "before the greeting": "qemushim.driver.starting.open_monitor",
    "before the definition is stored": "qemushim.driver.starting.Folder.mark_legacy",
    "before the guest runs": "qemushim.driver.machine.Machine._run",
    "before it is let go": "qemushim.driver.process.Keeper.let_go",
    "before the change is announced": "qemushim.driver.changing.Changes._announce",
    "before QEMU is told": "qemushim.driver.changing.Changes._carry_out",
    "before it is put in place": "qemushim.driver.state.Folder.commit",
}
#: moments, and whether the change has taken place then
CHANGES = {
    "before the change is announced": False,
    "before QEMU is told": False,
    "before it is put in place": True,
}


@pytest.fixture(scope="session")
def host() -> Host:
    return Host.local()


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("m")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for name in Machine.names(tmp_path):
        Machine.open(name, home=tmp_path).kill()
    assert eventually(lambda: not processes_below(tmp_path)), processes_below(tmp_path)


def killed_at(moment: str, work: str, home: Path) -> None:
    """Do something in a process of its own that is killed at that moment."""
    module, _, names = MOMENTS[moment].partition(".driver.")
    file, _, attribute = names.partition(".")
    code = f"""if True:
        import os, signal, sys
        sys.path.insert(0, {str(ROOT)!r})
        import importlib
        from pathlib import Path
        from qemushim.driver import Machine
        place = importlib.import_module("{module}.driver.{file}")
        *owners, name = "{attribute}".split(".")
        for owner in owners:
            place = getattr(place, owner)
        setattr(place, name, lambda *given, **named: os.kill(os.getpid(), signal.SIGKILL))
        home = Path({str(home)!r})
        {work}
    """
    done = subprocess.run(
        (sys.executable, "-c", code), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.parametrize(
    ("moment", "detached"),
    [
        *((moment, True) for moment in sorted(MOMENTS.keys() - CHANGES)),
        # only a guest that goes on by itself is let go
        *((moment, False) for moment in sorted(MOMENTS.keys() - CHANGES - {"before it is let go"})),
    ],
)
def test_killed_while_it_starts_a_guest(home: Path, host: Host, moment: str, detached: bool) -> None:
    text = guest("web", card(1))
    killed_at(moment, f"Machine.start({text!r}, home=home, detached={detached})", home)
    machine = Machine.open("web", home=home)
    assert machine.running is None
    assert eventually(lambda: not processes_below(home))
    assert any("was interrupted" in note or "had started it was gone" in note for note in machine.notes), (
        machine.notes
    )
    assert not machine.folder.run_path.exists()
    # whatever was stored is whole, and the guest can be started
    stored = machine.folder.definition()
    assert stored is None or Guest.from_xml(stored).domain.uuid
    with Machine.start(text, home=home, host=host, paused=True) as again:
        assert again.verify() == []
        assert stored in (None, again.definition)


@pytest.mark.parametrize(
    ("operation", "moment"),
    [
        *(("attach", moment) for moment in CHANGES),
        # a detach is announced and told in one go
        *(("detach", moment) for moment in CHANGES if moment != "before QEMU is told"),
    ],
)
def test_killed_while_it_changes_a_guest(
    home: Path, host: Host, tmp_path: Path, moment: str, operation: str
) -> None:
    machine = Machine.start(guest("web", booting(tmp_path) + card(1)), home=home, host=host, detached=True)
    work = f"Machine.open('web', home=home).attach({card(2)!r})"
    if operation == "detach":
        machine.attach(card(2))
        work = "Machine.open('web', home=home).detach('net1', patience=30)"
    before = (machine.live, machine.definition)
    killed_at(moment, work, home)
    assert (machine.folder.running() or machine).live == before[0]
    assert machine.definition == before[1]

    again = Machine.open("web", home=home, host=host)
    assert again.verify() == []
    done = CHANGES[moment]
    if moment != "before the change is announced":
        said = "is complete now" if done else "did not take place"
        assert any(
            f"{operation} of interface 52:54:00:00:00:02 had been interrupted, and {said}" == n
            for n in again.notes
        )
    there = (operation == "attach") == done
    assert "52:54:00:00:00:02" in again.live if there else "52:54:00:00:00:02" not in again.live
    assert ("52:54:00:00:00:02" in again.definition) == there
    with again.monitor() as monitor:
        assert isinstance(monitor, QmpMonitor)
        network = monitor.execute("human-monitor-command", {"command-line": "info network"})
        assert ("hostnet1" in network) == there
    assert {path.name for path in again.folder.path.iterdir()} == {
        *("definition.xml", "end", "lock", "log", "run", "state.json")
    }


def test_qemu_is_killed_while_it_is_changed(home: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine.start(guest("web", card(1)), home=home, host=host)
    running, stored = machine.running, machine.definition
    assert running is not None
    real = QmpMonitor.execute

    def kill(self: QmpMonitor, command: str, *given: object, **named: object) -> object:
        if command == "device_add":
            os.kill(running.pid, signal.SIGKILL)
        return real(self, command, *given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(QmpMonitor, "execute", kill)
    with pytest.raises(ShimError, match="closed the connection"):
        machine.attach(card(2))
    monkeypatch.undo()
    assert machine.running is None
    assert machine.definition == stored
    with pytest.raises(DriverError, match="is off") as refusal:
        machine.pause()
    assert "was killed by SIGKILL" in refusal.value.hint


def test_host_went_down(home: Path, host: Host) -> None:
    machine = Machine.start(guest("web"), home=home, host=host, detached=True)
    running = machine.running
    assert running is not None
    machine.kill()
    running.boot = "another"
    machine.folder.store(running=running)
    assert Machine.open("web", home=home).notes == ["guest 'web' was running when the host went down"]


def test_full_disk(small_disk: Path, tmp_path: Path, host: Host) -> None:
    """Nothing is lost, nothing half changed; what happened is told all the same."""
    machine = Machine.start(guest("web", card(1)), home=small_disk, host=host, detached=True)
    try:
        machine.attach(card(2))
        ballast = fill(small_disk)
        before = (machine.live, machine.definition)
        with pytest.raises(DriverError, match="No space left") as refusal:
            machine.attach(card(3))
        assert "make room" in refusal.value.hint
        with pytest.raises(DriverError, match="No space left"):
            Machine.start(guest("other"), home=small_disk, host=host)
        assert (machine.live, machine.definition) == before
        assert machine.verify() == []
        with machine.monitor() as monitor:
            assert isinstance(monitor, QmpMonitor)
            assert "hostnet2" not in monitor.execute(
                "human-monitor-command", {"command-line": "info network"}
            )
        running = machine.running
        assert running is not None
        os.kill(running.pid, signal.SIGKILL)
        assert eventually(lambda: machine.running is None)
        again = Machine.open("web", home=small_disk)
        assert "was killed by SIGKILL" in again.notes[0]
        assert again.definition == before[1]
        ballast.unlink()
        with Machine.start(again.definition, home=small_disk, host=host, paused=True) as third:
            assert third.definition == before[1]
    finally:
        machine.kill()
    assert eventually(lambda: not processes_below(small_disk), SECONDS)
