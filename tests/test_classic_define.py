"""Definitions for QEMU 0.9 – 1.2: defaults, drive addresses, controllers, slots, libvirt 0.8.0's style."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.classic.disks import SHAPES, disk_index
from qemushim.document.parse import parse
from qemushim.errors import AddressError, ConfigError
from qemushim.guest import Guest
from tests.classic_guests import ALWAYS, DEVICE, DISK, HOST, LETTER, NIC, PCI, define, document, emulator

BARE = """<domain type='qemu'>
  <name>old</name>
  <uuid>c7a5fdbd-edaf-9455-926a-d65c16db1809</uuid>
  <memory>262144</memory>
  <currentMemory>262144</currentMemory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='pc-0.12'>hvm</type>
    <boot dev='hd'/>
  </os>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu</emulator>
  </devices>
</domain>
"""


def xml(devices: str = "", more: str = "", *flags: str, virt: str = "qemu", os: str = "") -> str:
    return define(document(devices, more, virt=virt, os=os), emulator(*flags)).to_xml()


def test_defaults_are_written() -> None:
    assert xml() == BARE


def test_a_definition_stays_as_it_is() -> None:
    devices = (
        DISK.format(path="/a", dev="sda")
        + DISK.format(path="/b", dev="vda")
        + NIC.format(mac=1, model="virtio")
        + "<graphics type='vnc'/><input type='tablet'/><sound model='ac97'/><serial type='pty'/>"
        + "<channel type='pty'><target type='virtio' name='x'/></channel><watchdog model='i6300esb'/>"
    )
    for flags in (ALWAYS, DEVICE):
        once = define(document(devices), emulator(*flags))
        assert once.define(emulator(*flags), HOST).to_xml() == once.to_xml()
        assert define(once.to_xml(), emulator(*flags)).to_xml() == once.to_xml()


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("hda", 0),
        ("sdz", 25),
        ("sdaa", 26),
        ("vdab", 27),
        ("xvdb", 1),
        ("fdb", 1),
        ("hda1", 26),
        ("hdb1", 52),
    ],
)
def test_number_of_a_target(name: str, index: int) -> None:
    assert disk_index(name) == index


@pytest.mark.parametrize("name", ["ubda", "hd", "hd1", "zda", "HDA", "hda-1"])
def test_no_number(name: str) -> None:
    assert disk_index(name) is None


@given(st.sampled_from(sorted(SHAPES)), st.integers(0, 5000))
def test_every_number_has_its_own_place(bus: str, index: int) -> None:
    shape = SHAPES[bus]
    controller, number, unit = shape.place(index)
    assert number < shape.buses
    assert unit < shape.units
    assert (controller * shape.buses + number) * shape.units + unit == index


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("hdd", "controller='0' bus='1' unit='1'"),
        ("hde", "controller='1' bus='0' unit='0'"),
        ("sdh", "controller='1' bus='0' unit='0'"),
    ],
)
def test_drive_address(target: str, address: str) -> None:
    assert f"<address type='drive' {address}/>" in xml(DISK.format(path="/a", dev=target))


def test_controllers_up_to_the_highest_are_added() -> None:
    text = xml(DISK.format(path="/a", dev="sdz") + DISK.format(path="/b", dev="hda"))
    wanted = [f"<controller type='scsi' index='{n}'/>" for n in range(4)] + [
        "<controller type='ide' index='0'/>"
    ]
    assert [line.strip() for line in text.splitlines() if "<controller" in line] == wanted


def test_bus_follows_the_target() -> None:
    buses = {"hda": "ide", "sda": "scsi", "vda": "virtio", "xvda": "xen", "ubda": "uml"}
    for target, bus in buses.items():
        address = "<address type='drive'/>" if bus == "uml" else ""
        text = DISK.format(path="/a", dev=target).replace("</disk>", f"{address}</disk>")
        assert f"<target dev='{target}' bus='{bus}'/>" in xml(text)


def test_cdrom_is_read_only_and_may_be_empty() -> None:
    text = xml("<disk type='file' device='cdrom'><source file=''/><target dev='ioemu:hdc'/></disk>")
    assert "<readonly/>" in text
    assert "<source" not in text
    assert "dev='hdc'" in text


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        (
            "<disk device='floppy'><source file='/a'/><target dev='hda'/></disk>",
            "Invalid floppy device name: hda",
        ),
        ("<disk><source file='/a'/><target dev='fda'/></disk>", "Invalid harddisk device name: fda"),
        (
            "<disk><source file='/a'/><target dev='hda' bus='fdc'/></disk>",
            "Invalid bus type 'fdc' for disk disk",
        ),
        (
            "<disk device='floppy'><target dev='fda' bus='ide'/></disk>",
            "Invalid bus type 'ide' for floppy disk",
        ),
        ("<disk><target dev='hda'/></disk>", "no source for disk 'hda'"),
        ("<disk><source file='/a'/><target dev='ubda' bus='ide'/></disk>", "Unknown disk name 'ubda'"),
        (DISK.format(path="/a", dev="hda") * 2, "target 'hda' duplicated"),
        ("<disk><source file='/a'/><target dev='hda' bus='warp'/></disk>", "'warp'"),
    ],
)
def test_refused_disks(disk: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        xml(disk)
    assert message in refused.value.message
    assert refused.value.line


def test_driver_with_a_policy_alone_is_dropped() -> None:
    disk = DISK.format(path="/a", dev="hda").replace("<source", "<driver error_policy='stop'/><source")
    assert "<driver" not in xml(disk)


def test_nothing_but_xml_order_of_kinds() -> None:
    text = xml("<watchdog model='ib700'/><sound model='sb16'/><serial/>" + DISK.format(path="/a", dev="hda"))
    tags = ["emulator", "disk", "controller", "serial", "console", "sound", "watchdog"]
    places = [text.index(f"<{tag}") for tag in tags]
    assert places == sorted(places)


def test_console_becomes_serial_and_is_mirrored() -> None:
    text = xml("<console type='pty'><source path='/dev/pts/3'/></console>")
    assert text.count("type='pty'>") == 2
    assert "/dev/pts" not in text


def test_parallel_ports_are_numbered_anew() -> None:
    text = xml("<parallel type='pty'><target port='7'/></parallel><parallel type='vc'/>")
    assert "port='7'" not in text
    assert text.index("port='0'") < text.index("port='1'")


def test_udp_is_written_near_side_first() -> None:
    far = "<source mode='connect' host='192.0.2.1' service='2'/>"
    near = "<source mode='bind' host='127.0.0.1' service='1'/>"
    text = xml(f"<serial type='udp'>{far}{near}</serial>")
    assert text.index("mode='bind'") < text.index("mode='connect'")


def test_unknown_character_device_is_null_but_a_later_one_is_refused() -> None:
    # a type that is no type is refused when a document is read by today's rules, so read it by the older ones
    guest = Guest(parse(document("<serial type='nonsense'/>")))
    assert "<serial type='null'>" in guest.define(emulator(), HOST).to_xml()
    with pytest.raises(ConfigError, match="SPICE"):
        xml("<channel type='spicevmc'><target type='virtio'/></channel>")


def test_graphics_bring_mouse_and_card() -> None:
    text = xml("<input type='mouse' bus='ps2'/><input type='tablet'/><graphics type='vnc'/>")
    assert "<graphics type='vnc' port='-1' autoport='yes'/>" in text
    assert "<model type='cirrus' vram='9216' heads='1'/>" in text
    assert text.index("<input type='tablet' bus='usb'/>") < text.index("<input type='mouse' bus='ps2'/>")
    assert text.count("<input") == 2


def test_password_is_withheld_but_used() -> None:
    guest = define(document("<graphics type='vnc' port='5901' passwd='secret'/>"))
    assert "secret" not in guest.to_xml()
    assert ":1,password" in " ".join(guest.command(emulator(), HOST).argv)


def test_xen_guest_has_xen_devices() -> None:
    os = "<bootloader>/usr/bin/pygrub</bootloader><os><type arch='x86_64' machine='isapc'>xen</type></os>"
    text = xml("<graphics type='vnc' port='5900'/>", os=os)
    assert "<input type='mouse' bus='xen'/>" in text
    assert "<model type='xen' vram='4096' heads='1'/>" in text
    assert "<boot" not in text.replace("<bootloader", "")


@pytest.mark.parametrize(
    ("bus", "kind", "message"),
    [("ps2", "tablet", "ps2 bus does not support tablet"), ("xen", "mouse", "unsupported input bus xen")],
)
def test_refused_inputs(bus: str, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        xml(f"<input type='{kind}' bus='{bus}'/>")


def test_interface_target_of_libvirts_own_is_dropped() -> None:
    head = "<interface type='bridge'><mac address='52:54:0:A:0:1'/><source bridge='br0'/>"
    nic = head + "<target dev='{}'/></interface>"
    assert "<target" not in xml(nic.format("vnet3"))
    assert "<target dev='tap3'/>" in xml(nic.format("tap3"))
    assert "<mac address='52:54:00:0a:00:01'/>" in xml(nic.format("x"))


@pytest.mark.parametrize("kind", ["network", "bridge", "direct", "client", "mcast", "server", "internal"])
def test_interface_needs_its_source(kind: str) -> None:
    with pytest.raises(ConfigError, match=f"with <interface type='{kind}'/>"):
        xml(f"<interface type='{kind}'/>")


@pytest.mark.parametrize(("text", "number"), [("14", 14), ("0x14", 20), ("014", 12), ("0", 0)])
def test_usb_numbers_go_by_their_prefix(text: str, number: int) -> None:
    usb = f"<hostdev type='usb'><source><address bus='{text}' device='1'/></source></hostdev>"
    assert f"<address bus='{number}' device='1'/>" in xml(usb)


@pytest.mark.parametrize("place", ["slot='0x20'", "slot='1' function='8'", "slot='0'"])
def test_impossible_addresses_are_refused_without_device_too(place: str) -> None:
    nic = NIC.format(mac=1, model="virtio").replace(
        "</interface>", f"<address type='pci' {place}/></interface>"
    )
    with pytest.raises(AddressError, match="invalid PCI address"):
        Guest(parse(document(nic))).define(emulator(), HOST)


def test_encrypted_disk() -> None:
    secret = "<secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>"
    disk = DISK.format(path="/a", dev="hda").replace(
        "</disk>", f"<encryption format='qcow'>{secret}</encryption></disk>"
    )
    assert f"<encryption format='qcow'>\n        {secret}\n      </encryption>\n" in xml(disk)


def test_memory_of_later_documents() -> None:
    text = xml().replace("<memory>262144</memory>", "<memory unit='GiB'>1</memory>")
    assert "<memory>1048576</memory>" in define(text).to_xml()


def test_per_device_boot_order_becomes_the_boot_list() -> None:
    disk = DISK.format(path="/a", dev="hda").replace("</disk>", "<boot order='2'/></disk>")
    nic = NIC.format(mac=1, model="virtio").replace("</interface>", "<boot order='1'/></interface>")
    text = xml(disk + nic)
    assert "<boot dev='network'/>\n    <boot dev='hd'/>" in text


@pytest.mark.parametrize("machine", ["q35", "pc-i440fx-9.0", "xenfv"])
def test_unknown_machine_is_refused_with_the_list(machine: str) -> None:
    with pytest.raises(ConfigError, match=f"does not support machine type '{machine}'") as refused:
        xml(os=f"<os><type arch='x86_64' machine='{machine}'>hvm</type></os>")
    assert "pc-0.12, isapc" in refused.value.hint


# -- PCI slots ------------------------------------------------------------------------------------------


def slots(text: str) -> list[str]:
    return [line.split("slot='0x")[1][:2] for line in text.splitlines() if "<address type='pci'" in line]


def test_slots_are_given_only_with_device() -> None:
    nic = NIC.format(mac=1, model="virtio")
    assert slots(xml(nic)) == []
    assert slots(xml(nic, "", *DEVICE)) == ["04"]


def test_order_of_slots() -> None:
    devices = (
        "<watchdog model='i6300esb'/><sound model='ac97'/><sound model='sb16'/>"
        + NIC.format(mac=1, model="virtio")
        + DISK.format(path="/a", dev="vda")
        + DISK.format(path="/b", dev="sda")
        + "<graphics type='vnc'/>"
        + "<hostdev type='pci'><source><address bus='6' slot='0' function='0'/></source></hostdev>"
    )
    text = xml(devices, "", *DEVICE)
    # in writing order: disk, scsi controller, interface, sound, video, hostdev, watchdog
    assert slots(text) == ["04", "08", "05", "06", "02", "07", "09"]


def test_ide_controller_is_at_its_place() -> None:
    text = xml(DISK.format(path="/b", dev="hda"), "", *DEVICE)
    assert "<address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x1'/>" in text


def test_an_address_of_the_document_is_law() -> None:
    first = NIC.format(mac=1, model="virtio").replace("</interface>", PCI.format(slot="5") + "</interface>")
    text = xml(first + NIC.format(mac=2, model="virtio") * 2, "", *DEVICE)
    assert slots(text) == ["05", "04", "06"]


@pytest.mark.parametrize("slot", ["10", "0x10", "0X10"])
def test_slots_are_hexadecimal_with_or_without_prefix(slot: str) -> None:
    nic = NIC.format(mac=1, model="virtio").replace("</interface>", PCI.format(slot=slot) + "</interface>")
    assert slots(xml(nic, "", *DEVICE)) == ["10"]


@pytest.mark.parametrize(
    ("slot", "message"), [("3", "for the balloon"), ("0x0", "invalid PCI address"), ("4", "used by disk vda")]
)
def test_taken_slots(slot: str, message: str) -> None:
    disk = DISK.format(path="/a", dev="vda").replace("</disk>", PCI.format(slot="4") + "</disk>")
    nic = NIC.format(mac=1, model="virtio").replace("</interface>", PCI.format(slot=slot) + "</interface>")
    with pytest.raises(AddressError, match=message) as refused:
        xml(disk + nic, "", *DEVICE)
    assert slot == "0x0" or "free: " in refused.value.hint


def test_video_must_be_where_it_is() -> None:
    with pytest.raises(AddressError, match="Primary video card"):
        xml("<video><model type='vga'/>" + PCI.format(slot="9") + "</video>", "", *DEVICE)


def test_slots_run_out() -> None:
    nics = "".join(NIC.format(mac=n, model="virtio") for n in range(29))
    with pytest.raises(AddressError, match="no more PCI slots") as refused:
        xml(nics, "", *DEVICE)
    assert refused.value.hint.endswith("free: none")


@given(st.lists(st.sampled_from([None, *range(4, 32)]), max_size=12))
def test_slots_never_collide(wishes: list[int | None]) -> None:
    fixed = [wish for wish in wishes if wish is not None]
    devices = "".join(
        NIC.format(mac=n, model="virtio").replace(
            "</interface>", (PCI.format(slot=hex(w)) if w is not None else "") + "</interface>"
        )
        for n, w in enumerate(wishes)
    )
    if len(set(fixed)) < len(fixed):
        with pytest.raises(AddressError):
            xml(devices, "", *DEVICE)
        return
    got = [int(slot, 16) for slot in slots(xml(devices, "", *DEVICE))]
    assert len(set(got)) == len(wishes)
    assert all(slot >= 4 for slot in got)
    assert all(w is None or w == g for w, g in zip(wishes, got, strict=True))


def test_isa_watchdog_has_a_slot_only_by_the_letter() -> None:
    text = document("<watchdog model='ib700'/>")
    assert slots(define(text, emulator(*DEVICE)).to_xml()) == []
    assert slots(define(text, emulator(*DEVICE), LETTER).to_xml()) == ["04"]


def test_declined_or_moved_balloon_frees_its_slot() -> None:
    nic = NIC.format(mac=1, model="virtio").replace("</interface>", PCI.format(slot="3") + "</interface>")
    assert slots(xml(nic + "<memballoon model='none'/>", "", *DEVICE)) == ["03"]
    moved = f"<memballoon model='virtio'>{PCI.format(slot='7')}</memballoon>"
    assert slots(xml(nic + moved, "", *DEVICE)) == ["03", "07"]


def test_virtio_channel_brings_its_controller() -> None:
    channel = "<channel type='pty'><target type='virtio' name='x'/></channel>"
    assert "<controller type='virtio-serial' index='0'/>" in xml(channel)
    letter = define(document(channel), emulator(), LETTER).to_xml()
    assert "<controller type='virtio-serial' index='0' ports='0' vectors='0'/>" in letter


@pytest.mark.parametrize(
    "devices",
    [
        "<serial type='dev'><source path='/dev/ttyS0'/><target port='4'/></serial><console/>",
        "<console type='udp'><source host='a' service='1'/><source mode='bind' service='2'/></console>",
        "<graphics type='vnc'/><input type='mouse' bus='ps2'/><input type='tablet'/>",
        DISK.format(path="/a", dev="sda") + NIC.format(mac=1, model="virtio"),
    ],
)
def test_written_into_the_users_text_it_is_a_definition_too(devices: str) -> None:
    once = define(document(devices), emulator(*DEVICE))
    again = define(once.to_xml("keep"), emulator(*DEVICE))
    assert again.to_xml() == once.to_xml()
    assert again.to_xml("keep") == once.to_xml("keep")
