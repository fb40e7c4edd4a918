"""The slots that QEMU chooses itself: the model against recorded guests, and what is said before a start."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.classic.slots import Layout, arguments, family, layout, read_addr
from qemushim.devices.address import PciAddress
from qemushim.document.item import Item
from qemushim.emulator.helptext import from_help
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from tests.classic_guests import ALWAYS, DEVICE, DISK, HOST, LEGACY, NIC, define, document, emulator

#: release → how it is known
RELEASES = {
    "0.9.1": emulator(*LEGACY, version=(0, 9, 1)),
    "kvm-83": emulator(*LEGACY, version=(0, 9, 1), fork=True),
    "0.10": emulator(*LEGACY, version=(0, 10, 6)),
    "0.11": emulator(*LEGACY, version=(0, 11, 1)),
    "0.12": emulator(*LEGACY, version=(0, 12, 3)),
    "0.13": emulator(*LEGACY, version=(0, 12, 90)),
    "0.15": emulator(*LEGACY, version=(0, 15, 0)),
}


def lay(line: str, release: str) -> Layout:
    return layout(arguments(line.split()), family(RELEASES[release]))


def kinds(line: str, release: str) -> str:
    """Slot and kind of what is neither chipset nor graphics."""
    return " ".join(f"{c.slot}:{c.kind}" for c in lay(line, release).cards if c.slot > 1 and c.kind != "vga")


# -- the model ------------------------------------------------------------------------------------------

EVERYTHING = (
    "-drive file=/v,if=virtio -watchdog i6300esb -virtioconsole null -drive file=/s,if=scsi -soundhw ac97 "
    "-net nic,model=e1000 -balloon virtio"
)


@pytest.mark.parametrize(
    ("release", "wanted"),
    [
        ("0.10", "3:nic 4:sound 5:lsi 6:virtio-blk 7:balloon 8:virtio-console"),
        ("0.11", "3:watchdog 4:nic 5:sound 6:lsi 7:virtio-blk 8:balloon 9:virtio-console"),
        ("0.12", "3:nic 4:sound 5:lsi 6:virtio-console 7:balloon 8:virtio-blk 9:watchdog"),
        ("0.13", "3:nic 4:sound 5:lsi 6:balloon 7:virtio-blk 8:virtio-console 9:watchdog"),
    ],
)
def test_order_of_kinds(release: str, wanted: str) -> None:
    assert kinds(EVERYTHING, release) == wanted


def test_a_balloon_is_there_by_itself_up_to_0_11() -> None:
    for release in RELEASES:
        found = kinds("-net none", release)
        assert found == ("3:balloon" if release in ("kvm-83", "0.10", "0.11") else "")
    assert kinds("-net none -balloon none", "0.11") == ""


def test_default_nic() -> None:
    ids = {release: lay("-vga std", release).cards[-1].ids for release in ("0.9.1", "0.12", "0.15")}
    assert ids == {"0.9.1": "10ec:8029", "0.12": "8086:100e", "0.15": "8086:100e"}
    fork = family(emulator(*LEGACY, version=(0, 12, 3), fork=True))
    assert layout([], fork).cards[-1].ids == "10ec:8139"
    assert kinds("-nodefaults", "0.12") == ""
    assert kinds("-netdev user,id=n", "0.15") == ""


def test_a_gap_loses_virtio_disks_up_to_0_11() -> None:
    line = (
        "-net none -drive file=/a,if=virtio,index=1 -drive file=/b,if=virtio,index=3 -drive file=/c,if=virtio"
    )
    old, new = lay(line, "0.10"), lay(line, "0.12")
    assert [c.detail for c in old.cards if c.kind == "virtio-blk"] == ["/c", "/a"]
    assert [lost.source for lost in old.lost] == [2]
    assert [c.detail for c in new.cards if c.kind == "virtio-blk"] == ["/a", "/b", "/c"]
    assert not new.lost


def test_scsi_buses_are_there_up_to_the_highest() -> None:
    assert kinds("-net none -drive file=/a,if=scsi,bus=2,unit=0", "0.12") == "3:lsi 4:lsi 5:lsi"
    eight = " ".join(f"-drive file=/{n},if=scsi" for n in range(8))
    assert kinds(f"-net none {eight}", "0.12") == "3:lsi 4:lsi"
    assert kinds("-net none -drive file=/a,if=scsi,index=7", "0.12") == "3:lsi 4:lsi"


def test_sound_cards_have_an_order_of_their_own() -> None:
    cards = lay("-net none -soundhw es1370,sb16,ac97", "0.12").cards
    assert [(c.slot, c.detail) for c in cards if c.kind == "sound"] == [(3, "ac97"), (4, "es1370")]


def test_without_graphics_slot_2_is_free() -> None:
    assert kinds("-vga none -net nic,model=virtio", "0.12") == "2:nic"


def test_addresses_of_legacy_options_count_from_0_11_on() -> None:
    line = "-net nic,model=virtio,addr=9"
    assert [c.slot for c in lay(line, "0.10").cards if c.kind == "nic"] == [3]
    assert [c.slot for c in lay(line, "0.11").cards if c.kind == "nic"] == [9]


def test_chipset() -> None:
    cards = {(c.slot, c.function): c.kind for c in lay("-usb -no-acpi -net none", "0.12").cards}
    assert cards == {(0, 0): "host", (1, 0): "isa", (1, 1): "ide", (1, 2): "uhci", (2, 0): "vga"}
    assert lay("-M isapc", "0.12").cards == []


def test_boot_on_loses_the_drive_of_plain_0_12() -> None:
    line = "-net none -drive file=/a,if=virtio,boot=on"
    assert "virtio-blk" not in kinds(line, "0.12")
    assert lay(line, "0.12").lost
    fork = family(emulator(*LEGACY, version=(0, 12, 3), fork=True))
    assert any(c.kind == "virtio-blk" for c in layout(arguments(line.split()), fork).cards)


@pytest.mark.parametrize(
    ("text", "place"), [("0x5", (5, 0)), ("1f", (31, 0)), ("0x5.0x1", (5, 1)), ("0:0:a.2", (10, 2))]
)
def test_addr(text: str, place: tuple[int, int]) -> None:
    assert read_addr(text) == place


OPTIONS = [
    "-net nic,model=virtio",
    "-net nic,model=pcnet,addr=7",
    "-drive file=/a,if=virtio",
    "-drive file=/b,if=scsi",
    "-drive file=/c,if=virtio,index=3",
    "-soundhw all",
    "-device virtio-blk-pci,addr=0x3",
    "-device rtl8139",
    "-virtioconsole null",
    "-balloon virtio",
    "-watchdog i6300esb",
    "-usb",
]


@given(st.lists(st.sampled_from(OPTIONS), max_size=40), st.sampled_from(sorted(RELEASES)))
def test_no_two_cards_share_a_place(options: list[str], release: str) -> None:
    cards = lay(" ".join(options), release).cards
    places = [(c.slot, c.function) for c in cards]
    assert len(set(places)) == len(places)
    assert places == sorted(places)


# -- recorded guests ------------------------------------------------------------------------------------


def recordings(corpus: Path) -> Iterator[tuple[str, Path, Emulator]]:
    for folder in sorted(p for p in (corpus / "classic" / "recorded").iterdir() if p.is_dir()):
        text = (folder / "help.txt").read_text()
        number = re.fullmatch(r"kvm-(\d+)", folder.name)
        binary = from_help(text, kvm_version=int(number[1]) if number else 0)
        for reply in sorted(folder.glob("*-*.txt")):
            if reply.name.startswith(("pci-", "dev-")):
                yield f"{folder.name}/{reply.stem}", reply, binary


def test_model_equals_every_recorded_guest(corpus: Path) -> None:
    """The cards of ``info pci``, and which disk and which MAC the cards themselves say they are."""
    count = 0
    for name, reply, binary in recordings(corpus):
        words = [word for word in reply.with_suffix(".cmd").read_text().split("\n") if word]
        cards = {(c.slot, c.function): c for c in layout(arguments(words), family(binary)).cards}
        found = re.findall(r"device +(\d+), function (\d+):\n.*PCI device (\S+)", reply.read_text())
        assert [(k, cards[k].ids) for k in cards] == [((int(s), int(f)), ids) for s, f, ids in found], name
        count += 1
        probe = reply.with_suffix(".probe")
        for line in probe.read_text().splitlines() if probe.exists() else ():
            slot, function, detail = re.match(r"(\d+)\.(\d) \S+(?:.* (\S+))?", line).groups()  # type: ignore[union-attr]
            # a MAC of zeros is one that the card had not loaded yet
            if detail and detail != "00:00:00:00:00:00":
                assert cards[int(slot), int(function)].detail == detail, (name, line)
    assert count > 200


# -- before a start -------------------------------------------------------------------------------------


def predicted(devices: str, release: str) -> dict[str, int]:
    """What to call a device → its slot."""
    guest = define(document(devices), RELEASES[release])
    return {name(device): address.slot for device, address in guest.predicted.items()}


def name(device: Item) -> str:
    node = device.node
    words = (node.value("target/@dev"), node.value("mac/@address"), node.get("index"), node.get("model"))
    return next((word for word in words if word), node.tag)


DEVICES = (
    DISK.format(path="/a", dev="vda")
    + DISK.format(path="/b", dev="vdd")
    + DISK.format(path="/s", dev="sdh")
    + NIC.format(mac=1, model="virtio")
    + "<sound model='es1370'/><sound model='ac97'/><graphics type='vnc'/>"
)


def test_prediction() -> None:
    nic = "52:54:00:00:00:01"
    common = {"video": 2, nic: 3, "ac97": 4, "es1370": 5, "0": 6, "1": 7, "vda": 8, "vdd": 9}
    assert predicted(DEVICES, "0.10") == common
    assert predicted(DEVICES, "0.12") == common
    watched = predicted(DEVICES + "<watchdog model='i6300esb'/>", "0.11")
    assert watched == {"video": 2, "i6300esb": 3, **{k: v + 1 for k, v in common.items() if k != "video"}}


def test_prediction_is_not_stored() -> None:
    guest = define(document(DEVICES), RELEASES["0.10"])
    assert guest.predicted
    assert "type='pci'" not in guest.to_xml()
    again = guest.define(RELEASES["0.12"], HOST)
    assert again.to_xml() == guest.to_xml()


def test_nothing_is_predicted_where_the_definition_says_it() -> None:
    assert define(document(DEVICES), emulator(*DEVICE)).predicted == {}


def test_nothing_is_predicted_for_what_can_not_start() -> None:
    assert define(document("<video><model type='vga'/></video>" * 2), RELEASES["0.12"]).predicted == {}


def test_keys_are_devices_of_the_guest() -> None:
    guest = define(document(NIC.format(mac=1, model="virtio")), RELEASES["0.12"])
    (interface,) = guest.domain.lists["interface"]
    # no graphics: the card takes the first slot behind the chipset
    assert guest.predicted[interface] == PciAddress(0, 0, 2, 0)


@given(st.permutations(["vda", "vdb", "vdf", "vdz"]), st.sampled_from(sorted(set(RELEASES) - {"0.9.1"})))
def test_no_disk_is_lost_and_slots_follow_the_document(targets: list[str], release: str) -> None:
    disks = "".join(DISK.format(path=f"/{target}", dev=target) for target in targets)
    guest = Guest.from_xml(document(disks)).define(RELEASES[release], HOST)
    disks_in_order = guest.domain.node.ensure("devices").all("disk")
    slots = [guest.predicted[Item(node)].slot for node in disks_in_order]
    assert len(slots) == len(targets)
    assert slots == sorted(slots)


def test_usb_disk_is_no_pci_card() -> None:
    usb = "<disk><source file='/u'/><target dev='sda' bus='usb'/></disk>"
    guest = define(document(usb), emulator(*ALWAYS))
    assert guest.predicted == {}
