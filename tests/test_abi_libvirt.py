"""Differences, against what a real libvirt says first.

Its test driver, which is part of the library, checks the document of a snapshot against the guest's.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from qemushim.compare.abi import differences, refusals
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from tests.small_guests import OLD as EMULATOR

pytestmark = pytest.mark.libvirt

GENID = "<genid>5b2e2c7e-9f2e-4c4b-8a3a-0c9f5d6e7f81</genid>"
MODEL = "<model>qemu64</model>"
SERIAL = "<controller type='virtio-serial' ports='16' vectors='4'>AT7</controller>"
SPICE = "<graphics type='spice'/><redirdev bus='usb' type='spicevmc'/>"
SCSI = "<controller type='scsi' model='virtio-scsi'>AT6</controller>"
DISK = "<disk type='file'><driver name='qemu' type='raw'/><source file='/a'/><target dev='vda' bus='virtio'/>AT5</disk>"
SD = "<disk type='file'><source file='/a'/><target dev='sda' bus='scsi'/><address type='drive' unit='1'/></disk>"
NIC = "<interface type='user'><mac address='52:54:00:00:00:01'/><model type='virtio'/>AT8</interface>"
CHANNEL = "<channel type='pty'><target type='virtio' name='a'/></channel>"
SHMEM = "<shmem name='a' role='peer'><model type='ivshmem-plain'/><size unit='M'>4</size>AT9</shmem>"
BALLOON = "<memballoon model='virtio'>AT5</memballoon>"
TPM = "<tpm model='tpm-tis'><backend type='emulator' version='2.0'/></tpm>"
CELLS = "<numa><cell id='0' cpus='0' memory='131072'>D0</cell><cell id='1' cpus='1' memory='131072'>D1</cell></numa>"
DISTANCES = CELLS.replace(
    "D0", "<distances><sibling id='0' value='10'/><sibling id='1' value='21'/></distances>"
).replace("D1", "<distances><sibling id='0' value='21'/><sibling id='1' value='10'/></distances>")
NUMA = MODEL + CELLS.replace("D0", "").replace("D1", "")


def sysinfo(table: str, **entries: str) -> str:
    inner = "".join(f"<entry name='{name}'>{value}</entry>" for name, value in entries.items())
    return f"<sysinfo type='smbios'><{table}>{inner}</{table}></sysinfo>"


def rule(**changed: str) -> str:
    values = {"class": "0x08", "vendor": "0x1234", "product": "0xBEEF", "version": "2.56", "allow": "yes"}
    words = " ".join(f"{name}='{value}'" for name, value in {**values, **changed}.items())
    return f"{SPICE}<redirfilter><usbdev {words}/></redirfilter>"


def timer(words: str) -> str:
    return f"<timer {words}/>"


#: where the change is, what is there before, and after
CHANGES: list[tuple[str, str, str]] = [
    ("top", "", GENID),
    ("top", GENID, ""),
    ("top", GENID, GENID.replace("81<", "82<")),
    ("vcpu", "2", "3"),
    ("vcpu", " current='1'>2", "2"),
    *(("features", "", f"<{name}/>") for name in ("pae", "hap", "vmcoreinfo", "apic eoi='on'", "ioapic driver='kvm'")),
    *(("features", f"<{name}/>", "") for name in ("pae", "pmu state='off'", "vmport state='off'", "apic")),
    ("features", "<pmu state='on'/>", "<pmu state='off'/>"),
    ("features", "<smm state='on'/>", "<smm state='off'/>"),
    ("features", "", "<msrs unknown='ignore'/>"),
    ("features", "<hyperv><relaxed state='on'/></hyperv>", ""),
    ("features", "<hyperv><relaxed state='on'/></hyperv>", "<hyperv><relaxed state='off'/></hyperv>"),
    (
        "features",
        "<hyperv><relaxed state='on'/></hyperv>",
        "<hyperv><relaxed state='on'/><vapic state='on'/></hyperv>",
    ),
    (
        "features",
        "<hyperv><spinlocks state='on' retries='8191'/></hyperv>",
        "<hyperv><spinlocks state='on' retries='4096'/></hyperv>",
    ),
    ("features", "<kvm><hidden state='on'/></kvm>", "<kvm><hidden state='off'/></kvm>"),
    ("timers", "", timer("name='rtc'")),
    ("timers", timer("name='rtc'"), timer("name='pit'")),
    ("timers", timer("name='hpet'"), timer("name='hpet' present='yes'")),
    ("timers", timer("name='tsc'"), timer("name='tsc' frequency='2000'")),
    ("timers", timer("name='tsc' mode='native'"), timer("name='tsc' mode='emulate'")),
    ("timers", timer("name='rtc' tickpolicy='catchup'"), timer("name='rtc' tickpolicy='delay'")),
    ("cpu", MODEL, "<model>Nehalem</model>"),
    ("cpu", MODEL, MODEL + "<vendor>Intel</vendor>"),
    ("cpu", MODEL, MODEL + "<topology sockets='1' cores='2' threads='1'/>"),
    ("cpu", MODEL, MODEL + "<cache mode='disable'/>"),
    ("cpu", MODEL, MODEL + "<feature name='aes' policy='require'/>"),
    ("cpu", MODEL + "<feature name='aes' policy='require'/>", MODEL),
    ("cpu", MODEL + "<feature name='aes' policy='require'/>", MODEL + "<feature name='aes' policy='disable'/>"),
    ("cpu", MODEL + "<feature name='aes' policy='require'/>", MODEL + "<feature name='avx' policy='require'/>"),
    (
        "cpu",
        MODEL + "<feature name='aes' policy='require'/><feature name='avx' policy='require'/>",
        MODEL + "<feature name='avx' policy='require'/><feature name='aes' policy='require'/>",
    ),
    ("cpu", MODEL, NUMA),
    ("cpu", NUMA, NUMA.replace("cpus='0'", "cpus='X'").replace("cpus='1'", "cpus='0'").replace("'X'", "'1'")),
    ("cpu", NUMA, MODEL + DISTANCES),
    ("cpu", MODEL + DISTANCES, MODEL + DISTANCES.replace("21", "31")),
    ("top", "", sysinfo("bios", vendor="a")),
    ("top", sysinfo("bios", vendor="a"), sysinfo("bios", vendor="b")),
    ("top", sysinfo("bios", vendor="a"), sysinfo("bios", vendor="a", version="1")),
    ("top", sysinfo("bios", vendor="a"), sysinfo("system", manufacturer="x")),
    ("top", sysinfo("system", serial="a"), sysinfo("system", serial="b")),
    ("top", sysinfo("baseBoard", manufacturer="a"), sysinfo("baseBoard", manufacturer="b")),
    ("top", sysinfo("chassis", manufacturer="a"), sysinfo("chassis", manufacturer="b")),
    ("devices", "", DISK),
    ("devices", DISK, DISK.replace("AT5", "<serial>b</serial>AT5")),
    ("devices", DISK.replace("AT5", "<serial>b</serial>AT5"), DISK),
    ("devices", DISK, DISK.replace("AT5", "<readonly/>AT5")),
    ("devices", DISK, DISK.replace("vda", "vdb")),
    ("devices", DISK, DISK.replace("type='raw'", "type='raw' queues='2'")),
    ("devices", DISK, DISK.replace("type='raw'", "type='raw' packed='on'")),
    ("devices", DISK, DISK.replace("AT5", "AT4")),
    ("devices", DISK, DISK.replace("<disk ", "<disk model='virtio-transitional' ")),
    ("devices", DISK, DISK.replace("/a", "/b")),
    ("devices", SCSI + SD, SCSI + SD.replace("unit='1'", "unit='2'")),
    ("devices", SCSI + SD, SCSI + SD.replace("unit='1'", "target='2' unit='1'")),
    ("devices", SCSI, SCSI.replace("AT6", "<driver queues='4'/>AT6")),
    ("devices", SERIAL, SERIAL.replace("16", "8")),
    ("devices", SERIAL, SERIAL.replace(" vectors='4'", "")),
    ("devices", NIC, NIC.replace("00:01", "00:02")),
    ("devices", NIC, NIC.replace("'virtio'", "'e1000e'")),
    ("devices", NIC, NIC.replace("AT8", "<acpi index='2'/>AT8")),
    ("devices", NIC, NIC + NIC.replace("00:01", "00:02").replace("AT8", "AT4")),
    ("devices", NIC, NIC.replace("type='user'", "type='ethernet'")),
    ("devices", "", "<input type='tablet' bus='usb'/>"),
    ("devices", SERIAL + CHANNEL, SERIAL + CHANNEL.replace("name='a'", "name='b'")),
    ("devices", SERIAL + CHANNEL, SERIAL + CHANNEL.replace(" name='a'", "")),
    (
        "devices",
        "<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='4600'/></channel>",
        "<channel type='pty'><target type='guestfwd' address='10.0.2.1' port='4601'/></channel>",
    ),
    ("devices", SPICE, rule()),
    *(
        ("devices", rule(), rule(**{name: value}))
        for name, value in {
            "class": "0x09",
            "vendor": "0x1",
            "product": "0x1",
            "version": "2.00",
            "allow": "no",
        }.items()
    ),
    ("devices", "<watchdog model='i6300esb'>AT5</watchdog>", "<watchdog model='ib700'/>"),
    ("devices", BALLOON, BALLOON.replace(">AT5", " autodeflate='on'>AT5")),
    ("devices", "", "<rng model='virtio'><backend model='random'>/dev/urandom</backend>AT5</rng>"),
    (
        "devices",
        "<panic model='isa'><address type='isa' iobase='0x505'/></panic>",
        "<panic model='isa'><address type='isa' iobase='0x506'/></panic>",
    ),
    ("devices", SHMEM, SHMEM.replace("peer", "master")),
    ("devices", SHMEM, SHMEM.replace(">4<", ">8<")),
    ("devices", TPM, TPM.replace("tpm-tis", "tpm-crb")),
    ("devices", TPM, TPM.replace("2.0", "1.2")),
    ("devices", "", "<vsock model='virtio'><cid auto='no' address='5'/>AT5</vsock>"),
]  # fmt: skip


@pytest.fixture(scope="module")
def libvirt() -> Any:
    module = pytest.importorskip("libvirt")
    module.registerErrorHandler(lambda *_: None, None)
    return module


def document(where: str, text: str) -> str:
    parts = {"top": "", "vcpu": "2", "features": "", "cpu": MODEL, "timers": "", "devices": ""}
    parts[where] = text
    vcpu = parts["vcpu"] if ">" in parts["vcpu"] else f">{parts['vcpu']}"
    devices = parts["devices"]
    for slot in range(4, 10):
        devices = devices.replace(f"AT{slot}", f"<address type='pci' bus='0' slot='{slot}' function='0'/>")
    return (
        "<domain type='kvm'><name>g</name><uuid>5b2e2c7e-9f2e-4c4b-8a3a-0c9f5d6e7f80</uuid>"
        f"<memory unit='MiB'>256</memory>{parts['top']}<vcpu{vcpu}</vcpu>"
        "<os><type arch='x86_64' machine='pc-i440fx-7.1'>hvm</type></os>"
        f"<features><acpi/>{parts['features']}</features><cpu mode='custom'>{parts['cpu']}</cpu>"
        f"<clock offset='utc'>{parts['timers']}</clock><devices>{devices}</devices></domain>"
    )


def first_of_libvirt(libvirt: Any, old: str, new: str) -> str:
    """Why a real libvirt does not take the new document for the same guest; ``""``: it does."""
    flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REDEFINE
    shot = "<domainsnapshot><name>s</name><state>shutoff</state><creationTime>1</creationTime>{}</domainsnapshot>"
    connection = libvirt.open("test:///default")
    try:
        domain = connection.defineXML(old.replace("type='kvm'", "type='test'", 1))
        domain.snapshotCreateXML(shot.format(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE)), flags)
        try:
            domain.snapshotCreateXML(shot.format(new.replace("type='kvm'", "type='test'", 1)), flags)
        except libvirt.libvirtError as refused:
            # a space is missing in some messages of older ones
            return re.sub(r"(?<=\S)does not match", " does not match", str(refused).partition(": ")[2])
        return ""
    finally:
        connection.close()


@pytest.mark.parametrize(
    "change", CHANGES, ids=lambda change: f"{change[0]} {change[1][:20]}→{change[2][:20]}"
)
def test_the_first_difference_is_libvirts(change: tuple[str, str, str], libvirt: Any) -> None:
    where, before, after = change
    host = Host.nominal()
    try:
        old, new = (Guest.from_xml(document(where, text)).define(EMULATOR, host) for text in (before, after))
    except ConfigError as refused:
        pytest.fail(refused.message)
    real = first_of_libvirt(libvirt, old.to_xml(), new.to_xml())
    ours = refusals(differences(old.domain, new.domain))
    assert (ours[0] if ours else "") == real
