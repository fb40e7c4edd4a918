"""Drives: their defaults, their addresses, what the guest sees of them, what boots, what is refused."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.devices.address import disk_index
from qemushim.devices.disk import drive_address_of
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.small_guests import ARM, LATEST, OLD, PSERIES, S390, document, refusal, stored, tokens, values

SOURCE = "<source file='/a.img'/>"
SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


def disk(target: str = "vda", inside: str = SOURCE, attributes: str = "type='file'", bus: str = "") -> str:
    place = f" bus='{bus}'" if bus else ""
    return f"<disk {attributes}>{inside}<target dev='{target}'{place}/></disk>"


def fronts(devices: str, emulator: Emulator = LATEST, extra: str = "", machine: str = "") -> list[Any]:
    """The devices behind which drives stand."""
    found = [json.loads(text) for text in values("-device", tokens(devices, emulator, None, extra, machine))]
    kinds = ("virtio-blk", "vhost-user-blk", "ide-", "scsi-", "usb-storage", "floppy", "isa-fdc")
    return [device for device in found if device["driver"].startswith(kinds)]


def lines(text: str) -> list[str]:
    """The disk of a definition, line by line."""
    found = [line.strip() for line in text.splitlines()]
    return found[found.index(next(x for x in found if x.startswith("<disk"))) : found.index("</disk>")]


# -- names and addresses ----------------------------------------------------------------------------


def name_of(index: int) -> str:
    """The letters of a drive's number."""
    letters = ""
    number = index + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = string.ascii_lowercase[rest] + letters
    return letters


@given(st.integers(0, 2**31 - 1))
def test_target_names_count_in_letters(index: int) -> None:
    assert disk_index("sd" + name_of(index)) == index


@given(st.sampled_from(["ide", "scsi", "sata", "fdc"]), st.integers(0, 10000))
def test_every_drive_has_a_place_of_its_own(bus: str, index: int) -> None:
    """Addresses run through units, then buses, then controllers, without gaps."""
    here, following = drive_address_of(bus, index), drive_address_of(bus, index + 1)
    assert here is not None
    assert following is not None
    assert here < following
    assert following.unit in (0, here.unit + 1)


@pytest.mark.parametrize("bus", ["virtio", "usb", "sd"])
def test_some_buses_have_no_drive_addresses(bus: str) -> None:
    assert drive_address_of(bus, 3) is None


@pytest.mark.parametrize(
    ("target", "address"),
    [
        ("hdd", "controller='0' bus='1' target='0' unit='1'"),
        ("sdi", "controller='1' bus='0' target='0' unit='1'"),
    ],
)
def test_a_drive_sits_where_its_name_says(target: str, address: str) -> None:
    assert f"<address type='drive' {address}/>" in stored(disk(target))


@pytest.mark.parametrize("target", ["vda1", "sdzzzzzzzzz", "disk", "sd"])
def test_a_name_that_says_nothing(target: str) -> None:
    message = refusal(disk(target))
    if target == "vda1":
        assert message == (
            "unsupported configuration: invalid disk target 'vda1', partitions can't appear in disk targets"
        )
    else:
        assert message == f"XML error: Unknown disk name '{target}' and no address specified"


def test_a_device_of_the_host_is_in_the_way() -> None:
    hostdev = (
        "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/>"
        "<address bus='0' target='0' unit='0'/></source>"
        "<address type='drive' controller='0' bus='0' target='0' unit='1'/></hostdev>"
    )
    assert refusal(disk("sdb") + hostdev) == (
        "unsupported configuration: using disk target name 'sdb' conflicts with SCSI host device address "
        "controller='0' bus='0' target='0' unit='1"
    )


# -- defaults ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "device", "bus"),
    [
        ("hda", "disk", "ide"),
        ("sda", "disk", "scsi"),
        ("vda", "disk", "virtio"),
        ("fda", "floppy", "fdc"),
        ("hdc", "cdrom", "ide"),
    ],
)
def test_default_bus(target: str, device: str, bus: str) -> None:
    text = stored(disk(target, attributes=f"type='file' device='{device}'"))
    assert f"<target dev='{target}' bus='{bus}'/>" in text
    assert "<driver name='qemu' type='raw'/>" in text
    assert ("<readonly/>" in text) == (device == "cdrom")


def test_words_that_mean_nothing_are_not_stored() -> None:
    inside = (
        "<driver cache='default' error_policy='default' type='qcow2'/><source file='/a' dev='/b' index='3'/>"
        "<geometry cyls='1' heads='2' secs='3' trans='default'/><mirror/>"
    )
    assert lines(stored(disk("ioemu:vda", inside))) == [
        "<disk type='file' device='disk'>",
        "<driver name='qemu' type='qcow2'/>",
        "<source file='/a'/>",
        "<geometry cyls='1' heads='2' secs='3'/>",
        "<target dev='vda' bus='virtio'/>",
        "<address type='pci' domain='0x0000' bus='0x00' slot='0x02' function='0x0'/>",
    ]


