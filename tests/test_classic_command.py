"""Command lines for QEMU 0.9 – 1.2: the old options, the first -device, and what decides between them."""

from __future__ import annotations

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import ClassicHost, CpuDefinition, Host, QemuConf
from tests.classic_guests import ALWAYS, DEVICE, DISK, HOST, LEGACY, LETTER, NIC, argv, document, emulator

HVM = "<os><type arch='x86_64' machine='pc'>hvm</type>{}</os>"


def refused(text: str, *flags: str, host: Host = HOST, incoming: str = "") -> str:
    with pytest.raises(ConfigError) as problem:
        argv(text, emulator(*flags), host, incoming)
    return problem.value.message


def test_smallest_guest() -> None:
    assert argv(document()) == (
        "/usr/bin/qemu -S -M pc-0.12 -m 256 -smp 1 -nographic -monitor unix:/run/m,server,nowait "
        "-no-acpi -boot c -net none -serial none -parallel none -usb"
    )


def test_smallest_guest_with_device() -> None:
    assert argv(document(), emulator(*DEVICE)) == (
        "/usr/bin/qemu -S -M pc-0.12 -m 256 -smp 1 -name old -uuid c7a5fdbd-edaf-9455-926a-d65c16db1809 "
        "-nographic -nodefaults -chardev socket,id=monitor,path=/run/m,server,nowait "
        "-mon chardev=monitor,mode=readline -rtc base=utc -no-acpi -boot c -usb "
        "-device virtio-balloon-pci,id=balloon0,bus=pci.0,addr=0x3"
    )


def test_every_option_says_why_and_from_where() -> None:
    devices = DISK.format(path="/a", dev="hda") + NIC.format(mac=1, model="virtio") + "<graphics type='sdl'/>"
    for flags in (LEGACY, DEVICE):
        for option in Guest.from_xml(document(devices)).command(emulator(*flags), HOST).options:
            assert option.source is not None, option
            assert len(option.rule) > 10, option


def test_environment_order() -> None:
    host = HOST._replace(
        environment={"LOGNAME": "l", "TMPDIR": "/t", "PATH": "/bin", "LD_PRELOAD": "x", "SHELL": "s"}
    )
    clock = "<clock offset='timezone' timezone='CET'/>"
    text = document("<graphics type='sdl' display=':1' xauth='/x'/>", clock)
    command = Guest.from_xml(text).command(emulator(), host)
    assert list(command.environment.items()) == [
        ("LC_ALL", "C"),
        ("LD_PRELOAD", "x"),
        ("PATH", "/bin"),
        ("LOGNAME", "l"),
        ("TMPDIR", "/t"),
        ("TZ", "CET"),
        ("XAUTHORITY", "/x"),
        ("DISPLAY", ":1"),
    ]


# -- disks ----------------------------------------------------------------------------------------------


def test_disks_without_drive() -> None:
    cdrom = "<disk type='file' device='cdrom'><source file='/c'/><target dev='hdc'/></disk>"
    folder = "<disk type='dir' device='floppy'><source dir='/d'/><target dev='fda'/><readonly/></disk>"
    usb = "<disk><source file='/u'/><target dev='sda' bus='usb'/></disk>"
    line = argv(document(DISK.format(path="/a", dev="hdb") + cdrom + folder + usb))
    assert "-hdb /a -cdrom /c -fda fat:floppy:/d -usbdevice disk:/u -net" in line


@pytest.mark.parametrize("target", ["vda", "sda", "xvda"])
def test_other_targets_need_drive(target: str) -> None:
    assert f"unsupported disk type '{target}'" in refused(document(DISK.format(path="/a", dev=target)))


def test_xen_disks_have_an_index_with_and_without_device() -> None:
    for flags in (LEGACY, DEVICE):
        line = argv(document(DISK.format(path="/a", dev="xvdc")), emulator(*flags))
        assert "-drive file=/a,if=xen,index=2 " in line


@pytest.mark.parametrize("bus", ["sata", "uml"])
def test_buses_that_qemu_has_not(bus: str) -> None:
    disk = f"<disk><source file='/a'/><target dev='sda' bus='{bus}'/></disk>"
    assert f"unsupported disk bus '{bus}'" in refused(document(disk), *LEGACY)


