"""Around a real libvirtd with a real QEMU, of the system, of a session, and reached by TCP like one far away:
what it stores, and what it runs."""

from __future__ import annotations

import itertools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import qemushim
from qemushim.compare.abi import place
from qemushim.document.parse import parse
from qemushim.guest import Guest
from tests.libvirt_daemons import KINDS, PATIENCE, Daemons

libvirt = pytest.importorskip("libvirt", reason="needs libvirt-python (pip install libvirt-python)")
pytestmark = [pytest.mark.libvirt, pytest.mark.qemu]

LIVE, CONFIG = 1, 2
BOTH = LIVE | CONFIG
NAME = f"qemushim-test-{os.getpid()}"
KVM = Path("/dev/kvm")
#: KVM, where everybody may use it: the session is another user's
VIRT = "kvm" if KVM.exists() and KVM.stat().st_mode & 0o006 == 0o006 else "qemu"
#: devices for guests that are defined only
DEVICES = (
    "<disk type='file' device='disk'><source file='/srv/a.img'/><target dev='vda' bus='virtio'/></disk>",
    "<disk type='file' device='disk'><source file='/srv/b.img'/><target dev='sda' bus='scsi'/></disk>",
    "<disk type='file' device='cdrom'><target dev='sdb' bus='sata'/></disk>",
    "<disk type='file' device='disk'><source file='/srv/c.img'/><target dev='hda' bus='ide'/></disk>",
    "<interface type='user'><mac address='52:54:00:00:01:01'/><model type='virtio'/></interface>",
    "<interface type='bridge'><source bridge='b'/><mac address='52:54:00:00:01:02'/><model type='e1000'/></interface>",
    "<input type='tablet' bus='usb'/>",
    "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "<sound model='ich9'/>",
    "<watchdog model='i6300esb'/>",
    "<controller type='scsi' model='virtio-scsi'/>",
    "<controller type='usb' model='ich9-ehci1'/><controller type='usb' index='0' model='ich9-uhci1'>"
    "<master startport='0'/></controller>",
    "<serial type='pty'/><console type='pty'/>",
    "<filesystem type='mount'><source dir='/srv'/><target dir='share'/></filesystem>",
    "<memballoon model='none'/>",
    "<redirdev bus='usb' type='tcp'><source mode='connect' host='localhost' service='4000'/></redirdev>",
    "<hub type='usb'/>",
)


def document(devices: str, machine: str, number: int = 0) -> str:
    return f"""<domain type='{VIRT}'><name>{NAME}</name><uuid>6f1d5f0e-0000-4000-8000-{number:012x}</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='{machine}'>hvm</type></os>
<features><acpi/></features><devices>{devices}</devices></domain>"""


def thirty() -> Iterator[str]:
    """Guests of every kind of device, in every number; an IDE disk has no place on a q35."""
    for number in range(30):
        machine = ("pc", "q35")[number % 2]
        chosen = itertools.islice(itertools.cycle(DEVICES), number, number + 3 + number % 9)
        fitting = (device for device in chosen if machine == "pc" or "bus='ide'" not in device)
        yield document("".join(fitting), machine, number)


@pytest.fixture(scope="module", params=KINDS)
def connection(request: pytest.FixtureRequest, daemons: Daemons) -> Iterator[Any]:
    libvirt.registerErrorHandler(lambda *_: None, None)
    with qemushim.open(daemons.uri(request.param)) as connection:
        yield connection


@pytest.fixture(autouse=True)
def clean(connection: Any) -> Iterator[None]:
    yield
    for domain in connection._raw.listAllDomains():
        assert domain.name() == NAME
        if domain.isActive():
            domain.destroy()
        if domain.isPersistent():
            domain.undefine()


@pytest.fixture
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Makes small disks that the daemon's user may read."""
    made: list[Path] = []

    def make(name: str) -> str:
        path = Path(f"/tmp/{NAME}-{name}.img")
        made.append(path)
        with path.open("wb") as file:
            file.truncate(1 << 20)
        path.chmod(0o666)
        return f"<disk type='file' device='disk'><source file='{path}'/><target dev='{name}' bus='virtio'/></disk>"

    yield make
    for path in made:
        path.unlink(missing_ok=True)


def nic(number: int) -> str:
    return f"<interface type='user'><mac address='52:54:00:00:02:{number:02x}'/><model type='virtio'/></interface>"


def places(domain: Any, flags: int) -> dict[str, str]:
    guest = Guest(parse(domain.XMLDesc(flags)))
    found = {}
    for tag in ("disk", "interface", "rng", "controller"):
        for number, device in enumerate(guest.domain.lists[tag]):
            name = device.node.value("target/@dev") if tag == "disk" else device.node.value("mac/@address")
            index = f"{device.node.get('type')} {device.node.get('index')}" if tag == "controller" else None
            found[f"{tag} {name or index or number}"] = place(device)
    return found


