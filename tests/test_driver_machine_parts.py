"""The small parts of guests of our own, without a QEMU."""

from __future__ import annotations

import base64
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from qemushim.command.command import Command, Descriptor
from qemushim.command.option import Option
from qemushim.context import Build
from qemushim.document.parse import parse
from qemushim.driver import sockets
from qemushim.driver.descriptors import Opened
from qemushim.driver.finish import finish
from qemushim.driver.legacy import todays_flags
from qemushim.driver.live import complete_live, terminals, write_classic_terminals, write_terminals
from qemushim.driver.ownhost import (
    copy_nvram,
    encryption,
    free_ports,
    make_folders,
    make_huge,
    own_host,
    require_sockets,
    write_key,
)
from qemushim.driver.qmpmonitor import CommandError
from qemushim.driver.state import Folder
from qemushim.driver.taps import Connection, open_taps
from qemushim.driver.verify import verify
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError, DriverError, MonitorError
from qemushim.guest import Guest
from qemushim.host import Host, Hugepages
from tests.machines import card, descriptors, disk, guest


class Recorded:
    """A monitor that answers from a table, and keeps what it was told."""

    def __init__(
        self, answers: Mapping[str, Any], places: Mapping[tuple[str, str], Any] | None = None
    ) -> None:
        self.answers = dict(answers)
        self.places = dict(places or {})
        self.told: list[tuple[str, dict[str, Any]]] = []

    def execute(self, command: str, arguments: Mapping[str, Any] | None = None) -> Any:
        given = dict(arguments or {})
        self.told.append((command, given))
        if command == "qom-get":
            key = (given["path"].rpartition("/")[2], given["property"])
            if key not in self.places:
                raise CommandError("not there", command=command, kind="DeviceNotFound")
            return self.places[key]
        return self.answers.get(command, {})


def build(text: str, version: str = "7.2.0") -> Build:
    """A guest that is about to be started."""
    emulator, host = Emulator.recorded(version), Host.nominal()._replace(domain_id=3)
    return Guest.from_xml(text).define(emulator, host).build(emulator, host)


# -- planned and actual --------------------------------------------------------------------------------------------

NETWORK = {("net0", "parent_bus"): "/machine/i440fx/pci.0", ("net0", "addr"): 0x10}
NAMES = [{"name": "net0", "type": "child<virtio-net-pci>"}, {"name": "type", "type": "string"}]


def test_where_it_was_planned() -> None:
    b = build(guest("web", card(1)))
    address = b.domain.lists["interface"][0].address
    assert address is not None
    assert address.pci.slot == 2
    verdict = verify(Recorded({"qom-list": NAMES, "query-pci": []}, NETWORK), b)
    assert verdict.differences == []
    assert dict(verdict.checked) == {"pci": 1}
    assert verdict.devices == {"net0"}


def test_elsewhere_is_told_and_corrected() -> None:
    b = build(guest("web", card(1)))
    interface = b.domain.lists["interface"][0]
    bus = {
        "bus": 0,
        "devices": [
            {
                "bus": 0,
                "slot": 9,
                "function": 1,
                "qdev_id": "net0",
                "class_info": {"class": 512},
                "id": {"vendor": 0x1AF4, "device": 0x1000},
            }
        ],
    }
    moved = {**NETWORK, ("net0", "addr"): 0x49}
    verdict = verify(Recorded({"qom-list": NAMES, "query-pci": [bus]}, moved), b)
    [difference] = verdict.differences
    assert str(difference) == "net0 is at pci bus=pci.0,addr=0x09.1, not at bus=pci.0,addr=0x02.0"
    assert interface.address is not None
    assert str(interface.address.pci) == "0000:00:09.1", "the live document says what is; so query-pci agrees"


def test_device_that_has_just_left_is_no_difference() -> None:
    assert (
        verify(Recorded({"qom-list": NAMES, "query-pci": []}), build(guest("web", card(1)))).differences == []
    )


def test_behind_another_bridge() -> None:
    b = build(guest("web", card(1), machine="q35"))
    interface = b.domain.lists["interface"][0]
    assert interface.address is not None
    number = interface.address.pci.bus
    entry = {"slot": 0, "function": 0, "class_info": {"class": 512}, "id": {"vendor": 1, "device": 2}}
    port = {
        **entry,
        "bus": 0,
        "qdev_id": "pci.9",
        "pci_bridge": {"devices": [{**entry, "bus": 7, "qdev_id": "net0"}]},
    }
    places = {("net0", "parent_bus"): f"/machine/peripheral/pci.{number}/pci.{number}", ("net0", "addr"): 0}
    replies = {"qom-list": NAMES, "query-pci": [{"bus": 0, "devices": [port]}]}
    [difference] = verify(Recorded(replies, places), b).differences
    assert str(difference) == f"net0 is at query-pci pci.9 0x00.0, not at pci.{number} 0x00.0"


