"""Addresses of the buses beside PCI: USB, CCW, spapr-vio, virtio-serial, SCSI, CCID, DIMM slots."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.address.assign import assign_one
from qemushim.address.drive import ScsiUnits
from qemushim.address.numbers import Numbers
from qemushim.address.usb import UsbPlaces
from qemushim.context import Define
from qemushim.devices import BY_TAG
from qemushim.devices.address import DriveAddress, disk_index
from qemushim.devices.alias import assign_alias, assign_aliases
from qemushim.devices.base import Device
from qemushim.document.parse import parse
from qemushim.emulator.model import Emulator
from qemushim.errors import AddressError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.small_guests import LATEST, PSERIES, S390, document, guest, refusal, stored, tokens, values

TABLET = "<input type='tablet' bus='usb'/>"


def addresses(xml: str, kind: str, *names: str) -> list[tuple[str, ...]]:
    """The named attributes of every address of a type, in the order of the definition."""
    found = (node for node in parse(xml).iter() if node.tag == "address" and node.get("type") == kind)
    return [tuple(node.attrib.get(name, "") for name in names) for node in found]


# -- USB ---------------------------------------------------------------------------------------------------


def ports(devices: str, emulator: Emulator = LATEST) -> list[tuple[str, ...]]:
    return addresses(stored(devices, emulator), "usb", "bus", "port")


def test_lowest_port_first_and_a_hub_where_there_are_too_few() -> None:
    assert ports(TABLET * 2) == [("0", "1"), ("0", "2")]
    # piix3 has two ports: the hub takes the first, and the second goes to the first device
    assert ports(TABLET * 3) == [("0", "2"), ("0", "1.1"), ("0", "1.2"), ("0", "1")]


def test_ports_by_model() -> None:
    xhci = "<controller type='usb' index='0' model='qemu-xhci' ports='3'/>"
    assert ports(xhci + TABLET * 3) == [("0", "1"), ("0", "2"), ("0", "3")]
    two = (
        "<controller type='usb' index='0' model='piix3-uhci'/><controller type='usb' index='1' model='ehci'/>"
    )
    assert ports(two + TABLET * 3)[2] == ("1", "1")


def test_port_on_the_bus_that_was_named() -> None:
    two = "<controller type='usb' index='0'/><controller type='usb' index='1' model='ehci'/>"
    named = "<input type='mouse' bus='usb'><address type='usb' bus='1'/></input>"
    assert ports(two + named + TABLET) == [("1", "1"), ("0", "1")]


def test_a_stored_guest_gets_its_ports_when_it_starts() -> None:
    text = guest(TABLET * 3)
    host = Host.nominal()
    definition = text.define(LATEST, host, update=False)
    assert "type='usb' bus" not in definition.to_xml()
    assert "<hub" not in definition.to_xml()
    argv = definition.command(LATEST, host, update=False).tokens
    assert any('"driver":"usb-hub","id":"hub0","bus":"usb.0","port":"1"' in word for word in argv)


def usb(port: str, bus: int = 0) -> str:
    return f"<input type='mouse' bus='usb'><address type='usb' bus='{bus}' port='{port}'/></input>"


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (usb("1") * 2, "XML error: Duplicate USB address bus 0 port 1"),
        (usb("1.2"), "XML error: there is no hub at port 1 in USB address bus: 0 port: 1.2"),
        (usb("3"), "XML error: requested USB port 3 not present on USB bus 0"),
        (usb("1", 4), "XML error: USB bus 4 requested but no controller with that index is present"),
        (usb("1.2.3.4.5"), "internal error: Cannot parse <address> 'port' attribute"),
        (
            "<controller type='usb' model='none'/>" + TABLET,
            "unsupported configuration: Can't add USB input device. USB bus is disabled",
        ),
        (
            "<controller type='usb' model='none'/><hub type='usb'/>",
            "unsupported configuration: Can't add USB hub: USB is disabled for this domain",
        ),
    ],
)
def test_usb_refusals(devices: str, message: str) -> None:
    assert refusal(devices) == message


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_every_usb_port_is_given_once(hubs: list[bool]) -> None:
    places = UsbPlaces()
    places.add(0, 2)
    places.add(1, 6)
    free = set(places.free())
    taken = []
    for hub in hubs:
        try:
            place = places.next(hub=hub)
        except AddressError:
            break
        taken.append(place)
        assert 1 <= len(place[1]) <= 4
    assert len(taken) == len(set(taken))
    assert not set(taken) & set(places.free())
    assert len(list(places.free())) == places.open
    for place in reversed(taken):
        places.release(*place)
    assert set(places.free()) == free


# -- numbers -----------------------------------------------------------------------------------------------


def test_ccw_numbers_go_by_kind_and_leave_out_those_in_use() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='vd{}' bus='virtio'/>{}</disk>"
    devno = "<address type='ccw' cssid='0xfe' ssid='0x0' devno='0x0001'/>"
    rng = "<rng model='virtio'><backend model='random'/></rng>"
    xml = stored(rng + disk.format("a", "") + disk.format("b", devno) + disk.format("c", ""), S390)
    assert addresses(xml, "ccw", "devno") == [("0x0000",), ("0x0001",), ("0x0002",), ("0x0003",), ("0x0004",)]
    twice = refusal(disk.format("a", devno) + disk.format("b", devno), S390)
    assert twice == "XML error: The CCW devno 'fe.0.0001' is in use already"


def test_spapr_vio_registers() -> None:
    scsi = "<controller type='scsi' index='{}'/>"
    xml = stored(scsi.format(0) + scsi.format(1) + "<serial type='pty'/>", PSERIES)
    # the console is the serial port once more
    assert [int(reg, 16) for (reg,) in addresses(xml, "spapr-vio", "reg")] == [
        *(0x2000, 0x3000),
        *(0x30000000, 0x30000000),
    ]
    taken = "<controller type='scsi' index='{}'><address type='spapr-vio' reg='0x2000'/></controller>"
    assert (
        refusal(taken.format(0) + taken.format(1), PSERIES)
        == "XML error: spapr-vio address 0x2000 already in use"
    )
    large = "<controller type='scsi'><address type='spapr-vio' reg='0x100000000'/></controller>"
    assert refusal(large, PSERIES).endswith("reg='0x100000000' exceeds maximum possible value (0xffffffff)")


def channel(name: str, inside: str = "") -> str:
    return f"<channel type='pty'><target type='virtio' name='{name}'/>{inside}</channel>"


def test_channels_leave_port_0_to_the_console() -> None:
    xml = stored(channel("a") + channel("b"))
    assert addresses(xml, "virtio-serial", "controller", "port") == [("0", "1"), ("0", "2")]


def test_a_full_virtio_serial_controller_gets_a_sibling() -> None:
    small = "<controller type='virtio-serial' index='0' ports='2'/>"
    xml = stored(small + channel("a") + channel("b"))
    assert addresses(xml, "virtio-serial", "controller", "port") == [("0", "1"), ("1", "1")]
    assert "<controller type='virtio-serial' index='1'>" in xml


def test_virtio_serial_port_twice() -> None:
    place = "<address type='virtio-serial' controller='0' bus='0' port='3'/>"
    message = refusal(channel("a", place) + channel("b", place))
    assert message == "XML error: virtio serial port 3 on controller 0 is already occupied"


def scsi(unit: int, inside: str = "") -> str:
    source = f"<source><adapter name='scsi_host0'/><address bus='0' target='0' unit='{unit}'/></source>"
    return f"<hostdev mode='subsystem' type='scsi'>{source}{inside}</hostdev>"


def test_scsi_host_devices_take_the_units_that_disks_leave() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='sdb' bus='scsi'/></disk>"
    xml = stored(disk + "".join(scsi(n) for n in range(8)))
    units = addresses(xml, "drive", "controller", "unit")
    assert units == [("0", "1"), ("0", "0"), *(("0", str(n)) for n in range(2, 7)), ("1", "0"), ("1", "1")]
    assert xml.count("<controller type='scsi'") == 2


def test_smartcards_get_slots_of_the_first_reader() -> None:
    xml = stored("<smartcard mode='host'/>")
    assert addresses(xml, "ccid", "controller", "slot") == [("0", "0")]
    assert "<controller type='ccid' index='0'>" in xml


def test_dimm_slots() -> None:
    dimm = "<memory model='dimm'><target><size unit='MiB'>512</size><node>0</node></target>{}</memory>"
    extra = "<maxMemory slots='4' unit='GiB'>8</maxMemory>"
    extra += "<cpu><numa><cell id='0' cpus='0' memory='262144'/></numa></cpu>"
    second = "<address type='dimm' slot='0'/>"
    xml = stored(dimm.format("") + dimm.format(second) + dimm.format(""), extra=extra)
    assert addresses(xml, "dimm", "slot") == [("1",), ("0",), ("2",)]


@given(st.lists(st.tuples(st.sampled_from(["next", "reserve", "release"]), st.integers(2, 9))))
def test_numbers(steps: list[tuple[str, int]]) -> None:
    numbers = Numbers(2, 7, str, "full")
    used: set[int] = set()
    for step, number in steps:
        free = [n for n in range(2, 8) if n not in used]
        if step == "release":
            numbers.release(number)
            used.discard(number)
        elif step == "reserve":
            if number in used:
                with pytest.raises(AddressError):
                    numbers.reserve(number)
            else:
                numbers.reserve(number)
                used.add(number)
        elif free:
            assert numbers.next() == free[0]
            used.add(free[0])
        else:
            with pytest.raises(AddressError):
                numbers.next()
        assert list(numbers.free()) == [n for n in range(2, 8) if n not in used]


def test_scsi_units() -> None:
    units = ScsiUnits()
    units.reserve(DriveAddress(0, 0, 0, 1))
    assert [units.next() for _ in range(2)] == [DriveAddress(0, 0, 0, 0), DriveAddress(0, 0, 0, 2)]
    units.release(DriveAddress(0, 0, 0, 0))
    assert units.next() == DriveAddress(0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "index"),
    [("sda", 0), ("vdz", 25), ("hdaa", 26), ("xvdb1", 1), ("sd", -1), ("sdA", -1), ("nvme0n1", -1)],
)
def test_disk_names(name: str, index: int) -> None:
    assert disk_index(name) == index


# -- one more device ---------------------------------------------------------------------------------------


def running(devices: str, emulator: Emulator = LATEST, machine: str = "") -> Define:
    """A complete guest, as its devices are while it runs."""
    host = Host.nominal(emulator.arch)
    defined = Guest.from_xml(document(devices, emulator.arch, machine=machine)).define(emulator, host)
    d = Define(defined.domain, emulator, host, update=False, start=True)
    assign_aliases(d)
    return d


def join(d: Define, text: str, *, hotplug: bool = True) -> Device:
    node = parse(text)
    device = BY_TAG[node.tag](node)
    device.complete(d)
    assign_one(device, d, hotplug=hotplug)
    if hotplug:
        assign_alias(device, d)
    return device


NIC = "<interface type='user'><mac address='52:54:00:01:02:03'/><model type='virtio'/></interface>"


def test_hotplug_takes_the_lowest_free_slot() -> None:
    d = running(NIC)
    device = join(d, NIC)
    assert device.address is not None
    assert str(device.address.pci) == "0000:00:04.0"
    assert device.alias == "net1"
    # nothing was added to the guest, and the next try finds the same slot
    assert join(d, NIC).node.value("address/@slot") == "0x04"


def test_hotplug_needs_a_port_that_takes_devices() -> None:
    closed = "<controller type='pci' index='{}' model='pcie-root-port'>{}</controller>"
    roots = "<controller type='pci' index='0' model='pcie-root'/><memballoon model='none'/>"
    none = "<controller type='usb' model='none'/>"
    d = running(
        roots + none + closed.format(1, "<target hotplug='off'/>") + closed.format(2, ""), machine="q35"
    )
    assert join(d, NIC).node.value("address/@bus") == "0x02"
    d = running(roots + none + closed.format(1, "<target hotplug='off'/>"), machine="q35")
    with pytest.raises(AddressError, match="No more available PCI slots"):
        join(d, NIC)


def test_hotplug_refuses_a_place_that_is_taken() -> None:
    d = running(NIC)
    taken = NIC.replace("</interface>", "<address type='pci' slot='2'/></interface>")
    with pytest.raises(AddressError, match="Attempted double use of PCI Address"):
        join(d, taken)
    with pytest.raises(AddressError, match="Duplicate USB address"):
        join(running(usb("1")), usb("1"))


def test_cold_plug_grows_the_guest() -> None:
    roots = "<controller type='pci' index='0' model='pcie-root'/><memballoon model='none'/>"
    d = running(roots + "<controller type='usb' model='none'/>", machine="q35")
    before = len(d.domain.lists["controller"])
    device = join(d, NIC, hotplug=False)
    assert device in d.domain.lists["interface"]
    assert device.address_type == "pci"
    assert len(d.domain.lists["controller"]) > before


@pytest.mark.parametrize(
    ("emulator", "devices", "text", "address"),
    [
        (LATEST, "", TABLET, {"type": "usb", "bus": "0", "port": "1"}),
        (
            LATEST,
            channel("a"),
            channel("b"),
            {"type": "virtio-serial", "controller": "0", "bus": "0", "port": "2"},
        ),
        (S390, "", NIC, {"type": "ccw", "cssid": "0xfe", "ssid": "0x0", "devno": "0x0001"}),
        (PSERIES, "", "<serial type='pty'/>", {"type": "spapr-vio", "reg": "0x30000000"}),
        (
            LATEST,
            "<controller type='scsi'/>",
            scsi(0),
            {"type": "drive", "controller": "0", "bus": "0", "target": "0", "unit": "0"},
        ),
    ],
    ids=["usb", "virtio-serial", "ccw", "spapr-vio", "scsi"],
)
def test_one_more_on_each_bus(emulator: Emulator, devices: str, text: str, address: dict[str, str]) -> None:
    node = join(running(devices, emulator), text).node.child("address")
    assert node is not None
    assert node.attrib == address


# -- aliases -----------------------------------------------------------------------------------------------


def test_aliases() -> None:
    disk = "<disk type='file'><source file='/{0}'/><target dev='{0}' bus='{1}'/></disk>"
    named = NIC.replace("</interface>", "<alias name='ua-nic'/></interface>")
    devices = disk.format("hda", "ide") + disk.format("sda", "scsi") + disk.format("vdb", "virtio")
    argv = tokens(devices + named + NIC + "<controller type='usb' index='0'/>" + TABLET)
    ids = re.findall(r'"id":"([^"]+)"', " ".join(values("-device", argv)))
    assert ids == [
        "usb",
        "scsi0",
        "ide0-0-0",
        "scsi0-0-0",
        "virtio-disk1",
        "ua-nic",
        "net0",
        "input0",
        "balloon0",
    ]


def test_wide_scsi_controllers_name_the_target() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='sda' bus='scsi'/></disk>"
    argv = tokens("<controller type='scsi' model='virtio-scsi'/>" + disk)
    assert any('"id":"scsi0-0-0-0"' in word for word in values("-device", argv))
