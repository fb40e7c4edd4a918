"""``qemushim probe``, ``capabilities`` and ``domcapabilities`` as users meet them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from qemushim.capabilities.domain import domain_capabilities
from qemushim.capabilities.layout import text
from qemushim.cli import main
from qemushim.cli.binaries import by_architecture, installed
from qemushim.emulator.bundled import recorded
from qemushim.host import Host
from tests.conftest import ROOT

EXAMPLE = str(ROOT / "examples" / "web-server.xml")
#: speaks no QMP; what it does before its help is put in
SCRIPT = """#!/bin/sh
case "$1" in
-help) {action}
  echo "QEMU PC emulator version {version}, Copyright"; echo "-device driver"; echo "-enable-kvm";;
-M)
  echo "Supported machines are:"
  echo "pc  Standard PC (alias of pc-{version})"
  echo "pc-{version}  Standard PC (default)";;
-device) echo 'name "usb-hub", bus USB' >&2; exit 1;;
*) echo "qemu: invalid option" >&2; exit 1;;
esac
"""

Make = Callable[..., str]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a binary that is known by its help text."""

    def make(name: str = "qemu-system-x86_64", version: str = "0.12.9", action: str = "") -> str:
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(SCRIPT.format(version=version, action=action))
        path.chmod(0o755)
        return str(path)

    return make


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(words)
    said = capsys.readouterr()
    return code, said.out, said.err


# -- probe -------------------------------------------------------------------------------------------------


def test_report(capsys: pytest.CaptureFixture[str], make: Make) -> None:
    path = make()
    code, out, err = run(capsys, "probe", path)
    assert (code, err) == (0, "")
    assert out.startswith(f"{path}\n  version        0.12.9\n  architecture   x86_64\n")
    assert "known by       its help text" in out
    assert "pc-0.12.9" in out


def test_report_of_a_recorded_emulator(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "probe", "10.0", "8.2-aarch64")
    assert code == 0
    first, second = out.split("\n\n")
    assert first.startswith("QEMU 10.0.0 for x86_64, as it was recorded\n")
    assert "usable: 486 486-v1 base" in first
    assert "libvirt's default" in next(line for line in first.splitlines() if "pc-i440fx-10.0 " in line)
    assert "deprecated" in next(line for line in first.splitlines() if "pc-i440fx-2.12 " in line)
    assert "host abilities GIC v3" in second
    assert max(map(len, out.splitlines())) <= 100


def test_data(capsys: pytest.CaptureFixture[str], make: Make) -> None:
    code, out, _ = run(capsys, "probe", "--format", "json", make(), "10.0+amdsev")
    assert code == 0
    old, new = json.loads(out)
    assert (old["known_by"], old["domain_types"]) == ("help text", ["qemu", "kvm"])
    assert (new["version"], new["variant"], new["arch"]) == ("10.0.0", "amdsev", "x86_64")
    assert new["sev"]["cbitpos"] == 51
    assert [a["name"] for a in new["accelerators"]] == ["kvm", "tcg"]
    assert {"name": "pc-i440fx-10.0", "alias": "pc"}.items() <= new["accelerators"][0]["machines"][0].items()
    assert "virtio-blk-pci" in new["types"]
    assert new["capabilities"][0] == "kvm"


def test_several_are_asked_at_once(capsys: pytest.CaptureFixture[str], make: Make, tmp_path: Path) -> None:
    """Each waits for the other."""
    wait = "i=0; while [ ! -e {0}/{2} ] && [ $i -lt 300 ]; do sleep 0.05; i=$((i+1)); done"
    meet = f"touch {{0}}/{{1}}; {wait}; test -e {{0}}/{{2}} || exit 9"
    first = make("a", "0.12.1", meet.format(tmp_path, "a", "b"))
    second = make("b", "0.12.2", meet.format(tmp_path, "b", "a"))
    code, out, err = run(capsys, "probe", first, second)
    assert (code, err) == (0, "")
    assert out.index("0.12.1") < out.index("0.12.2")


