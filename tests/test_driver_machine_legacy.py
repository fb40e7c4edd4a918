"""The flag way on a QEMU of today: QEMU chooses the slots, and the live document says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from qemushim.document.parse import parse
from qemushim.driver import Machine
from qemushim.driver.legacy import flag_emulator
from qemushim.driver.monitor import TextMonitor, open_monitor
from qemushim.errors import DriverError, EmulatorError, MonitorError
from tests.machines import card, disk, eventually, guest, image, processes_below, sockets_below

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("qemu")]


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("m")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    for name in Machine.names(tmp_path / "state"):
        Machine.open(name, home=tmp_path / "state").kill()
    assert eventually(lambda: not processes_below(tmp_path))
    assert not sockets_below(tmp_path)


def old(folder: Path) -> str:
    devices = "".join(
        (
            disk(image(folder / "a"), "vda"),
            disk(image(folder / "b"), "hda", "ide"),
            disk(image(folder / "c"), "vdb"),
            card(1) + card(2, "e1000") + card(3, "rtl8139") + card(4),
            "<serial type='pty'/><input type='tablet' bus='usb'/><sound model='ac97'/>",
            "<watchdog model='i6300esb'/><video><model type='cirrus'/></video><graphics type='vnc'/>",
        )
    )
    return guest("old", devices)


def test_slots_are_read_back_and_were_foreseen(home: Path, tmp_path: Path) -> None:
    with Machine.start(old(tmp_path), home=home, legacy=True) as machine:
        status = machine.status()
        assert (status.state, status.legacy) == ("running", True)
        assert machine.differences == []
        live, stored = parse(machine.live), parse(machine.definition)
        slots = [node.value("address/@slot") for node in live.ensure("devices") if node.tag == "interface"]
        assert len(set(slots)) == 4
        assert None not in slots
        # the places are the run's, not the definition's
        assert all(n.child("address") is None for n in stored.ensure("devices") if n.tag == "interface")
        assert machine.verify() == []
        [(name, terminal)] = status.terminals
        assert name == "serial0"
        assert Path(terminal).exists()
        assert status.displays[0].startswith("vnc://127.0.0.1:59")
        running = machine.running
        assert running is not None
        words = Path(f"/proc/{running.pid}/cmdline").read_text().split("\0")
        assert not [word for word in words if word.startswith(("virtio-", '{"driver"'))]
        assert words.count("-net") == 4
        machine.pause()
        assert machine.status().state == "paused"
        machine.resume()
        assert machine.stop(0.2) == "quit"


def test_what_is_left_out_stays(home: Path, tmp_path: Path) -> None:
    bare = old(tmp_path).replace("<mac address='52:54:00:00:00:02'/>", "")
    with Machine.start(bare, home=home, legacy=True, paused=True) as machine:
        first, live = machine.definition, machine.live
        assert machine.status().state == "prelaunch"
    with Machine.start(bare, home=home, legacy=True, paused=True) as machine:
        assert machine.definition == first
        slots = [parse(text).value("devices/interface/address/@slot") for text in (live, machine.live)]
        assert slots[0] == slots[1]


def test_changes_wait_for_the_next_start(home: Path, tmp_path: Path) -> None:
    with Machine.start(old(tmp_path), home=home, legacy=True, paused=True) as machine:
        with pytest.raises(DriverError, match="can't be changed while it runs"):
            machine.attach(card(5))
        machine.attach(card(5), live=False)
        assert "00:05" in machine.definition
        machine.detach("52:54:00:00:00:05", live=False)
        assert "00:05" not in machine.definition


def test_wrong_expectation_is_told(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from qemushim.classic.predict import predict as real

    def shifted(*given: object) -> object:
        found = real(*given)  # type: ignore[arg-type]
        return {device: place._replace(slot=31) for device, place in found.items() if device.tag == "video"}

    monkeypatch.setattr("qemushim.driver.starting.predict", shifted)
    with Machine.start(old(tmp_path), home=home, legacy=True, paused=True) as machine:
        assert machine.differences == ["video cirrus is at 0000:00:02.0, not at 0000:00:1f.0"]


def test_human_monitor_that_goes_away(home: Path, tmp_path: Path) -> None:
    with Machine.start(old(tmp_path), home=home, legacy=True, paused=True) as machine:
        with machine.monitor() as monitor:
            assert isinstance(monitor, TextMonitor)
            assert monitor.status() == "prelaunch"
            monitor.quit()
        end = machine.wait(20)
        assert end is not None
        assert end.status == 0
    with pytest.raises(MonitorError, match="no monitor answers"):
        open_monitor("human", str(tmp_path / "nothing"), 0.1)


def test_no_flags_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match="cannot ask"):
        flag_emulator(str(tmp_path / "nothing"))
