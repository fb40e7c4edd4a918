"""How many more devices fit, and what to add for more."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qemushim.cli import main
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.inspect.slots import BY_NAME, MOST, Count, counts, plan
from qemushim.inspect.survey import survey
from tests.conftest import ROOT
from tests.small_guests import LATEST, S390
from tests.test_inspect_names import document

EXAMPLE = ROOT / "examples" / "web-server.xml"
HOST = Host.nominal()


def web() -> Guest:
    return Guest.from_xml(EXAMPLE.read_bytes(), str(EXAMPLE))


def counted(guest: Guest) -> dict[str, Count]:
    return {count.sort: count for count in counts(guest, LATEST, HOST)}


def test_counts_of_a_pci_express_guest() -> None:
    found = counted(web())
    assert found["nic"].hot == 1  # the port that a new definition keeps free
    assert found["nic"].cold > 200
    assert found["nic-pci"].hot == 0
    assert "pcie-to-pci-bridge" in found["nic-pci"].more
    assert found["disk-sata"].hot == 0
    assert found["disk-ide"].cold == 0
    assert found["disk-ide"].why.startswith("unsupported configuration: IDE")


def test_the_cold_count_is_where_a_definition_is_refused() -> None:
    ide = "".join(
        f"<disk type='file'><source file='/{d}'/><target dev='hd{d}' bus='ide'/></disk>" for d in "ab"
    )
    assert counted(Guest.from_xml(document(ide, "pc")))["disk-ide"].cold == 2


def test_an_i440fx_without_acpi_takes_nothing_while_it_runs() -> None:
    assert counted(Guest.from_xml(document("", "pc")))["nic"].hot > 20
    without = counted(Guest.from_xml(document("", "pc", features="")))["nic"]
    assert (without.hot, without.more) == (0, "")


def test_ccw_has_room() -> None:
    guest = Guest.from_xml(document("", "s390-ccw-virtio", "s390x", ""))
    found = {c.sort: c for c in counts(guest, S390, Host.nominal("s390x"))}
    assert found["nic"].hot == MOST


@pytest.mark.parametrize("defined", [False, True])
def test_a_plan_is_enough_and_not_too_much(defined: bool) -> None:
    guest = web().define(LATEST, HOST) if defined else web()
    made = plan(guest, [(4, "nic")], LATEST, HOST)
    assert len(made.add) == 3
    assert counted(made.guest)["nic"].hot == 4
    assert not plan(made.guest, [(4, "nic")], LATEST, HOST).add


def test_what_is_wanted_together_is_counted_together() -> None:
    made = plan(web(), [(3, "nic"), (2, "disk"), (2, "disk-scsi")], LATEST, HOST)
    assert sum("pcie-root-port" in xml for xml in made.add) == 5  # the SCSI controller takes one
    assert not plan(made.guest, made.wanted, LATEST, HOST).add


def test_conventional_cards_get_a_bridge() -> None:
    [bridge] = plan(web(), [(3, "nic-pci")], LATEST, HOST).add
    assert "pcie-to-pci-bridge" in bridge
    full = web().define(LATEST, HOST)
    full = full.attach("<interface type='user'><model type='virtio'/></interface>", LATEST, HOST)
    port, bridge = plan(full, [(1, "nic-pci")], LATEST, HOST).add
    assert "pcie-root-port" in port
    assert "pcie-to-pci-bridge" in bridge


def test_a_plan_leaves_devices_where_they_are() -> None:
    guest = web().define(LATEST, HOST)
    made = plan(guest, [(4, "nic")], LATEST, HOST)
    before = survey(guest, LATEST, HOST).domain
    after = survey(made.guest, LATEST, HOST).domain
    assert [d.node.value("address/@bus") for d in before.lists["interface"]] == [
        d.node.value("address/@bus") for d in after.lists["interface"]
    ]


@pytest.mark.parametrize("name", ["disk-sata", "disk-ide"])
def test_what_can_not_be_plugged(name: str) -> None:
    with pytest.raises(ConfigError, match="none can be plugged while the guest runs"):
        plan(web(), [(1, name)], LATEST, HOST)


def test_no_room_however_many_controllers() -> None:
    with pytest.raises(ConfigError, match="no controller makes room for 256 × network card"):
        plan(web(), [(MOST, "nic")], LATEST, HOST)


@pytest.mark.parametrize("sort", BY_NAME.values(), ids=BY_NAME)
def test_every_kind_can_be_had_somewhere(sort: object) -> None:
    found = [counted(Guest.from_xml(document("", machine))) for machine in ("pc",)]
    assert any(count[sort.name].cold for count in found)  # type: ignore[attr-defined]


# -- the command -------------------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slots", str(EXAMPLE)]) == 0
    assert "nic" in capsys.readouterr().out
    assert main(["slots", str(EXAMPLE), "--want", "2", "nic"]) == 0
    assert capsys.readouterr().out == "<controller type='pci' model='pcie-root-port' index='10'/>\n"
    assert main(["slots", str(EXAMPLE), "--want", "1", "nic"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err[:5]) == ("", "note:")
    assert main(["slots", str(EXAMPLE), "--want", "1", "disk-ide"]) == 1


def test_apply(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "web.xml"
    file.write_bytes(EXAMPLE.read_bytes())
    file.chmod(0o640)
    assert main(["slots", str(file), "--want", "3", "nic", "--apply"]) == 0
    new = file.read_text().splitlines()
    added = [line for line in new if line not in EXAMPLE.read_text().splitlines()]
    assert len(added) == 2
    assert [line for line in new if line not in added] == EXAMPLE.read_text().splitlines()
    assert file.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in tmp_path.iterdir()] == ["web.xml"]
    again = file.read_bytes()
    assert main(["slots", str(file), "--want", "3", "nic", "--apply"]) == 0
    assert file.read_bytes() == again


def test_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["slots", str(EXAMPLE), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "qemushim.slots/1"
    assert {"sort", "words", "cold", "hot", "more", "why"} == data["counts"][0].keys()
    assert main(["slots", str(EXAMPLE), "--want", "2", "nic", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["add"]) == 1


@pytest.mark.parametrize(
    "words",
    [
        ("--want", "1", "spaceship"),
        ("--want", "x", "nic"),
        ("--want", "0", "nic"),
        ("--apply",),
        ("--want", "1"),
    ],
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["slots", str(EXAMPLE), *words])
    assert stop.value.code == 2
