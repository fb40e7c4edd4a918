"""Directories of the host that the guest mounts, and leases."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from tests.small_guests import LATEST, S390, refusal, stored, tokens, values

SHARED = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


#: how the options of an -fsdev end
END = "id=fsdev-fs0,path=/src"


def share(driver: str = "", attributes: str = "", inside: str = "") -> str:
    return f"<filesystem {attributes}>{driver}<source dir='/src'/><target dir='tag'/>{inside}</filesystem>"


def device(devices: str, driver: str, emulator: Emulator = LATEST, extra: str = "") -> Any:
    found = [json.loads(text) for text in values("-device", tokens(devices, emulator, None, extra))]
    return next(entry for entry in found if entry["driver"] == driver)


def test_defaults() -> None:
    assert "<filesystem type='mount' accessmode='passthrough'>" in stored(share())


@pytest.mark.parametrize(
    ("driver", "attributes", "inside", "expected"),
    [
        ("", "", "", "local,security_model=passthrough,id=fsdev-fs0,path=/src"),
        ("", "accessmode='squash'", "", "local,security_model=none,id=fsdev-fs0,path=/src"),
        (
            "<driver type='path' wrpolicy='immediate'/>",
            "accessmode='mapped' fmode='640' dmode='0750' multidevs='remap'",
            "<readonly/>",
            f"local,security_model=mapped,multidevs=remap,fmode=0640,dmode=0750,writeout=immediate,{END},readonly",
        ),
        ("<driver type='handle'/>", "", "", "handle,id=fsdev-fs0,path=/src"),
    ],
)
def test_9p(driver: str, attributes: str, inside: str, expected: str) -> None:
    text = share(driver, attributes, inside)
    assert values("-fsdev", tokens(text)) == [expected]
    found = device(text, "virtio-9p-pci")
    assert list(found) == ["driver", "id", "fsdev", "mount_tag", "bus", "addr"]


def test_modes_are_octal() -> None:
    text = stored(share("", "accessmode='mapped' fmode='755'"))
    assert "fmode='0755'" in text


def test_virtiofs() -> None:
    text = share("<driver type='virtiofs' queue='64'/>", "", "<boot order='2'/>")
    argv = tokens(text, extra=SHARED)
    socket = "socket,id=chr-vu-fs0,path=/var/lib/libvirt/qemu/domain--1-g/fs0-fs.sock"
    assert socket in values("-chardev", argv)
    found = device(text, "vhost-user-fs-pci", extra=SHARED)
    assert list(found) == ["driver", "id", "chardev", "queue-size", "tag", "bootindex", "bus", "addr"]


def test_virtiofs_served_by_somebody_else() -> None:
    text = share("<driver type='virtiofs'/>").replace("dir='/src'", "socket='/s'")
    assert "accessmode" not in stored(text, extra=SHARED)
    assert "socket,id=chr-vu-fs0,path=/s" in values("-chardev", tokens(text, extra=SHARED))


def test_mtp() -> None:
    found = device(share("<driver type='mtp'/>", "", "<readonly/>"), "usb-mtp")
    assert (found["rootdir"], found["desc"], found["readonly"]) == ("/src", "tag", True)


def test_order_of_children_is_libvirts() -> None:
    binary = (
        "<binary path='/v' xattr='on'><thread_pool size='4'/><sandbox mode='chroot'/><cache mode='always'/>"
        "</binary>"
    )
    text = stored(share("<driver type='virtiofs'/>" + binary), extra=SHARED)
    found = [line.strip() for line in text.splitlines()]
    start = found.index("<binary path='/v' xattr='on'>")
    assert found[start + 1 : start + 4] == [
        "<cache mode='always'/>",
        "<sandbox mode='chroot'/>",
        "<thread_pool size='4'/>",
    ]


U = "unsupported configuration: "
EXPECTED = " Expected non-negative integer value"

REFUSED = [
    (share("<driver type='virtiofs'/>"), f"{U}'virtiofs' requires shared memory"),
    (share("", "fmode='0600'"), f"{U}fmode and dmode must be used with accessmode=mapped"),
    (share("", "type='block'"), f"{U}only supports mount filesystem type"),
    (
        share("", "fmode='9'"),
        f"XML error: Invalid value for attribute 'fmode' in element 'filesystem': '9'.{EXPECTED}",
    ),
]


@pytest.mark.parametrize(("devices", "message"), REFUSED, ids=[m[-40:] for _, m in REFUSED])
def test_refused(devices: str, message: str) -> None:
    assert refusal(devices) == message


def test_channels_do_not_boot_from_virtiofs() -> None:
    text = share("<driver type='virtiofs'/>", "", "<boot order='1'/>")
    with pytest.raises(ConfigError, match="setting virtiofs boot order is supported only with PCI bus"):
        tokens(text, S390, extra=SHARED)


def test_leases_are_libvirts_own() -> None:
    lease = "<lease><target offset='0' path='/l'/><key>k</key><lockspace>s</lockspace></lease>"
    text = stored(lease)
    found = [line.strip() for line in text.splitlines()]
    assert found[found.index("<lease>") + 1 : found.index("</lease>")] == [
        "<lockspace>s</lockspace>",
        "<key>k</key>",
        "<target path='/l'/>",
    ]
    assert refusal(lease.replace("<key>k</key>", "")) == "XML error: Missing 'key' element for lease"
