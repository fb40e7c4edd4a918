"""Devices that join and leave a running guest: the document, the commands, what is taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.emulator.model import Emulator
from qemushim.errors import AddressError, ConfigError, MonitorError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.hotplug import LiveGuest, plan_attach, plan_detach
from tests.fake_qemu import FakeQemu
from tests.live_guests import FILE, GUEST, HOST, NUMA, PASSING, arguments, newcomer, said, started, xml_of
from tests.small_guests import LATEST, OLD, PSERIES, S390, document
from tools.conformance_hotplug import run_all

# -- the live document ---------------------------------------------------------------------------------------


def test_a_live_document_has_ids_and_node_numbers() -> None:
    text = started().to_xml()
    assert text.startswith("<domain type='qemu' id='3'>")
    assert "<alias name='virtio-disk0'/>" in text
    assert "<source file='/root.qcow2' index='2'/>" in text
    assert "<source file='/a.iso' index='1'/>\n      <backingStore/>" in text
    assert "port='5900' autoport='yes'" in text


def test_a_live_document_is_read_as_it_was_written() -> None:
    live = started()
    text = live.to_xml()
    assert LiveGuest.from_xml(text).to_xml() == text
    assert LiveGuest.read(text, LATEST, HOST).to_xml() == text
    assert LiveGuest.of(Guest.from_xml(text)).nodes == live.nodes == 2


def test_what_only_a_running_guest_has_is_not_stored() -> None:
    stored = Guest.from_xml(started().to_xml()).define(LATEST, HOST, update=False).to_xml()
    for word in ("<alias", "index=", " id='3'", "port='5900'"):
        assert word not in stored.replace("<audio id=", "").replace(" index='0'", "")


# -- joining -------------------------------------------------------------------------------------------------


def test_a_disk_joins() -> None:
    plan = plan_attach(started(), f"<disk>{FILE}<target dev='vdb'/></disk>", LATEST, HOST)
    assert said(plan) == ["blockdev-add", "device_add", "query-block", "qom-list"]
    assert arguments(plan, "blockdev-add")["node-name"] == "libvirt-3-storage"
    assert arguments(plan, "device_add") == {
        "driver": "virtio-blk-pci",
        "bus": "pci.0",
        "addr": "0x7",
        "drive": "libvirt-3-storage",
        "id": "virtio-disk1",
    }
    text = plan.document.to_xml()
    assert "<source file='/b.img' index='3'/>\n      <backingStore/>" in text
    assert text.index("dev='vda'") < text.index("dev='vdb'") < text.index("dev='hdc'")


def test_a_chain_of_images_is_numbered_from_the_top() -> None:
    device = (
        "<disk><driver name='qemu' type='qcow2'/><source file='/top'/><backingStore type='file'><format type='raw'/>"
        "<source file='/base'/><backingStore/></backingStore><target dev='vdb'/></disk>"
    )
    plan = plan_attach(started(), device, LATEST, HOST)
    nodes = [c.arguments["node-name"] for c in plan.commands if c.execute == "blockdev-add"]
    assert nodes == ["libvirt-4-storage", "libvirt-3-storage", "libvirt-3-format"]
    assert plan.document.nodes == 4


def test_missing_scsi_controllers_join_first() -> None:
    live = started("")
    plan = plan_attach(live, f"<disk>{FILE}<target dev='sdi' bus='scsi'/></disk>", LATEST, HOST)
    ids = [command.arguments["id"] for command in plan.commands if command.execute == "device_add"]
    assert ids == ["scsi0", "scsi1", "scsi1-0-1"]
    lists = plan.document.domain.lists["controller"]
    assert [c.node.get("model") for c in lists if c.node.get("type") == "scsi"] == ["lsilogic", "lsilogic"]


def test_descriptors_are_handed_over_by_name() -> None:
    device = "<interface type='bridge'><source bridge='br0'/><model type='virtio'/><driver queues='2'/></interface>"
    plan = plan_attach(started(), device, LATEST, HOST)
    assert said(plan)[:5] == ["getfd", "getfd", "getfd", "getfd", "netdev_add"]
    netdev = arguments(plan, "netdev_add")
    assert netdev["fds"] == "tapfd-net10:tapfd-net11"
    assert netdev["vhostfds"] == "vhostfd-net10:vhostfd-net11"
    first = plan.commands[0].descriptor
    assert first is not None
    assert (first.kind, first.user, first.name) == ("tap", "net1", "tapfd-net10")


def test_a_pulled_cable_is_told() -> None:
    device = "<interface type='user'><model type='virtio'/><link state='down'/></interface>"
    plan = plan_attach(started(), device, LATEST, HOST)
    assert arguments(plan, "set_link") == {"name": "net1", "up": False}


def test_fd_sets_are_numbered_behind_those_that_qemu_has() -> None:
    live = LiveGuest.from_xml(started().to_xml())
    device = "<channel type='file'><source path='/log'/><target type='virtio' name='c'/></channel>"
    qemu = FakeQemu()
    qemu.fd_sets = {0: "serial0-source", 8: "serial1-source"}
    plan = plan_attach(live, device, LATEST, PASSING)
    after = plan.carry_out(qemu.send)
    assert qemu.said == ["query-fdsets", "add-fd", "chardev-add", "device_add", "qom-list"]
    assert qemu.fd_sets[9] == "channel0-source"
    assert [undo.execute for undo in plan.rollback] == ["device_del", "chardev-remove"]
    # the second time it is known
    again = plan_attach(after, device.replace("'c'", "'d'"), LATEST, PASSING)
    again.carry_out(qemu.send)
    assert qemu.said[5] == "add-fd"
    assert qemu.fd_sets[10] == "channel1-source"


def test_limits_and_trays() -> None:
    device = (
        f"<disk device='cdrom'>{FILE}<target dev='sdb' bus='scsi'/>"
        "<iotune><read_iops_sec>7</read_iops_sec></iotune></disk>"
    )
    plan = plan_attach(started(), device, LATEST, HOST)
    assert said(plan) == ["blockdev-add", "device_add", "block_set_io_throttle", "query-block", "qom-list"]
    limits = arguments(plan, "block_set_io_throttle")
    assert (limits["id"], limits["iops_rd"], limits["bps_wr_max"]) == ("scsi0-0-0-1", 7, 0)

    def send(command: Any) -> Any:
        tray = {"qdev": "/machine/peripheral/scsi0-0-0-1", "tray_open": True}
        return [tray] if command.execute == "query-block" else {}

    assert "tray='open'" in plan.carry_out(send).to_xml()


def test_a_terminal_is_noted() -> None:
    device = "<channel type='pty'><target type='virtio' name='c'/></channel>"
    after = plan_attach(started(), device, LATEST, HOST).carry_out(FakeQemu().send)
    assert "<source path='/dev/pts/7'/>" in after.to_xml()


def test_the_guest_s_own_socket() -> None:
    device = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
    plan = plan_attach(started(host=PASSING), device, LATEST, PASSING)
    assert said(plan) == ["getfd", "chardev-add", "device_add", "qom-list"]
    assert arguments(plan, "chardev-add")["backend"]["data"]["addr"] == {
        "type": "fd",
        "data": {"str": "channel0-source"},
    }
    assert "path='/run/libvirt/qemu/channel/3-g/org.qemu.guest_agent.0'" in plan.document.to_xml()


def test_memory_is_counted() -> None:
    cell = "<numa><cell id='0' cpus='0' memory='262144'/></numa>"
    live = started(extra=f"{NUMA}<cpu>{cell}</cpu>")
    device = "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>"
    plan = plan_attach(live, device, LATEST, HOST)
    assert said(plan) == ["object-add", "device_add", "query-memory-devices", "qom-list"]
    assert plan.document.domain.memory == (256 + 128) * 1024
    back = plan_detach(plan.document, device, LATEST, HOST)
    assert said(back) == ["device_del", "object-del"]
    assert back.document.to_xml() == live.to_xml()


def test_memory_is_counted_in_a_definition_too() -> None:
    cell = "<numa><cell id='0' cpus='0' memory='262144'/></numa>"
    definition = Guest.from_xml(document("", extra=f"{NUMA}<cpu>{cell}</cpu>")).define(LATEST, HOST)
    target = "<target><size unit='MiB'>64</size><node>0</node></target>"
    device = f"<memory model='dimm'><alias name='ua-m'/>{target}</memory>"
    more = definition.attach(device, LATEST, HOST)
    assert more.domain.memory == (256 + 64) * 1024
    assert more.detach("ua-m").to_xml() == definition.to_xml()


def test_an_s390_guest_gives_a_device_number() -> None:
    host = HOST._replace(arch="s390x")
    plan = plan_attach(started("", S390, host), f"<disk>{FILE}<target dev='vda'/></disk>", S390, host)
    assert arguments(plan, "device_add")["devno"] == "fe.0.0001"


def test_an_assigned_device_goes_to_a_host_bridge_of_its_group() -> None:
    host = Host.nominal("ppc64")._replace(domain_id=3)
    live = started(
        "<controller type='pci' model='pci-root'/><controller type='pci' model='pci-root'/>", PSERIES, host
    )
    device = (
        "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source>"
        "</hostdev>"
    )
    assert said(plan_attach(live, device, PSERIES, host)) == ["device_add", "qom-list"]
    assert "<driver name='vfio'/>" in plan_attach(live, device, PSERIES, host).document.to_xml()


def test_old_objects_have_their_properties_inside() -> None:
    old = OLD._replace(version=(5, 2, 0))
    plan = plan_attach(
        started("", old), "<rng model='virtio'><backend model='random'>/r</backend></rng>", old, HOST
    )
    assert arguments(plan, "object-add") == {
        "qom-type": "rng-random",
        "id": "objrng0",
        "props": {"filename": "/r"},
    }


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("<video/>", "Operation not supported: live attach of device 'video' is not supported"),
        (
            f"<disk>{FILE}<target dev='hdb' bus='ide'/></disk>",
            "Operation not supported: disk bus 'ide' cannot be hotplugged.",
        ),
        (
            f"<disk>{FILE}<target dev='vda'/></disk>",
            "operation failed: target vda already exists",
        ),
        (
            "<controller type='usb'/>",
            "Operation not supported: 'usb' controller cannot be hot plugged.",
        ),
        (
            "<input type='mouse' bus='ps2'/>",
            "Operation not supported: input device on bus 'ps2' cannot be hot plugged.",
        ),
        (
            "<filesystem type='mount'><source dir='/x'/><target dir='t'/></filesystem>",
            "Operation not supported: only virtiofs filesystems can be hotplugged",
        ),
        ("<mouse/>", "unsupported configuration: unknown device type 'mouse'"),
    ],
)
def test_what_can_not_join(device: str, message: str) -> None:
    live = started()
    before = live.to_xml()
    with pytest.raises(ConfigError) as caught:
        plan_attach(live, device, LATEST, HOST)
    assert caught.value.message == message
    assert live.to_xml() == before


def test_an_old_qemu_is_told_nothing() -> None:
    with pytest.raises(ConfigError, match="too old"):
        plan_attach(started(), DEVICES["disk"], Emulator.recorded("0.12.1"), HOST)


def test_no_slot_is_left() -> None:
    live = started("<interface type='user'><model type='virtio'/></interface>", machine="q35")
    device = "<interface type='user'><model type='virtio'/></interface>"
    plan = plan_attach(live, device, LATEST, HOST)  # the spare port
    with pytest.raises(AddressError, match="No more available PCI slots"):
        plan_attach(plan.document, device, LATEST, HOST)


def test_functions_join_one_by_one_or_not_at_all() -> None:
    device = (
        "<rng model='virtio'><backend model='random'>/r</backend>"
        "<address type='pci' domain='0' bus='0' slot='9' function='1'/></rng>"
    )
    with pytest.raises(ConfigError, match="function=0"):
        plan_attach(started(), device, LATEST, HOST)


# -- leaving -------------------------------------------------------------------------------------------------

DEVICES = {
    "agent": "<channel type='unix'><target type='virtio' name='a'/></channel>",
    "console": "<console type='pty'><target type='virtio'/></console>",
    "cdrom": f"<disk device='cdrom'>{FILE}<target dev='sdc' bus='usb'/></disk>",
    "disk": f"<disk>{FILE}<target dev='vdb'/></disk>",
    "encrypted": (
        "<disk><driver name='qemu' type='qcow2'/><source file='/e'><encryption format='luks'>"
        "<secret type='passphrase' uuid='5b2e2c7e-9f2e-4c4b-8a3a-0c9f5d6e7f81'/></encryption></source>"
        "<target dev='vdb'/></disk>"
    ),
    "evdev": "<input type='evdev'><source dev='/dev/input/event3'/></input>",
    "file": "<channel type='file'><source path='/f'/><log file='/l'/><target type='virtio' name='f'/></channel>",
    "filesystem": (
        "<filesystem type='mount'><driver type='virtiofs'/><source dir='/x'/><target dir='t'/></filesystem>"
    ),
    "hostdev": (
        "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='1' slot='0' function='0'/></source>"
        "</hostdev>"
    ),
    "interface": "<interface type='user'><model type='virtio'/></interface>",
    "mouse": "<input type='mouse' bus='virtio'/>",
    "reservations": (
        "<disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/sdb'>"
        "<reservations managed='yes'/></source><target dev='sdb' bus='scsi'/></disk>"
    ),
    "redirdev": "<redirdev bus='usb' type='tcp'><source mode='connect' host='h' service='9'/></redirdev>",
    "rng": (
        "<rng model='virtio'><backend model='egd' type='tcp'><source mode='connect' host='h' service='9'/></backend>"
        "</rng>"
    ),
    "scsi": (
        "<hostdev mode='subsystem' type='scsi'><source><adapter name='scsi_host0'/>"
        "<address bus='0' target='0' unit='0'/></source></hostdev>"
    ),
    "shmem": "<shmem name='s'><model type='ivshmem-plain'/></shmem>",
    "tablet": "<input type='tablet' bus='usb'/>",
    "tap": "<interface type='bridge'><source bridge='b'/><model type='virtio'/></interface>",
    "vhost": (
        "<interface type='vhostuser'><source type='unix' path='/v' mode='client'/><model type='virtio'/>"
        "</interface>"
    ),
    "vsock": "<vsock model='virtio'><cid auto='yes'/></vsock>",
    "watchdog": "<watchdog model='i6300esb' action='pause'/>",
}
MEMFD = "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>"


@pytest.mark.parametrize("emulator", [LATEST, OLD], ids=["latest", "old"])
@pytest.mark.parametrize("name", DEVICES)
def test_nothing_is_left_of_a_device_that_came_and_went(name: str, emulator: Emulator) -> None:
    live = started(emulator=emulator, host=PASSING, extra=MEMFD)
    before = live.to_xml()
    qemu = FakeQemu()
    for _ in range(2):
        plan = plan_attach(live, DEVICES[name], emulator, PASSING)
        after = plan.carry_out(qemu.send)
        device = newcomer(plan, live)
        live = plan_detach(after, xml_of(device), emulator, PASSING).carry_out(qemu.send)
        assert live.to_xml() == before
        assert (qemu.things, qemu.fd_sets) == ({}, {})


@pytest.mark.parametrize("name", DEVICES)
def test_a_refusal_takes_everything_back(name: str) -> None:
    live = started(host=PASSING, extra=MEMFD)
    before = live.to_xml()
    plan = plan_attach(live, DEVICES[name], LATEST, PASSING)
    for command in {command.execute for command in plan.commands}:
        qemu = FakeQemu(refuses=command)
        with pytest.raises(MonitorError, match="is refused"):
            plan.carry_out(qemu.send)
        assert live.to_xml() == before
        assert (qemu.things, qemu.fd_sets) == ({}, {})


@pytest.mark.parametrize("name", DEVICES)
def test_a_rollback_takes_back_what_was_carried_out(name: str) -> None:
    plan = plan_attach(started(host=PASSING, extra=MEMFD), DEVICES[name], LATEST, PASSING)
    qemu = FakeQemu()
    for command in plan.commands:
        qemu.send(command)
    for command in plan.rollback:
        if command.execute != "closefd":  # the name was used up
            qemu.send(command)
    assert qemu.things == {}


def test_the_guest_may_keep_its_device() -> None:
    live = plan_attach(started(), DEVICES["disk"], LATEST, HOST).document
    nodes = (("device", "virtio-disk1"), ("node", "libvirt-3-storage"))
    plan = plan_detach(live, "<disk><target dev='vdb'/></disk>", LATEST, HOST)
    with pytest.raises(MonitorError, match="keeps"):
        plan.carry_out(FakeQemu(keeps="virtio-disk1", present=nodes).send)
    assert [command.awaits for command in plan.commands] == ["virtio-disk1", ""]
    assert [str(command) for command in plan.leftovers] == ['blockdev-del {"node-name":"libvirt-3-storage"}']


def test_a_device_that_qemu_has_not_is_gone() -> None:
    class UnknownError(MonitorError):
        kind = "DeviceNotFound"

    def send(command: Any) -> Any:
        if command.execute == "device_del":
            raise UnknownError("no such device")
        return {}

    plan = plan_detach(started(), "<disk><target dev='vda'/></disk>", LATEST, HOST)
    assert "dev='vda'" not in plan.carry_out(send).to_xml()


def test_without_numbers_nothing_is_known_of_the_nodes() -> None:
    text = started().to_xml().replace(" index='2'", "")
    plan = plan_detach(LiveGuest.from_xml(text), "<disk><target dev='vda'/></disk>", LATEST, HOST)
    assert said(plan) == ["device_del"]


def test_the_helper_of_reservations_goes_with_the_last_disk() -> None:
    live = plan_attach(started(), DEVICES["reservations"], LATEST, HOST).document
    second = DEVICES["reservations"].replace("sdb", "sdc")
    plan = plan_attach(live, second, LATEST, HOST)
    assert "object-add" not in said(plan)
    plan = plan_detach(plan.document, "<disk><target dev='sdc'/></disk>", LATEST, HOST)
    assert said(plan) == ["device_del", "blockdev-del"]
    plan = plan_detach(plan.document, "<disk><target dev='sdb'/></disk>", LATEST, HOST)
    assert said(plan) == ["device_del", "blockdev-del", "object-del"]


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("<disk><target dev='vdz'/></disk>", "device not found: no matching <disk> in domain 'g'"),
        (
            "<graphics type='vnc'/>",
            "Operation not supported: live detach of device 'graphics' is not supported",
        ),
        (
            "<controller type='scsi' index='0' model='virtio-scsi'/>",
            "operation failed: device cannot be detached: device is busy",
        ),
        (
            "<controller type='usb' index='0'/>",
            "Operation not supported: 'usb' controller cannot be hot unplugged.",
        ),
        (
            "<rng model='virtio'><backend model='random'/></rng>",
            "operation failed: multiple devices matching this <rng> found",
        ),
    ],
)
def test_what_can_not_leave(device: str, message: str) -> None:
    live = started(GUEST + 2 * "<rng model='virtio'><backend model='random'>/dev/random</backend></rng>")
    live = plan_attach(live, f"<disk>{FILE}<target dev='sdb' bus='scsi'/></disk>", LATEST, HOST).document
    with pytest.raises(ConfigError) as caught:
        plan_detach(live, device, LATEST, HOST)
    assert caught.value.message == message


def test_a_port_may_forbid_it() -> None:
    root = "<controller type='pci' index='0' model='pcie-root'/>"
    port = "<controller type='pci' index='1' model='pcie-root-port'><target hotplug='off'/></controller>"
    card = "<interface type='user'><model type='virtio'/><address type='pci' bus='1' slot='0'/></interface>"
    live = started(root + port + card, machine="q35")
    with pytest.raises(ConfigError, match="not allowed by controller"):
        plan_detach(live, "<interface type='user'><model type='virtio'/></interface>", LATEST, HOST)


KINDS = st.sampled_from(["cdrom", "disk", "file", "interface", "mouse", "rng", "tablet", "tap"])


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(KINDS, st.integers(0, 9)), max_size=12))
def test_whoever_comes_and_goes_the_others_stay(steps: list[tuple[str, int]]) -> None:
    live, qemu = started(host=PASSING), FakeQemu()
    before = live.to_xml()
    present: list[tuple[str, str]] = []

    def places(guest: LiveGuest) -> dict[str, str]:
        return {device.alias: xml_of(device) for device in guest.domain.every() if device.alias}

    for kind, number in steps:
        known = places(live)
        if number < 4 and present:
            _, gone = present.pop(number % len(present))
            live = plan_detach(live, gone, LATEST, PASSING).carry_out(qemu.send)
            assert places(live).items() <= known.items()
        elif kind not in [name for name, _ in present]:
            plan = plan_attach(live, DEVICES[kind], LATEST, PASSING)
            device = newcomer(plan, live)
            live = plan.carry_out(qemu.send)
            present.append((kind, xml_of(device)))
            assert known.items() <= places(live).items()
    for _, gone in present:
        live = plan_detach(live, gone, LATEST, PASSING).carry_out(qemu.send)
    assert (live.to_xml(), qemu.things, qemu.fd_sets) == (before, {}, {})


# -- libvirt's own cases -------------------------------------------------------------------------------------


def test_the_corpus(corpus: Path) -> None:
    if not (corpus / "modern" / "hotplug.json").is_file():
        pytest.skip("the corpus has no hotplug cases")
    assert [f"{r['id']}: {r['why']}" for r in run_all(corpus / "modern") if not r["passed"]] == []
