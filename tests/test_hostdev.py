"""Devices of the host: what is stored of them, how QEMU gets them, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qemushim.emulator.model import Emulator
from qemushim.host import Host
from tests.small_guests import LATEST, S390, refusal, stored, tokens, values

UUID = "53764d0e-85a0-42b4-af5c-2046b460b1dc"
HOST = Host.nominal()._replace(find_secret=lambda kind, reference: b"s")


def pci(slot: int = 0, inside: str = "", attributes: str = "") -> str:
    source = f"<source><address domain='0' bus='6' slot='{slot}'/></source>"
    return f"<hostdev mode='subsystem' type='pci' {attributes}>{source}{inside}</hostdev>"


def usb(source: str = "<source><address bus='14' device='6'/></source>", inside: str = "") -> str:
    return f"<hostdev type='usb'>{source}{inside}</hostdev>"


def scsi(source: str = "", inside: str = "") -> str:
    source = (
        source
        or "<source><adapter name='scsi_host0'/><address bus='0' target='0' unit='1074872354'/></source>"
    )
    return f"<hostdev type='scsi' managed='yes'>{source}{inside}</hostdev>"


def mdev(model: str = "vfio-pci", attributes: str = "", inside: str = "", uuid: str = UUID) -> str:
    source = f"<source><address uuid='{uuid}'/></source>"
    return f"<hostdev type='mdev' model='{model}' {attributes}>{source}{inside}</hostdev>"


VHOST = "<hostdev type='scsi_host'><source protocol='vhost' wwpn='naa.5123456789abcde0'/>{}</hostdev>"
GRAPHICS = "<graphics type='vnc'/>"


def device(devices: str, driver: str, emulator: Emulator = LATEST) -> Any:
    argv = tokens(devices, emulator, HOST._replace(arch=emulator.arch))
    found = [json.loads(text) for text in values("-device", argv)]
    return next(entry for entry in found if entry["driver"] == driver)


def lines(text: str) -> list[str]:
    found = [line.strip() for line in text.splitlines()]
    first = next(i for i, line in enumerate(found) if line.startswith("<hostdev"))
    return found[first : found.index("</hostdev>")]


# -- what is stored ---------------------------------------------------------------------------------


def test_pci() -> None:
    assert lines(stored(pci(9)))[:4] == [
        "<hostdev mode='subsystem' type='pci' managed='no'>",
        "<source>",
        "<address domain='0x0000' bus='0x06' slot='0x09' function='0x0'/>",
        "</source>",
    ]


def test_usb_and_scsi_addresses_are_decimal() -> None:
    assert "<address bus='14' device='6'/>" in stored(usb())
    assert "<address bus='0' target='0' unit='1074872354'/>" in stored(scsi())


def test_usb_by_vendor_and_product() -> None:
    text = stored(usb("<source startupPolicy='optional'><product id='0x20'/><vendor id='0x1'/></source>"))
    assert lines(text)[1:4] == [
        "<source startupPolicy='optional'>",
        "<vendor id='0x0001'/>",
        "<product id='0x0020'/>",
    ]


def test_an_iscsi_target_has_a_lun_but_no_port_of_its_own() -> None:
    text = stored(scsi("<source protocol='iscsi' name='iqn.t'><host name='h'/></source>"))
    assert "<source protocol='iscsi' name='iqn.t/0'>" in text
    assert "<host name='h'/>" in text


def test_mdev_shows_nothing_by_default() -> None:
    text = stored(mdev(uuid=UUID.upper()))
    assert "<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci' display='off'>" in text
    assert f"<address uuid='{UUID}'/>" in text
    assert "display" not in stored(mdev("vfio-ccw"), S390)


# -- options ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reset", "expected"),
    [
        ("", {}),
        ("guestReset='off'", {"guest-reset": False}),
        ("guestReset='uninitialized'", {"guest-reset": True, "guest-resets-all": False}),
        ("guestReset='on'", {"guest-reset": True, "guest-resets-all": True}),
    ],
)
def test_usb_resets(reset: str, expected: dict[str, bool]) -> None:
    found = device(usb(f"<source {reset}><address bus='14' device='6'/></source>"), "usb-host")
    assert found["hostdevice"] == "/dev/bus/usb/014/006"
    assert {key: found[key] for key in found if key.startswith("guest-reset")} == expected


def test_old_qemus_take_usb_addresses_in_numbers() -> None:
    old = Emulator.recorded("8.2.0", "s390x")
    text = "<controller type='usb' index='0' model='qemu-xhci'/>" + usb()
    found = device(text, "usb-host", old)
    assert (found["hostbus"], found["hostaddr"]) == (14, 6)


def test_a_usb_device_may_be_absent() -> None:
    source = "<source startupPolicy='optional'><vendor id='1'/><product id='2'/></source>"
    assert "hostdevice" not in device(usb(source), "usb-host")
    assert refusal(usb(source.replace("optional", "mandatory"))) == (
        "internal error: USB host device is missing bus/device information"
    )


def test_pci_options() -> None:
    text = pci(0, "<rom bar='off' file='/rom'/><boot order='3'/>", "display='on' ramfb='on'") + GRAPHICS
    found = device(text, "vfio-pci-nohotplug")
    assert list(found) == [
        *("driver", "host", "id", "bootindex", "display", "ramfb", "bus", "addr", "rombar", "romfile"),
    ]
    assert found["host"] == "0000:06:00.0"


def test_a_device_without_a_place_is_only_taken_from_the_host() -> None:
    argv = tokens(pci(0, "<address type='unassigned'/>"))
    assert not any("vfio" in text for text in values("-device", argv))


def test_interfaces_come_first() -> None:
    interface = (
        "<interface type='hostdev'><mac address='52:54:00:01:02:03'/><source>"
        "<address type='pci' domain='1' bus='2' slot='3' function='4'/></source></interface>"
    )
    argv = tokens(pci() + interface)
    found = [json.loads(text) for text in values("-device", argv) if "vfio-pci" in text]
    assert [(entry["id"], entry["host"]) for entry in found] == [
        ("hostdev0", "0001:02:03.4"),
        ("hostdev1", "0000:06:00.0"),
    ]


def test_a_network_may_give_a_device_of_the_host() -> None:
    host = HOST._replace(find_network=lambda name: {"type": "hostdev", "pci": "0000:05:10.0"})
    text = "<interface type='network'><source network='pool'/></interface>" + pci()
    argv = tokens(text, LATEST, host)
    found = [json.loads(entry) for entry in values("-device", argv) if "vfio-pci" in entry]
    assert [entry["host"] for entry in found] == ["0000:06:00.0", "0000:05:10.0"]


def test_scsi_devices_are_numbered_behind_the_disks() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='vda'/></disk>"
    auth = "<auth username='me'><secret type='iscsi' usage='u'/></auth>"
    iscsi = scsi(f"<source protocol='iscsi' name='t/2'><host name='h'/>{auth}</source>")
    argv = tokens(scsi("", "<readonly/>") + iscsi + disk, LATEST, HOST)
    nodes = [json.loads(text) for text in values("-blockdev", argv)]
    assert [node["node-name"] for node in nodes] == [
        "libvirt-1-storage",
        "libvirt-2-backend",
        "libvirt-3-backend",
    ]
    assert nodes[1]["filename"] == "/dev/sg0"
    assert nodes[1]["read-only"] is True
    assert nodes[2]["password-secret"] == "libvirt-3-backend-secret0"


def test_vhost_scsi() -> None:
    found = device(VHOST.format(""), "vhost-scsi-pci")
    assert list(found) == ["driver", "wwpn", "vhostfd", "id", "bus", "addr"]


def test_mdev_options() -> None:
    found = device(mdev("vfio-pci", "display='on' ramfb='on'") + GRAPHICS, "vfio-pci-nohotplug")
    assert list(found) == ["driver", "id", "sysfsdev", "display", "ramfb", "bus", "addr"]
    assert found["sysfsdev"] == f"/sys/bus/mdev/devices/{UUID}"
    assert device(mdev("vfio-ap"), "vfio-ap", S390)["id"] == "hostdev0"


# -- refusals ---------------------------------------------------------------------------------------

U = "unsupported configuration: "
TWICE = "XML error: Hostdev already exists in the domain configuration"
AT_5 = "<address type='drive' controller='0' bus='0' target='0' unit='5'/>"

REFUSED = [
    (pci() + pci(), TWICE),
    (usb() + usb(), TWICE),
    (scsi() + scsi(), TWICE),
    (mdev() + mdev(), TWICE),
    (
        mdev("vfio-pci", "display='on'"),
        f"{U}graphics device is needed for attribute value 'display=on' in <hostdev>",
    ),
    (
        mdev("vfio-pci", "", "<address type='drive'/>"),
        "XML error: Unsupported address type 'drive' with mediated device model 'vfio-pci'",
    ),
    (
        mdev().replace(f"uuid='{UUID}'", "domain='0'"),
        f"{U}Missing 'uuid' attribute for element <address>",
    ),
    (
        VHOST.format("<boot order='1'/>"),
        f"{U}booting from assigned devices is not supported by vhost SCSI devices",
    ),
    (
        VHOST.format("").replace("'scsi_host'", "'scsi_host' rawio='yes'"),
        "XML error: rawio is only supported for scsi host device",
    ),
    (
        VHOST.format("").replace("'scsi_host'", "'scsi_host' sgio='filtered'"),
        "XML error: sgio is only supported for scsi host device",
    ),
    (
        scsi("", AT_5) + scsi(scsi().partition("managed='yes'>")[2][:-10].replace("host0", "host1"), AT_5),
        f"{U}SCSI host address controller='0' bus='0' target='0' unit='5' in use by another SCSI host device",
    ),
    (
        mdev("vfio-pci", "display='on' ramfb='on'")
        + mdev("vfio-pci", "display='on' ramfb='on'", uuid=UUID.replace("5", "6"))
        + GRAPHICS,
        f"{U}Only one vgpu device can have 'ramfb' enabled",
    ),
]


@pytest.mark.parametrize(("devices", "message"), REFUSED, ids=[m[-40:] for _, m in REFUSED])
def test_refused(devices: str, message: str) -> None:
    assert refusal(devices) == message


def test_adjuncts_do_not_boot() -> None:
    assert refusal(mdev("vfio-ap", "", "<boot order='1'/>"), S390) == (
        f"{U}booting from assigned devices is not supported by mediated devices of model vfio-ap"
    )