# -- before the guest runs -----------------------------------------------------------------------------------------


def test_what_a_command_line_has_no_words_for() -> None:
    text = guest(
        "web",
        card(1).replace("</interface>", "<link state='down'/></interface>")
        + disk(
            Path("/d"),
            "vda",
            extra="<iotune><read_bytes_sec>10</read_bytes_sec><write_iops_sec_max>7</write_iops_sec_max></iotune>",
        )
        + "<graphics type='vnc' passwd='secret'/><panic model='isa'/>"
        + "<memballoon model='virtio'><stats period='5'/></memballoon>",
        rest="<currentMemory unit='MiB'>32</currentMemory><on_reboot>destroy</on_reboot>"
        "<on_crash>restart</on_crash>",
    )
    b = build(text)
    monitor = Recorded({})
    notes = finish(monitor, b)
    told = dict(monitor.told)
    assert told["set-action"] == {"shutdown": "poweroff", "reboot": "shutdown", "panic": "shutdown"}
    assert told["set_password"] == {"protocol": "vnc", "password": "secret"}
    assert told["set_link"] == {"name": "net0", "up": False}
    assert told["balloon"] == {"value": 32 << 20}
    assert told["qom-set"]["value"] == 5
    limits = told["block_set_io_throttle"]
    assert limits["id"] == "/machine/peripheral/virtio-disk0/virtio-backend"
    assert (limits["bps"], limits["bps_rd"], limits["iops_wr_max"]) == (0, 10, 7)
    assert notes == ["<on_crash>restart</on_crash>: the guest is not started anew, it ends"]


def test_processors_are_plugged_in() -> None:
    states = (
        "<vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='no' hotpluggable='yes'/>"
        "<vcpu id='2' enabled='yes' hotpluggable='yes'/></vcpus>"
    )
    b = build(guest("web").replace("<vcpu>1</vcpu>", f"<vcpu current='2'>3</vcpu>{states}"))
    entries = [
        {"type": "cpu", "vcpus-count": 1, "props": {"socket-id": n}, **({"qom-path": "/x"} if n == 0 else {})}
        for n in (2, 1, 0)
    ]
    monitor = Recorded({"query-hotpluggable-cpus": entries})
    finish(monitor, b)
    assert [given for name, given in monitor.told if name == "device_add"] == [
        {"driver": "cpu", "id": "vcpu2", "socket-id": 2}
    ]


def test_live_document() -> None:
    chain = "<driver name='qemu' type='qcow2'/><source file='/top'/><backingStore type='file'><format type='raw'/>"
    chained = f"<disk type='file'>{chain}<source file='/base'/><backingStore/></backingStore><target dev='vda'/></disk>"
    bridged = "<interface type='bridge'><source bridge='br0'/></interface>"
    text = guest("web", f"{chained}<serial type='pty'/><graphics type='vnc'/>{bridged}")
    b = build(text)
    assert complete_live(b, {"net0": "vnet5"}) == 2
    write_terminals(
        Recorded({"query-chardev": [{"label": "charserial0", "filename": "pty:/dev/pts/7"}]}), b.domain
    )
    live = parse(b.domain.to_xml(live=True))
    assert live.get("id") == "3"
    assert live.value("devices/disk/source/@index") == "1"
    assert live.value("devices/disk/backingStore/source/@index") == "2"
    assert live.value("devices/disk/alias/@name") == "virtio-disk0"
    assert live.value("devices/graphics/@port") == "5900"
    assert live.value("devices/interface/target/@dev") == "vnet5"
    assert terminals(live) == [("serial0", "/dev/pts/7")]


def test_terminals_of_old() -> None:
    root = parse("<domain><devices><serial type='pty'/><parallel type='pty'/></devices></domain>")
    write_classic_terminals("monitor: filename=unix\nserial0: filename=pty:/dev/pts/3\n", root)
    assert terminals(root) == [("serial0", "/dev/pts/3")]


# -- today's flags -------------------------------------------------------------------------------------------------


