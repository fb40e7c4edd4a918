"""Guests on a real QEMU: started, changed while they run, stopped, and nothing of them left."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from qemushim.compare.abi import describe
from qemushim.driver import Machine
from qemushim.driver.qmpmonitor import CommandError, QmpMonitor
from qemushim.errors import AddressError, ConfigError, DriverError, MonitorError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.machines import (
    SECONDS,
    boot_sector,
    booting,
    card,
    descriptors,
    disk,
    eventually,
    guest,
    image,
    processes_below,
    sockets_below,
)

pytestmark = [pytest.mark.qemu, pytest.mark.usefixtures("qemu")]

#: machine type → how often devices come and go
ROUNDS = {"pc": 20, "q35": 5}
ROOT_PORTS = "<controller type='pci' index='0' model='pcie-root'/>" + 10 * (
    "<controller type='pci' model='pcie-root-port'/>"
)


@pytest.fixture(scope="session")
def host() -> Host:
    return Host.local()


@pytest.fixture
def tmp_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a short name, so that the kernel shows its sockets by it."""
    return tmp_path_factory.mktemp("m")


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A state folder; at the end no process and no socket below it is left."""
    folder = tmp_path / "state"
    threads = threading.active_count()
    yield folder
    for name in Machine.names(folder):
        Machine.open(name, home=folder).kill()
    assert eventually(lambda: not processes_below(tmp_path)), processes_below(tmp_path)
    assert not sockets_below(tmp_path)
    assert eventually(lambda: threading.active_count() <= threads)


def places(document: str) -> dict[str, str]:
    """Device → where it is, for every device that has a place."""
    domain = Guest.from_xml(document).domain
    found = {}
    for device in domain.every():
        address = device.node.child("address")
        if address is not None:
            found[describe(device)] = " ".join(f"{k}={v}" for k, v in address.attrib.items())
    return found


# -- start and stop ----------------------------------------------------------------------------------------------


def test_every_kind_of_address_is_where_it_was_planned(home: Path, host: Host, tmp_path: Path) -> None:
    devices = "".join(
        (
            booting(tmp_path, "q35"),
            disk(image(tmp_path / "b"), "sda", "sata"),
            disk(image(tmp_path / "c"), "sdb", "usb"),
            disk(image(tmp_path / "d"), "sdc", "scsi"),
            "<controller type='scsi' model='virtio-scsi'/><controller type='usb' model='qemu-xhci'/>",
            card(1) + card(2, "e1000") + card(3, "rtl8139"),
            "<serial type='pty'/><input type='tablet' bus='usb'/>",
            "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>",
            "<memory model='dimm'><target><size unit='MiB'>128</size><node>0</node></target></memory>",
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
            "<video><model type='virtio'/></video><graphics type='vnc'/>",
        )
    )
    memory = (
        "<maxMemory slots='4' unit='MiB'>1024</maxMemory><cpu mode='custom'><model>qemu64</model>"
        "<numa><cell id='0' cpus='0' memory='65536'/></numa></cpu>"
    )
    with Machine.start(guest("kinds", devices, machine="q35", rest=memory), home=home, host=host) as machine:
        assert machine.differences == []
        assert set(machine.checked) >= {"pci", "drive", "usb", "virtio-serial", "dimm", "query-pci"}
        # before the firmware has numbered the buses, query-pci tells of the first alone
        early = machine.checked["query-pci"]
        assert eventually(lambda: machine.verify() == [] and machine.checked["query-pci"] > early)
        assert machine.checked["query-pci"] == machine.checked["pci"]
        live = Guest.from_xml(machine.live).domain
        assert live.lists["memory"][0].node.value("address/@base") == "0x100000000"
        terminal = live.lists["serial"][0].node.value("source/@path")
        assert terminal is not None
        assert os.path.exists(terminal)
        assert machine.status().terminals == (("serial0", terminal),)
        [display] = machine.status().displays
        with socket.create_connection(("127.0.0.1", int(display.rpartition(":")[2])), SECONDS) as screen:
            assert screen.recv(3) == b"RFB"
        channel = live.lists["channel"][0].node.value("source/@path")
        assert channel is not None
        assert channel.endswith("/org.qemu.guest_agent.0")
        assert channel in sockets_below(tmp_path)


def test_every_kind_of_address_of_the_older_machine(home: Path, host: Host, tmp_path: Path) -> None:
    """Before and after the firmware has numbered the buses; what is on an expander is behind a bridge of its name."""
    devices = "".join(
        (
            booting(tmp_path)
            + disk(image(tmp_path / "b"), "hda", "ide")
            + disk(image(tmp_path / "c"), "sda", "sata"),
            "<disk type='file' device='floppy'><target dev='fda' bus='fdc'/></disk>",
            "<disk type='file' device='cdrom'><target dev='hdc' bus='ide'/></disk>",
            "<controller type='sata'/><controller type='scsi' model='lsilogic'/>",
            disk(image(tmp_path / "d"), "sdb", "scsi") + disk(image(tmp_path / "e"), "sdc", "usb"),
            "<hub type='usb'/><input type='tablet' bus='usb'/><input type='mouse' bus='usb'/>",
            "<smartcard mode='passthrough' type='tcp'><source mode='bind' host='127.0.0.1' service='0'/></smartcard>",
            "<serial type='pty'><address type='isa' iobase='0x2f8' irq='3'/></serial>",
            "<controller type='pci' index='1' model='pci-bridge'/>",
            "<controller type='pci' index='2' model='pci-expander-bus'><target busNr='254'/></controller>",
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend>"
            "<address type='pci' bus='0x01' slot='0x07'/></rng>",
            card(1).replace("</interface>", "<address type='pci' bus='0x02' slot='0x01'/></interface>"),
        )
    )
    with Machine.start(guest("older", devices), home=home, host=host) as machine:
        assert machine.differences == []
        assert set(machine.checked) == {"ccid", "drive", "isa", "pci", "query-pci", "usb"}
        assert eventually(
            lambda: machine.verify() == [] and machine.checked["query-pci"] == machine.checked["pci"]
        )


def test_monitor_listens_on_a_descriptor_that_is_passed(home: Path, host: Host) -> None:
    with Machine.start(guest("passed"), home=home, host=host, paused=True) as machine:
        running = machine.running
        assert running is not None
        words = Path(f"/proc/{running.pid}/cmdline").read_bytes().split(b"\0")
        [number] = [
            int(found[1])
            for found in map(re.compile(rb"socket,id=charmonitor,fd=(\d+)").match, words)
            if found
        ]
        assert os.readlink(f"/proc/{running.pid}/fd/{number}").startswith("socket:")
        # nothing else of this process got there
        assert len(os.listdir(f"/proc/{running.pid}/fd")) < 40
        assert machine.status().state == "prelaunch"
        machine.resume()
        assert machine.status().state == "running"
        machine.pause()
        assert machine.status().state == "paused"
        assert machine.stop() == "quit"
        assert machine.status().state == "off"


def test_guest_follows_its_power_button(home: Path, host: Host, tmp_path: Path) -> None:
    machine = Machine.start(guest("polite", booting(tmp_path)), home=home, host=host)
    assert wait_for_firmware(machine)
    assert machine.stop(SECONDS) == "shut down"
    end = machine.wait()
    assert end is not None
    assert (end.status, end.crashed) == (0, False)
    assert not machine.folder.run_path.exists()


def test_guest_without_acpi_is_told_to_quit_in_time(home: Path, host: Host) -> None:
    machine = Machine.start(guest("stubborn").replace("<acpi/>", ""), home=home, host=host)
    begin = time.monotonic()
    assert machine.stop(0.5) == "quit"
    assert time.monotonic() - begin < 0.5 + SECONDS
    with pytest.raises(DriverError, match="is off"):
        machine.stop()


def test_qemu_that_is_stuck_is_killed(home: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qemushim.driver.machine.QUIT", 0.5)
    monkeypatch.setattr("qemushim.driver.machine.ANSWER", 0.5)
    machine = Machine.start(guest("stuck"), home=home, host=host)
    running = machine.running
    assert running is not None
    os.kill(running.pid, signal.SIGSTOP)
    assert machine.status(0.2).state == "silent"
    assert machine.stop(0.5) == "killed"
    assert machine.status().state == "off"


def test_crash_is_seen(home: Path, host: Host) -> None:
    machine = Machine.start(guest("crash"), home=home, host=host)
    running = machine.running
    assert running is not None
    threading.Timer(0.2, os.kill, (running.pid, signal.SIGSEGV)).start()
    end = machine.wait(SECONDS)
    assert end is not None
    assert end.crashed
    assert str(end) == "was killed by SIGSEGV"
    assert machine.running is None


def test_guest_that_runs_already_is_not_started_again(home: Path, host: Host) -> None:
    with Machine.start(guest("once"), home=home, host=host):
        with pytest.raises(DriverError, match="running already") as refusal:
            Machine.start(guest("once"), home=home, host=host)
        assert "qemushim stop once" in refusal.value.hint


def test_refusal_of_qemu_is_told_and_leaves_nothing(home: Path, host: Host, tmp_path: Path) -> None:
    before = descriptors()
    wrong = disk(image(tmp_path / "raw"), "vda").replace("type='raw'", "type='qcow2'")
    with pytest.raises(DriverError, match="ended with status 1") as refusal:
        Machine.start(guest("fails", wrong), home=home, host=host)
    assert "not in qcow2 format" in refusal.value.hint
    assert Machine.open("fails", home=home).status().state == "off"
    with pytest.raises(DriverError, match="no definition"):
        _ = Machine.open("fails", home=home).definition
    assert descriptors() == before


def test_what_is_not_there_is_named_before_qemu_is_asked(home: Path, host: Host, tmp_path: Path) -> None:
    missing = Guest.from_xml(guest("none", "\n" + disk(tmp_path / "missing", "vda")), "web.xml")
    with pytest.raises(ConfigError, match=r"Cannot access storage file '.*missing'") as refusal:
        Machine.start(missing, home=home, host=host)
    assert (refusal.value.file, refusal.value.line) == ("web.xml", 2)
    network = "<interface type='network'><source network='default'/></interface>"
    with pytest.raises(DriverError, match="network 'default' is one of libvirt's") as other:
        Machine.start(guest("none", network), home=home, host=host)
    assert "type='user'" in other.value.hint
    assert Machine.names(home) == []


def test_port_that_is_taken_meanwhile(home: Path, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another guest may be faster; then the next port is tried."""
    from qemushim.driver import ownhost

    real, asked = ownhost.free_ports, []

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = max(taken.getsockname()[1], 5900)

        def stale(*firsts: int) -> list[int]:
            asked.append(firsts)
            return [number, 5700, 5901, 5902] if len(asked) == 1 else real(*firsts)

        monkeypatch.setattr(ownhost, "free_ports", stale)
        with Machine.start(
            guest("port", "<graphics type='vnc'/>"), home=home, host=host, paused=True
        ) as machine:
            assert len(asked) == 2
            assert not machine.status().displays[0].endswith(str(number))