# -- define ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", tuple(thirty()), ids=range(30))
def test_stored_is_the_same_as_by_plain_libvirt(connection: Any, text: str) -> None:
    raw = connection._raw
    plain = raw.defineXML(text)
    by_libvirt = plain.XMLDesc(CONFIG)
    assert not connection.plan(text).breaks, "defined by libvirt, and again by us: nothing moves"
    plain.undefine()
    by_us = connection.defineXML(text).XMLDesc(CONFIG)
    # libvirt lists controllers in the order in which it has come to them, until it reads them anew
    assert sorted(by_us.splitlines()) == sorted(by_libvirt.splitlines())


def test_bare_document_keeps_everything(connection: Any, image: Callable[[str], str]) -> None:
    bare = "".join([*map(image, ("vda", "vdb")), "<interface type='user'/>", DEVICES[8]])
    domain = connection.defineXML(document(bare, "q35"))
    domain.attachDeviceFlags(image("vdd"), CONFIG)
    domain.attachDeviceFlags(image("vdc"), CONFIG)
    text = domain.XMLDesc(CONFIG)
    other = "".join(["<interface type='user'/>", DEVICES[8], *map(image, ("vdd", "vda", "vdc", "vdb"))])
    without_uuid = re.sub("<uuid>.*</uuid>", "", document(other, "q35"))
    assert sorted(connection.defineXML(without_uuid).XMLDesc(CONFIG).splitlines()) == sorted(
        text.splitlines()
    )
    assert connection.plan(text).verdict == "unchanged"


# -- attach ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_both_documents_have_the_same_place(
    connection: Any, image: Callable[[str], str], machine: str
) -> None:
    ports = "".join(f"<controller type='pci' index='{n}' model='pcie-root-port'/>" for n in range(1, 12))
    domain = connection.defineXML(document((ports if machine == "q35" else "") + image("vda"), machine))
    domain.create()
    before = places(domain, CONFIG)
    for name, number in (("vdb", 1), ("vdc", 2)):
        domain.attachDeviceFlags(image(name), BOTH)
        domain.attachDeviceFlags(nic(number), BOTH)
    stored, live = places(domain, CONFIG), places(domain, 0)
    assert stored == live
    assert before.items() <= stored.items()
    assert len(stored) == len(before) + 4
    assert "<alias" not in domain.XMLDesc(CONFIG)
    # no MAC: both get the same one
    domain.attachDeviceFlags("<interface type='user'><model type='virtio'/></interface>", BOTH)
    assert places(domain, CONFIG) == places(domain, 0)


def test_scsi_disk_brings_its_controller(connection: Any, image: Callable[[str], str]) -> None:
    domain = connection.defineXML(document(image("vda"), "pc"))
    domain.create()
    domain.attachDeviceFlags(image("sda").replace("virtio", "scsi"), BOTH)
    stored = places(domain, CONFIG)
    assert stored == places(domain, 0)
    assert re.fullmatch(r"0000:00:0.\.0", stored["controller scsi 0"])
    assert stored["disk sda"] == "drive 0:0:0:0"


def test_live_only_and_then_define_carries_the_place_over(
    connection: Any, image: Callable[[str], str]
) -> None:
    devices = image("vda")
    domain = connection.defineXML(document(devices, "pc"))
    domain.create()
    domain.attachDevice(nic(1))
    domain.attachDevice(nic(2))
    live = places(domain, 0)
    # what joins the stored definition alone leaves these places free
    domain.attachDeviceFlags(image("vdb"), CONFIG)
    assert places(domain, CONFIG)["disk vdb"] not in live.values()
    again = connection.defineXML(document(nic(2) + devices + image("vdb") + nic(1), "pc"))
    stored = places(again, CONFIG)
    assert {name: stored[name] for name in live} == live


def test_no_room_says_what_is_full(connection: Any, image: Callable[[str], str]) -> None:
    domain = connection.defineXML(document(image("vda"), "q35"))
    domain.create()
    text = domain.XMLDesc(CONFIG)
    domain.attachDevice(nic(1))
    with pytest.raises(libvirt.libvirtError) as caught:
        domain.attachDeviceFlags(nic(2), BOTH)
    assert isinstance(caught.value, qemushim.AddressError)
    assert re.search(
        r"full: bus 1-\d+ \(pcie-root-port\); add <controller .*model='pcie-root-port'/>", str(caught.value)
    )
    assert domain.XMLDesc(CONFIG) == text
    # the stored definition may grow
    domain.attachDeviceFlags(nic(2), CONFIG)
    assert places(domain, CONFIG)["interface 52:54:00:00:02:02"] not in ("", *places(domain, 0).values())