def test_drive_places() -> None:
    disks = "".join(DISK.format(path=f"/{n}", dev=n) for n in ("hdd", "sdi", "vdb"))
    line = argv(document(disks + "<disk device='floppy'><target dev='fdb'/></disk>"), emulator(*LEGACY))
    assert "-drive file=/hdd,if=ide,bus=1,unit=1 " in line
    assert "-drive file=/sdi,if=scsi,bus=1,unit=1 " in line
    assert "-drive file=/vdb,if=virtio " in line
    assert "-drive if=floppy,unit=1 " in line


def test_drive_and_device() -> None:
    disks = "".join(DISK.format(path=f"/{n}", dev=n) for n in ("hdd", "sdi", "vdb"))
    usb = "<disk><source file='/u'/><target dev='sdb' bus='usb'/></disk>"
    floppy = "<disk device='floppy'><source file='/f'/><target dev='fdb'/></disk>"
    line = argv(document(disks + usb + floppy), emulator(*DEVICE))
    for drive, device in (
        (
            "hdd,if=none,id=drive-ide0-1-1",
            "-device ide-drive,bus=ide.1,unit=1,drive=drive-ide0-1-1,id=ide0-1-1",
        ),
        (
            "sdi,if=none,id=drive-scsi1-0-1",
            "-device scsi-disk,bus=scsi1.0,scsi-id=1,drive=drive-scsi1-0-1,id=",
        ),
        (
            "vdb,if=none,id=drive-virtio-disk1",
            "-device virtio-blk-pci,bus=pci.0,addr=0x4,drive=drive-virtio-",
        ),
        ("u,if=none,id=drive-usb-disk1", "-device usb-storage,drive=drive-usb-disk1,id=usb-disk1"),
        ("f,if=none,id=drive-fdc0-0-1", "-global isa-fdc.driveB=drive-fdc0-0-1"),
    ):
        assert f"-drive file=/{drive} {device}" in line
    assert "-device lsi,id=scsi0,bus=pci.0,addr=0x5 -device lsi,id=scsi1,bus=pci.0,addr=0x6 -drive" in line


def test_a_comma_in_a_path_stays_in_the_path() -> None:
    line = argv(document(DISK.format(path="/a,boot=on", dev="hda")), emulator(*LEGACY))
    assert "-drive file=/a,,boot=on,if=ide," in line
    serial = "<serial type='unix'><source mode='bind' path='/a,b'/></serial>"
    assert "has a comma" in refused(document(serial))
    assert "path=/a,,b,server,nowait" in argv(document(serial), emulator(*DEVICE))


def test_first_bootable_disk_of_its_class() -> None:
    disks = DISK.format(path="/a", dev="vda") + DISK.format(path="/b", dev="hda")
    flags = (*LEGACY, "drive-boot")
    line = argv(document(disks), emulator(*flags))
    assert "file=/a,if=virtio,boot=on " in line
    assert "file=/b,if=ide,bus=0,unit=0 " in line
    assert "boot=on" not in argv(document(disks, os=HVM.format("<boot dev='cdrom'/>")), emulator(*flags))


@pytest.mark.parametrize(
    ("mode", "old", "new"),
    [("none", "off", "none"), ("writethrough", "off", "writethrough"), ("writeback", "on", "writeback")],
)
def test_cache_words(mode: str, old: str, new: str) -> None:
    disk = DISK.format(path="/a", dev="hda").replace("<source", f"<driver cache='{mode}'/><source")
    assert f"unit=0,cache={old} " in argv(document(disk), emulator(*LEGACY))
    assert f"unit=0,cache={new} " in argv(document(disk), emulator(*LEGACY, "drive-cache-v2"))
    assert f"unit=0,cache={new} " in argv(document(disk), emulator(*LEGACY, "drive-cache-unsafe"))


def test_shared_disks_are_not_cached() -> None:
    disk = DISK.format(path="/a", dev="hda").replace("</disk>", "<shareable/></disk>")
    assert "unit=0,cache=off " in argv(document(disk), emulator(*LEGACY, "drive-cache-v2"))
    read_only = disk.replace("<shareable/>", "<shareable/><readonly/>")
    assert "cache" not in argv(document(read_only), emulator(*LEGACY))


def test_serial_number_is_checked() -> None:
    disk = DISK.format(path="/a", dev="hda").replace("</disk>", "<serial>a b</serial></disk>")
    assert "contains unsafe characters" in refused(document(disk), *LEGACY, "drive-serial")
    assert "serial" not in argv(document(disk), emulator(*LEGACY)).replace("-serial", "")


