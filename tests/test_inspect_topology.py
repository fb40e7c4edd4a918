"""The buses of a guest: the tree, the picture, the graph."""

from __future__ import annotations

import json
from pathlib import Path
from xml.dom import minidom

import pytest

from qemushim.cli import main
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.inspect.picture import svg
from qemushim.inspect.survey import survey
from qemushim.inspect.topology import Bus, Topology, topology
from qemushim.inspect.tree import dot, tree_text
from tests.conftest import ROOT
from tests.small_guests import LATEST, PSERIES, S390, guest

EXAMPLE = str(ROOT / "examples" / "web-server.xml")


def of(devices: str, emulator: Emulator = LATEST, machine: str = "", extra: str = "") -> Topology:
    return topology(survey(guest(devices, emulator, extra, machine), emulator, Host.nominal(emulator.arch)))


def bus(found: Topology, name: str) -> Bus:
    return next(b for b in found.every() if b.name == name)


def names(found: Bus) -> list[str]:
    return [place.names for place in found.places]


USB_DISK = "<disk type='file'><source file='/a'/><target dev='sda' bus='usb'/></disk>"


def test_every_device_has_one_place() -> None:
    s = survey(Guest.from_xml(Path(EXAMPLE).read_bytes()), LATEST, Host.nominal())
    seats = [p.alias for b in topology(s).every() for p in b.places if p.alias]
    skipped = ("graphics", "audio")
    devices = [d.alias for d in s.domain.every() if d.tag not in skipped and d.alias != "pcie.0"]
    assert sorted(seats) == sorted(devices)


def test_pci_slots_of_an_i440fx() -> None:
    found = bus(of(""), "pci.0")
    assert names(found)[:2] == ["01.0", "01.2"]
    assert found.places[-1].last == "1f"
    assert found.free + len({p.name[:2] for p in found.places if not p.free}) == 31


def test_hotplug_needs_acpi_on_an_i440fx() -> None:
    assert not bus(of(""), "pci.0").hotplug
    acpi = Guest.from_xml(
        "<domain type='qemu'><name>g</name><memory>65536</memory><os><type arch='x86_64' machine='pc'>hvm</type></os>"
        "<features><acpi/></features></domain>"
    )
    assert bus(topology(survey(acpi, LATEST, Host.nominal())), "pci.0").hotplug


def test_root_ports_take_devices_while_the_guest_runs() -> None:
    found = of("", machine="q35")
    assert not bus(found, "pcie.0").hotplug
    free = [b for b in found.every() if b.model == "pcie-root-port" and b.free]
    assert len(free) == 1
    assert free[0].hotplug


def test_usb_ports() -> None:
    found = bus(of(USB_DISK), "usb.0")
    assert names(found) == ["port 1", "port 2"]
    assert (found.used, found.free) == (1, 1)


def test_free_units_between_disks() -> None:
    disks = "".join(
        f"<disk type='file'><source file='/{n}'/><target dev='sd{n}' bus='sata'/></disk>" for n in "bd"
    )
    found = of(disks, machine="q35")
    assert names(bus(found, "ide.0")) == ["port 0", "port 1", "port 2", "port 3", "port 4–5"]


def test_ccw_and_vio() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='vda' bus='virtio'/></disk>"
    assert bus(of(disk, S390), "ccw").places[0].device == "disk vda"
    scsi = "<disk type='file'><source file='/a'/><target dev='sda' bus='scsi'/></disk>"
    assert bus(of(scsi, PSERIES), "scsi0.0").used == 1


def test_memory_slots() -> None:
    found = topology(
        survey(
            Guest.from_xml(
                "<domain type='qemu'><name>g</name><maxMemory slots='4' unit='GiB'>4</maxMemory>"
                "<memory unit='GiB'>1</memory>"
                "<vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os><cpu><numa><cell id='0' cpus='0' "
                "memory='1' unit='GiB'/></numa></cpu></domain>"
            ),
            LATEST,
            Host.nominal(),
        )
    )
    assert names(bus(found, "dimm")) == ["slot 0–3"]


def test_the_tree() -> None:
    lines = tree_text(of(USB_DISK)).splitlines()
    assert lines[0].startswith("g (pc-i440fx-")
    assert any(line.endswith("disk sda (usb-disk0)") for line in lines)
    assert all(line == line.rstrip() for line in lines)


def test_the_picture_is_xml_whatever_the_names() -> None:
    channel = "<channel type='unix'><target type='virtio' name='a&lt;b&amp;\"c'/></channel>"
    document = minidom.parseString(svg(of(channel)))
    assert document.documentElement.tagName == "svg"
    assert document.getElementsByTagName("title")
    rooms = [r for r in document.getElementsByTagName("rect") if r.getAttribute("class") == "room"]
    assert len(rooms) == len(list(of(channel).every()))


def test_rooms_do_not_lie_on_each_other() -> None:
    found = topology(survey(Guest.from_xml(Path(EXAMPLE).read_bytes()), LATEST, Host.nominal()))
    rooms = [
        r
        for r in minidom.parseString(svg(found)).getElementsByTagName("rect")
        if r.getAttribute("class") == "room"
    ]
    boxes = [tuple(float(r.getAttribute(a)) for a in ("x", "y", "width", "height")) for r in rooms]
    for i, (x, y, w, h) in enumerate(boxes):
        for x2, y2, w2, h2 in boxes[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_the_graph() -> None:
    text = dot(of(USB_DISK))
    assert text.startswith("digraph topology {")
    assert '"pci.0":p1 -> "usb.0";' in text


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", EXAMPLE]) == 0
    assert "\x1b" not in capsys.readouterr().out
    assert main(["topology", EXAMPLE, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["schema"] == "qemushim.topology/1"
    assert data["buses"][0]["name"] == "pcie.0"
    for form in ("--svg", "--dot"):
        assert main(["topology", EXAMPLE, form]) == 0
    assert "</svg>" in capsys.readouterr().out


def test_colours_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert main(["topology", EXAMPLE]) == 0
    assert "disk vda" in capsys.readouterr().out


def test_a_qemu_that_places_devices_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["topology", str(ROOT / "golden" / "classic-nics.xml"), "--qemu", "0.12.3"]) == 1
    assert "hint: " in capsys.readouterr().err


def test_a_refused_guest() -> None:
    with pytest.raises(ConfigError):
        of("<disk type='file'><source file='/a'/><target dev='hda' bus='ide'/></disk>", machine="q35")
