"""Devices of a running guest that are changed: another medium, another password, a cable pulled."""

from __future__ import annotations

import json
from typing import Any

import pytest

from qemushim.errors import ConfigError, MonitorError
from qemushim.hotplug import plan_attach, plan_update
from tests.live_guests import HOST, arguments, said, started
from tests.small_guests import LATEST


def test_another_medium() -> None:
    live = started()
    device = "<disk type='file' device='cdrom'><source file='/b.iso'/><target dev='hdc' bus='ide'/></disk>"
    plan = plan_update(live, device, LATEST, HOST)
    tray = ["blockdev-open-tray", "blockdev-remove-medium", "blockdev-insert-medium", "blockdev-close-tray"]
    assert said(plan) == ["blockdev-add", *tray, "blockdev-del"]
    assert arguments(plan, "blockdev-insert-medium") == {"id": "ide0-1-0", "node-name": "libvirt-3-storage"}
    assert arguments(plan, "blockdev-del") == {"node-name": "libvirt-1-storage"}
    assert "<source file='/b.iso' index='3'/>" in plan.document.to_xml()
    # attaching a medium to a drive that is there is the same
    assert said(plan_attach(live, device, LATEST, HOST)) == said(plan)
    # and nothing at all where it is in already
    assert said(plan_update(plan.document, device, LATEST, HOST)) == []


def test_no_medium_and_one_again() -> None:
    empty = "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>"
    plan = plan_update(started(), empty, LATEST, HOST)
    assert said(plan) == [
        *("blockdev-open-tray", "blockdev-remove-medium", "blockdev-close-tray", "blockdev-del"),
    ]
    assert "/a.iso" not in plan.document.to_xml()
    full = empty.replace("<target", "<source file='/c.iso'/><target")
    assert said(plan_update(plan.document, full, LATEST, HOST))[0] == "blockdev-add"


def test_a_medium_that_does_not_fit_leaves_the_old_one() -> None:
    device = "<disk type='file' device='cdrom'><source file='/b.iso'/><target dev='hdc' bus='ide'/></disk>"
    told: list[str] = []

    def send(command: Any) -> Any:
        told.append(str(command))
        if len(told) == 4:
            raise MonitorError("not that one")
        return {}

    with pytest.raises(MonitorError):
        plan_update(started(), device, LATEST, HOST).carry_out(send)
    assert told[4:] == [
        'blockdev-insert-medium {"id":"ide0-1-0","node-name":"libvirt-1-storage"}',
        'blockdev-close-tray {"id":"ide0-1-0"}',
        'blockdev-del {"node-name":"libvirt-3-storage"}',
    ]


def test_a_drive_stays_what_it_is() -> None:
    device = (
        "<disk type='file' device='cdrom'><source file='/b.iso'/><target dev='hdc' bus='ide'/><serial>s</serial>"
        "</disk>"
    )
    with pytest.raises(ConfigError, match="cannot modify field 'serial'"):
        plan_update(started(), device, LATEST, HOST)
    disk = "<disk type='file'><driver type='qcow2'/><source file='/other'/><target dev='vda' bus='virtio'/></disk>"
    with pytest.raises(ConfigError, match="cannot be changed"):
        plan_update(started(), disk, LATEST, HOST)


@pytest.mark.parametrize(
    ("valid_to", "time"),
    [("", "never"), ("2017-07-14T02:39:00", "now"), ("2027-01-15T08:00:00", "1800000000")],
)
def test_another_password(valid_to: str, time: str) -> None:
    until = f" passwdValidTo='{valid_to}'" if valid_to else ""
    device = f"<graphics type='vnc' port='5900' autoport='yes' passwd='new'{until}/>"
    plan = plan_update(started(), device, LATEST, HOST)
    assert [str(command) for command in plan.commands] == [
        'set_password {"protocol":"vnc","password":"new"}',
        "expire_password " + json.dumps({"protocol": "vnc", "time": time}, separators=(",", ":")),
    ]
    assert "passwd='new'" in plan.document.to_xml()
    # told again only where it ends
    assert bool(said(plan_update(plan.document, device, LATEST, HOST))) == bool(valid_to)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("autoport='no' port='5907'", "port settings"),
        ("port='5900' autoport='yes' keymap='de'", "keymap setting"),
        ("port='5900' autoport='yes' listen='10.0.0.1'", "listen address setting"),
    ],
)
def test_what_of_a_screen_stays(change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=f"cannot change {words}"):
        plan_update(started(), f"<graphics type='vnc' passwd='old' {change}/>", LATEST, HOST)


def test_the_cable_is_pulled_and_put_back() -> None:
    live = started()
    mac = live.domain.lists["interface"][0].node.value("mac/@address")
    device = (
        f"<interface type='user'><mac address='{mac}'/><model type='virtio'/><link state='down'/></interface>"
    )
    plan = plan_update(live, device, LATEST, HOST)
    assert [str(command) for command in plan.commands] == ['set_link {"name":"net0","up":false}']
    plan = plan_update(plan.document, device.replace("<link state='down'/>", ""), LATEST, HOST)
    assert [str(command) for command in plan.commands] == ['set_link {"name":"net0","up":true}']
    with pytest.raises(ConfigError, match="cannot modify network device model"):
        plan_update(live, device.replace("'virtio'", "'e1000'"), LATEST, HOST)


def test_other_kinds_can_not_be_changed() -> None:
    with pytest.raises(ConfigError, match="live update of device 'rng' is not supported"):
        plan_update(started(), "<rng model='virtio'><backend model='random'/></rng>", LATEST, HOST)
