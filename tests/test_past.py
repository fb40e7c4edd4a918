"""A guest that is defined again keeps what the new document leaves open."""

from __future__ import annotations

import secrets
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.devices.pairing import find_devices, pair_devices, place_of
from qemushim.emulator.model import Emulator
from qemushim.errors import AddressError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.small_guests import LATEST, OLD, PSERIES, S390

#: nothing comes out the same by itself
HOST = Host.nominal()._replace(
    new_uuid=lambda purpose: str(uuid.uuid4()),
    new_mac=lambda purpose: "52:54:00:" + secrets.token_bytes(3).hex(":"),
)
DISK = "<disk type='file'><source file='/srv/{0}.img'/><target dev='{0}' bus='{1}'/></disk>"
NIC = "<interface type='bridge'><source bridge='{0}'/><model type='{1}'/></interface>"
PLENTY = (
    DISK.format("vda", "virtio"),
    DISK.format("vdb", "virtio"),
    DISK.format("sda", "scsi"),
    DISK.format("sdb", "sata"),
    NIC.format("br0", "virtio"),
    NIC.format("br1", "e1000"),
    "<input type='tablet' bus='usb'/>",
    "<redirdev bus='usb' type='pty'/>",
    "<channel type='pty'><target type='virtio' name='one'/></channel>",
    "<channel type='pty'><target type='virtio' name='two'/></channel>",
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "<smartcard mode='host'/>",
    "<sound model='ich9'/>",
    "<graphics type='spice'/>",
)


def guest(devices: str, machine: str = "q35", extra: str = "", arch: str = "x86_64") -> Guest:
    kind = f"machine='{machine}'" if machine else ""
    return Guest.from_xml(
        f"<domain type='qemu'><name>g</name>{extra}<memory>65536</memory><os><type arch='{arch}' {kind}>hvm</type></os>"
        f"<devices>{devices}</devices></domain>"
    )


def again(new: Guest, *old: Guest, emulator: Emulator = LATEST) -> Guest:
    return new.define(emulator, HOST, past=old)


def places(defined: Guest) -> dict[str, object]:
    return {
        f"{device.tag} {device.node.value('target/@dev') or device.node.value('source/@bridge') or number}": place_of(
            device
        )
        for tag, devices in defined.domain.lists.items()
        for number, device in enumerate(devices)
    }


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_bare_document_defines_the_same(machine: str) -> None:
    bare = guest("".join(PLENTY), machine)
    first = bare.define(LATEST, HOST)
    assert first.to_xml() != bare.define(LATEST, HOST).to_xml(), "another UUID"
    assert again(bare, first).to_xml() == first.to_xml()


@pytest.mark.parametrize(
    ("emulator", "machine"), [(PSERIES, "pseries"), (S390, "s390-ccw-virtio"), (OLD, "q35")]
)
def test_every_board(emulator: Emulator, machine: str) -> None:
    devices = PLENTY[0] + PLENTY[1] + PLENTY[4] + PLENTY[8] + PLENTY[10]
    host = HOST._replace(arch=emulator.arch, emulators=Host.nominal(emulator.arch).emulators)
    first = guest(devices, machine, arch=emulator.arch).define(emulator, host)
    other = "".join(reversed((PLENTY[0], PLENTY[1], PLENTY[4], PLENTY[8], PLENTY[10])))
    second = guest(other, machine, arch=emulator.arch).define(emulator, host, past=[first])
    assert second.to_xml() == first.to_xml()


@settings(max_examples=25, deadline=None)
@given(
    st.permutations(PLENTY),
    st.sets(st.integers(0, len(PLENTY) - 1), max_size=4),
    st.sampled_from(["pc", "q35"]),
)
def test_what_stays_keeps_its_place(order: list[str], gone: set[int], machine: str) -> None:
    """Whatever is left out, and in whatever order the rest is written, and whatever is new."""
    first = guest("".join(PLENTY), machine).define(LATEST, HOST)
    rest = [device for device in order if PLENTY.index(device) not in gone]
    new = DISK.format("vdx", "virtio") + NIC.format("br9", "virtio")
    second = again(guest(new + "".join(rest), machine), first)
    before, after = places(first), places(second)
    for name in ("disk vda", "disk vdb", "disk sda", "disk sdb", "interface br0", "interface br1"):
        if name in after:
            assert after[name] == before[name]
    taken = [place for place in after.values() if place is not None]
    assert len(taken) == len(set(taken))


def test_hotplugged_device_keeps_its_place() -> None:
    """What was plugged in later does not sit where a fresh definition would put it."""
    stored = guest(PLENTY[0]).define(LATEST, HOST)
    for name in ("vdc", "vdb"):
        stored = stored.attach(DISK.format(name, "virtio"), LATEST, HOST)
    bare = guest(PLENTY[0] + PLENTY[1] + DISK.format("vdc", "virtio"))
    assert places(bare.define(LATEST, HOST)) != places(stored)
    assert again(bare, stored).to_xml() == stored.to_xml()


