"""What the guest sees of a change, in libvirt's words and order."""

from __future__ import annotations

import re

import pytest

from qemushim.compare.abi import GUEST, VOLATILE, breaks, differences
from qemushim.compare.devices import KINDS
from qemushim.devices import BY_TAG
from qemushim.guest import Guest
from qemushim.host import Host
from tests.small_guests import LATEST

TEXT = """<domain type='kvm'><name>g</name><uuid>5b2e2c7e-9f2e-4c4b-8a3a-0c9f5d6e7f80</uuid>
<memory unit='MiB'>256</memory><vcpu>2</vcpu>
<os><type arch='x86_64' machine='pc-q35-9.0'>hvm</type><smbios mode='sysinfo'/></os>
<sysinfo type='smbios'><bios><entry name='vendor'>one</entry></bios></sysinfo>
<features><acpi/><hyperv><relaxed state='on'/><spinlocks state='on' retries='8191'/></hyperv></features>
<cpu mode='custom'><model>qemu64</model><topology sockets='1' cores='2' threads='1'/><feature name='aes'/></cpu>
<clock offset='utc'><timer name='hpet' present='no'/></clock>
<devices>
<disk type='file'><source file='/srv/a'/><target dev='vda' bus='virtio'/><serial>S1</serial></disk>
<disk type='file'><source file='/srv/b'/><target dev='sda' bus='sata'/></disk>
<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/></interface>
<video><model type='virtio' heads='1'/></video><graphics type='vnc'/>
<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>
</devices></domain>"""


def defined(text: str) -> Guest:
    return Guest.from_xml(text).define(LATEST, Host.nominal())


OLD = defined(TEXT)


#: what is changed, into what → where, and a part of libvirt's words for it
CHANGES = {
    ("'pc-q35-9.0'", "'pc-q35-8.2'"): (
        "os/type/@machine",
        "machine type pc-q35-8.2 does not match source pc-q35-9.0",
    ),
    (">256<", ">512<"): ("memory", "domain max memory 524288 does not match source 262144"),
    ("<vcpu>2", "<vcpu>2</vcpu><genid>5b2e2c7e-9f2e-4c4b-8a3a-0c9f5d6e7f81</genid><vcpu>2"): (
        "genid",
        "domain requested genid",
    ),
    ("cores='2'", "cores='1' dies='2'"): ("cpu/topology/@dies", "CPU dies 2 does not match source 1"),
    ("'8191'", "'4096'"): (
        "features/hyperv/spinlocks/@retries",
        "HyperV spinlock retry count differs: source: '8191', destination: '4096'",
    ),
    ("<acpi/>", "<acpi/><pae/>"): (
        "features/pae",
        "feature 'pae' differs: source: 'default', destination: 'on'",
    ),
    ("'aes'/", "'aes' policy='disable'/"): ("cpu/feature[aes]", "CPU feature policy disable does not match"),
    ("present='no'", "present='yes'"): (
        "clock/timer[hpet]/@present",
        "presence 'yes' does not match source 'no'",
    ),
    (">one<", ">two<"): ("sysinfo/bios vendor", "sysinfo BIOS vendor two does not match source one"),
    (">S1<", ">S2<"): ("devices/disk[vda]/serial", "disk serial S2 does not match source S1"),
    ("00:00:01", "00:00:02"): (
        "devices/interface[52:54:00:00:00:02]/mac/@address",
        "card mac 52:54:00:00:00:02",
    ),
    ("heads='1'", "heads='2'"): (
        "devices/video[virtio]/model/@heads",
        "card heads 2 does not match source 1",
    ),
    ("<rng model='virtio'>", "<rng model='virtio-transitional'>"): (
        "devices/rng[virtio-transitional]/@model",
        "Target RNG model 'virtio-transitional' does not match source 'virtio'",
    ),
    ("'sata'", "'sata' rotation_rate='7200'"): (
        "devices/disk[sda]/target/@rotation_rate",
        "rotation rate 7200 RPM",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_change(change: tuple[str, str]) -> None:
    path, message = CHANGES[change]
    text = TEXT.replace(*change)
    assert text != TEXT
    found = {difference.path: difference for difference in differences(OLD.domain, defined(text).domain)}
    assert message in found[path].message
    assert found[path].severity == GUEST


def test_the_same_is_the_same() -> None:
    assert differences(OLD.domain, Guest.from_xml(OLD.to_xml()).domain) == []
    host = TEXT.replace("/srv/a", "/srv/z").replace("type='vnc'", "type='spice'")
    assert [d for d in differences(OLD.domain, defined(host).domain) if "audio" not in d.path] == []


def test_added_and_removed_devices() -> None:
    more = OLD.attach("<watchdog model='i6300esb'/>", LATEST, Host.nominal())
    *buses, difference = differences(OLD.domain, more.domain)
    assert all(bus.path.startswith("devices/controller[pci ") for bus in buses)
    assert difference.path == "devices/watchdog[i6300esb]"
    assert (difference.old, difference.new) == ("", "watchdog i6300esb")
    assert difference.message == "Target domain watchdog device count 2 does not match source 1"
    assert str(difference) == "devices/watchdog[i6300esb]: watchdog i6300esb is added"
    less = OLD.copy()
    less.domain.remove(less.domain.lists["rng"][0])
    assert [str(d) for d in differences(OLD.domain, less.domain)] == [
        "devices/rng[virtio]: rng virtio is removed"
    ]


def test_a_device_in_front_moves_none_of_the_others() -> None:
    first = "<interface type='user'><mac address='52:54:00:00:00:00'/><model type='e1000e'/></interface><interface"
    other = OLD.to_xml().replace("<interface", first, 1)
    paths = {difference.path for difference in differences(OLD.domain, defined(other).domain)}
    assert not any(path.startswith("devices/interface[52:54:00:00:00:01]") for path in paths)
    assert "devices/interface[52:54:00:00:00:00]" in paths


def test_addresses_as_people_write_them() -> None:
    moved = re.sub(r"(type='drive' .* unit=)'0'", r"\1'3'", OLD.to_xml())
    [difference] = differences(OLD.domain, Guest.from_xml(moved).domain)
    assert (difference.path, difference.old, difference.new) == (
        "devices/disk[sda]/address",
        "drive 0:0:0:0",
        "drive 0:0:0:3",
    )


def test_what_may_change_while_it_runs_breaks_nothing() -> None:
    less = OLD.to_xml().replace("<currentMemory unit='KiB'>262144", "<currentMemory unit='KiB'>131072")
    found = differences(OLD.domain, Guest.from_xml(less).domain)
    assert [difference.severity for difference in found] == [VOLATILE]
    assert breaks(found) == []


def test_every_kind_is_compared_or_not_seen() -> None:
    assert {kind.tag for kind in KINDS} | {"audio", "crypto", "graphics", "lease", "nvram"} == set(BY_TAG)