def test_missing_binary(home: Path, host: Host) -> None:
    with pytest.raises(Exception, match="No such file"):
        Machine.start(guest("none"), home=home, host=host, binary="/nowhere/qemu")
    assert Machine.names(home) == []


def test_helper_that_does_not_run_is_named(home: Path, host: Host) -> None:
    gadget = "<shmem name='doorbell'><model type='ivshmem-doorbell'/><server path='/nowhere/socket'/></shmem>"
    with pytest.raises(DriverError, match="/nowhere/socket"):
        Machine.start(guest("helpless", gadget), home=home, host=host)


def test_inside_an_event_loop(home: Path, host: Host) -> None:
    """A caller may have a loop of its own."""

    async def work() -> str:
        with Machine.start(guest("loop"), home=home, host=host, paused=True) as machine:
            return machine.status().state

    assert asyncio.run(work()) == "prelaunch"


def test_guest_survives_the_thread_that_started_it(home: Path, host: Host) -> None:
    started: list[Machine] = []
    thread = threading.Thread(
        target=lambda: started.append(Machine.start(guest("thread"), home=home, host=host))
    )
    thread.start()
    thread.join(SECONDS)
    time.sleep(0.3)
    assert started[0].status().state == "running"
    started[0].kill()


# -- devices -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("machine_type", ROUNDS)
def test_rounds_of_attach_and_detach_under_load(
    home: Path, host: Host, tmp_path: Path, machine_type: str
) -> None:
    """No address moves, and nothing leaks: descriptors, processes, sockets, block nodes, back ends."""
    devices = booting(tmp_path, machine_type) + card(1) + "<controller type='scsi' model='virtio-scsi'/>"
    devices += "<controller type='usb' model='qemu-xhci'/>" + (ROOT_PORTS if machine_type == "q35" else "")
    coming = {
        "vdb": disk(image(tmp_path / "1"), "vdb"),
        "sda": disk(image(tmp_path / "2"), "sda", "scsi"),
        "sdb": disk(image(tmp_path / "3"), "sdb", "usb"),
        "52:54:00:00:00:02": card(2),
        "52:54:00:00:00:03": card(3, "e1000e" if machine_type == "q35" else "e1000"),
    }
    with Machine.start(guest("rounds", devices, machine=machine_type), home=home, host=host) as machine:
        assert wait_for_firmware(machine)
        before, kept = traces(machine, tmp_path), places(machine.definition)
        seen: set[tuple[tuple[str, str], ...]] = set()
        for _ in range(ROUNDS[machine_type]):
            for text in coming.values():
                machine.attach(text)
            assert machine.verify() == []
            live, stored = places(machine.live), places(machine.definition)
            for name in coming:
                [key] = [key for key in live if key.endswith(f" {name}")]
                assert live[key] == stored[key], "both documents say the same place"
            assert {key: live[key] for key in kept if key in live}.items() <= live.items()
            assert all(stored[key] == place for key, place in kept.items()), "nobody else has moved"
            seen.add(tuple(sorted(live.items())))
            for name in coming:
                machine.detach(name, patience=SECONDS)
        assert len(seen) == 1, "each round gives the same places"
        assert traces(machine, tmp_path) == before
        assert places(machine.definition) == kept