def test_order_of_children_is_libvirts() -> None:
    inside = (
        "<product>P</product><vendor>V</vendor><serial>S</serial><wwn>5000c50015ea71ac</wwn><shareable/>"
        "<iotune><read_bytes_sec>5</read_bytes_sec><total_iops_sec>0</total_iops_sec></iotune>"
        "<blockio physical_block_size='4096' logical_block_size='512'/><backingStore/>"
        "<source dev='/dev/x'/><driver io='native' cache='none' name='qemu'/>"
    )
    text = stored(disk("sda", inside, "device='disk' type='block'"))
    assert lines(text)[:-1] == [
        "<disk type='block' device='disk'>",
        "<driver name='qemu' type='raw' cache='none' io='native'/>",
        "<source dev='/dev/x'/>",
        "<backingStore/>",
        "<blockio logical_block_size='512' physical_block_size='4096'/>",
        "<target dev='sda' bus='scsi'/>",
        "<iotune>",
        "<read_bytes_sec>5</read_bytes_sec>",
        "</iotune>",
        "<shareable/>",
        "<serial>S</serial>",
        "<wwn>5000c50015ea71ac</wwn>",
        "<vendor>V</vendor>",
        "<product>P</product>",
    ]


def test_a_disk_without_source_is_of_type_file() -> None:
    text = stored(disk("hda", "", "type='network' device='cdrom'"))
    assert "<disk type='file' device='cdrom'>" in text


def test_limits_of_a_group_are_those_of_its_first_disk() -> None:
    first = disk(
        "vda", SOURCE + "<iotune><read_iops_sec>9</read_iops_sec><group_name>g</group_name></iotune>"
    )
    second = disk("vdb", SOURCE + "<iotune><group_name>g</group_name></iotune>")
    assert stored(first + second).count("<read_iops_sec>9</read_iops_sec>") == 2


def test_metadata_cache_is_kept_in_bytes() -> None:
    driver = (
        "<driver type='qcow2'><metadata_cache><max_size unit='KiB'>64</max_size></metadata_cache></driver>"
    )
    assert "<max_size unit='bytes'>65536</max_size>" in stored(disk("vda", driver + SOURCE))


@pytest.mark.parametrize("emulator", [LATEST, ARM, PSERIES, S390])
def test_a_definition_stays_as_it_is(emulator: Emulator) -> None:
    text = stored(disk("vda") + disk("sdb"), emulator)
    again = Guest.from_xml(text).define(emulator, Host.nominal(emulator.arch), update=False)
    assert again.to_xml() == text


# -- what the guest sees ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bus", "kind", "driver"),
    [
        ("virtio", "disk", "virtio-blk-pci"),
        ("ide", "disk", "ide-hd"),
        ("ide", "cdrom", "ide-cd"),
        ("sata", "cdrom", "ide-cd"),
        ("scsi", "disk", "scsi-hd"),
        ("scsi", "cdrom", "scsi-cd"),
        ("usb", "disk", "usb-storage"),
    ],
)
def test_driver(bus: str, kind: str, driver: str) -> None:
    (device,) = fronts(disk("sda", SOURCE, f"type='file' device='{kind}'", bus))
    assert device["driver"] == driver
    assert device["drive"] == "libvirt-1-storage"


def test_lun() -> None:
    (device,) = fronts(disk("sda", "<source dev='/dev/x'/>", "type='block' device='lun'"))
    assert device["driver"] == "scsi-block"
    assert "device_id" not in device


def test_everything_that_a_scsi_disk_can_say() -> None:
    inside = (
        SOURCE
        + "<driver cache='writethrough' error_policy='enospace' rerror_policy='stop'/><serial>A B</serial>"
        "<wwn>0x5000c50015ea71ac</wwn><vendor>SEA</vendor><product>ST</product>"
        "<blockio logical_block_size='512'/><geometry cyls='9' heads='8' secs='7' trans='lba'/>"
    )
    controller = "<controller type='scsi' index='0' model='virtio-scsi'/>"
    (device,) = fronts(
        controller + f"<disk type='file'>{inside}<target dev='sda' bus='scsi' rotation_rate='5400'/></disk>"
    )
    assert list(device.items())[5:] == [
        ("device_id", "A B"),
        ("drive", "libvirt-1-storage"),
        ("id", "scsi0-0-0-0"),
        ("bootindex", 1),
        ("logical_block_size", 512),
        ("wwn", 0x5000C50015EA71AC),
        ("rotation_rate", 5400),
        ("vendor", "SEA"),
        ("product", "ST"),
        ("write-cache", "off"),
        ("cyls", 9),
        ("heads", 8),
        ("secs", 7),
        ("bios-chs-trans", "lba"),
        ("serial", "A\\ B"),
        ("werror", "enospc"),
        ("rerror", "stop"),
    ]


