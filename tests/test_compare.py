"""What a guest notices of a change, and what it means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qemushim.cli import main
from qemushim.command.option import Option
from qemushim.compare.difference import lines, machine_notes, machine_version
from qemushim.compare.fingerprint import Fingerprint
from qemushim.compare.sides import Side, compare, upgrade
from qemushim.compare.spelling import cpu_properties, properties
from qemushim.compare.verdict import Comparison, Verdict
from qemushim.compare.visible import DEVICES, consequence
from qemushim.devices import BY_TAG
from qemushim.emulator.bundled import find
from qemushim.errors import ShimError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.conftest import ROOT
from tests.goldens import cases

EXAMPLE = ROOT / "examples" / "web-server.xml"
HOST = Host.nominal()
TEMPLATE = """<domain type='kvm'><name>g</name><uuid>6d1ee1cf-4c2f-4d4c-9d2a-0c6e5f4b3a21</uuid>
<memory unit='MiB'>512</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='MACHINE'>hvm</type></os>
<cpu mode='custom'><model>Haswell</model></cpu>
<devices>
<disk type='file'><driver name='qemu' type='raw'/><source file='/srv/a.img'/><target dev='vda' bus='virtio'/></disk>
<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
</devices></domain>"""


def document(machine: str = "pc-i440fx-6.2") -> str:
    return TEMPLATE.replace("MACHINE", machine)


def versus(old: str, new: str, version: str = "10.0") -> Comparison:
    emulator = find(version)
    return compare(*(Side(Guest.from_xml(text, "g.xml"), emulator, HOST) for text in (old, new)))


def found(comparison: Comparison) -> dict[str, dict[str, tuple[str | None, str | None]]]:
    return {
        line.part: {change.fact: (change.old, change.new) for change in line.changes}
        for line in comparison.different
    }


def test_a_guest_is_the_same_as_itself() -> None:
    for case in cases():
        emulator = find(case.emulator, case.arch)
        host = Host.nominal(emulator.arch)
        try:
            guest = Guest.from_xml(case.path.read_bytes())
            comparison = upgrade(guest, (emulator, host), (emulator, host))
        except ShimError:
            continue
        assert comparison.verdict is Verdict.SAME, (case.id, found(comparison), comparison.host)
        assert not comparison.libvirt


def test_same_machine_type_on_a_newer_qemu() -> None:
    guest = Guest.from_xml(document("pc"), "g.xml")
    comparison = upgrade(guest, (find("6.2"), HOST), (find("10.0"), HOST))
    assert comparison.verdict is Verdict.INVISIBLE
    assert not comparison.different
    assert any(line.startswith("+ -blockdev") for line in comparison.host)
    assert any("deprecated" in note for note in comparison.notes)
    fresh = compare(Side(guest, find("6.2"), HOST), Side(guest, find("10.0"), HOST))
    assert found(fresh) == {"machine": {"type": ("pc-i440fx-6.2", "pc-i440fx-10.0")}}


def test_spelling_is_no_difference() -> None:
    guest = Guest.from_xml(EXAMPLE.read_bytes())
    comparison = upgrade(guest, (find("6.2"), HOST), (find("7.0"), HOST))
    assert not [line for line in comparison.host if "-netdev" in line or "virtio-net" in line]
    json_text = '{"driver":"virtio-net-pci","mq":true,"acpi-index":7,"x":{"y":[1]}}'
    words = "virtio-net-pci,mq=on,acpi-index=7,x.y.0=1"
    assert properties(Option("-device", json_text)) == properties(Option("-device", words))
    assert properties(Option("-drive", "file=/a,,b.img,if=none"))["file"] == "/a,b.img"
    assert properties(Option("-numa", "node,cpus=0,cpus=2"))["cpus+"] == "2"
    assert cpu_properties(Option("-cpu", "Haswell,+aes,hv_time,-x2apic")) == cpu_properties(
        Option("-cpu", "Haswell,aes=on,hv-time=on,x2apic=off")
    )
    one, other = (
        properties(Option("-device", text))
        for text in ("virtio-blk-pci-non-transitional", "virtio-blk-pci,disable-legacy=on,disable-modern=off")
    )
    assert one == other


@pytest.mark.parametrize(
    ("old", "new", "part", "fact", "verdict", "words"),
    [
        (
            "bus='virtio'",
            "bus='sata'",
            "disk vda",
            "target/@bus",
            Verdict.VISIBLE,
            "INACCESSIBLE_BOOT_DEVICE",
        ),
        (
            "type='virtio'/></int",
            "type='e1000'/></int",
            "interface",
            "model/@type",
            Verdict.VISIBLE,
            "driver",
        ),
        ("00:01'/>", "00:02'/>", "interface", "mac/@address", Verdict.VISIBLE, "DHCP"),
        ("type='raw'/", "type='raw' cache='none'/", "disk vda", "driver/@cache", Verdict.INVISIBLE, ""),
        ("a.img", "b.img", "disk vda", "source/@file", Verdict.INVISIBLE, ""),
        (">512<", ">768<", "memory", "memory", Verdict.VISIBLE, "memory"),
        ("6d1ee1cf", "7d1ee1cf", "identity", "uuid", Verdict.VISIBLE, "activation"),
        ("<name>g<", "<name>h<", "identity", "name", Verdict.INVISIBLE, ""),
        ("Haswell", "Nehalem", "cpu", "model", Verdict.VISIBLE, "CPU"),
        ("<vcpu>2", "<vcpu>4", "vcpus", "vcpu", Verdict.VISIBLE, "licences"),
        ("</vcpu>", "</vcpu><clock offset='localtime'/>", "clock", "offset", Verdict.VISIBLE, "clock"),
        ("<cpu ", "<features><acpi/></features><cpu ", "features", "acpi", Verdict.VISIBLE, "ACPI"),
        (
            "</devices>",
            "<sound model='ac97'/></devices>",
            "sound",
            "presence",
            Verdict.VISIBLE,
            "comes or goes",
        ),
        ("</devices>", "<graphics type='vnc'/></devices>", "graphics", "presence", Verdict.INVISIBLE, ""),
        ("<disk ", "<memballoon model='none'/><disk ", "memballoon", "@model", Verdict.VISIBLE, ""),
    ],
)
def test_verdicts(old: str, new: str, part: str, fact: str, verdict: Verdict, words: str) -> None:
    before = document()
    assert old in before
    comparison = versus(before, before.replace(old, new))
    line = next(line for line in comparison.different if line.part.startswith(part))
    change = next(change for change in line.changes if change.fact.endswith(fact))
    assert change.verdict is verdict
    assert words in change.consequence


def test_a_moved_card_is_named_anew() -> None:
    before = Guest.from_xml(document()).define(find("10.0"), HOST).to_xml()
    at = before.index("<interface")
    slot = before.index("slot='0x", at)
    moved = before[: slot + 8] + "1d" + before[slot + 10 :]
    comparison = versus(before, moved)
    [line] = comparison.different
    assert line.part == "interface 52:54:00:00:00:01"
    assert [change.fact for change in line.changes] == ["address", "name in Linux"]
    assert "names of network cards" in line.changes[0].consequence
    assert (line.changes[1].new or "").endswith("s29")
    [message] = comparison.libvirt
    assert message.startswith("Target device PCI address 0000:00:1d.0 does not match source 0000:00:")


def test_a_card_is_named_anew_by_another_qemu_on_the_same_board() -> None:
    text = """<domain type='kvm'><name>g</name><memory unit='MiB'>256</memory>
