"""``qemushim check``: every independent mistake once, with its line, for many files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qemushim.cli import main

GOOD = """<domain type='kvm'>
  <name>good</name>
  <memory unit='MiB'>512</memory>
  <vcpu>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
  </devices>
</domain>
"""
#: lines 7 to 16
DEVICES = """  <disk type='file'><source file='/a'/><target dev='hda' bus='warp'/></disk>
  <disk type='file'><source file='/b'/></disk>
  <interface type='user'><mac address='52:54:zz:00:00:01'/></interface>
  <interface type='user'>
    <address type='pci' slot='7'/>
  </interface>
  <interface type='user'>
    <address type='pci' slot='7'/>
  </interface>
  <tpm model='tpm-tis'/>
"""
BAD = GOOD.replace("<vcpu>", "<vcpu placement='sometimes'>").replace("  </devices>", DEVICES + "  </devices>")
LINES = [4, 7, 8, 9, 13, 16]


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    (tmp_path / "good.xml").write_text(GOOD)
    (tmp_path / "bad.xml").write_text(BAD)
    return str(tmp_path / "good.xml"), str(tmp_path / "bad.xml")


def test_all_at_once(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = files
    assert main(["check", good, bad]) == 1
    out, err = capsys.readouterr()
    told = [line for line in out.splitlines() if not line.startswith("hint: ")]
    assert [int(line.split(":")[1]) for line in told] == LINES
    assert all(line.startswith(f"{bad}:") for line in told)
    assert err == "2 documents checked, 1 refused, 6 problems\n"


def test_nothing_wrong(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", files[0], "--qemu", "6.2"]) == 0
    assert capsys.readouterr() == ("", "1 document checked, all right\n")


def test_data(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = files
    assert main(["check", "--format", "json", good, bad, "/none.xml"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert [document["ok"] for document in found["documents"]] == [True, False, False]
    assert found["summary"] == {"documents": 3, "refused": 2, "problems": 7}
    assert [problem["line"] for problem in found["documents"][1]["problems"]] == LINES
    first = found["documents"][1]["problems"][0]
    assert first == {
        "file": bad,
        "line": 4,
        "element": "vcpu",
        "message": "XML error: Invalid value for attribute 'placement' in element 'vcpu': 'sometimes'.",
        "hint": "one of: static, auto",
    }


@pytest.mark.parametrize("subcommand", ["argv", "define"])
def test_errors_of_others_as_data(
    subcommand: str, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([subcommand, "--format", "json", files[1]]) == 1
    out, err = capsys.readouterr()
    assert not out
    assert [problem["line"] for problem in json.loads(err)["problems"]] == [4]


def test_a_classic_emulator_too(files: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--qemu", "qemu-kvm-0.12.3", files[1]]) == 1
    assert len(capsys.readouterr().out.splitlines()) > 4