def wait_for_firmware(machine: Machine) -> bool:
    """Whether the guest's own code runs: it gives a device back."""
    machine.attach(card(9), config=False)

    def gives_back() -> bool:
        try:
            machine.detach("52:54:00:00:00:09", config=False, patience=1)
        except DriverError:
            return False
        except ConfigError:
            pass  # it went while nobody waited
        return True

    return eventually(gives_back)


def traces(machine: Machine, folder: Path) -> dict[str, object]:
    running = machine.running
    assert running is not None
    with machine.monitor() as monitor:
        assert isinstance(monitor, QmpMonitor)
        said = {
            "nodes": {node["node-name"] for node in monitor.execute("query-named-block-nodes")},
            "chardevs": {chardev["label"] for chardev in monitor.execute("query-chardev")},
            "objects": {entry["name"] for entry in monitor.execute("qom-list", {"path": "/objects"})},
            "devices": {
                entry["name"] for entry in monitor.execute("qom-list", {"path": "/machine/peripheral"})
            },
            "nets": monitor.execute("human-monitor-command", {"command-line": "info network"}),
        }
    time.sleep(0.1)
    return {
        **said,
        "own descriptors": descriptors(),
        "QEMU's descriptors": len(os.listdir(f"/proc/{running.pid}/fd")),
        "processes": sorted(processes_below(folder)),
        "sockets": sorted(sockets_below(folder)),
        "files": sorted(str(path) for path in machine.folder.path.rglob("*") if path.name != "log"),
    }