<os><type arch='x86_64' machine='pc-q35-6.2'>hvm</type></os><features><acpi/></features><devices>
<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/><acpi index='7'/>
<address type='pci' bus='0' slot='9'/></interface></devices></domain>"""
    guest = Guest.from_xml(text)
    comparison = upgrade(guest, (find("7.2"), HOST), (find("10.0"), HOST))
    [line] = comparison.different
    [change] = line.changes
    # QEMU 8.0 began to tell of cards that can not be plugged
    assert (change.fact, change.old, change.new) == ("name in Linux", "enp0s9", "eno7")
    assert comparison.verdict is Verdict.VISIBLE


def test_every_difference_is_told() -> None:
    before = document()
    after = before.replace("pc-i440fx-6.2", "pc-q35-8.0").replace("Haswell", "Nehalem").replace(">2<", ">3<")
    parts = set(found(versus(before, after)))
    assert {"machine", "cpu", "vcpus", "disk vda", "interface 52:54:00:00:00:01"} <= parts


def test_what_will_not_start() -> None:
    comparison = upgrade(Guest.from_xml(document("pc"), "g.xml"), (find("10.0"), HOST), (find("7.0"), HOST))
    assert comparison.verdict is Verdict.REFUSED
    [line] = comparison.lines
    assert "pc-i440fx-10.0" in (line.changes[0].new or "")


def test_classic_slots_are_predicted() -> None:
    text = """<domain type='qemu'><name>c</name><memory>65536</memory><os><type>hvm</type></os><devices>
    <interface type='user'><mac address='52:54:00:00:00:01'/></interface></devices></domain>"""
    guest = Guest.from_xml(text)
    comparison = upgrade(guest, (find("0.10.5"), HOST), (find("qemu-kvm-0.12.3"), HOST))
    changes = found(comparison)["interface 52:54:00:00:00:01"]
    assert changes["address"][0] == "0000:00:02.0" != changes["address"][1]


def test_fingerprint_as_text() -> None:
    guest = Guest.from_xml(EXAMPLE.read_bytes())
    seen = Side(guest, find("10.0"), HOST).build().seen
    text = seen.dump()
    again = Fingerprint.load(text)
    assert again.dump() == text
    assert not [line for line in lines(again, Fingerprint.load(text)) if line.changes]
    assert "[disk vda]\naddress = 0000:05:00.0\n" in text
    assert "/var/lib" not in text
    odd = Fingerprint()
    odd.part("smbios").facts["serial"] = "a\\n\nb = [c]"
    assert Fingerprint.load(odd.dump()).parts[0].facts == odd.parts[0].facts


def test_machine_versions() -> None:
    assert machine_version("pc-q35-7.2") == "7.2"
    assert machine_version("pc") == machine_version("pc-q35-rhel8.6.0") == ""
    assert any("6.1" in note for note in machine_notes("pc-q35-6.0", "pc-q35-10.0"))
    assert not machine_notes("pc-q35-6.1", "pc-q35-10.0")
    assert not machine_notes("pc-i440fx-6.0", "pc-q35-10.0")


def test_tables_know_every_kind() -> None:
    assert set(DEVICES) == set(BY_TAG)
    for kind in BY_TAG:
        assert consequence(kind, "address")
        assert consequence(kind, "presence")


# -- the command -----------------------------------------------------------------------------------------------------


def test_exit_codes_and_text(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    old, new = tmp_path / "old.xml", tmp_path / "new.xml"
    old.write_text(document())
    new.write_text(document().replace("type='virtio'/></int", "type='e1000'/></int"))
    assert main(["compare", str(old), str(old)]) == 0
    assert "verdict: same" in capsys.readouterr().out
    assert main(["compare", str(old), str(new)]) == 3
    out = capsys.readouterr().out
    assert "model/@type: virtio → e1000" in out
    assert "libvirt would not migrate: Target network card model e1000 does not match source virtio" in out
    assert "\x1b" not in out
    assert main(["compare", str(old), "--qemu", "10.0", "--qemu", "kvm-83"]) == 4
    assert "will not start" in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "none.xml"), str(old)]) == 1
    for words in ([], [str(old)], [str(old), "--qemu", "6.2", "--qemu", "7.0", "--qemu", "8.0"], ["-", "-"]):
        with pytest.raises(SystemExit) as stopped:
            main(["compare", *words])
        assert stopped.value.code == 2


def test_one_qemu_starts_from_the_machine_types_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "g.xml"
    file.write_text(document("pc-i440fx-7.2"))
    assert main(["compare", str(file), "--qemu", "10.0", "--argv"]) == 0
    assert "QEMU 7.2.0 → " in capsys.readouterr().out


def test_machines(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["compare", str(EXAMPLE), "--machine", "pc-q35-6.0", "--machine", "q35", "--json"]
    assert main(words) == 3
    data = json.loads(capsys.readouterr().out)
    assert set(data) == {"old", "new", "verdict", "lines", "host", "libvirt", "notes"}
    [line] = [line for line in data["lines"] if line["verdict"] != "same"]
    assert set(line) == {"part", "verdict", "old_line", "new_line", "changes"}
    [change] = line["changes"]
    assert (change["old"], change["new"]) == ("pc-q35-6.0", "pc-q35-10.0")
    assert "ACPI" in change["consequence"]