def test_flags_that_are_gone_are_said_otherwise() -> None:
    given = [
        ("-net", "nic,macaddr=1,vlan=0,model=virtio,name=net0"),
        ("-net", "user,vlan=0,name=hostnet0"),
        ("-net", "nic,macaddr=2,vlan=1,model=e1000"),
        ("-net", "socket,connect=a:1,vlan=1"),
        ("-drive", "file=/a,,b,if=virtio,boot=on"),
        ("-drive", "file=/c,if=ide,format=qcow2"),
        ("-soundhw", "ac97,es1370"),
        ("-watchdog", "i6300esb"),
        ("-balloon", "virtio"),
        ("-chardev", "socket,id=m,path=/p,server,nowait"),
        ("-usb", None),
    ]
    command = Command("qemu", [Option(flag, text) for flag, text in given])
    todays_flags(command)
    assert [(option.flag, option.text) for option in command.options] == [
        ("-net", "nic,macaddr=1,model=virtio,netdev=hostnet0"),
        ("-netdev", "user,id=hostnet0"),
        ("-net", "nic,macaddr=2,model=e1000,netdev=hostnet1"),
        ("-netdev", "socket,connect=a:1,id=hostnet1"),
        ("-drive", "file=/a,,b,if=virtio,format=raw"),
        ("-drive", "file=/c,if=ide,format=qcow2"),
        ("-audiodev", "none,id=audio1"),
        ("-device", "AC97,audiodev=audio1"),
        ("-device", "ES1370,audiodev=audio1"),
        ("-device", "i6300esb"),
        ("-chardev", "socket,id=m,path=/p,server=on,wait=off"),
        ("-usb", None),
    ]


@pytest.mark.parametrize(("flag", "text"), [("-drive", "file=/a,if=scsi"), ("-soundhw", "pcspk")])
def test_flags_that_have_no_other_words(flag: str, text: str) -> None:
    with pytest.raises(ConfigError, match="today's QEMU"):
        todays_flags(Command("qemu", [Option(flag, text)]))


# -- the host ------------------------------------------------------------------------------------------------------


def test_everything_is_below_the_guests_folder(tmp_path: Path) -> None:
    folder = Folder(tmp_path, "web")
    host = own_host(Host.nominal(), folder, 7, bytes(32), {"db": b"plain"})
    paths = host.paths
    for path in (
        paths.lib,
        paths.nvram,
        paths.channel,
        paths.ram,
        paths.run,
        paths.config,
        host.classic.monitor,
    ):
        assert path.startswith(f"{folder.path}")
    assert host.find_secret("ceph", "db") == b"plain"
    with pytest.raises(ConfigError, match="secret other is not known"):
        host.find_secret("ceph", "other")


def test_secrets_are_encrypted_with_the_guests_key() -> None:
    ciphers = pytest.importorskip("cryptography.hazmat.primitives.ciphers")
    key, iv, plain = bytes(range(32)), bytes(16), b"of any length"
    text = base64.b64decode(encryption(key)(plain, iv))
    work = ciphers.Cipher(ciphers.algorithms.AES(key), ciphers.modes.CBC(iv)).decryptor()
    padded = work.update(text) + work.finalize()
    assert padded[: -padded[-1]] == plain
    assert len(text) % 16 == 0


def test_ports_that_are_taken_are_left_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        found = free_ports(number, number, number)
        assert len(set(found)) == 3
        assert number not in found


def test_files_for_a_start(tmp_path: Path) -> None:
    write_key(str(tmp_path / "a" / "key"), b"secret")
    assert (tmp_path / "a" / "key").stat().st_mode & 0o777 == 0o600
    with pytest.raises(DriverError, match="File exists"):
        write_key(str(tmp_path / "a" / "key"), b"other")
    make_folders(f'{{"a":"{tmp_path}/x/y/file","b":"{tmp_path}/z/f"}},{tmp_path}/p,q=/else', tmp_path)
    assert ((tmp_path / "x" / "y").is_dir(), (tmp_path / "z").is_dir()) == (True, True)
    template = tmp_path / "template"
    template.write_bytes(b"vars")
    copy_nvram(str(tmp_path / "n" / "web"), str(template))
    copy_nvram(str(tmp_path / "n" / "web"), "/nowhere")
    assert (tmp_path / "n" / "web").read_bytes() == b"vars"
    with pytest.raises(DriverError, match="variables '/nowhere'"):
        copy_nvram(str(tmp_path / "n" / "other"), "/nowhere")


