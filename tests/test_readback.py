"""``info pci`` as data, monitor conversations without their echo, addresses read back into the document."""

from __future__ import annotations

import ast
import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qemushim.classic.slots import arguments, family, layout
from qemushim.devices.address import PciAddress
from qemushim.document.item import Item
from qemushim.document.node import Node
from qemushim.document.parse import parse
from qemushim.driver.hmp import HumanMonitor, clean_reply
from qemushim.driver.pciinfo import PciRecord, read_drive_added, read_pci, read_pci_added
from qemushim.driver.readback import read_back
from qemushim.errors import DriverError, MonitorError
from tests.classic_guests import DISK, HOST, LEGACY, NIC, define, document, emulator

OLD = """  Bus  0, device   0, function 0:
    Host bridge: PCI device 8086:1237
  Bus  0, device   2, function 0:
    VGA controller: PCI device 1013:00b8
      BAR0: 32 bit memory at 0xffffffff [0x01fffffe].
  Bus  0, device  11, function 1:
    Class 0880: PCI device 8086:25AB
      IRQ 0.
      BAR4: I/O at 0xc020 [0xc03f].
      id "wd0"
"""
NEW = """  Bus  0, device   3, function 0:\r
    Ethernet controller: PCI device 1af4:1000\r
      PCI subsystem 1af4:0001\r
      IRQ 11, pin A\r
      BAR0: I/O at 0xffffffffffffffff [0x001e].\r
      BAR4: 64 bit prefetchable memory at 0xfebf0000 [0xfebf3fff].\r
      id ""\r
"""


def test_records() -> None:
    host, vga, watchdog = read_pci(OLD)
    assert (host.slot, host.class_name, host.ids, host.irq, host.bars) == (
        0,
        "Host bridge",
        "8086:1237",
        None,
        (),
    )
    assert vga.bars[0].base is None
    assert vga.bars[0].size == 32 << 20
    assert watchdog.address == PciAddress(0, 0, 11, 1)
    assert (watchdog.ids, watchdog.irq, watchdog.id) == ("8086:25ab", 0, "wd0")
    bar = watchdog.bars[0]
    assert (bar.number, bar.io, bar.base, bar.size) == (4, True, 0xC020, 32)


def test_records_of_today() -> None:
    (nic,) = read_pci(NEW)
    assert (nic.subsystem, nic.irq) == ("1af4:0001", 11)
    assert (nic.bars[0].io, nic.bars[0].base, nic.bars[0].size) == (True, None, 32)
    assert (nic.bars[1].bits, nic.bars[1].prefetchable, nic.bars[1].size) == (64, True, 16384)


@pytest.mark.parametrize(
    "broken",
    [
        OLD.replace("device  11,", "device  eleven,"),
        OLD.replace(": PCI device 8086:25AB", ": PCI device ????:25AB"),
        OLD[: OLD.index("    Class 0880")],
    ],
)
def test_reading_ends_at_the_first_incomplete_record(broken: str) -> None:
    assert [record.slot for record in read_pci(broken)] == [0, 2]


@pytest.mark.parametrize("text", ["", "\n", "unknown command: 'info'\r\n", "no records\n  Bus\n"])
def test_no_records(text: str) -> None:
    assert read_pci(text) == []


def test_replies_of_hotplug() -> None:
    assert read_pci_added("OK domain 0, bus 0, slot 6, function 0\r\n") == PciAddress(0, 0, 6, 0)
    assert read_pci_added("OK bus 1, slot 31\r\n") == PciAddress(0, 1, 31, 0)
    assert read_pci_added("failed to add nic") is None
    assert read_drive_added("OK bus 0, unit 3") == (0, 3)
    assert read_drive_added("OK unit 2") == (0, 2)
    assert read_drive_added("nothing") is None


def test_every_recorded_reply(corpus: Path) -> None:
    count = 0
    for path in (corpus / "classic" / "recorded").glob("*/*.txt"):
        if not path.name.startswith(("pci-", "dev-")):
            continue
        text = path.read_text()
        records = read_pci(text)
        assert len(records) == len(re.findall("^ +Bus", text, re.MULTILINE)), path
        assert sum(len(record.bars) for record in records) == text.count("BAR"), path
        assert sum(record.irq is not None for record in records) == text.count("IRQ"), path
        # a region is a power of two, also where it has not been placed
        assert all(bar.size & (bar.size - 1) == 0 < bar.size for record in records for bar in record.bars), (
            path
        )
        count += 1
    assert count > 200


# -- the monitor ----------------------------------------------------------------------------------------


