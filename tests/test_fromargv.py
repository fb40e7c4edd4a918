"""QEMU command lines back to domain documents."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qemushim.command.layout import shell
from qemushim.emulator.bundled import find
from qemushim.emulator.model import Emulator
from qemushim.errors import ShimError
from qemushim.fromargv import read_command, words_of
from qemushim.fromargv.arguments import arch_of, arguments_of
from qemushim.guest import Guest
from qemushim.host import Host
from tests.commands import (
    HOST,
    LATEST,
    OTHERWISE,
    WRITTEN,
    goldens,
    masked,
    read,
    round_trip,
    told,
)
from tests.goldens import Golden
from tests.strategies import domains

GOLDENS = goldens()


# -- round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDENS, ids=[case.id for case in GOLDENS])
def test_every_golden_comes_back(case: Golden) -> None:
    """argv → XML → argv, token for token, from QEMU 0.9.1 to today."""
    emulator = find(case.emulator, case.arch)
    trip = round_trip(
        case.file("args").read_text(), emulator, case.host(emulator.arch), incoming=case.get("incoming")
    )
    assert trip.reading.refusal is None
    if case.id in OTHERWISE:
        assert trip.before != trip.after
        return
    diff = difflib.unified_diff(trip.before.splitlines(), trip.after.splitlines(), "before", "after", n=0)
    assert trip.before == trip.after, "\n".join(diff)
    assert not trip.reading.kept


def test_what_comes_back_otherwise_is_known() -> None:
    assert set(OTHERWISE) <= {case.id for case in GOLDENS}


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(domains)
def test_any_guest_comes_back(drawn: tuple[str, Emulator]) -> None:
    """Documents nobody wrote: what they start is read, and gives the same command again, unless something is told."""
    text, emulator = drawn
    host = Host.nominal(emulator.arch)
    try:
        before = Guest.from_xml(text).command(emulator, host)
    except ShimError:
        return
    if emulator.classic:
        return
    reading = read_command(words_of(shell(before)), emulator, host)
    if reading.refusal is not None or any(n.kind in ("lost", "kept", "changed") for n in reading.notes):
        return  # told
    after = Guest.from_xml(reading.to_xml()).command(emulator, host)
    assert masked(shell(before)) == masked(shell(after))


# -- command lines as people write them ---------------------------------------------------------------


@pytest.mark.parametrize("path", WRITTEN, ids=[path.stem for path in WRITTEN])
def test_written_commands(path: Path, regenerate: bool) -> None:
    """The document and the notes are what is on file."""
    words = words_of(path.read_bytes(), path.name)
    emulator = (
        find("10.0", arch_of(arguments_of(words).binary))
        if path.stem != "arm-server"
        else find("8.2-aarch64")
    )
    reading = read_command(words, emulator, Host.nominal(emulator.arch), file=path.name, directory="/srv/vm")
    assert reading.refusal is None
    for kind, got in (("xml", reading.to_xml()), ("notes", told(reading))):
        file = path.with_suffix(f".{kind}")
        if regenerate:
            file.write_text(got)
        else:
            assert got == file.read_text()


def test_what_libvirt_has_no_word_for_is_kept() -> None:
    reading = read(
        "qemu-system-x86_64 -nodefaults -device edu,id=e0 -icount shift=3 -drive if=none,id=n0,file=/n.img,format=raw "
        "-device nvme,drive=n0,serial=s -device virtio-rng-pci,max-bytes=7,period=9,x-new=1"
    )
    assert reading.kept == (
        *(
            "-device",
            "edu,id=e0,addr=0x2",
            "-icount",
            "shift=3",
            "-drive",
            "if=none,id=n0,file=/n.img,format=raw",
        ),
        *("-device", "nvme,drive=n0,serial=s,addr=0x3"),
    )
    document = reading.guest.domain.node
    kept = document.child("qemu:commandline")
    assert kept is not None
    assert tuple(node.get("value") for node in kept.children) == reading.kept
    changed = document.find("qemu:override/qemu:device/qemu:frontend/qemu:property")
    assert changed is not None
    assert changed.attrib == {"name": "x-new", "type": "unsigned", "value": "1"}
    kinds = [note.kind for note in reading.notes]
    assert kinds.count("kept") == 5
    # and libvirt starts it with them
    assert {"edu,id=e0,addr=0x2", "shift=3"} <= set(reading.argv)


def test_no_secret_is_lost_and_none_is_printed() -> None:
    reading = read(
        "qemu-system-x86_64 -nodefaults -object secret,id=s0,data=hunter2 "
        "-blockdev driver=file,node-name=f,filename=/x.luks -blockdev driver=luks,node-name=l,file=f,key-secret=s0 "
        "-device virtio-blk-pci,drive=l -vnc :1,password=on"
    )
    everything = reading.to_xml() + told(reading)
    assert "hunter2" not in everything
    secrets = [note for note in reading.notes if note.kind == "secret"]
    assert len(secrets) == 2
    assert "in the clear in argument 2" in secrets[0].message
    uuid = reading.guest.domain.node.find("devices/disk/source/encryption/secret")
    assert uuid is not None
    assert (uuid.get("uuid") or "?") in secrets[0].message


def test_places_are_those_that_qemu_gives() -> None:
    """The board's own devices first, then -device in order, then the drives of if=virtio."""
    reading = read(
        "qemu-system-x86_64 -drive if=virtio,file=/a.img,format=raw -device virtio-rng-pci -nic user,model=e1000 "
        "-device virtio-balloon-pci,addr=0x5 -device virtio-serial-pci -vga std"
    )
    slots = {
        node.tag: node.value("address/@slot")
        for node in reading.guest.domain.node.ensure("devices").children
        if node.value("address/@type") == "pci"
    }
    assert slots == {
        "video": "0x02",
        "interface": "0x03",
        "rng": "0x04",
        "memballoon": "0x05",
        "controller": "0x06",
        "disk": "0x07",
    }