def test_one_that_fails_does_not_spoil_the_others(capsys: pytest.CaptureFixture[str], make: Make) -> None:
    good, bad = make("good"), make("bad", action="exit 3")
    code, out, err = run(capsys, "probe", bad, good, "/no/such/file")
    assert code == 1
    assert out.startswith(good)
    lines = [line for line in err.splitlines() if not line.startswith("hint: ")]
    assert len(lines) == 2
    assert lines[0].startswith(f"'{bad}' does not answer as a QEMU does")
    assert lines[1] == "there is no file '/no/such/file'"


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15), (signal.SIGHUP, -1)]
)
def test_stopped_by_a_signal(number: int, status: int, make: Make, tmp_path: Path) -> None:
    """The binary does not outlive the one who asked it, nor does its folder."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    path = make(action=f"echo $$ > {tmp_path}/pid.new; mv {tmp_path}/pid.new {tmp_path}/pid; sleep 100")
    asker = subprocess.Popen(
        [sys.executable, "-m", "qemushim", "probe", path],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    while not (tmp_path / "pid").exists():
        assert asker.poll() is None
        time.sleep(0.01)
    asker.send_signal(number)
    _, said = asker.communicate(timeout=20)
    assert (asker.returncode, said) == (status, "")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert list(temporary.iterdir()) == []


def test_remembered_until_refreshed(capsys: pytest.CaptureFixture[str], make: Make, tmp_path: Path) -> None:
    path = make(action=f"echo x >> {tmp_path}/calls")
    for words in ((), (), ("--refresh",)):
        assert run(capsys, "probe", path, *words)[0] == 0
    assert (tmp_path / "calls").read_text() == "x\nx\n"


def test_saved_snapshot(capsys: pytest.CaptureFixture[str], make: Make, tmp_path: Path) -> None:
    file = tmp_path / "mine.snapshot"
    path = make()
    assert run(capsys, "probe", path, "--save", str(file))[0] == 0
    os.unlink(path)
    code, out, _ = run(capsys, "probe", str(file))
    assert (code, "0.12.9" in out) == (0, True)
    assert run(capsys, "argv", EXAMPLE, "--qemu", str(file), "--format", "json")[0] in (0, 1)
    code, _, err = run(capsys, "probe", str(file), "--save", str(tmp_path / "no" / "where"))
    assert code == 1
    assert err == f"cannot write '{tmp_path}/no/where': No such file or directory\n"


def test_one_snapshot_at_a_time(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["probe", "10.0", "9.2", "--save", "x"])
    assert caught.value.code == 2
    assert "one binary at a time" in capsys.readouterr().err


def test_everything_on_path(
    capsys: pytest.CaptureFixture[str], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make("qemu-system-x86_64", "0.12.1")
    second = make("qemu-system-i386", "0.12.2")
    (tmp_path / "bin" / "qemu-system-text").write_text("not executable")
    later = tmp_path / "later"
    later.mkdir()
    (later / "qemu-system-i386").symlink_to(second)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{tmp_path}/missing:{later}:/bin")
    assert [name for name in installed() if str(tmp_path) in name] == [second, first]
    code, out, _ = run(capsys, "probe")
    assert code == 0
    assert {first, second} <= set(out.splitlines())


@pytest.mark.parametrize("subcommand", ["probe", "capabilities"])
def test_nothing_is_installed(
    subcommand: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("qemushim.cli.binaries._NATIVE", ())
    code, out, err = run(capsys, subcommand)
    assert (code, out) == (1, "")
    assert err.splitlines()[0] == "no QEMU is installed on this machine"
    assert "latest" in err


def test_nearest_version_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "probe", "~9.1.3")
    assert (code, "9.1.0" in out) == (0, True)
    assert err == "note: no QEMU 9.1.3 for x86_64 comes with this package; taking the nearest: 9.1.0-x86_64\n"
    assert run(capsys, "probe", "~9.1.0")[2] == ""
    code, out, err = run(capsys, "probe", "9.1.3")
    assert (code, out) == (1, "")
    assert err.startswith("no QEMU '9.1.3' for x86_64 comes with this package\nhint: there are x86_64: 6.2.0")


def test_progress_line_on_a_terminal(make: Make) -> None:
    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "qemushim", "probe", make(action="sleep 0.3")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        timeout=60,
        check=False,
    )
    os.close(slave)
    said = b""
    try:
        while part := os.read(master, 4096):
            said += part
    except OSError:
        pass  # Linux says so where the other side has closed
    os.close(master)
    assert done.returncode == 0
    assert b"asking QEMU" in said
    assert b"1/1" in said
    assert b"asking" not in done.stdout
    assert b"\x1b" not in done.stdout


def test_no_terminal_no_progress(make: Make) -> None:
    code = "import sys; from qemushim.cli import main; main(sys.argv[1:]); assert 'rich' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code, "probe", make()], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


# -- capabilities ------------------------------------------------------------------------------------------


def test_capabilities_of_versions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "capabilities", "--qemu", "10.0", "--qemu", "8.2-aarch64", "--qemu", "9.2")
    assert (code, err) == (0, "")
    assert out.startswith("<capabilities>\n\n  <host>\n")
    root = ElementTree.fromstring(out)
    assert [arch.get("name") for arch in root.iter("arch") if arch.get("name")] == ["aarch64", "x86_64"]
    canonical = {m.text: m.get("canonical") for m in root.iter("machine")}
    assert canonical["pc"] == "pc-i440fx-10.0"
    assert canonical["virt"] == "virt-8.2"
    assert canonical["pc-i440fx-10.0"] is None


def test_capabilities_of_this_machine(
    capsys: pytest.CaptureFixture[str], make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = make("qemu-system-x86_64")
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:/bin")
    monkeypatch.setattr("qemushim.local.local_arch", lambda: "x86_64")
    monkeypatch.setattr("qemushim.cli.binaries._PREFIX", "qemu-system-")
    binaries = {arch: found for arch, found in by_architecture("x86_64").items() if str(tmp_path) in found}
    assert binaries["x86_64"] == path
    code, out, _ = run(capsys, "capabilities")
    assert code == 0
    arches = ElementTree.fromstring(out).findall("guest/arch")
    found = {arch.get("name"): arch.findtext("emulator") for arch in arches}
    assert found["x86_64"] == path
    assert list(found) == sorted(found, key=list(by_architecture("x86_64")).index)


def test_binaries_for_an_architecture(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.setattr("qemushim.cli.binaries._NATIVE", ("qemu-kvm",))
    kvm = make("qemu-kvm")
    assert by_architecture("ppc64le") == {"ppc64": kvm, "ppc64le": kvm}
    wide = make("qemu-system-x86_64")
    assert by_architecture("x86_64") == {"i686": wide, "x86_64": wide}
    small = make("qemu-system-i386")
    assert by_architecture("x86_64") == {"i686": small, "x86_64": wide}
    arm, arm64 = make("qemu-system-arm"), make("qemu-system-aarch64")
    on_arm = by_architecture("aarch64")
    assert (on_arm["armv6l"], on_arm["armv7l"], on_arm["aarch64"]) == (arm, arm64, arm64)
    assert by_architecture("x86_64")["armv7l"] == arm


def test_capabilities_of_one_that_fails(capsys: pytest.CaptureFixture[str], make: Make) -> None:
    code, out, err = run(capsys, "capabilities", "--qemu", "10.0", "--qemu", make(action="exit 3"))
    assert code == 1
    assert "<arch name='x86_64'>" in out
    assert "does not answer as a QEMU does" in err
    assert run(capsys, "capabilities", "--qemu", "nonsense")[:2] == (1, "")


# -- domcapabilities ---------------------------------------------------------------------------------------


def test_domain_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "domcapabilities", "--qemu", "9.2", "--machine", "q35", "--virttype", "qemu")
    assert (code, err) == (0, "")
    expected = domain_capabilities(recorded("9.2.0"), Host.nominal(), machine="q35", virt="qemu")
    assert out == text(expected)
    assert "<machine>pc-q35-9.2</machine>" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--machine", "nonsense"), "invalid argument: the machine 'nonsense' is not supported by emulator"),
        (
            ("--arch", "s390x", "--qemu", "9.2-x86_64"),
            "invalid argument: architecture from emulator 'x86_64' doesn't match",
        ),
        (
            ("--qemu", "0.12.3"),
            "unsupported configuration: QEMU version >= 6.2.0 is required, but 0.12.3 found",
        ),
        (("--qemu", "3.1"), "no QEMU '3.1' for x86_64 comes with this package"),
    ],
)
def test_refused(words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "domcapabilities", *words)
    assert (code, out) == (1, "")
    assert err.startswith(message)
    assert "hint: " in err


def test_architecture_chooses_the_recording(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "domcapabilities", "--arch", "s390x")
    assert code == 0
    assert "<machine>s390-ccw-virtio-10.0</machine>" in out


def test_recorded_without_kvm(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "domcapabilities", "--qemu", "9.0-sparc", "--virttype", "kvm")
    assert code == 0
    assert "<domain>kvm</domain>" in out
    assert err == "note: this QEMU was recorded without kvm\n"


def test_nearest_version_is_said_wherever_a_version_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (("domcapabilities",), ("capabilities",), ("argv", EXAMPLE)):
        code, _, err = run(capsys, *words, "--qemu", "~9.1.3")
        assert code == 0
        assert err.startswith("note: no QEMU 9.1.3"), words


@pytest.mark.qemu
def test_real_binary(capsys: pytest.CaptureFixture[str], qemu: str) -> None:
    code, out, _ = run(capsys, "probe", qemu)
    assert code == 0
    assert "known by       QMP" in out
    for words in (("capabilities",), ("domcapabilities",)):
        code, out, err = run(capsys, *words, "--qemu", qemu)
        assert (code, err) == (0, "")
        assert qemu in out
        ElementTree.fromstring(out)
    # without /dev/kvm this one is refused in libvirt's words
    code, out, err = run(capsys, "domcapabilities", "--qemu", qemu, "--virttype", "hvf")
    assert (code, out) == (1, "")
    assert err.startswith("invalid argument: domain type 'hvf' is not supported by")