def test_channel_and_controller_and_object(home: Path, host: Host, tmp_path: Path) -> None:
    devices = "<channel type='unix'><target type='virtio' name='one'/></channel>"
    with Machine.start(guest("plugs", devices), home=home, host=host) as machine:
        machine.attach("<channel type='unix'><target type='virtio' name='two'/></channel>")
        path = Guest.from_xml(machine.live).domain.lists["channel"][1].node.value("source/@path")
        assert path is not None
        # QEMU listens on a socket that was made for it and handed over
        with socket.socket(socket.AF_UNIX) as other_end:
            other_end.connect(path)
        machine.attach("<controller type='scsi' index='0' model='virtio-scsi'/>")
        machine.attach(disk(image(tmp_path / "s"), "sda", "scsi"))
        machine.attach("<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>")
        assert machine.verify() == []
        assert machine.checked["virtio-serial"] == 2
        assert machine.checked["drive"] == 1
        machine.detach("sda")
        [channel] = Guest.from_xml(machine.definition).domain.lists["channel"][1:]
        machine.detach("channel1")
        assert channel.node.value("target/@name") == "two"
        assert len(Guest.from_xml(machine.definition).domain.lists["channel"]) == 1


def test_refused_attach_is_taken_back(home: Path, host: Host, tmp_path: Path) -> None:
    with Machine.start(guest("refused"), home=home, host=host) as machine:
        before, live, stored = traces(machine, tmp_path), machine.live, machine.definition
        with pytest.raises(MonitorError, match="blockdev-add"):
            machine.attach(disk(tmp_path / "missing", "vdb"))
        # the image can be opened, but the front end is refused
        bad = disk(
            image(tmp_path / "x"), "vdb", extra="<blockio logical_block_size='64' physical_block_size='64'/>"
        )
        with pytest.raises((MonitorError, ConfigError)):
            machine.attach(bad)
        assert (traces(machine, tmp_path), machine.live, machine.definition) == (before, live, stored)