def test_virtio_options_come_first() -> None:
    driver = "<driver iommu='on' packed='off' ioeventfd='on' event_idx='off' queues='4' queue_size='256'/>"
    (device,) = fronts(disk("vda", driver + SOURCE))
    assert list(device)[:7] == [
        "driver",
        "iommu_platform",
        "packed",
        "ioeventfd",
        "event_idx",
        "num-queues",
        "queue-size",
    ]


def test_queues_are_mapped_to_threads() -> None:
    driver = (
        "<driver queues='2'><iothreads><iothread id='1'><queue id='1'/></iothread>"
        "<iothread id='2'><queue id='0'/></iothread></iothreads></driver>"
    )
    (device,) = fronts(disk("vda", driver + SOURCE), extra="<iothreads>2</iothreads>")
    assert device["iothread-vq-mapping"] == [
        {"iothread": "iothread1", "vqs": [1]},
        {"iothread": "iothread2", "vqs": [0]},
    ]


def test_vhost_user_has_a_socket_in_place_of_a_drive() -> None:
    source = "<source type='unix' path='/s'><reconnect enabled='yes' timeout='3'/></source>"
    text = disk("vda", source, "type='vhostuser'")
    assert "snapshot='no'" in stored(text, extra=SHARED)
    argv = tokens(text, extra=SHARED)
    assert "socket,id=chr-vu-virtio-disk0,path=/s,reconnect-ms=3000" in values("-chardev", argv)
    (device,) = fronts(text, extra=SHARED)
    assert device["driver"] == "vhost-user-blk-pci"
    assert device["chardev"] == "chr-vu-virtio-disk0"
    assert "drive" not in device


def test_sd_cards_belong_to_the_board() -> None:
    argv = tokens(disk("sdb", SOURCE, bus="sd"), ARM, machine="vexpress-a15")
    assert values("-drive", argv) == ["file=/a.img,format=raw,if=sd,index=1"]


def test_a_comma_stays_in_a_path() -> None:
    argv = tokens(disk("sda", "<source file='/a,if=ide'/>", bus="sd"), ARM, machine="vexpress-a15")
    assert values("-drive", argv) == ["file=/a,,if=ide,format=raw,if=sd,index=0"]


def test_overlays_that_are_shared_are_plugged_in_later() -> None:
    text = disk("vda", SOURCE + "<transient shareBacking='yes'/>") + disk("vdb")
    (device,) = fronts(text)
    assert device["id"] == "virtio-disk1"
    assert device["drive"] == "libvirt-1-storage"


# -- booting ----------------------------------------------------------------------------------------


def boot(kinds: str) -> str:
    return document(disk("hda") + disk("hdc", SOURCE, "type='file' device='cdrom'") + disk("vda")).replace(
        "</os>", "".join(f"<boot dev='{kind}'/>" for kind in kinds.split()) + "</os>"
    )


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("", {"ide0-0-0": 1}),
        ("cdrom hd", {"ide0-1-0": 1, "ide0-0-0": 2}),
        ("network cdrom", {"ide0-1-0": 2}),
        ("hd hd", {"ide0-0-0": 2}),
    ],
)
def test_kinds_of_devices_boot(kinds: str, expected: dict[str, int]) -> None:
    argv = Guest.from_xml(boot(kinds)).command(LATEST, Host.nominal()).tokens
    found = [json.loads(text) for text in values("-device", argv)]
    assert {d["id"]: d["bootindex"] for d in found if "bootindex" in d} == expected


def test_the_floppy_controller_knows_what_boots() -> None:
    floppy = disk("fdb", SOURCE + "<boot order='1'/>", "type='file' device='floppy'")
    assert "isa-fdc.bootindexB=1" in values("-global", tokens(floppy))
    controller, drive = fronts(floppy, machine="q35")
    assert controller == {"driver": "isa-fdc", "bootindexB": 1}
    assert "bootindex" not in drive


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ("1", "unsupported configuration: boot order '1' used for more than one device"),
        ("0", "XML error: Invalid value for attribute 'order' in element 'boot': Zero is not permitted"),
    ],
)
def test_boot_order_is_an_order(order: str, message: str) -> None:
    text = disk("vda", SOURCE + "<boot order='1'/>") + disk("vdb", SOURCE + f"<boot order='{order}'/>")
    assert refusal(text) == message