@pytest.mark.parametrize(
    ("disk", "message"),
    [
        ("<disk type='dir'><source dir='/d'/><target dev='hda'/></disk>", "FAT disks in read-write mode"),
        (
            "<disk type='dir'><driver type='raw'/><source dir='/d'/><target dev='hda'/><readonly/></disk>",
            "unsupported disk driver type",
        ),
        (
            DISK.format(path="/a", dev="hda").replace("<source", "<driver name='tap'/><source"),
            "driver name 'tap'",
        ),
        (DISK.format(path="/a", dev="hde"), "Only controller 0 is supported for ide disks"),
        (
            DISK.format(path="/a", dev="hda").replace("</disk>", "<address type='pci' slot='4'/></disk>"),
            "address type",
        ),
        (
            "<disk device='cdrom'><source file='/a'/><target dev='sda' bus='usb'/></disk>",
            "unsupported usb disk type",
        ),
    ],
)
def test_refused_disks(disk: str, message: str) -> None:
    assert message in refused(document(disk), *LEGACY)


def test_plain_0_9_1_has_neither_virtio_nor_e1000() -> None:
    binary = emulator(*LEGACY, version=(0, 9, 1))
    for device in (
        DISK.format(path="/a", dev="vda"),
        NIC.format(mac=1, model="virtio"),
        "<sound model='ac97'/>",
    ):
        with pytest.raises(ConfigError, match=r"not known to QEMU 0\.9\.1"):
            argv(document(device), binary)
        assert argv(document(device), emulator(*LEGACY, version=(0, 9, 1), fork=True))


# -- networks -------------------------------------------------------------------------------------------


def test_names_come_with_0_10() -> None:
    text = document(NIC.format(mac=1, model="e1000"))
    nic = "-net nic,macaddr=52:54:00:00:00:01,vlan=0,model=e1000"
    assert f"{nic} -net user,vlan=0 " in argv(text)
    assert f"{nic},name=net0 -net user,vlan=0,name=hostnet0 " in argv(text, emulator(*LEGACY))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("type='client'><source address='192.0.2.1' port='5'/>", "socket,connect=192.0.2.1:5"),
        ("type='server'><source address='192.0.2.1' port='5'/>", "socket,listen=192.0.2.1:5"),
        ("type='mcast'><source address='230.0.0.1' port='5'/>", "socket,mcast=230.0.0.1:5"),
        ("type='ethernet'><target dev='tap0'/>", "tap,ifname=tap0"),
        ("type='bridge'><source bridge='br0'/>", "tap,fd=50"),
    ],
)
def test_host_sides(source: str, text: str) -> None:
    interface = f"<interface {source}<mac address='52:54:00:00:00:01'/></interface>"
    assert f"-net {text},vlan=0 " in argv(document(interface))


def test_taps_are_passed_by_number() -> None:
    bridge = (
        "<interface type='bridge'><source bridge='br{0}'/><mac address='52:54:00:00:00:0{0}'/></interface>"
    )
    command = Guest.from_xml(document(bridge.format(1) + bridge.format(2))).command(emulator(), HOST)
    assert [(d.number, d.kind, d.target) for d in command.descriptors] == [
        (50, "tap", "br1"),
        (51, "tap", "br2"),
    ]


def test_vhost_needs_kvm_netdev_and_virtio() -> None:
    bridge = (
        "<interface type='bridge'><source bridge='br0'/><mac address='52:54:00:00:00:01'/>"
        "<model type='{}'/>{}</interface>"
    )
    flags = (*DEVICE, "netdev", "vhost-net")
    text = document(bridge.format("virtio", ""), virt="kvm")
    assert (
        "-netdev tap,fd=50,id=hostnet0,vhost=on,vhostfd=70 -device virtio-net-pci,netdev=hostnet0,id=net0"
        in argv(text, emulator(*flags))
    )
    for other in (
        document(bridge.format("e1000", ""), virt="kvm"),
        document(bridge.format("virtio", ""), virt="qemu"),
        document(bridge.format("virtio", "<driver name='qemu'/>"), virt="kvm"),
    ):
        assert "vhost" not in argv(other, emulator(*flags))


# -- character devices ----------------------------------------------------------------------------------


def test_udp_without_a_near_side() -> None:
    serial = "<serial type='udp'><source mode='connect' host='192.0.2.1' service='9'/></serial>"
    assert "-serial udp:192.0.2.1:9 " in argv(document(serial))
    assert "-chardev udp,id=serial0,host=192.0.2.1,port=9 " in argv(document(serial), emulator(*DEVICE))