def test_guest_that_keeps_a_device(home: Path, host: Host, tmp_path: Path) -> None:
    """Nothing is changed when it does not let go; when it does later, that is noticed."""
    devices = booting(tmp_path)
    with Machine.start(guest("keeps", devices), home=home, host=host, paused=True) as machine:
        machine.attach(card(2))
        live, stored = machine.live, machine.definition
        with pytest.raises(DriverError, match=r"has not let go of 'net0' within 0\.3 seconds"):
            machine.detach("52:54:00:00:00:02", patience=0.3)
        assert (machine.live, machine.definition) == (live, stored)
        machine.resume()

        def noticed() -> bool:
            machine.verify()
            return any("has let go of interface" in note for note in machine.notes)

        assert eventually(noticed)
        assert "52:54:00:00:00:02" not in machine.live
        assert "52:54:00:00:00:02" in machine.definition
        with machine.monitor() as monitor:
            assert isinstance(monitor, QmpMonitor)
            assert "hostnet0" not in monitor.execute(
                "human-monitor-command", {"command-line": "info network"}
            )


def test_live_and_definition_are_two_documents(home: Path, host: Host, tmp_path: Path) -> None:
    with Machine.start(guest("two"), home=home, host=host) as machine:
        machine.attach(card(1), live=False)
        machine.attach(card(2), config=False)
        assert ("00:01" in machine.live, "00:01" in machine.definition) == (False, True)
        assert ("00:02" in machine.live, "00:02" in machine.definition) == (True, False)
        taken = {
            places(machine.definition)["interface 52:54:00:00:00:01"],
            places(machine.live)["interface 52:54:00:00:00:02"],
        }
        assert len(taken) == 2, "what only one of them has keeps its place in both"
        machine.attach(card(3))
        assert places(machine.live)["interface 52:54:00:00:00:03"] not in taken
        with pytest.raises(ConfigError, match="device not found"):
            machine.detach("52:54:00:00:00:01")
        machine.detach("52:54:00:00:00:01", live=False)
        assert "00:01" not in machine.definition