def test_huge_pages(tmp_path: Path) -> None:
    host = Host.nominal()._replace(hugepages=(Hugepages(2048, str(tmp_path), True),))
    option = Option("-object", "…", properties={"mem-path": f"{tmp_path}/libvirt/qemu/1-web"})
    assert make_huge(option, host) == [f"{tmp_path}/libvirt/qemu/1-web"]
    assert make_huge(option, host) == []
    assert make_huge(Option("-S"), host) == []


def test_helpers_must_run(tmp_path: Path) -> None:
    number = sockets.listen(str(tmp_path / "there"))
    require_sockets({str(tmp_path / "there"): "a"})
    os.close(number)
    (tmp_path / "file").write_text("")
    for name in ("missing", "file"):
        with pytest.raises(DriverError, match="the TPM is to be at"):
            require_sockets({str(tmp_path / name): "the TPM"})


# -- descriptors ---------------------------------------------------------------------------------------------------


def test_sockets_below_any_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200) / "socket"
    number = sockets.listen(str(deep))
    with sockets.connect(str(deep), 5) as other:
        assert other.getpeername() is not None
    assert deep.stat().st_mode & 0o777 == 0o600
    os.close(number)
    # what an earlier guest left is replaced, what somebody listens on is not
    again = sockets.listen(str(deep))
    with pytest.raises(OSError, match="in use"):
        sockets.listen(str(deep))
    os.close(again)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="in use"):
        sockets.listen(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"


def nobody(alias: str) -> Connection:
    raise AssertionError(alias)


def test_descriptors_are_opened_and_closed(tmp_path: Path) -> None:
    (tmp_path / "disk").write_bytes(b"data")
    before = descriptors()
    wanted = [
        Descriptor(24, "listen", str(tmp_path / "s"), "channel0"),
        Descriptor(25, "file", str(tmp_path / "disk"), "disk0"),
        Descriptor(25, "file", str(tmp_path / "disk"), "disk0"),
    ]
    with Opened() as opened:
        opened.open(wanted, nobody)
        assert sorted(opened.numbers) == [24, 25]
        assert os.read(opened.numbers[25], 10) == b"data"
        assert descriptors() == before + 2
    assert descriptors() == before


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (Descriptor(24, "vhost-vdpa", "/nowhere/vdpa", "net0"), "cannot open '/nowhere/vdpa' for net0"),
        (Descriptor(24, "vhost-user", "/x", "net0"), "net0 needs passt"),
        (Descriptor(24, "migration"), "the guest needs the source of the migration"),
    ],
)
def test_what_can_not_be_opened(one: Descriptor, words: str) -> None:
    before = descriptors()
    with Opened() as opened, pytest.raises(DriverError, match=words) as refusal:
        opened.open([one], nobody)
    assert refusal.value.hint
    assert descriptors() == before


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (Connection("direct"), "cannot open macvtap device ''"),
        (Connection("direct", "nowhere0"), "cannot open macvtap device 'nowhere0'"),
        (Connection("ethernet", "a-name-that-is-too-long"), "too long"),
        (Connection("ethernet", "tap0", custom_device="/nowhere/tun"), "cannot open tap device 'tap0'"),
    ],
)
def test_taps_that_can_not_be_had(wanted: Connection, words: str) -> None:
    before = descriptors()
    with pytest.raises(DriverError, match=words):
        open_taps(wanted)
    assert descriptors() == before


def test_real_taps() -> None:
    """Several queues of one device, and a bridge that is not there."""
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK) or os.geteuid() != 0:
        pytest.skip("needs root and /dev/net/tun to make tap devices")
    before = descriptors()
    name, numbers = open_taps(Connection("ethernet", queues=2))
    assert name.startswith("vnet")
    assert socket.if_nametoindex(name)
    assert len(numbers) == 2
    for number in numbers:
        os.close(number)
    with pytest.raises(OSError, match="no interface"):
        socket.if_nametoindex(name)
    with pytest.raises(DriverError, match="to bridge 'nowhere0'"):
        open_taps(Connection("bridge", bridge="nowhere0"))
    assert descriptors() == before


def test_refusals_know_their_kind() -> None:
    problem: MonitorError = CommandError("no", command="device_del", kind="DeviceNotFound")
    assert (problem.kind, MonitorError("x").kind) == ("DeviceNotFound", "")
