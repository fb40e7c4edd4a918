"""Guests of our own on the command line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemushim.cli import main
from qemushim.driver import Machine
from tests.conftest import ROOT
from tests.machines import (
    SECONDS,
    booting,
    card,
    disk,
    eventually,
    guest,
    image,
    processes_below,
    sockets_below,
)

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("qemu")]


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("m")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = tmp_path / "qemushim"
    yield folder
    for name in Machine.names(folder):
        Machine.open(name, home=folder).kill()
    assert eventually(lambda: not processes_below(tmp_path)), processes_below(tmp_path)
    assert not sockets_below(tmp_path)


@pytest.fixture
def document(home: Path, tmp_path: Path) -> Path:
    path = tmp_path / "web.xml"
    path.write_text(guest("web", booting(tmp_path) + "<serial type='pty'/>"))
    return path


def test_a_guests_life(document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(*words: str, code: int = 0) -> str:
        assert main(words) == code
        out, err = capsys.readouterr()
        return out + err

    text = said("run", str(document), "--detach")
    assert re.match(r"web: running, process \d+, \S+qemu\S+\n  serial0: /dev/pts/\d+\n  log: \S+/log\n", text)
    assert re.search(r"^1 +web +running +\d+ +serial0=/dev/pts/\d+$", said("list"), re.MULTILINE)
    [status] = json.loads(said("list", "--format", "json", "--running"))
    assert (status["name"], status["state"], status["detached"]) == ("web", "running", True)
    assert "running already" in said("run", str(document), code=1)
    device = tmp_path / "card.xml"
    device.write_text(card(2))
    assert "<address type='pci'" in said("attach", "web", str(device))
    assert "<address type='pci'" in said("attach", "web", disk(image(tmp_path / "more"), "vdb"), "--config")
    assert ("vdb" in said("show", "web"), "vdb" in said("show", "web", "--config")) == (False, True)
    assert said("show", "web", "--verify").startswith("every device is where it was planned to be: ")
    assert "called 'nobody'" in said("detach", "web", "nobody", code=1)
    assert (
        said("detach", "web", "52:54:00:00:00:02", "--timeout", "30")
        == "web: interface 52:54:00:00:00:02 is gone\n"
    )
    assert said("detach", "web", "vdb", "--config") == "web: disk vdb is gone\n"
    assert said("stop", "web", "--timeout", "30") == "web: shut down\n"
    assert "is off" in said("stop", "web", code=1)
    assert "is off" in said("attach", "web", card(3), "--live", code=1)
    assert "<address type='pci'" in said("attach", "web", card(3))
    assert said("detach", "web", "52:54:00:00:00:03") == "web: interface 52:54:00:00:00:03 is gone\n"
    assert re.search(r"^- +web +off +-$", said("list"), re.MULTILINE)
    assert "# -name guest=web" in said("log", "web")
    # by its name, from what is kept
    assert said("run", "web", "--detach", "--paused").startswith("web: prelaunch")
    assert said("resume", "web") == "web: running\n"
    assert said("pause", "web") == "web: paused\n"
    assert "is running" in said("forget", "web", code=1)
    assert said("stop", "web", "--force") == "web: quit\n"
    assert said("forget", "web") == "web: forgotten\n"
    assert "no guest is called 'web'" in said("show", "web", code=1)


def test_what_happened_is_told_by_the_next_call(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(document), "--detach"]) == 0
    machine = Machine.open("web")
    os.kill(machine.status().pid, signal.SIGKILL)
    assert eventually(lambda: machine.running is None)
    capsys.readouterr()
    assert main(["show", "web"]) == 0
    out, err = capsys.readouterr()
    assert out == machine.definition
    assert "note: guest 'web' was killed by SIGKILL at " in err


def test_secrets_that_can_not_be_read(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(document), "--secret", "a"]) == 1
    assert "--secret ID=FILE" in capsys.readouterr().err
    assert main(["run", str(document), "--secret", "a=/nowhere"]) == 1
    assert "cannot read the secret" in capsys.readouterr().err
    assert main(["attach", "web", "/nowhere/device.xml"]) == 1


def test_neither_a_file_nor_a_guest(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "nobody"]) == 1
    assert capsys.readouterr().err == (
        "no file and no guest is called 'nobody'\nhint: a domain document starts the first guest\n"
    )
    text = document.read_text()
    document.write_text(text.replace("type='raw'", "type='qcow2'"))
    assert main(["run", str(document)]) == 1
    assert main(["list"]) == 0
    assert re.search(r"^- +web +off +- +never ran: qemushim log web$", capsys.readouterr().out, re.MULTILINE)
    assert main(["run", "web"]) == 1
    assert "has no definition" in capsys.readouterr().err


def in_front(document: Path, *more: str) -> subprocess.Popen[str]:
    """``qemushim run`` as a terminal has it; returned when the guest runs."""
    child = subprocess.Popen(
        (sys.executable, "-m", "qemushim", "run", str(document), *more),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    for line in child.stdout:
        if "log:" in line:
            return child
    raise AssertionError(f"it ended with {child.wait()}")


def rest(child: subprocess.Popen[str]) -> tuple[str, int]:
    text, _ = child.communicate(timeout=SECONDS)
    return text, child.returncode


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_guest_shuts_down(document: Path, number: signal.Signals) -> None:
    document.write_text(document.read_text().replace("<acpi/>", ""))
    child = in_front(document, "--timeout", "0.3")
    child.send_signal(number)
    text, code = rest(child)
    assert "shutting down" in text
    assert text.endswith("web: quit\n")
    assert code == 130
    assert Machine.open("web").running is None


def test_interrupted_twice_it_ends_at_once(document: Path) -> None:
    document.write_text(document.read_text().replace("<acpi/>", ""))
    child = in_front(document)
    assert child.stdout is not None
    child.send_signal(signal.SIGINT)
    assert "once more" in child.stdout.readline()
    child.send_signal(signal.SIGINT)
    text, code = rest(child)
    assert (text, code) == ("web: killed\n", 130)


def test_interrupted_over_and_over(document: Path, tmp_path: Path) -> None:
    """Whenever they come, and however fast: it ends, and leaves nothing behind."""
    document.write_text(document.read_text().replace("<acpi/>", ""))
    child = in_front(document)
    while child.poll() is None:
        child.send_signal(signal.SIGINT)
    text, code = rest(child)
    assert "Traceback" not in text
    assert text.endswith(("web: killed\n", "web: quit\n"))
    # the last one may come when Python is on its way out; a shell says 130 for both
    assert code in (130, -signal.SIGINT)
    assert Machine.open("web").folder.running() is None
    assert Machine.open("web").notes == []


def test_guest_stopped_from_elsewhere(document: Path) -> None:
    child = in_front(document)
    assert Machine.open("web").stop(force=True) == "quit"
    assert rest(child) == ("web: ended\n", 0)


def test_crash_is_a_failure(document: Path) -> None:
    child = in_front(document)
    os.kill(Machine.open("web").status().pid, signal.SIGSEGV)
    text, code = rest(child)
    assert text.startswith("web: was killed by SIGSEGV\n")
    assert code == 1


def test_guest_ends_with_the_tool(document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    child = in_front(document)
    child.kill()
    child.communicate()
    assert eventually(lambda: not processes_below(tmp_path))
    assert main(["list"]) == 0
    assert "guest 'web' ended, because who had started it was gone" in capsys.readouterr().err
    assert main(["run", str(document), "--detach", "--paused"]) == 0
