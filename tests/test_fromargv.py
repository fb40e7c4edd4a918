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
        ("-boot once=d", "os/boot/@dev", "cdrom"),
        ("-action reboot=shutdown", "on_reboot", "destroy"),
        ("-cpu host,hv-passthrough", "features/hyperv/@mode", "passthrough"),
        ("-cpu host,host-cache-info=on,l3-cache=off", "cpu/cache/@mode", "passthrough"),
        ("-accel kvm,kernel-irqchip=split", "features/ioapic/@driver", "qemu"),
        ("-M pc,graphics=off", "os/bios/@useserial", "yes"),
        ("-M pc,dump-guest-core=on", "memory/@dumpCore", "on"),
        ("-M pc,pcspk-audiodev=a -audiodev none,id=a", "devices/sound/@model", "pcspk"),
        ("-audio pa,model=hda", "devices/sound/@model", "ich6"),
        ("-virtioconsole null", "devices/console/target/@type", "virtio"),
        ("-usbdevice serial::pty", "devices/serial/target/@type", "usb-serial"),
        ("-chardev stdio,id=c,signal=off -device isa-serial,chardev=c", "devices/serial/@type", "stdio"),
        ("-netdev tap,id=t,br=b3,helper=/x -device virtio-net-pci,netdev=t", "devices/interface/source/@bridge", "b3"),
        ("-netdev user,id=u,net=10.1.0.0/255.255.0.0 -device e1000,netdev=u", "devices/interface/ip/@prefix", "16"),
        ("-nic socket,mcast=230.0.0.1:99", "devices/interface/@type", "mcast"),
        ("-nic user,model=e1000,addr=0x9", "devices/interface/address/@slot", "0x09"),
        ("-display vnc=:4", "devices/graphics/@port", "5904"),
        ("-display spice-app,gl=on", "devices/graphics/gl/@enable", "yes"),
        ("-spice unix=on,addr=/s.sock,disable-ticketing=on", "devices/graphics/listen/@socket", "/s.sock"),
        ("-vnc none", "devices/graphics/@type", None),
        ("-vga none", "devices/video/model/@type", "none"),
        ("-device VGA,vgamem_mb=32", "devices/video/model/@vram", "32768"),
        ("-bios default", "os/loader", None),
        ("-bios /b.bin", "os/loader/@type", "rom"),
        ("-blockdev driver=qcow2,node-name=q,file.driver=http,file.url=http://e.org/i -device virtio-blk-pci,drive=q",
         "devices/disk/source/@protocol", "http"),
        ("-blockdev driver=nbd,node-name=n,server.type=unix,server.path=/s -device virtio-blk-pci,drive=n",
         "devices/disk/source/host/@socket", "/s"),
        ("-drive driver=luks,file.driver=file,file.filename=/l,key-secret=s,if=virtio -object secret,id=s,file=/p",
         "devices/disk/source/encryption/@format", "luks"),
        ("-drive file=ssh://u@h:2222/p/x.img,format=raw,if=virtio", "devices/disk/source/identity/@username", "u"),
        ("-drive file=https://u:pw@h/p?q=1,format=raw,if=virtio", "devices/disk/auth/@username", None),
        ("-drive file=gluster+unix:///v/i?socket=/g,format=raw,if=virtio", "devices/disk/source/host/@socket", "/g"),
        ("-drive file=host_device:/dev/sdz,format=raw,if=virtio", "devices/disk/source/@dev", "/dev/sdz"),
        ("-drive file=/s,snapshot=on,format=raw,if=virtio", "devices/disk/transient", ""),
        ("-drive 'file=json:{\"driver\":\"file\",,\"filename\":\"/j\"},format=raw,if=virtio'",
         "devices/disk/source/@file", "/j"),
        ("-object memory-backend-memfd,id=m,size=1G,hugetlb=on,hugetlbsize=2M,share=on -M pc,memory-backend=m -m 1G",
         "memoryBacking/source/@type", "memfd"),
        ("-device sysbus-nothing -device usb-mtp,rootdir=/r,desc=d -usb", "devices/filesystem/driver/@type", "mtp"),
        ("-fsdev local,id=f,path=/p,security_model=none,readonly=on -device virtio-9p-pci,fsdev=f,mount_tag=t",
         "devices/filesystem/readonly", ""),
        ("-device vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:05:00.1", "devices/hostdev/source/address/@function",
         "0x1"),
        ("-device vfio-pci,sysfsdev=/sys/bus/mdev/devices/5d0c1d9e-0000-4000-8000-0000000000aa -vnc :0",
         "devices/hostdev/@type", "mdev"),
        ("-tpmdev emulator,id=t,chardev=c -chardev socket,id=c,path=/t.sock -device tpm-crb,tpmdev=t",
         "devices/tpm/backend/@type", "external"),
    ],
)  # fmt: skip
def test_one_option(option: str, path: str, value: str) -> None:
    reading = read(f"qemu-system-x86_64 {option}")
    node = reading.guest.domain.node
    found = node.value(path)
    if path.endswith("graphics/@type"):
        kinds = [g.get("type") for g in node.ensure("devices").all("graphics")]
        found = value if value in kinds else kinds[0] if kinds else None
    assert found == value


