"""Today's documents on yesterday's QEMU: what goes without saying, and what is refused in clear words."""

from __future__ import annotations

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.classic_guests import DEVICE, DISK, argv, define, document, emulator

TODAY = """<domain type='kvm'>
  <name>today</name>
  <memory unit='KiB'>1048576</memory>
  <currentMemory unit='KiB'>1048576</currentMemory>
  <vcpu placement='static'>2</vcpu>
  <os><type arch='x86_64' machine='pc'>hvm</type><boot dev='hd'/></os>
  <features><acpi/><apic/><vmport state='off'/></features>
  <clock offset='utc'><timer name='kvmclock' present='yes'/><timer name='hpet' present='no'/></clock>
  <pm><suspend-to-mem enabled='no'/></pm>
  <devices>
    <emulator>/usr/bin/kvm</emulator>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' io='native' discard='unmap'/>
      <source file='/a'/><target dev='vda' bus='virtio'/><alias name='ua-root'/>
    </disk>
    <controller type='pci' index='0' model='pci-root'/>
    <controller type='usb' index='0' model='piix3-uhci'>
      <address type='pci' domain='0x0000' bus='0x00' slot='0x01' function='0x2'/>
    </controller>
    <interface type='user'>
      <mac address='52:54:00:00:00:01'/><model type='virtio'/><driver name='vhost' queues='1'/>
    </interface>
    <serial type='pty'><target type='isa-serial' port='0'><model name='isa-serial'/></target></serial>
    <console type='pty'><target type='serial' port='0'/></console>
    <input type='keyboard' bus='ps2'/>
    <input type='tablet' bus='usb'><address type='usb' bus='0' port='1'/></input>
    <graphics type='vnc' port='-1' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>
    <audio id='1' type='none'/>
    <memballoon model='virtio'/>
  </devices>
  <seclabel type='dynamic' model='dac' relabel='yes'/>
</domain>"""


def test_todays_document_on_every_bundled_emulator() -> None:
    for name in ("kvm-83", "0.10.6", "0.11.1", "0.12.3", "qemu-kvm-0.12.3", "0.15.0", "1.2.0"):
        binary = Emulator.recorded(name)
        guest = Guest.from_xml(TODAY).define(binary, Host.nominal())
        text = guest.to_xml()
        for word in (
            "usb' index",
            "pci-root",
            "keyboard",
            "kvmclock",
            "ua-root",
            "isa-serial",
            "audio",
            "unit=",
        ):
            assert word not in text, (name, word)
        line = " ".join(guest.command(binary, Host.nominal()).argv)
        assert "-vnc 127.0.0.1:0" in line
        assert ("-device virtio-blk-pci" in line) == binary.flag("device")


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (
            "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
            "a random number generator",
        ),
        ("<tpm model='tpm-tis'><backend type='emulator'/></tpm>", "a TPM"),
        ("<graphics type='spice'/>", "graphics of type 'spice'"),
        ("<controller type='usb' index='0' model='qemu-xhci'/>", "USB controller model 'qemu-xhci'"),
        ("<controller type='pci' index='0' model='pcie-root'/>", "PCI controller model 'pcie-root'"),
        ("<controller type='scsi' index='0' model='virtio-scsi'/>", "SCSI controller model 'virtio-scsi'"),
        ("<sound model='ich9'/>", "sound model 'ich9'"),
        ("<input type='tablet' bus='virtio'/>", "this kind of input device"),
        ("<console type='pty'><target type='virtio'/></console>", "consoles of type 'virtio'"),
        ("<interface type='user'><model type='e1000e'/></interface>", "NIC model 'e1000e'"),
    ],
)
def test_refused(device: str, message: str) -> None:
    with pytest.raises(ConfigError) as refused:
        define(document(device), emulator(*DEVICE))
    assert refused.value.message.startswith(f"unsupported configuration: {message} ")
    assert refused.value.message.endswith(" not known to QEMU 0.12.0")
    assert refused.value.line == 6
    assert refused.value.hint


def test_uefi_is_refused() -> None:
    os = "<os firmware='efi'><type arch='x86_64' machine='pc'>hvm</type></os>"
    with pytest.raises(ConfigError, match="UEFI firmware is not known"):
        define(document(os=os))


def test_q35_is_refused_even_without_a_list_of_machines() -> None:
    binary = Emulator.from_help("QEMU PC emulator version 0.10.0, Copyright (c) 2003-2008 Fabrice Bellard\n")
    with pytest.raises(ConfigError, match=r"machine type 'pc-q35-9\.0'"):
        define(document(os="<os><type arch='x86_64' machine='pc-q35-9.0'>hvm</type></os>"), binary)
    assert define(document(), binary).name == "old"


def test_arguments_of_the_user_come_last() -> None:
    text = document(DISK.format(path="/a", dev="hda")).replace(
        "</devices>",
        "</devices><x:commandline xmlns:x='http://libvirt.org/schemas/domain/qemu/1.0'>"
        "<x:arg value='-foo'/><x:arg value='a,b'/></x:commandline>",
    )
    assert argv(text).endswith(" -foo a,b")


def test_a_device_that_the_list_lacks_is_refused() -> None:
    binary = Emulator.recorded("0.12.3")
    channel = "<channel type='pty'><target type='virtio' name='x'/></channel>"
    guest = define(document(channel), binary)
    with pytest.raises(ConfigError, match="no device 'virtio-serial-pci'"):
        guest.command(binary, Host.nominal())