NUMA = """<maxMemory slots='1' unit='GiB'>4</maxMemory><cpu><numa><cell id='0' cpus='0' memory='65536'/></numa></cpu>"""
DIMM = "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>"
CHANNEL = "<channel type='unix'><target type='virtio' name='org.example.{}'/></channel>"


def test_no_room_of_other_kinds(connection: Any, image: Callable[[str], str]) -> None:
    """Ports of USB, slots of memory, and controllers that no running guest can be given."""
    text = document(image("vda"), "pc").replace("<memory unit", f"{NUMA}<memory unit")
    domain = connection.defineXML(re.sub("type='kvm'", "type='qemu'", text))
    domain.create()

    def fill(devices: list[str]) -> None:
        for device in devices:
            domain.attachDeviceFlags(device, BOTH)

    disks = [image(f"sd{letter}").replace("virtio", "usb") for letter in "abc"]
    for devices, words in (
        (disks, "full: bus 0: 2 of 2 ports in use: 1, 2; add <controller type='usb' model='qemu-xhci'/>"),
        ([DIMM, DIMM], "failed to find an empty memory slot for memory dimm; full: .*; add more slots"),
        ([CHANNEL.format(0)], "no virtio-serial controller .*; add <controller type='virtio-serial'/>"),
    ):
        with pytest.raises(qemushim.AddressError, match=words):
            fill(devices)
        assert places(domain, CONFIG) == places(domain, 0)


def test_detach_and_update_leave_the_rest(connection: Any, image: Callable[[str], str]) -> None:
    usb = [image(name).replace("virtio", "usb") for name in ("sda", "sdb", "sdc")]
    domain = connection.defineXML(document("".join([image("vda"), nic(1), *usb]), "pc"))
    domain.create()
    before = places(domain, CONFIG)
    assert before == places(domain, 0)
    domain.detachDeviceFlags(usb[1], BOTH)
    rest = {name: where for name, where in before.items() if name != "disk sdb"}
    end = time.monotonic() + PATIENCE
    while places(domain, 0) != rest and time.monotonic() < end:
        time.sleep(0.05)
    assert places(domain, CONFIG) == places(domain, 0) == rest
    # a MAC is enough, and the place is not named
    down = nic(1).replace("<model", "<link state='down'/><model")
    domain.updateDeviceFlags(down, BOTH)
    assert "<link state='down'/>" in domain.XMLDesc(0)
    assert "<link state='down'/>" in domain.XMLDesc(CONFIG)
    assert places(domain, CONFIG) == places(domain, 0) == rest
    domain.attachDeviceFlags(usb[1], BOTH)
    assert places(domain, CONFIG) == places(domain, 0) == before


def test_failed_attach_leaves_nothing_behind(connection: Any, image: Callable[[str], str]) -> None:
    domain = connection.defineXML(document(image("vda"), "pc"))
    domain.create()
    stored, live = domain.XMLDesc(CONFIG), places(domain, 0)
    missing = image("sda").replace("virtio", "scsi").replace(f"/tmp/{NAME}", "/nowhere/at/all")
    with pytest.raises(libvirt.libvirtError):
        domain.attachDeviceFlags(missing, BOTH)
    assert domain.XMLDesc(CONFIG) == stored
    end = time.monotonic() + PATIENCE
    while places(domain, 0) != live and time.monotonic() < end and "scsi 0" not in str(places(domain, 0)):
        time.sleep(0.05)
    assert {name: where for name, where in places(domain, 0).items() if "scsi" not in name} == live


def test_transient_guest(connection: Any, image: Callable[[str], str]) -> None:
    domain = connection.createXML(document(image("vda"), "pc"))
    domain.attachDevice(nic(1))
    with pytest.raises(libvirt.libvirtError, match="transient"):
        domain.attachDeviceFlags(nic(2), CONFIG)
    live = places(domain, 0)
    # it becomes a stored one with the places that it has
    stored = connection.defineXML(document(nic(1) + image("vda"), "pc"))
    assert places(stored, CONFIG) == live


def test_read_only_connection_plans(connection: Any) -> None:
    text = document("".join(DEVICES[:3]), "q35")
    connection.defineXML(text)
    with qemushim.wrap(libvirt.openReadOnly(connection.getURI())) as reader:
        assert reader.plan(text).verdict == "unchanged"
        with pytest.raises(libvirt.libvirtError, match="read only"):
            reader.defineXML(text)