def test_echo_and_prompt_are_stripped() -> None:
    echo = b"i\x1b[K\x1b[Din\x1b[K\x1b[D\x1b[Dinf\x1b[K info pci\x1b[K\r\n"
    assert clean_reply(echo + b"one\r\n two\r\n(qemu) ") == "one\n two\n"
    assert clean_reply(echo + b"(qemu) ") == ""


def test_every_recorded_conversation(corpus: Path) -> None:
    count = 0
    for path in (corpus / "classic" / "recorded").glob("*/monitor-raw.txt"):
        for sent, got in re.findall(r"^sent (.*)\n  got: (b.*)$", path.read_text(), re.MULTILINE):
            reply = clean_reply(ast.literal_eval(got))
            assert "\x1b" not in reply
            assert "(qemu)" not in reply
            assert not reply.startswith(ast.literal_eval(sent).strip() + "\n")
            if "info version" in sent:
                assert re.match(r"\d+\.\d+\.\d+", reply), path
            count += 1
    assert count > 20


Talk = Callable[[socket.socket], None]


@pytest.fixture
def monitor(tmp_path: Path) -> Iterator[Callable[[Talk], str]]:
    """A listening socket with somebody behind it; its path."""
    threads = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path = str(tmp_path / "m")

    def serve(talk: Talk) -> str:
        listener.bind(path)
        listener.listen(1)

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                talk(connection)

        threads.append(threading.Thread(target=run, daemon=True))
        threads[0].start()
        return path

    yield serve
    for thread in threads:
        thread.join(5)
    listener.close()