def test_two_styles_of_boot_order() -> None:
    text = boot("hd").replace("<source file='/a.img'/>", "<source file='/a.img'/><boot order='1'/>", 1)
    with pytest.raises(ConfigError, match="per-device boot elements cannot be used together with os/boot"):
        Guest.from_xml(text).define(LATEST, Host.nominal())


def test_loadparm_is_in_capitals() -> None:
    text = disk("vda", SOURCE + "<boot order='1' loadparm='abc.1'/>")
    assert "<boot order='1' loadparm='ABC.1'/>" in stored(text, S390)
    (device,) = fronts(text, S390)
    assert device["loadparm"] == "ABC.1"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("toolong12", "loadparm value 'TOOLONG12' must be between 1 and 8 characters"),
        ("a_b", "invalid loadparm value 'A_B', expecting chars in set of [a-zA-Z0-9.] and blank spaces"),
    ],
)
def test_loadparm_has_its_letters(word: str, message: str) -> None:
    text = disk("vda", SOURCE + f"<boot order='1' loadparm='{word}'/>")
    assert refusal(text, S390) == f"internal error: {message}"


# -- refusals ---------------------------------------------------------------------------------------

U = "unsupported configuration: "
PLACE = "controller='0' bus='0' target='0' unit='0'"

REFUSED = [
    (disk("", SOURCE), "XML error: Unknown disk name '' and no address specified"),
    (
        disk("vda", SOURCE, "type='file' device='lun'"),
        f"{U}disk device='lun' is only valid for block type disk source",
    ),
    (
        disk("vda", "<source dev='/x'/>", "type='block' device='lun'"),
        f"{U}This QEMU doesn't support SCSI emulation with 'virtio-blk' device",
    ),
    (disk("sda", "", "type='file' device='cdrom'", "usb"), f"{U}'usb' disk must not be empty"),
    (disk("vda", SOURCE + "<vendor>V</vendor>"), f"{U}Only scsi disk supports 'vendor'"),
    (disk("sda", SOURCE + f"<product>{17 * 'x'}</product>"), f"{U}disk product is more than 16 characters"),
    (
        disk("vda", SOURCE + "<driver type='qcow2'/><shareable/>"),
        f"{U}shared access for disk 'vda' requires use of supported storage format",
    ),
    (disk("vda", SOURCE + "<driver type='cow'/>"), f"{U}'cow' storage format is not supported"),
    (
        disk("vda", SOURCE + "<driver type='iso'/>"),
        f"{U}storage format 'iso' is not directly supported by QEMU, use 'raw' instead",
    ),
    (
        disk("hda", SOURCE + "<address type='pci'/>"),
        f"{U}Invalid address type 'pci' for the disk 'hda' with the bus type 'ide'",
    ),
    (
        disk("sda", SOURCE + "<address type='pci' bus='0' slot='9' function='0'/>", bus="usb"),
        "internal error: unexpected address type for usb disk",
    ),
    (
        disk("hda") + disk("hda", "<source file='/b'/>"),
        "XML error: target 'hda' duplicated for disk sources '/a.img' and '/b'",
    ),
    (
        disk("sda") + disk("sdb", SOURCE + "<address type='drive' unit='0'/>"),
        f"{U}Found duplicate drive address for disk with target name 'sda' {PLACE}",
    ),
    (
        disk("vda", SOURCE + "<driver iothread='3'/>"),
        f"{U}Disk iothread '3' not defined in iothreadid",
    ),
    (
        disk("hda", SOURCE + "<driver queues='3'/>"),
        f"{U}queues attribute in disk driver element is only supported for virtio bus",
    ),
    (
        disk("vda", SOURCE + "<driver type='nonsense'/>"),
        f"{U}unknown driver format value 'nonsense'",
    ),
]


@pytest.mark.parametrize(("devices", "message"), REFUSED, ids=[m[-40:] for _, m in REFUSED])
def test_refused(devices: str, message: str) -> None:
    assert refusal(devices) == message


def test_old_virtio_disks_pass_scsi_commands_on() -> None:
    argv = tokens(disk("vda", "<source dev='/x'/>", "type='block' device='lun'"), OLD)
    assert any('"driver":"virtio-blk-pci","scsi":true' in text for text in values("-device", argv))


def test_pseries_has_no_floppies() -> None:
    text = disk("fda", SOURCE, "type='file' device='floppy'")
    with pytest.raises(ConfigError, match="PowerPC pseries machines do not support floppy device"):
        tokens(text, PSERIES)