def test_live_document_is_asked_for_what_is_not_stored() -> None:
    stored = guest(PLENTY[0] * 1).define(LATEST, HOST)
    live = stored.attach(NIC.format("br5", "virtio"), LATEST, HOST)
    mac = live.domain.lists["interface"][0].node.value("mac/@address")
    new = guest(DISK.format("vdb", "virtio") + PLENTY[0] + NIC.format("br5", "virtio"))
    both = again(new, stored, live)
    assert places(both)["interface br5"] == places(live)["interface br5"]
    assert both.domain.lists["interface"][0].node.value("mac/@address") == mac


def test_what_the_document_says_is_law() -> None:
    first = guest(PLENTY[0] + PLENTY[1]).define(LATEST, HOST)
    taken = first.domain.lists["disk"][0].node.child("address")
    assert taken is not None
    said = " ".join(f"{name}='{value}'" for name, value in taken.attrib.items())
    other = PLENTY[1].replace("</disk>", f"<address {said}/></disk>")
    second = again(guest(PLENTY[0] + other), first)
    assert places(second)["disk vdb"] == places(first)["disk vda"]
    assert places(second)["disk vda"] not in (None, places(first)["disk vda"])


def test_another_bus_or_board_gets_another_place() -> None:
    first = guest(PLENTY[0]).define(LATEST, HOST)
    moved = again(guest(DISK.format("vda", "sata")), first)
    assert moved.domain.lists["disk"][0].address_type == "drive"
    board = again(guest(PLENTY[0], "pc"), first)
    assert board.to_xml().count("pcie-root") == 0
    assert board.domain.uuid == first.domain.uuid


def test_machine_version_and_ids_stay() -> None:
    old = guest("", extra="<genid/>").define(OLD, HOST)
    assert old.domain.machine_type == "pc-q35-7.1"
    for machine in ("q35", ""):
        new = again(guest("", machine, extra="<genid/>"), old, emulator=LATEST)
        assert (new.domain.machine_type, new.domain.uuid, new.domain.genid) == (
            old.domain.machine_type,
            old.domain.uuid,
            old.domain.genid,
        )
    assert again(guest("", "pc-q35-9.0"), old).domain.machine_type == "pc-q35-9.0"


def test_hubs_and_controllers_below_kept_addresses_stay() -> None:
    hub = "<hub type='usb'><address type='usb' bus='0' port='1'/></hub>"
    tablet = "<input type='tablet' bus='usb'><address type='usb' bus='0' port='1.3'/></input>"
    disk = DISK.format("sdz", "scsi").replace("</disk>", "<address type='drive' controller='2'/></disk>")
    first = guest(hub + tablet + disk, "pc").define(LATEST, HOST)
    bare = "<input type='tablet' bus='usb'/>" + DISK.format("sdz", "scsi")
    # one controller is named, so that not all of them are taken over
    second = again(guest(bare + "<controller type='virtio-serial' index='0'/>", "pc"), first)
    assert [place_of(device) for device in second.domain.lists["hub"]] == [
        ("usb", "", frozenset({("port", "1")}))
    ]
    assert places(second)["disk sdz"] == places(first)["disk sdz"]
    assert places(second)["input 0"] == places(first)["input 0"]


def test_places_beside_are_left_free() -> None:
    stored = guest(PLENTY[0]).define(LATEST, HOST)
    live = stored.attach(DISK.format("vdh", "virtio"), LATEST, HOST)
    plugged = next(d for d in live.domain.lists["disk"] if d.node.value("target/@dev") == "vdh")
    free, device = stored.joined(DISK.format("vdb", "virtio"), LATEST, HOST)
    assert place_of(device) == place_of(plugged)
    free, device = stored.joined(DISK.format("vdb", "virtio"), LATEST, HOST, beside=[plugged])
    assert place_of(device) not in (None, place_of(plugged))
    assert "vdh" not in free.to_xml()


def test_pairs_by_the_surest_sign() -> None:
    one = guest(PLENTY[0] + PLENTY[4] + PLENTY[10]).define(LATEST, HOST)
    mac = one.domain.lists["interface"][0].node.value("mac/@address")
    other = guest(
        f"<interface type='user'/><interface type='user'><mac address='{(mac or '').upper()}'/></interface>{PLENTY[10]}"
    )
    pairs = dict(pair_devices(other.domain.lists, one.domain.lists))
    first, second = other.domain.lists["interface"]
    assert first not in pairs
    assert pairs[second] is one.domain.lists["interface"][0]
    assert pairs[other.domain.lists["rng"][0]] is one.domain.lists["rng"][0]
    assert find_devices(second, one.domain.lists["interface"]) == [one.domain.lists["interface"][0]]
    assert find_devices(first, one.domain.lists["interface"]) == []


def test_no_address_left_is_an_error_as_ever() -> None:
    ports = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 3))
    full = guest(ports + PLENTY[0]).define(LATEST, HOST)
    clash = PLENTY[1].replace("</disk>", "<address type='pci' bus='0x01' slot='0x00'/></disk>")
    other = PLENTY[0].replace("</disk>", "<address type='pci' bus='0x01' slot='0x00'/></disk>")
    with pytest.raises(AddressError):
        again(guest(clash + other), full)