def answer(*replies: bytes) -> Talk:
    """Greets, then echoes what comes and says the next reply."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(b"QEMU 0.11.1 monitor - type 'help' for more information\r\n(qemu) ")
        for reply in replies:
            line = connection.recv(4096)
            # in two pieces, the prompt of the second cut in the middle
            connection.sendall(line.strip() + b"\x1b[K\r\n" + reply + b"(qe")
            connection.sendall(b"mu) ")
        connection.recv(1)

    return talk


def test_conversation(monitor: Callable[[Talk], str]) -> None:
    path = monitor(answer(OLD.replace("\n", "\r\n").encode(), b"0.11.1\r\n"))
    with HumanMonitor(path, timeout=5) as human:
        assert "0.11.1 monitor" in human.banner
        assert [record.slot for record in human.pci()] == [0, 2, 11]
        assert human.command("info version") == "0.11.1\n"
        with pytest.raises(MonitorError, match="one line"):
            human.command("a\nb")


def test_older_syntax_is_tried(monitor: Callable[[Talk], str]) -> None:
    path = monitor(
        answer(b"invalid char in expression\r\n", b"OK bus 0, slot 7\r\n", b"OK bus 0, unit 1\r\n")
    )
    with HumanMonitor(path, timeout=5) as human:
        assert human.pci_add("nic model=virtio") == PciAddress(0, 0, 7, 0)
        assert human.drive_add(PciAddress(0, 0, 4, 0), "file=/a,if=scsi") == (0, 1)


def test_refusals(monitor: Callable[[Talk], str]) -> None:
    path = monitor(answer(b"no free slot\r\n", b""))
    with HumanMonitor(path, timeout=5) as human:
        with pytest.raises(MonitorError, match="no free slot"):
            human.pci_add("nic")
        with pytest.raises(MonitorError, match="no reply"):
            human.drive_add(PciAddress(0, 0, 4, 0), "file=/a")


def _silent(connection: socket.socket) -> None:
    connection.recv(1)


def test_silence_is_bounded(monitor: Callable[[Talk], str]) -> None:
    path = monitor(_silent)
    with pytest.raises(MonitorError, match=r"within 0\.2 seconds"):
        HumanMonitor(path, timeout=0.2)


def test_closed_connection(monitor: Callable[[Talk], str]) -> None:
    path = monitor(lambda connection: connection.sendall(b"(qemu"))
    with pytest.raises(MonitorError, match="closed the connection"):
        HumanMonitor(path, timeout=5)


def test_no_monitor(tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match="no monitor answers"):
        HumanMonitor(str(tmp_path / "none"), timeout=0.1)
    with pytest.raises(MonitorError, match="cannot connect"):
        HumanMonitor(str(tmp_path / ("x" * 200)), timeout=0.1)


# -- matching -------------------------------------------------------------------------------------------


def record(slot: int, ids: str, function: int = 0) -> PciRecord:
    return PciRecord(0, slot, function, "card", ids)


CHIPSET = [
    record(0, "8086:1237"),
    record(1, "8086:7000"),
    record(1, "8086:7010", 1),
    record(1, "8086:7113", 3),
]


def places(root: Node) -> dict[str, str]:
    """Tag and name of a device → slot in its live address."""
    found = {}
    for node in root.ensure("devices"):
        address = node.child("address")
        if address is not None and address.get("type") == "pci":
            name = node.value("target/@dev") or node.value("mac/@address") or node.get("model") or node.tag
            found[name] = f"{address.get('slot')}.{address.get('function')}"
    return found


def test_devices_of_a_kind_take_records_in_turn() -> None:
    devices = (
        DISK.format(path="/a", dev="vdb")
        + DISK.format(path="/b", dev="vda")
        + NIC.format(mac=1, model="e1000")
    )
    guest = define(document(devices), emulator(*LEGACY))
    records = [
        *CHIPSET,
        record(3, "8086:100e"),
        record(4, "1af4:1001"),
        record(6, "1af4:1001"),
        record(7, "1af4:1002"),
    ]
    result = read_back(guest.domain.node, records)
    assert places(result.root) == {"vdb": "0x04.0x0", "vda": "0x06.0x0", "52:54:00:00:00:01": "0x03.0x0"}
    assert places(guest.domain.node) == {}
    assert [r.ids for r in result.others] == ["8086:1237", "8086:7000", "8086:7010", "8086:7113", "1af4:1002"]
    assert not result.differences


def test_order_is_that_of_kinds_not_of_the_document() -> None:
    devices = "<watchdog model='i6300esb'/><sound model='es1370'/><video><model type='vmvga'/></video>"
    guest = define(document(devices + DISK.format(path="/a", dev="hda")), emulator(*LEGACY))
    cards = [record(2, "15ad:0405"), record(3, "8086:25ab"), record(4, "1274:5000")]
    result = read_back(guest.domain.node, [*CHIPSET, *cards])
    assert [device.node.tag for device in result.addresses] == ["controller", "video", "sound", "watchdog"]
    assert places(result.root)["controller"] == "0x01.0x1"


def test_models_without_a_number_are_skipped() -> None:
    devices = NIC.format(mac=1, model="i82551") + "<sound model='sb16'/><watchdog model='ib700'/>"
    result = read_back(define(document(devices), emulator(*LEGACY)).domain.node, CHIPSET)
    assert result.addresses == {}


def test_a_missing_card_is_an_error() -> None:
    devices = DISK.format(path="/a", dev="vda") + DISK.format(path="/b", dev="vdb")
    root = define(document(devices), emulator(*LEGACY)).domain.node
    with pytest.raises(DriverError, match="Unable to find PCI address for disk vdb") as problem:
        read_back(root, [*CHIPSET, record(3, "1af4:1001")])
    assert "no further card 1af4:1001" in problem.value.hint


def test_an_address_of_another_kind_stays() -> None:
    root = parse(
        document("<controller type='scsi' index='0'><address type='drive' controller='9'/></controller>")
    )
    result = read_back(root, [record(5, "1000:0012")])
    assert result.addresses == {Item(root.ensure("devices").child("controller")): PciAddress(0, 0, 5, 0)}  # type: ignore[arg-type]
    assert places(result.root) == {}


def test_differences() -> None:
    devices = NIC.format(mac=1, model="virtio") + NIC.format(mac=2, model="virtio")
    guest = define(document(devices), emulator(*LEGACY))
    result = read_back(guest.domain.node, [record(2, "1af4:1000"), record(5, "1af4:1000")], guest.predicted)
    (difference,) = result.differences
    assert str(difference) == "interface 52:54:00:00:00:02 is at 0000:00:05.0, not at 0000:00:03.0"


def test_prediction_and_reality_agree_on_every_release() -> None:
    """What is predicted of a definition is what the model's guest would answer."""
    devices = (
        DISK.format(path="/a", dev="vda")
        + DISK.format(path="/c", dev="vdc")
        + DISK.format(path="/s", dev="sda")
        + NIC.format(mac=1, model="virtio")
        + NIC.format(mac=2, model="pcnet")
        + "<sound model='ac97'/><sound model='es1370'/><graphics type='vnc'/>"
    )
    for version in ((0, 10, 6), (0, 11, 1), (0, 12, 3), (0, 13, 0), (0, 15, 0)):
        binary = emulator(*LEGACY, version=version)
        guest = define(document(devices), binary)
        words = guest.command(binary, HOST).argv[1:]
        cards = layout(arguments(words), family(binary)).cards
        reply = "".join(
            f"  Bus  0, device {c.slot:3}, function {c.function}:\n    {c.kind}: PCI device {c.ids}\n"
            for c in cards
        )
        result = read_back(guest.domain.node, read_pci(reply), guest.predicted)
        assert len(result.addresses) == len(guest.predicted) == 8
        assert not result.differences