@pytest.mark.parametrize(
    ("machine", "topology"),
    [("pc-q35-8.2", ("1", "6", "1")), ("pc-i440fx-6.1", ("6", "1", "1")), ("pc", ("1", "6", "1"))],
)
def test_missing_parts_of_a_topology_go_where_the_machine_type_puts_them(
    machine: str, topology: tuple[str, str, str]
) -> None:
    reading = read(f"qemu-system-x86_64 -M {machine} -smp 6")
    node = reading.guest.domain.node.find("cpu/topology")
    found = (
        tuple(node.get(n) for n in ("sockets", "cores", "threads")) if node is not None else ("6", "1", "1")
    )
    assert found == topology


def test_ids_that_libvirt_would_not_give_are_kept() -> None:
    reading = read(
        "qemu-system-x86_64 -nodefaults -device virtio-rng-pci,id=dice -device virtio-scsi-pci,id=scsi0"
    )
    aliases = {
        node.tag: node.value("alias/@name")
        for node in reading.guest.domain.node.ensure("devices").children
        if node.get("type") != "usb"
    }
    assert aliases["rng"] == "ua-dice"
    assert aliases["controller"] is None


@pytest.mark.parametrize(
    ("option", "path", "value"),
    [
        ("-hda /a.qcow2", "devices/disk/driver/@type", "qcow2"),
        ("-drive file=/dev/sdb,format=raw,if=virtio", "devices/disk/source/@dev", "/dev/sdb"),
        ("-drive file=/a,,b.img,format=raw,if=virtio", "devices/disk/source/@file", "/a,b.img"),
        ("-drive file=rbd:pool/img:id=u:key=K:mon_host=m\\\\:6789,if=virtio", "devices/disk/source/host/@port", "6789"),
        ("-drive file=iscsi://h:3260/iqn.x/1,if=virtio", "devices/disk/source/@name", "iqn.x/1"),
        ("-drive file=nbd:unix:/s.sock:exportname=e,if=virtio", "devices/disk/source/host/@socket", "/s.sock"),
        ("-drive file=fat:/srv/d,if=virtio", "devices/disk/source/@dir", "/srv/d"),
        ("-drive file=/a,format=raw,if=virtio,iops=100", "devices/disk/iotune/total_iops_sec", "100"),
        ("-fda /f.img", "devices/disk/target/@dev", "fda"),
        ("-cdrom /c.iso", "devices/disk/@device", "cdrom"),
        ("-smp 2,maxcpus=4", "vcpu/@current", "2"),
        ("-m 1.5G", "memory", "1572864"),
        ("-m 512", "memory", "524288"),
        ("-m 1G,slots=4,maxmem=8G", "maxMemory", "8388608"),
        ("-mem-prealloc", "memoryBacking/allocation/@mode", "immediate"),
        ("-mem-path /dev/hugepages", "memoryBacking/hugepages/page/@size", "2048"),
        ("-usbdevice tablet", "devices/input/@type", "tablet"),
        ("-usbdevice host:046d:c52b", "devices/hostdev/source/vendor/@id", "0x046d"),
        ("-vga cirrus", "devices/video/model/@type", "cirrus"),
        ("-soundhw hda", "devices/sound/@model", "ich6"),
        ("-net nic,model=ne2k_pci -net tap,ifname=t0", "devices/interface/model/@type", "ne2k_pci"),
        ("-nic tap,br=br7,model=virtio", "devices/interface/source/@bridge", "br7"),
        ("-netdev user,id=a -device rtl8139,netdev=a", "devices/interface/model/@type", "rtl8139"),
        ("-serial tcp::4444,server,nowait", "devices/serial/source/@service", "4444"),
        ("-serial unix:/s.sock,server=on,wait=off", "devices/serial/source/@mode", "bind"),
        ("-parallel /dev/parport0", "devices/parallel/source/@path", "/dev/parport0"),
        ("-watchdog i6300esb", "devices/watchdog/@model", "i6300esb"),
        ("-boot order=dc", "os/boot/@dev", "cdrom"),
        ("-boot n", "os/boot/@dev", "network"),
        ("-rtc base=2024-02-29T12:00:00", "clock/@start", "1709208000"),
        ("-no-reboot", "on_reboot", "destroy"),
        ("-spice port=5905,tls-port=5906,tls-channel=main", "devices/graphics/channel/@mode", "secure"),
        ("-display egl-headless -vnc :3", "devices/graphics/@type", "vnc"),
        ("-vnc 10.0.0.1:7,websocket=5707", "devices/graphics/@port", "5907"),
        ("-overcommit mem-lock=on", "memoryBacking/locked", ""),
        ("-object memory-backend-ram,id=m0,size=1G,host-nodes=0,policy=bind -numa node,memdev=m0 -m 1G",
         "numatune/memnode/@nodeset", "0"),
        ("-numa node,cpus=0,mem=512 -numa node,mem=512 -m 1G", "cpu/numa/cell/@memory", "524288"),
        ("-cpu host,-avx2,+vmx", "cpu/feature/@policy", "disable"),
        ("-cpu host,kvm=off", "features/kvm/hidden/@state", "on"),
        ("-set device.d0.serial=S1 -drive if=none,id=x,file=/x,format=raw -device virtio-blk,id=d0,drive=x",
         "devices/disk/serial", "S1"),
        ("-tpmdev passthrough,id=t,path=/dev/tpm1 -device tpm-tis,tpmdev=t", "devices/tpm/backend/device/@path",
         "/dev/tpm1"),
        ("-global ICH9-LPC.disable_s3=1", "pm/suspend-to-mem/@enabled", "no"),
        ("-balloon virtio", "devices/memballoon/@model", "virtio"),
        ("-acpitable sig=SLIC,file=/s", "os/acpi/table/@type", "slic"),
    ],
)  # fmt: skip
def test_one_option(option: str, path: str, value: str) -> None:
    reading = read(f"qemu-system-x86_64 {option}")
    node = reading.guest.domain.node
    found = node.value(path)
    if path.endswith("graphics/@type"):
        found = next(g.get("type") for g in node.ensure("devices").all("graphics") if g.get("type") == value)
    assert found == value


