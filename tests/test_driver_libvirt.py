"""Around a libvirt connection: on libvirt's own test driver, which needs no daemon and gives no addresses itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

import qemushim
from qemushim.cli import main
from qemushim.compare.abi import place
from qemushim.document.parse import parse
from qemushim.driver.plug import join_live, plan_joining
from qemushim.driver.site import Site
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest

libvirt = pytest.importorskip("libvirt", reason="needs libvirt-python (pip install libvirt-python)")
pytestmark = pytest.mark.libvirt

CONFIG = 2
DISK = "<disk type='file' device='disk'><source file='/srv/{0}.img'/><target dev='{0}' bus='{1}'/></disk>"
NIC = "<interface type='user'><mac address='52:54:00:00:00:{0:02x}'/><model type='virtio'/></interface>"
MOST = (
    DISK.format("vda", "virtio"),
    DISK.format("sda", "scsi"),
    "<interface type='user'><model type='virtio'/></interface>",
    "<interface type='bridge'><source bridge='br0'/><model type='e1000'/></interface>",
    "<input type='tablet' bus='usb'/>",
    "<channel type='pty'><target type='virtio' name='org.example.0'/></channel>",
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "<sound model='ich9'/>",
    "<graphics type='vnc'/>",
)
#: kinds of device that have no address, whatever the bus: the watchdog is part of the chipset
NOWHERE = {"graphics", "audio", "watchdog"}


def document(devices: str = "".join(MOST), machine: str = "q35", name: str = "g", extra: str = "") -> str:
    return f"""<domain type='test'>
  <name>{name}</name>{extra}
  <memory unit='MiB'>64</memory>
  <os><type arch='x86_64' machine='{machine}'>hvm</type></os>
  <devices>{devices}</devices>