def test_channels_need_device() -> None:
    virtio = document("<channel type='pty'><target type='virtio' name='x'/></channel>")
    assert "virtio channel requires" in refused(virtio, *LEGACY)
    forward = document("<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='1'/></channel>")
    assert "guestfwd requires" in refused(forward, *LEGACY, "device")


def test_automatic_ports_of_a_virtio_channel() -> None:
    text = document("<channel type='pty'><target type='virtio' name='x'/></channel>")
    assert "-device virtio-serial-pci,id=virtio-serial0,bus=pci.0,addr=0x4 " in argv(text, emulator(*DEVICE))
    assert "id=virtio-serial0,max_ports=0,vectors=0,bus" in argv(text, emulator(*DEVICE), LETTER)


def test_json_monitor() -> None:
    host = HOST._replace(classic=ClassicHost(monitor="/run/m", monitor_json=True))
    assert "-monitor control,unix:/run/m,server,nowait" in argv(document(), host=host)
    assert "-mon chardev=monitor,mode=control" in argv(document(), emulator(*DEVICE), host)


# -- graphics -------------------------------------------------------------------------------------------


def test_vnc_words() -> None:
    config = QemuConf(
        vnc_listen="0.0.0.0",
        vnc_password="x",
        vnc_tls=True,
        vnc_tls_x509_verify=True,
        vnc_tls_x509_cert_dir="/tls",
        vnc_sasl=True,
        vnc_sasl_dir="/sasl",
    )
    text = document("<graphics type='vnc' port='5907' keymap='de'/>")
    command = Guest.from_xml(text).command(emulator(), HOST._replace(config=config))
    assert "-vnc 0.0.0.0:7,password,tls,x509verify=/tls,sasl -k de" in " ".join(command.argv)
    assert list(command.environment)[-2:] == ["SASL_CONF_DIR", "QEMU_AUDIO_DRV"]
    unverified = config._replace(vnc_tls_x509_verify=False)
    assert ",tls,x509=/tls," in argv(text, host=HOST._replace(config=unverified))


def test_vnc_before_0_9_has_a_bare_number() -> None:
    assert "-vnc 7" in argv(document("<graphics type='vnc' port='5907'/>"), emulator("name"))


def test_chosen_port_and_ipv6() -> None:
    assert "-vnc [::1]:0" in argv(document("<graphics type='vnc' listen='::1'/>"))


def test_more_than_one_screen() -> None:
    text = document("<graphics type='vnc' port='5901'/><graphics type='sdl'/>")
    assert "only 1 graphics device" in refused(text)
    line = argv(text, host=LETTER)
    assert "-vnc" not in line
    assert "-nographic" not in line


def test_sdl_words() -> None:
    text = document("<graphics type='sdl' fullscreen='yes'/>")
    assert "-usb -full-screen -sdl" in argv(text, emulator(*ALWAYS, "sdl"))
    assert "-sdl" not in argv(text)


@pytest.mark.parametrize(
    ("model", "old", "new"),
    [
        ("vga", " -std-vga", " -vga std"),
        ("cirrus", "", " -vga cirrus"),
        ("vmvga", " -vmwarevga", " -vga vmware"),
    ],
)
def test_video(model: str, old: str, new: str) -> None:
    text = document(f"<graphics type='vnc' port='5900'/><video><model type='{model}'/></video>")
    assert argv(text).endswith(f"-vnc :0{old}")
    assert argv(text, emulator(*ALWAYS, "vga")).endswith(f"-vnc :0{new}")


def test_no_video() -> None:
    assert argv(document(), emulator(*LEGACY)).endswith("-usb -vga none")
    # kvm-83 has -vga, but does not know the word
    assert argv(document(), emulator(*ALWAYS, "vga", version=(0, 9, 1), fork=True)).endswith("-usb")


def test_refused_video() -> None:
    assert "only one video card" in refused(document("<video><model type='vga'/></video>" * 2), *LEGACY)
    assert "video type vbox" in refused(document("<video><model type='vbox'/></video>"), *LEGACY)
    qxl = document("<video><model type='qxl'/></video>")
    assert "video type qxl" in refused(qxl, *LEGACY)
    assert "-vga qxl" in argv(qxl, emulator(*LEGACY, "vga-qxl"))


# -- other devices --------------------------------------------------------------------------------------


def test_watchdog_came_with_0_11() -> None:
    text = document("<watchdog model='i6300esb' action='pause'/>")
    assert "-watchdog i6300esb -watchdog-action pause" in argv(text)
    with pytest.raises(ConfigError, match=r"not known to QEMU 0\.10\.6"):
        argv(text, emulator(version=(0, 10, 6)))