@pytest.mark.parametrize(
    ("option", "reason"),
    [
        ("-device virtio-net-pci", "a card that is connected to nothing"),
        ("-device virtio-blk-pci,drive=x", "there is no -blockdev or -drive x"),
        ("-netdev l2tpv3,id=n,src=a,dst=b,txsession=1 -device e1000,netdev=n", "-netdev l2tpv3"),
        ("-netdev user,id=n,hostfwd=tcp::x-:y -device e1000,netdev=n", "hostfwd=tcp::x-:y"),
        ("-netdev stream,id=n,server=on,addr.type=unix,addr.path=/s -device e1000,netdev=n", "not libvirt's passt"),
        ("-blockdev driver=blkdebug,node-name=b,image=x -device virtio-blk-pci,drive=b", "block driver blkdebug"),
        ("-blockdev driver=file,node-name=b,filename=/x,locking=on -device virtio-blk-pci,drive=b", "file: locking"),
        ("-drive if=virtio,file=/x,format=raw,strange=1", "-drive: strange"),
        ("-chardev ringbuf,id=c -device isa-serial,chardev=c", "-chardev ringbuf"),
        ("-chardev stdio,id=c,mux=on -device isa-serial,chardev=c", "serves several devices"),
        ("-chardev spicevmc,id=c,name=vdagent -device virtio-serial -device virtserialport,chardev=c", "without SPICE"),
        ("-serial msmouse", "-chardev msmouse"),
        ("-serial foo:bar", "no way to connect a serial port"),
        ("-vga tcx", "-vga tcx"),
        ("-vnc foo", "-vnc foo"),
        ("-vnc :0,password-secret=s", "password-secret"),
        ("-device virtio-rng-pci,bus=nowhere", "there is no PCI bus nowhere"),
        ("-device usb-kbd,bus=nowhere.0", "there is no USB bus nowhere.0"),
        ("-device scsi-hd,bus=nowhere.0", "there is no SCSI bus nowhere.0"),
        ("-device virtserialport,bus=nowhere.0,chardev=c -chardev null,id=c", "no virtio-serial bus nowhere.0"),
        ("-device virtio-blk-pci,drive=d,iothread=t -drive if=none,id=d,file=/d,format=raw", "there is no iothread t"),
        ("-device usb-host,hostport=1 -usb", "by the port of the host"),
        ("-object rng-egd-new,id=r -device virtio-rng-pci,rng=r", "random numbers of egd-new"),
        ("-device ivshmem-plain,memdev=m -object memory-backend-file,id=m,size=1M,mem-path=/x", "below /dev/shm"),
        ("-fsdev proxy,id=f,sock_fd=3 -device virtio-9p-pci,fsdev=f,mount_tag=t", "-fsdev proxy"),
        ("-virtfs local,path=/p,mount_tag=t,security_model=mapped-file", "mapped-file"),
        ("-audiodev alsa,id=a,strange=1", "-audiodev alsa: strange"),
        ("-smbios type=17,manufacturer=x", "SMBIOS table 17"),
        ("-smbios file=/x", "SMBIOS table file"),
        ("-fw_cfg name=opt/x,gen_id=g", "a firmware file by gen_id"),
        ("-readconfig /c", "files of options are not read"),
        ("-numa node,memdev=m", "there is no -object m"),
        ("-M pc,memory-backend=m", "there is no -object m"),
        ("-M pc,pflash0=f", "there is no -blockdev f"),
        ("-cpu host,level=9", "all of -cpu"),
        ("-bios none", "-bios none"),
        ("-M pc,sata=off", "machine property sata"),
        ("-watchdog-action dance", "no action of a watchdog"),
    ],
)  # fmt: skip
def test_what_is_kept_and_why(option: str, reason: str) -> None:
    reading = read(f"qemu-system-x86_64 {option}")
    assert any(note.kind == "kept" and reason in note.message for note in reading.notes), told(reading)
    assert reading.kept
    flag = option.split()[0]
    assert {"-M": "-machine"}.get(flag, flag) in reading.kept


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
    assert Guest.from_xml(reading.to_xml()).name
