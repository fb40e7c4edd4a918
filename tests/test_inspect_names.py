"""What Linux calls network cards and disks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qemushim.cli import main
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.inspect.change import other_machine
from qemushim.inspect.names import compare_names, names
from qemushim.inspect.pcibus import machine_version
from qemushim.inspect.survey import survey
from tests.conftest import ROOT
from tests.small_guests import ARM, LATEST, MACHINES, PSERIES, S390

OLD_NIC = str(ROOT / "examples" / "old-nic.xml")


def document(devices: str, machine: str, arch: str = "x86_64", features: str = "<acpi/>") -> str:
    return (
        "<domain type='qemu'><name>g</name><uuid>6b0a4c4e-6f0e-4a54-9c65-0c9f5d6e7f81</uuid>"
        "<memory unit='MiB'>256</memory>"
        f"<vcpu>1</vcpu><os><type arch='{arch}' machine='{machine}'>hvm</type></os><features>{features}</features>"
        f"<devices>{devices}</devices></domain>"
    )


def called(
    devices: str, machine: str = "", emulator: Emulator = LATEST, features: str = "<acpi/>"
) -> list[str]:
    text = document(devices, machine or MACHINES[emulator.arch], emulator.arch, features)
    found = names(survey(Guest.from_xml(text), emulator, Host.nominal(emulator.arch)))
    return [named.name for named in found]


def nic(model: str = "virtio", more: str = "", number: int = 1) -> str:
    mac = f"<mac address='52:54:00:00:00:{number:02x}'/>"
    return f"<interface type='user'>{mac}<model type='{model}'/>{more}</interface>"


def disk(bus: str, target: str, more: str = "") -> str:
    return f"<disk type='file'><source file='/a'/><target dev='{target}' bus='{bus}'/>{more}</disk>"


def at(slot: int, bus: int = 0, function: int = 0) -> str:
    return f"<address type='pci' domain='0' bus='{bus}' slot='{slot}' function='{function}'/>"


@pytest.mark.parametrize(
    ("devices", "machine", "name"),
    [
        (nic(), "pc", "ens2"),
        (nic(more=at(9)), "pc", "ens9"),
        (nic(more="<acpi index='3'/>"), "pc", "eno3"),
        (nic(), "q35", "enp1s0"),
        (nic(more=at(5)), "q35", "enp0s5"),
        (nic("e1000"), "pc-q35-6.2", "ens1"),
        (nic("e1000"), "pc-q35-6.0", "ens1"),
        (nic("usb-net"), "pc", "enx525400000001"),
    ],
)
def test_network_cards(devices: str, machine: str, name: str) -> None:
    assert called(devices, machine)[0] == name


def test_without_acpi_there_are_no_slots_to_name_cards_by() -> None:
    assert called(nic(more="<acpi index='3'/>" + at(9)), "pc", features="<pae/>") == ["enp0s9"]


def test_behind_a_bridge_a_number_is_given_once() -> None:
    bridge = "<controller type='pci' index='1' model='pci-bridge'>" + at(4) + "</controller>"
    cards = nic("e1000", at(4, 1), 1) + nic("e1000", at(5, 1), 2)
    # slot 4 of the root bus is the bridge, which stays; slot 5 of the root bus has the name already
    assert called(bridge + cards, "pc") == ["ens4", "enp1s5"]


def test_several_functions() -> None:
    first = at(9).replace("/>", " multifunction='on'/>")
    assert called(nic("e1000", first, 1) + nic("e1000", at(9, function=1), 2), "pc") == ["ens9f0", "ens9f1"]


def test_bus_numbers_are_those_of_the_firmware() -> None:
    ports = "".join(
        f"<controller type='pci' index='{i}' model='pcie-root-port'>{at(slot)}</controller>"
        for i, slot in ((1, 6), (2, 5))
    )
    # a port of slot 1 is added (index 3), then comes slot 5 (index 2), so the bus of index 1 is the third
    assert called(ports + nic(more=at(0, 1)), "q35") == ["enp3s0"]


def test_other_architectures() -> None:
    assert called(nic(), emulator=ARM, features="") == ["enp1s0"]
    assert called(nic(), emulator=PSERIES, features="") == ["enp0s1"]
    assert called(nic(), emulator=S390, features="") == ["enc0"]


@pytest.mark.parametrize(
    ("devices", "machine", "path"),
    [
        (disk("virtio", "vda", at(9)), "pc", "pci-0000:00:09.0"),
        (disk("ide", "hdd"), "pc", "pci-0000:00:01.1-ata-2.1"),
        (disk("sata", "sdc"), "q35", "pci-0000:00:1f.2-ata-3.0"),
        (disk("usb", "sda"), "pc", "pci-0000:00:01.2-usb-0:1:1.0-scsi-0:0:0:0"),
    ],
)
def test_disks(devices: str, machine: str, path: str) -> None:
    assert called(devices, machine) == [f"/dev/disk/by-path/{path}" if path else ""]


@pytest.mark.parametrize(("model", "tail"), [("virtio-scsi", "0:0:0:3"), ("lsilogic", "0:0:3:0")])
def test_scsi_disks(model: str, tail: str) -> None:
    controller = f"<controller type='scsi' index='0' model='{model}'>{at(8)}</controller>"
    [name] = called(controller + disk("scsi", "sdd"), "pc")
    assert name == f"/dev/disk/by-path/pci-0000:00:08.0-scsi-{tail}"


def test_links_by_what_the_disk_says() -> None:
    text = document(disk("virtio", "vda", "<serial>data 1</serial>"), "pc")
    [found] = names(survey(Guest.from_xml(text), LATEST, Host.nominal()))
    assert found.others == ("/dev/disk/by-id/virtio-data__1",)


def test_versions_in_names_of_machine_types() -> None:
    assert machine_version("pc-q35-6.1") == (6, 1)
    assert machine_version("pc-q35-rhel8.6.0") == (8, 6)
    assert machine_version("pc") > (100, 0)


# -- changes -----------------------------------------------------------------------------------------------


def test_another_machine_type_of_the_family_keeps_addresses() -> None:
    guest = Guest.from_xml(document(nic(more="<acpi index='5'/>"), "pc-q35-6.0"))
    old = survey(guest, LATEST, Host.nominal())
    twin, moved = other_machine(guest, old.guest, "pc-q35-6.2", LATEST, Host.nominal())
    assert not moved
    [change] = compare_names(old, survey(twin, LATEST, Host.nominal()))
    assert change.verdict == "renamed"
    # from 6.1 on ACPI knows the cards behind root ports
    assert (change.old and change.old.name, change.new and change.new.name) == ("enp1s0", "eno5")


@pytest.mark.parametrize(("qemu", "name"), [("7.1", "enp0s9"), ("10.0", "eno5")])
def test_an_index_of_a_card_that_stays(qemu: str, name: str) -> None:
    assert called(nic(more="<acpi index='5'/>" + at(9)), "pc-q35-6.2", Emulator.recorded(qemu)) == [name]


def test_indexes_of_a_slot_with_several_functions() -> None:
    first = "<acpi index='3'/>" + at(9).replace("/>", " multifunction='on'/>")
    cards = nic(more=first, number=1) + nic(more="<acpi index='4'/>" + at(9, function=1), number=2)
    assert called(cards, "pc-q35-6.2", Emulator.recorded("7.1")) == ["enp0s9f0", "enp0s9f1"]
    # the last one is told of them all, and one card can have it
    assert called(cards, "pc", Emulator.recorded("7.1")) == ["eno4", "ens9f1"]
    assert called(cards, "pc") == ["eno4", "eno4"]


def test_links_of_what_the_document_does_not_number() -> None:
    def links(devices: str, machine: str) -> list[str]:
        found = names(survey(Guest.from_xml(document(devices, machine)), LATEST, Host.nominal()))
        return [link.removeprefix("/dev/disk/by-id/") for named in found for link in named.others]

    assert links(disk("ide", "hdc"), "pc") == ["ata-QEMU_HARDDISK_QM00003"]
    assert links(disk("sata", "sdd"), "q35") == ["ata-QEMU_HARDDISK_QM00007"]
    assert links(disk("scsi", "sdb"), "pc") == ["scsi-0QEMU_QEMU_HARDDISK_drive-scsi0-0-1"]
    assert links(disk("virtio", "vdb"), "pc") == []


def test_another_board_gives_other_addresses() -> None:
    guest = Guest.from_xml(document(nic(), "pc"))
    old = survey(guest, LATEST, Host.nominal())
    twin, moved = other_machine(guest, old.guest, "q35", LATEST, Host.nominal())
    assert moved
    back, moved = other_machine(twin, twin.define(LATEST, Host.nominal()), "pc", LATEST, Host.nominal())
    assert moved
    assert compare_names(old, survey(back, LATEST, Host.nominal()))[0].verdict == "same"


def test_devices_that_come_and_go() -> None:
    old = survey(Guest.from_xml(document(nic(number=1), "pc")), LATEST, Host.nominal())
    new = survey(
        Guest.from_xml(document(nic(number=1) + disk("virtio", "vda"), "pc")), LATEST, Host.nominal()
    )
    assert [c.verdict for c in compare_names(old, new)] == ["same", "added"]
    assert [c.verdict for c in compare_names(new, old)] == ["same", "gone"]


# -- the command -------------------------------------------------------------------------------------------


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["names", OLD_NIC]) == 0
    assert "enp3s0" in capsys.readouterr().out
    assert main(["names", OLD_NIC, "--machine", "pc-q35-6.2"]) == 1
    assert "renamed" in capsys.readouterr().out
    assert main(["names", OLD_NIC, "--qemu", "7.2", "--qemu", "10.0"]) == 0
    assert main(["names", OLD_NIC, "--machine", "pc-q35-6.2", "--machine", "pc-q35-7.2"]) == 0
    new = tmp_path / "new.xml"
    new.write_text(Path(OLD_NIC).read_text().replace("pc-q35-6.0", "pc-q35-6.2"))
    assert main(["names", OLD_NIC, str(new)]) == 1


def test_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["names", OLD_NIC, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "qemushim.names/1"
    assert data["names"][1]["name"] == "enp3s0"
    assert main(["names", OLD_NIC, "--machine", "pc-q35-6.2", "--json"]) == 1
    data = json.loads(capsys.readouterr().out)
    assert [c["verdict"] for c in data["changes"]] == ["same", "renamed", "same"]


@pytest.mark.parametrize(
    "words", [("new.xml", "--machine", "pc"), ("--qemu", "1", "--qemu", "2", "--qemu", "3")]
)
def test_wrong_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["names", OLD_NIC, *words])
    assert stop.value.code == 2
