"""Where arguments come from, and what a line of the document does."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from qemushim.cli import main
from qemushim.emulator.bundled import find
from qemushim.errors import ConfigError, ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.inspect.explain import ADDED, ALWAYS_THERE, DOCUMENT, Argument, explain, explain_line
from qemushim.inspect.questions import Question, WatchedEmulator
from tests.conftest import ROOT
from tests.goldens import GOLDEN, Golden, cases
from tests.small_guests import LATEST, OLD

EXAMPLE = ROOT / "examples" / "web-server.xml"
HOST = Host.nominal()
#: one in four of the golden cases' own documents
DOCUMENTS = [path for path in sorted(GOLDEN.glob("*.xml")) if "." not in path.stem][::4]


def web() -> Guest:
    return Guest.from_xml(EXAMPLE.read_bytes(), str(EXAMPLE))


def line_of(text: str) -> int:
    return next(n for n, line in enumerate(EXAMPLE.read_text().splitlines(), 1) if text in line)


def arguments(alias: str) -> list[Argument]:
    return [a for a in explain(web(), LATEST, HOST).arguments if a.alias == alias]


def test_the_arguments_are_the_command_line() -> None:
    explained = explain(web(), LATEST, HOST).arguments
    words = [word for a in explained for word in (a.flag, a.value) if word is not None]
    assert words == list(web().command(LATEST, HOST))
    assert [a.number for a in explained] == list(range(1, len(explained) + 1))


def test_an_argument_knows_its_lines() -> None:
    netdev, device = arguments("net0")
    first = line_of("<interface type='bridge'>")
    assert (netdev.line, netdev.end, netdev.origin) == (first, first + 4, DOCUMENT)
    assert device.element == "interface 52:54:00:0a:01:10"
    assert device.place == "pci 0000:01:00.0"
    assert {f.path: f.value for f in device.filled}["address/@bus"] == "0x01"


def test_a_part_of_a_device_names_both() -> None:
    images = [a for a in arguments("virtio-disk0") if a.flag == "-blockdev"]
    assert {a.element for a in images} == {"disk vda <source>"}


def test_what_was_added_has_a_reason() -> None:
    added = [a for a in explain(web(), LATEST, HOST).arguments if a.origin == ADDED]
    assert added
    assert all(a.reason and not a.line for a in added)


def test_what_is_always_there_has_no_element() -> None:
    found = {a.flag for a in explain(web(), LATEST, HOST).arguments if a.origin == ALWAYS_THERE}
    assert {"-S", "-nodefaults", "-sandbox"} <= found


def test_abilities_that_were_looked_at() -> None:
    spelling = Question("qapi", "device_add/$json-cli-hotplug", True)
    device = arguments("net0")[1]
    assert spelling in device.asked
    watched = WatchedEmulator.of(LATEST)
    assert watched == LATEST or watched.flags == LATEST.flags
    assert (
        watched.with_flags(remove=["virtio-pci-non-transitional"]).flag("virtio-pci-non-transitional")
        is False
    )
    assert watched.asked[-1] == Question("capability", "virtio-pci-non-transitional", False)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.stem)
def test_every_argument_of_every_golden_says_what_it_is_for(path: Path) -> None:
    try:
        guest = Guest.from_xml(path.read_bytes(), str(path))
        emulator = find("0.12.3" if "classic" in path.name else "latest", guest.domain.arch or "x86_64")
        found = explain(guest, emulator, Host.nominal(emulator.arch))
    except ConfigError:
        return
    assert all(a.rule for a in found.arguments)
    assert all(a.reason for a in found.arguments if a.origin == ADDED)


# -- lines -------------------------------------------------------------------------------------------------


def test_a_line_that_makes_arguments() -> None:
    found = explain_line(web(), line_of("<interface type='bridge'>"), LATEST, HOST)
    assert [a.alias for a in found.arguments] == ["net0", "net0"]
    assert found.last == found.first + 4


def test_a_line_inside_a_device() -> None:
    found = explain_line(web(), line_of("discard='unmap'"), LATEST, HOST)
    assert found.elements == ("driver",)
    assert not found.arguments
    assert {a.alias for a in found.around} == {"virtio-disk0"}
    assert any("qcow2" in text for text in found.removed)
    assert not any("qcow2" in text and '"driver":"qcow2"' in text for text in found.added)


def test_an_end_tag_belongs_to_its_element() -> None:
    assert explain_line(web(), line_of("</features>"), LATEST, HOST).elements == ("features",)


def test_a_device_is_taken_out_where_the_others_stay() -> None:
    found = explain_line(web(), line_of("dev='vdb'"), LATEST, HOST)
    assert found.refusal
    whole = explain_line(web(), line_of("<disk type='block'"), LATEST, HOST)
    assert not any('"pci.1"' in text for text in (*whole.removed, *whole.added))


def test_a_line_that_nothing_depends_on() -> None:
    found = explain_line(web(), line_of("<clock offset='utc'/>"), LATEST, HOST)
    assert (found.refusal, found.removed, found.added) == ("", (), ())


def test_a_line_that_is_not_there() -> None:
    with pytest.raises(ConfigError, match="no element of the document is at line 999"):
        explain_line(web(), 999, LATEST, HOST)


# -- the command -------------------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(EXAMPLE), "NET0"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("-netdev ")
    assert "<interface type='bridge'>" in text
    assert main(["explain", str(EXAMPLE), "[{"]) == 1  # no regular expression: looked for as it is
    assert main(["explain", str(EXAMPLE), "no such argument"]) == 1
    assert main(["explain", str(EXAMPLE), "--line", "18"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", str(EXAMPLE), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "qemushim.explain/1"
    assert {"number", "flag", "value", "origin", "line", "filled", "asked"} <= data["arguments"][0].keys()
    assert main(["explain", str(EXAMPLE), "--line", "3", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "qemushim.explain-line/1"
    assert data["without"]["refusal"]


def test_a_table_for_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["explain", str(EXAMPLE)]) == 0
    assert "ARGUMENT" in capsys.readouterr().out


def test_line_and_pattern_do_not_go_together() -> None:
    with pytest.raises(SystemExit) as stop:
        main(["explain", str(EXAMPLE), "net0", "--line", "3"])
    assert stop.value.code == 2


def test_an_older_qemu_spells_otherwise() -> None:
    found = explain(web(), OLD, HOST).arguments
    assert any(a.flag == "-netdev" and a.value and a.value.startswith("tap,") for a in found)


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.id)
def test_every_argument_is_explained(case: Golden) -> None:
    """Of every golden case, whatever its architecture and age."""
    emulator = find(case.emulator, case.arch)
    try:
        guest = Guest.from_xml(case.path.read_bytes(), case.path.name)
        whole = explain(guest, emulator, case.host(emulator.arch), update=case.get("existing") != "yes")
    except ShimError:
        # there is no command line of it, unless devices join or leave first
        assert not case.file("args").exists() or case.get("attach") or case.get("detach")
        return
    for argument in whole.arguments:
        # more than the name of the option in other words
        assert len(argument.rule.split()) >= 3, argument
        assert argument.rule == argument.rule.strip()
        assert not argument.rule.endswith(".")
        if argument.origin == "document" and argument.element != "domain":
            assert 0 < argument.line <= argument.end <= len(whole.source), argument
        if argument.origin == "added":
            assert argument.reason, argument


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["explain", str(ROOT / "examples" / "web-server.xml")]) == 0
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    if columns < 100:
        # every argument in full, what it is for below it
        at = lines.index(
            next(line for line in lines if line.startswith('-device {"driver":"virtio-net-pci"'))
        )
        assert lines[at].endswith("}")
        assert "a network card of model virtio" in lines[at + 1]
    else:
        assert any("-device virtio-net-pci net0" in line for line in lines)
        assert max(map(len, lines)) <= columns