</domain>"""


@pytest.fixture(autouse=True)
def quiet() -> None:
    """libvirt says every error on standard error too."""
    libvirt.registerErrorHandler(lambda *_: None, None)


@pytest.fixture
def connection() -> Iterator[Any]:
    raw = libvirt.open("test:///default")
    yield qemushim.wrap(raw)
    for domain in raw.listAllDomains():
        if domain.name() != "test":
            if domain.isActive():
                domain.destroy()
            if domain.isPersistent():
                domain.undefine()
    raw.close()


def places(domain: Any) -> dict[str, str]:
    """What devices are called → where they are."""
    guest = Guest.from_xml(domain.XMLDesc(CONFIG))
    found = {}
    for tag, devices in guest.domain.lists.items():
        for number, device in enumerate(devices):
            name = device.node.value("target/@dev") if tag == "disk" else device.node.value("mac/@address")
            if tag == "controller":
                name = f"{device.node.get('type')} {device.node.get('index')}"
            found[f"{tag} {name or number}"] = place(device)
    return found


# -- define ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_every_device_has_its_address(connection: Any, machine: str) -> None:
    domain = connection.defineXML(document(machine=machine))
    for device, where in places(domain).items():
        kind, _, name = device.partition(" ")
        if kind in NOWHERE or name == "pci 0":
            continue
        if kind == "input" and "ps2" in domain.XMLDesc(0) and not where:
            continue
        assert where, device


@pytest.mark.parametrize("machine", ["pc", "q35"])
def test_nothing_moves(connection: Any, machine: str) -> None:
    """Redefined bare and in another order, attached to, detached from, and reopened."""
    domain = connection.defineXML(document(machine=machine))
    first = places(domain)
    text = domain.XMLDesc(CONFIG)
    assert connection.defineXML(document(machine=machine)).XMLDesc(CONFIG) == text
    assert connection.defineXML(text).XMLDesc(CONFIG) == text
    for number in range(5):
        domain.attachDeviceFlags(DISK.format(f"vd{'bcdef'[number]}", "virtio"), CONFIG)
        domain.attachDeviceFlags(NIC.format(number), CONFIG)
    grown = places(domain)
    assert first.items() <= grown.items()
    assert len({where for where in grown.values() if where}) == len(
        [where for where in grown.values() if where]
    )
    domain.detachDeviceFlags("<disk type='file'><target dev='vdc' bus='virtio'/></disk>", CONFIG)
    domain.detachDeviceFlags(NIC.format(3), CONFIG)
    less = {
        device: where
        for device, where in grown.items()
        if device not in ("disk vdc", "interface 52:54:00:00:00:03")
    }
    assert places(domain) == less
    # everything that is left, in another order and without a place
    rest = [DISK.format(f"vd{letter}", "virtio") for letter in "fdeb"] + [NIC.format(n) for n in (4, 2, 0, 1)]
    again = connection.defineXML(document("".join([*rest, *MOST]), machine))
    assert places(again) == less
    with qemushim.open("test:///default") as other:
        assert places(other.lookupByName("g")) == less


def test_the_users_text_is_what_libvirt_is_handed(connection: Any) -> None:
    plan = connection.plan(document(extra="\n  <!-- mine -->\n  <title>a guest</title>"))
    assert "<!-- mine -->\n  <title>a guest</title>" in plan.xml
    assert "<address type='pci'" in plan.xml
    assert connection.define(plan).XMLDesc(0).count("<address type='pci'") == plan.xml.count(
        "<address type='pci'"
    )


def test_update_keeps_the_place(connection: Any) -> None:
    domain = connection.defineXML(document())
    before = places(domain)
    domain.updateDeviceFlags(DISK.format("vda", "virtio").replace("/srv/vda", "/srv/other"), CONFIG)
    assert "/srv/other.img" in domain.XMLDesc(0)
    assert "/srv/vda.img" not in domain.XMLDesc(0)
    assert places(domain) == before


def test_devices_by_alias(connection: Any) -> None:
    named = DISK.format("vdb", "virtio").replace("</disk>", "<alias name='ua-data'/></disk>")
    domain = connection.defineXML(document())
    before = places(domain)
    domain.attachDeviceFlags(named, CONFIG)
    domain.detachDeviceAlias("ua-data", CONFIG)
    assert places(domain) == before
    with pytest.raises(libvirt.libvirtError, match="no device with alias 'ua-data'"):
        domain.detachDeviceAlias("ua-data", CONFIG)


def test_the_test_drivers_own_guest(connection: Any) -> None:
    """It has addresses of PCI Express, and no machine type."""
    domain = connection.lookupByName("test")
    text = domain.XMLDesc(CONFIG)
    try:
        assert connection.plan(text).verdict == "incompatible"
        domain.attachDeviceFlags(NIC.format(1), CONFIG)
        found = places(domain)
        assert found["disk vda"] == "0000:01:00.0"
        assert found["interface aa:bb:cc:dd:ee:ff"] == "0000:00:01.0"
        assert found["interface 52:54:00:00:00:01"] not in ("", *first_places(text))
    finally:
        connection._raw.defineXML(text)


def first_places(text: str) -> set[str]:
    return {place(device) for device in Guest.from_xml(text).domain.every()}


# -- plan and strict ---------------------------------------------------------------------------------------------------


def test_plan_changes_nothing_and_says_everything(connection: Any) -> None:
    plan = connection.plan(document())
    assert [domain.name() for domain in connection.listAllDomains()] == ["test"]
    assert (plan.verdict, plan.stored, plan.changes) == ("new", None, ())
    assert any(line.startswith("machine type pc-q35-") for line in plan.added)
    assert any(re.fullmatch(r"disk vda: 0000:0\d:00\.0", line) for line in plan.added)
    assert any(line.startswith("controller pci 1 pcie-root-port at 0000:00:0") for line in plan.added)
    assert plan.diff.startswith("--- stored\n+++ planned\n")
    stored = connection.define(plan)
    again = connection.plan(document())
    assert again.verdict == "compatible", "libvirt has named the taps of the cards"
    assert again.kept
    assert not [line for line in again.added if "0000:" in line]
    assert connection.plan(stored.XMLDesc(0)).verdict == "unchanged"
    moved = connection.plan(
        re.sub(r"slot='0x02' function='0x1'", "slot='0x09' function='0x0'", stored.XMLDesc(0))
    )
    assert moved.verdict == "incompatible"
    [change] = moved.changes
    assert change.path.endswith("/address")
    assert (change.old, change.new) == ("0000:00:02.1", "0000:00:09.0")
    assert change.message == "Target device PCI address 0000:00:09.0 does not match source 0000:00:02.1"
    assert "the guest sees: devices/controller[pci 2 pcie-root-port]/address: " in str(moved)


def test_strict_names_every_change(connection: Any) -> None:
    strict = qemushim.wrap(connection._raw, strict=True)
    text = document()
    domain = strict.defineXML(text)
    before = domain.XMLDesc(CONFIG)
    strict.defineXML(text)
    strict.defineXML(text.replace("/srv/vda.img", "/srv/elsewhere.img"))
    with pytest.raises(libvirt.libvirtError) as caught:
        strict.defineXML(text.replace("<sound model='ich9'/>", "").replace("'e1000'", "'e1000e'"))
    assert isinstance(caught.value, qemushim.ConfigError)
    assert caught.value.get_error_code() == libvirt.VIR_ERR_CONFIG_UNSUPPORTED
    assert "sound ich9 is removed" in str(caught.value)
    assert "e1000 becomes e1000e" in str(caught.value)
    assert domain.XMLDesc(CONFIG) == before.replace("/srv/vda.img", "/srv/elsewhere.img")


# -- errors ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("<domain", "VIR_ERR_XML_DETAIL", "Couldn't find end of Start Tag domain"),
        ("<network/>", "VIR_ERR_XML_ERROR", "unexpected root element <network>"),
        (
            document("<disk type='file'><target dev='vda' bus='nowhere'/></disk>"),
            "VIR_ERR_XML_ERROR",
            "nowhere",
        ),
        (document(machine="pdp-11"), "VIR_ERR_CONFIG_UNSUPPORTED", "does not support machine type 'pdp-11'"),
    ],
)
def test_errors_are_libvirts_too(connection: Any, text: str, code: str, message: str) -> None:
    with pytest.raises(libvirt.libvirtError, match=message) as caught:
        connection.defineXML(text)
    assert isinstance(caught.value, qemushim.ShimError)
    assert caught.value.get_error_code() == getattr(libvirt, code)
    assert caught.value.get_error_message() == str(caught.value)


def test_libvirts_own_errors_are_untouched(connection: Any) -> None:
    with pytest.raises(libvirt.libvirtError) as caught:
        connection.lookupByName("nobody")
    assert type(caught.value) is libvirt.libvirtError
    domain = connection.defineXML(document())
    with pytest.raises(libvirt.libvirtError, match="domain is not running"):
        domain.attachDevice(NIC.format(1))
    domain.create()
    with pytest.raises(libvirt.libvirtError, match="device not found"):
        domain.detachDeviceFlags(NIC.format(9), CONFIG)
    with pytest.raises(libvirt.libvirtError, match="target 'vda' duplicated"):
        domain.attachDeviceFlags(DISK.format("vda", "virtio"), CONFIG)


def test_a_full_bus_says_what_to_add(connection: Any) -> None:
    stored = Guest.from_xml(connection.define(connection.plan(document("", "pc"))).XMLDesc(0))
    site = connection._site

    def plug(number: int) -> None:
        devices = join_live(stored, parse(NIC.format(number)), site, site.emulator(stored))
        stored.domain.adopt(devices[-1].node)

    for number in range(29):
        plug(number)
    with pytest.raises(qemushim.AddressError) as caught:
        plug(29)
    assert "full: bus 0 (pci-root); add <controller type='pci' model='pci-bridge'/>" in caught.value.message
    assert "bus 0 (pci-root): 01" in caught.value.hint


def test_a_place_that_both_documents_have_free(connection: Any) -> None:
    """The stored definition has a disk, and then a bridge, where the running guest has nothing."""
    text = connection.define(connection.plan(document("", "pc"))).XMLDesc(0)
    live = Guest.from_xml(text.replace("type='test'", "type='qemu'"))
    site = connection._site
    joined = [plan_joining(NIC.format(1), site, live, live, into="both")]
    disk = DISK.format("vda", "virtio").replace("</disk>", f"{address_of(joined[-1].live[-1])}</disk>")
    stored, _ = live.joined(disk, site.emulator(live), site.host)
    joined.append(plan_joining(NIC.format(1), site, stored, live, into="both"))
    bridge = (
        f"<controller type='pci' index='1' model='pci-bridge'>{address_of(joined[-1].live[-1])}</controller>"
    )
    stored, _ = stored.joined(bridge, site.emulator(live), site.host)
    joined.append(plan_joining(NIC.format(1), site, stored, live, into="both"))
    assert [found.live for found in joined] == [found.config for found in joined]
    assert len({address_of(found.live[-1]) for found in joined}) == 3
    named = NIC.format(1).replace("</interface>", f"{address_of(joined[1].live[-1])}</interface>")
    with pytest.raises(qemushim.AddressError, match="double use of PCI Address"):
        plan_joining(named, site, stored, live, into="both")


def address_of(text: str) -> str:
    return re.findall("<address [^>]*/>", text)[-1]


# -- drop-in -----------------------------------------------------------------------------------------------------------


def test_everything_else_is_libvirts(connection: Any) -> None:
    domain = connection.defineXML(document())
    wrapped = type(domain)
    assert connection.getType() == "TEST"
    assert connection.numOfDefinedDomains() == 1
    assert all(type(found) is wrapped for found in connection.listAllDomains())
    assert type(connection.lookupByUUIDString(domain.UUIDString())) is wrapped
    assert domain.connect() is connection
    assert domain.name() == "g"
    assert domain.ID() == -1
    domain.create()
    assert type(connection.lookupByID(domain.ID())) is wrapped
    assert domain.info()[0] == libvirt.VIR_DOMAIN_RUNNING
    snapshot = domain.snapshotCreateXML("<domainsnapshot/>", 0)
    assert snapshot.getName()
    snapshot.delete()
    assert {"XMLDesc", "attachDevice", "create"} <= set(dir(domain))
    assert {"defineXML", "plan", "listNetworks"} <= set(dir(connection))


def test_wrapped_objects_are_taken_by_libvirt(connection: Any) -> None:
    libvirt.virEventRegisterDefaultImpl()
    seen: list[tuple[object, str]] = []

    def happened(conn: Any, domain: Any, event: int, detail: int, opaque: Any) -> None:
        seen.append((conn, f"{type(domain).__name__} {domain.name()} {opaque}"))

    domain = connection.defineXML(document())
    number = connection.domainEventRegisterAny(domain, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, happened, "x")
    domain.create()
    libvirt.virEventAddTimeout(0, lambda *_: None, None)
    for _ in range(5):
        libvirt.virEventRunDefaultImpl()
    connection.domainEventDeregisterAny(number)
    assert seen
    assert seen[0] == (connection, "WrappedDomain g x")


def test_transient_guest_has_the_stored_places(connection: Any) -> None:
    domain = connection.defineXML(document())
    domain.attachDeviceFlags(DISK.format("vdb", "virtio"), CONFIG)
    before = places(domain)
    text = document("".join([DISK.format("vdb", "virtio"), *MOST]))
    running = connection.createXML(text)
    assert places(running) == before
    running.destroy()


def test_other_hypervisors_pass_through(connection: Any) -> None:
    text = document().replace("type='test'", "type='lxc'")
    with pytest.raises(qemushim.DriverError, match="not QEMU's"):
        connection.plan(text)
    assert "type='pci'" not in connection.defineXML(text).XMLDesc(0)


# -- where guests run --------------------------------------------------------------------------------------------------

CAPABILITIES = """<capabilities><host><cpu><arch>x86_64</arch></cpu></host><guest><os_type>hvm</os_type>
<arch name='x86_64'><emulator>/opt/far/away/qemu</emulator>
<machine canonical='pc-i440fx-8.2' maxCpus='255'>pc</machine><machine maxCpus='255'>pc-i440fx-8.2</machine>
<machine canonical='pc-q35-8.2' maxCpus='255'>q35</machine><machine maxCpus='255'>pc-q35-8.2</machine>
<domain type='qemu'/><domain type='kvm'/></arch></guest></capabilities>"""


class FarAway:
    """What a connection to another host says."""

    uri = "qemu+ssh://far.example/system"
    emulator = "/opt/far/away/qemu"

    def getType(self) -> str:  # noqa: N802
        return "QEMU"

    def getURI(self) -> str:  # noqa: N802
        return self.uri

    def getVersion(self) -> int:  # noqa: N802
        return 8_002_001

    def getLibVersion(self) -> int:  # noqa: N802
        return 9_000_000

    def getCapabilities(self) -> str:  # noqa: N802
        return CAPABILITIES.replace("/opt/far/away/qemu", self.emulator)

    def getDomainCapabilities(self, path: str, arch: str, machine: None, virt: str) -> str:  # noqa: N802
        assert (arch, virt) == ("x86_64", "kvm")
        return f"<domainCapabilities><path>{path}</path><machine>pc-i440fx-9.1</machine></domainCapabilities>"


def test_a_host_far_away_is_known_by_what_libvirt_says() -> None:
    site = Site(FarAway())
    assert not site.is_local
    guest = Guest.from_xml(document(machine="q35").replace("'test'", "'kvm'"))
    emulator = site.emulator(guest)
    assert (emulator.binary, emulator.canonical_machine("pc", "kvm")) == (
        "/opt/far/away/qemu",
        "pc-i440fx-8.2",
    )
    default = emulator.default_machine("kvm")
    assert default is not None
    assert default.name == "pc-i440fx-8.2"
    defined = guest.define(emulator, site.host)
    assert defined.domain.machine_type == "pc-q35-8.2"
    assert defined.domain.node.value("devices/emulator") == "/opt/far/away/qemu"
    assert "itco" in defined.to_xml()
    site.trim(defined)
    assert "itco" not in defined.to_xml(), "libvirt 9.0 does not know it"


def test_another_binary_far_away_is_known_by_its_machine_types() -> None:
    text = (
        document().replace("'test'", "'kvm'").replace("<devices>", "<devices><emulator>/opt/newer</emulator>")
    )
    site = Site(FarAway())
    assert site.emulator(Guest.from_xml(text)).version[:2] == (9, 1)
    assert site.emulator(Guest.from_xml(document().replace("'test'", "'kvm'"))).version[:2] == (8, 2)


def test_socket_without_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container libvirt's socket may be there, and its QEMU not, or another one."""
    monkeypatch.setattr(FarAway, "uri", "qemu:///system")
    assert not Site(FarAway()).is_local
    monkeypatch.setattr(FarAway, "emulator", "/bin/sh")
    monkeypatch.setattr(Emulator, "probe", lambda path: Emulator.recorded("7.2"))
    site = Site(FarAway())
    assert not site.is_local
    assert site.emulator(Guest.from_xml(document().replace("'test'", "'kvm'"))).version[:2] == (8, 2)
    assert Site(FarAway(), "7.2").is_local, "who names a QEMU says that it is known"


