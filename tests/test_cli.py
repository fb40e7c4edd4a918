"""The command line as users meet it."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from qemushim.cli import SUBCOMMANDS, main
from tests.conftest import ROOT

EXAMPLE = str(ROOT / "examples" / "web-server.xml")


def out(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(words) == 0
    return capsys.readouterr().out


def test_three_formats_say_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "argv", EXAMPLE, "--qemu", "10.0")
    tokens = shlex.split(text.replace("\\\n", ""))
    assert out(capsys, "argv", EXAMPLE, "--qemu", "10.0", "--format", "lines").splitlines() == tokens
    document = json.loads(out(capsys, "argv", EXAMPLE, "--qemu", "10.0", "--format", "json"))
    assert [f"{k}={v}" for k, v in document["environment"].items()] + document["argv"] == tokens
    assert document["argv"][0] == "/usr/bin/qemu-system-x86_64"


def test_example_has_every_device_addressed(capsys: pytest.CaptureFixture[str]) -> None:
    text = out(capsys, "define", EXAMPLE, "--qemu", "10.0")
    assert "machine='pc-q35-10.0'" in text
    assert text.count("<address type='pci'") >= 9
    argv = json.loads(out(capsys, "argv", EXAMPLE, "--qemu", "10.0", "--format", "json"))["argv"]
    devices = [json.loads(v) for k, v in pairwise(argv) if k == "-device"]
    drivers = [d["driver"] for d in devices]
    assert drivers.count("virtio-blk-pci") == 2
    assert drivers.count("virtio-net-pci") == 2
    assert {"ide-cd", "virtserialport", "virtio-balloon-pci", "virtio-rng-pci", "VGA"} - set(drivers) <= {
        "VGA"
    }
    places = [(d["bus"], d["addr"]) for d in devices if "addr" in d]
    assert len(places) == len(set(places))


def test_a_definition_is_stable(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    first = out(capsys, "define", EXAMPLE)
    file = tmp_path / "defined.xml"
    file.write_text(first)
    assert out(capsys, "define", str(file)) == first
    assert out(capsys, "define", str(file), "--existing") == first
    assert out(capsys, "argv", str(file)) == out(capsys, "argv", EXAMPLE)


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "qemushim", "define", "-"],
        cwd=ROOT,
        input=Path(EXAMPLE).read_bytes(),
        capture_output=True,
        check=True,
    )
    assert b"<name>web-1</name>" in done.stdout


def test_emulators(capsys: pytest.CaptureFixture[str]) -> None:
    known = json.loads(out(capsys, "emulators", "--format", "json"))
    names = {e["name"] for e in known}
    assert {"0.9.1", "qemu-kvm-0.12.3", "1.2.0", "6.2.0-x86_64", "10.0.0-x86_64"} <= names
    assert out(capsys, "emulators").splitlines()[0].split() == ["NAME", "QEMU", "ARCHITECTURE", "KNOWN", "BY"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "tcsh"])
def test_completion(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "qemushim" in out(capsys, "completion", shell)


@pytest.mark.parametrize("words", [[], *([name] for name in SUBCOMMANDS)])
def test_help_teaches(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0
    assert "usage: qemushim" in capsys.readouterr().out


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f"{shlex.quote(sys.executable)} -m qemushim argv {shlex.quote(EXAMPLE)} | head -n 1",
        shell=True,
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert done.stderr == b""


def test_the_result_does_not_depend_on_the_machine(tmp_path: Path) -> None:
    """Same words from another folder, home, user and locale."""
    command = [sys.executable, "-m", "qemushim", "argv", EXAMPLE]
    here = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    env = {
        "PATH": "/nowhere",
        "HOME": str(tmp_path),
        "LANG": "tr_TR.UTF-8",
        "TZ": "Asia/Kolkata",
        "PYTHONPATH": str(ROOT),
    }
    there = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, check=True).stdout
    assert here == there
    assert os.fsencode(str(tmp_path)) not in there