def test_a_reading_is_the_same_twice() -> None:
    text = WRITTEN[0].read_text()
    assert read(text, find("8.2-aarch64")).to_xml() == read(text, find("8.2-aarch64")).to_xml()


def test_a_document_that_libvirt_refuses_is_still_given() -> None:
    reading = read("qemu-system-x86_64 -M pc-q35-99.0 -m 1G")
    assert reading.refusal is not None
    assert "pc-q35-99.0" in reading.refusal.message
    assert "pc-q35-99.0" in reading.to_xml()
    assert reading.argv == ()


@settings(max_examples=300)
@given(st.data())
def test_hostile_words_do_no_harm(data: st.DataObject) -> None:
    """Words of golden command lines, cut, doubled and mixed: a document, or an error that says where."""
    case = data.draw(st.sampled_from(GOLDENS))
    words = [word.text for word in words_of(case.file("args").read_text()).words]
    start = next(number for number, word in enumerate(words) if word.startswith("/usr/"))
    body = words[start + 1 :]
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(body) - 1))
        change = data.draw(st.integers(0, 4))
        if change == 0:
            del body[at]
        elif change == 1:
            body[at] = body[at][: data.draw(st.integers(0, len(body[at])))]
        elif change == 2:
            body.insert(at, data.draw(st.sampled_from(body)))
        elif change == 3:
            body[at] += data.draw(st.text(alphabet=",={}\"'.:0aé\n[]-", max_size=6))
        else:
            body[at] = body[at].replace(
                *data.draw(st.sampled_from([("0", "x"), (":", ""), ("=", ",,"), ("1", "999")]))
            )
        if not body:
            return
    from qemushim.fromargv import Word, Words

    try:
        reading = read_command(Words([Word(word) for word in [words[start], *body]]), LATEST, HOST)
    except ShimError:
        return
    assert reading.to_xml().startswith("<domain")