def test_no_emulator_for_an_architecture() -> None:
    text = document(machine="virt").replace("'test'", "'qemu'").replace("x86_64", "riscv64")
    with pytest.raises(qemushim.ConfigError, match="No emulator found for arch 'riscv64'"):
        Site(FarAway()).emulator(Guest.from_xml(text))


def test_kvm_may_be_libvirts_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may not open /dev/kvm has a libvirtd that may."""
    slow = Emulator.recorded("9.0")
    slow = slow._replace(accelerators=slow.accelerators[-1:], flags=slow.flags - {"kvm"})
    monkeypatch.setattr(Emulator, "probe", lambda path: slow)
    monkeypatch.setattr(FarAway, "uri", "qemu:///system")
    monkeypatch.setattr(FarAway, "emulator", "/bin/sh")
    monkeypatch.setattr(FarAway, "getVersion", lambda self: 9_000_000)
    site = Site(FarAway())
    assert site.is_local
    guest = Guest.from_xml(document().replace("'test'", "'kvm'"))
    assert site.emulator(guest).accelerator("kvm") is not None
    assert guest.define(site.emulator(guest), site.host).domain.virt == "kvm"


def test_a_named_emulator_counts(connection: Any) -> None:
    old = qemushim.wrap(connection._raw, emulator="7.2")
    assert old.defineXML(document()).XMLDesc(0).count("machine='pc-q35-7.2'") == 1


# -- the command line --------------------------------------------------------------------------------------------------


def test_plan_on_the_command_line(connection: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "g.xml"
    file.write_text(document())
    words = ["plan", str(file), "--connect", "test:///default"]
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("g: new\n")
    assert main([*words, "--define", "--format", "json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["verdict"] == "new"
    assert said.err == "note: guest 'g' is defined\n"
    file.write_text(document("".join(MOST[:-2])))
    assert main([*words, "--strict", "--define"]) == 1
    assert "would be another machine: " in capsys.readouterr().err
    assert main([*words, "--format", "diff"]) == 0
    assert "-    <sound model='ich9'>" in capsys.readouterr().out
    assert main(["plan", str(file), "--connect", "nothing:///"]) == 1
    assert "Traceback" not in capsys.readouterr().err