def test_host_devices() -> None:
    usb = "<hostdev type='usb'><source><address bus='14' device='0x6'/></source></hostdev>"
    pci = "<hostdev type='pci'><source><address bus='6' slot='12' function='5'/></source></hostdev>"
    assert "-usbdevice host:014.006 -pcidevice host=06:12.5" in argv(
        document(usb + pci), emulator(*ALWAYS, "pcidevice")
    )
    assert (
        "-device usb-host,hostbus=014,hostaddr=006,id=hostdev0 "
        "-device pci-assign,host=06:12.5,id=hostdev1,bus=pci.0,addr=0x4"
        in argv(document(usb + pci), emulator(*DEVICE))
    )
    assert "PCI device assignment is not supported" in refused(document(pci))
    assert "missing bus/device" in refused(document(usb.replace("14", "0").replace("0x6", "0")))


def test_balloon_can_be_declined() -> None:
    declined = document("<memballoon model='none'/>")
    assert argv(declined, emulator(*ALWAYS, "balloon")).endswith("-balloon none")
    assert argv(document(), emulator(*ALWAYS, "balloon")).endswith("-balloon virtio")
    assert "balloon" not in argv(declined, emulator(*DEVICE))


# -- the guest as a whole -------------------------------------------------------------------------------


def test_accelerators() -> None:
    flags = (*ALWAYS, "kqemu", "kvm", "enable-kvm")
    assert "-M pc-0.12 -no-kqemu -no-kvm -m" in argv(document(), emulator(*flags))
    assert "-M pc-0.12 -enable-kvm -m" in argv(document(virt="kvm"), emulator(*flags))


def test_32_bit_guest_on_a_64_bit_emulator() -> None:
    os = HVM.format("").replace("x86_64", "i686")
    text = document(os=os).replace("/usr/bin/qemu", "/usr/bin/qemu-system-x86_64")
    assert "-M pc-0.12 -cpu qemu32 -m" in argv(text)
    assert "-cpu qemu32" in argv(document(os=os).replace("/usr/bin/qemu", "/usr/bin/kvm"))
    assert "-cpu" not in argv(document(os=os))


def test_cpu_model() -> None:
    features = "<feature policy='require' name='x2apic'/><feature policy='forbid' name='nx'/>"
    cpu = f"<cpu><model>core2duo</model>{features}</cpu>"
    assert "-cpu core2duo,+x2apic,-nx -m" in argv(document(more=cpu))
    assert "CPU specification not supported" in refused(document(more=cpu), host=LETTER)
    assert "-cpu core2duo" in argv(document(more=cpu), host=LETTER._replace(cpu=CpuDefinition("core2duo")))
    host = document(more="<cpu mode='host-passthrough'/>")
    assert "-cpu host" in argv(host, emulator(*ALWAYS, "cpu-host"))
    assert "CPU mode 'host-passthrough'" in refused(host)


def test_topology() -> None:
    cpu = "<vcpu>4</vcpu><cpu><topology sockets='2' cores='2' threads='1'/></cpu>"
    flags = (*ALWAYS, "smp-topology")
    assert "-smp 4,sockets=2,cores=2,threads=1 " in argv(document(more=cpu), emulator(*flags))
    assert "-smp 4,sockets=4,cores=1,threads=1 " in argv(document(more="<vcpu>4</vcpu>"), emulator(*flags))
    assert "-smp 4 " in argv(document(more=cpu))


def test_hugepages() -> None:
    text = document(more="<memoryBacking><hugepages/></memoryBacking>")
    assert "-m 256 -mem-prealloc -mem-path /dev/hugepages/libvirt/qemu -smp" in argv(
        text, emulator("mem-path")
    )
    assert "hugepages are not supported" in refused(text)
    assert "not mounted" in refused(text, "mem-path", host=HOST._replace(hugepages=()))


def test_xen_guest() -> None:
    os = "<os><type arch='x86_64' machine='isapc'>xen</type></os>"
    host = HOST._replace(domain_id=7)
    assert "-domid 7 -nographic" in argv(document(os=os), emulator("domid"), host)
    assert "-xen-attach -xen-domid 7 -nographic" in argv(document(os=os), emulator("xen-domid"), host)
    assert "does not support xen guests" in refused(document(os=os))


def clock(offset: str, timers: str = "") -> str:
    return document(more=f"<clock {offset}>{timers}</clock>")