def test_no_slot_left(home: Path, host: Host) -> None:
    with Machine.start(guest("full", machine="q35"), home=home, host=host, paused=True) as machine:

        def fill() -> None:
            for number in range(1, 8):
                machine.attach(card(number))

        with pytest.raises(AddressError, match="pcie-root-port"):
            fill()
        assert machine.verify() == []


# -- later, and from elsewhere -----------------------------------------------------------------------------------


def test_restart_keeps_what_was_left_out(home: Path, host: Host) -> None:
    bare = guest("again", "<interface type='user'/><serial type='pty'/>")
    with Machine.start(bare, home=home, host=host, paused=True) as machine:
        first = machine.definition
    more = bare.replace(
        "<serial", "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng><serial"
    )
    with Machine.start(more, home=home, host=host, paused=True) as machine:
        assert places(first).items() <= places(machine.definition).items()
    other = bare.replace("<memory", "<uuid>11111111-2222-3333-4444-555555555555</uuid><memory")
    with pytest.raises(DriverError, match="already exists with uuid"):
        Machine.start(other, home=home, host=host)


def test_detached_guest_is_found_again(home: Path, host: Host) -> None:
    machine = Machine.start(guest("alone"), home=home, host=host, detached=True)
    del machine
    again = Machine.open("alone", home=home)
    assert again.status().state == "running"
    assert again.notes == []
    again.attach(card(1))
    assert Machine.open("alone", home=home).verify() == []
    running = again.running
    assert running is not None
    os.kill(running.pid, signal.SIGKILL)
    assert eventually(lambda: again.running is None)
    [told, *_] = Machine.open("alone", home=home).notes
    assert re.fullmatch(r"guest 'alone' was killed by SIGKILL at \d{4}-.*", told)
    assert Machine.open("alone", home=home).notes == [], "it is told once"
    assert "00:01" in Machine.open("alone", home=home).definition


def test_two_at_once(home: Path, host: Host) -> None:
    """Calls of several threads take turns."""
    with Machine.start(guest("turns"), home=home, host=host) as machine:
        problems: list[BaseException] = []

        def plug(number: int) -> None:
            try:
                Machine.open("turns", home=home, host=host).attach(card(number))
            except BaseException as problem:
                problems.append(problem)

        threads = [threading.Thread(target=plug, args=(number,)) for number in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * SECONDS)
        assert not problems
        assert machine.verify() == []
        assert len(Guest.from_xml(machine.live).domain.lists["interface"]) == 4
        assert places(machine.definition).items() <= places(machine.live).items()


def test_monitor_that_somebody_holds(home: Path, host: Host, tmp_path: Path) -> None:
    with Machine.start(guest("held"), home=home, host=host, paused=True) as machine:
        running = machine.running
        assert running is not None
        with QmpMonitor(running.monitor, SECONDS) as monitor:
            assert monitor.status() == "prelaunch"
            with pytest.raises(MonitorError, match=r"did not answer within 0\.3 seconds"):
                QmpMonitor(running.monitor, 0.3)
            with pytest.raises(CommandError) as refusal:
                monitor.execute("device_del", {"id": "nobody"})
            assert refusal.value.kind == "DeviceNotFound"
            assert monitor.wait_event(lambda event: False, 0.1) is None
        with pytest.raises(MonitorError, match="no monitor answers"):
            QmpMonitor(str(tmp_path / "nothing"), 0.1)


def test_monitor_that_closes_amid_a_command(home: Path, host: Host) -> None:
    """qemu.qmp asserts, when it cleans up, that nobody waits for an answer any more."""
    with Machine.start(guest("amid"), home=home, host=host, paused=True) as machine:
        running = machine.running
        assert running is not None
        with QmpMonitor(running.monitor, SECONDS) as monitor:
            monitor._client._pending["nobody"] = asyncio.Queue()
            with pytest.raises(MonitorError, match="closed the connection: QEMU hung up"):
                monitor._run(monitor._disconnect(), SECONDS)


def test_boot_sector_fits() -> None:
    for machine in ("pc", "q35"):
        assert len(boot_sector(machine)) == 512