def test_clock_offsets() -> None:
    rtc = emulator(*ALWAYS, "rtc")
    assert "-localtime" not in argv(clock("offset='utc'"))
    assert "-localtime -no-acpi" in argv(clock("offset='timezone' timezone='CET'"))
    assert "-rtc base=localtime " in argv(clock("offset='localtime'"), rtc)
    variable = clock("offset='variable' adjustment='-3600'")
    host = HOST._replace(now=1270000000)
    assert "-rtc base=2010-03-31T00:46:40 " in argv(variable, rtc, host)
    assert "-rtc base=2010-2-31T0:46:40 " in argv(variable, rtc, LETTER._replace(now=1270000000))
    assert "unsupported clock offset 'variable'" in refused(variable)


@pytest.mark.parametrize(
    ("timer", "flags", "text"),
    [
        ("<timer name='rtc' tickpolicy='catchup'/>", "rtc", "-rtc base=utc,driftfix=slew "),
        ("<timer name='rtc' track='guest'/>", "rtc", "-rtc base=utc,clock=vm "),
        ("<timer name='rtc' track='wall'/>", "rtc", "-rtc base=utc,clock=host "),
        ("<timer name='rtc' tickpolicy='catchup'/>", "rtc-td-hack", "-rtc-td-hack "),
        ("<timer name='pit'/>", "no-kvm-pit", "-no-kvm-pit-reinjection "),
        ("<timer name='pit' tickpolicy='catchup'/>", "tdf", "-tdf "),
        ("<timer name='hpet' present='no'/>", "no-hpet", "-no-hpet "),
    ],
)
def test_timers(timer: str, flags: str, text: str) -> None:
    assert text in argv(clock("offset='utc'", timer), emulator(*ALWAYS, flags))


@pytest.mark.parametrize(
    ("timer", "flag"),
    [
        ("<timer name='rtc' track='boot'/>", "rtc"),
        ("<timer name='rtc' tickpolicy='merge'/>", "rtc"),
        ("<timer name='pit' tickpolicy='discard'/>", "rtc"),
        ("<timer name='pit' tickpolicy='catchup'/>", "rtc"),
        ("<timer name='tsc'/>", "rtc"),
        ("<timer name='platform'/>", "rtc"),
    ],
)
def test_refused_timers(timer: str, flag: str) -> None:
    assert "unsupported" in refused(clock("offset='utc'", timer), flag)


def test_incoming() -> None:
    assert "-incoming exec:cat" in argv(document(), emulator("migrate-qemu-exec"), incoming="stdio")
    assert "-incoming stdio" in argv(document(), emulator("migrate-kvm-stdio"), incoming="stdio")
    assert "-incoming unix:/x" in argv(document(), incoming="unix:/x")
    for source, word in (("stdio", "STDIO"), ("tcp:0:1", "TCP"), ("exec:x", "EXEC")):
        assert f"{word} migration is not supported" in refused(document(), incoming=source)


def test_boot_words() -> None:
    direct = "<kernel>/k</kernel><initrd>/i</initrd><cmdline>a b</cmdline>"
    os = HVM.format(direct + "<boot dev='network'/><boot dev='fd'/><boot dev='cdrom'/>")
    command = Guest.from_xml(document(os=os)).command(emulator(), HOST)
    words = command.argv[command.argv.index("-boot") :][:8]
    assert words == ["-boot", "nad", "-kernel", "/k", "-initrd", "/i", "-append", "a b"]


def test_addresses_beyond_the_first_bus_are_refused() -> None:
    nic = NIC.format(mac=1, model="virtio").replace(
        "</interface>", "<address type='pci' slot='4' {}/></interface>"
    )
    for extra, words in (("bus='1'", "bus 0"), ("domain='1'", "domain 0"), ("function='1'", "function=0")):
        assert words in refused(document(nic.format(extra)), *DEVICE)


@pytest.mark.parametrize(
    "name", ["kvm-74", "0.9.1", "0.10.5", "qemu-kvm-0.10.5", "0.11.1", "0.12.3", "0.15.0", "1.2.0"]
)
def test_bundled_emulators_start_a_plain_guest(name: str) -> None:
    binary = Emulator.recorded(name)
    line = argv(document(DISK.format(path="/a", dev="hda") + NIC.format(mac=1, model="rtl8139")), binary)
    assert ("-nodefaults" in line) == binary.flag("device")
    assert ("-netdev" in line) == (binary.version >= (0, 13, 0))
