"""The predicted names, against those that a Linux gives in a guest that boots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from qemushim.emulator.model import Emulator
from qemushim.host import Host
from qemushim.inspect.names import names
from qemushim.inspect.survey import survey
from tests.linux_guest import Linux, Seen, boot, bootable, make_linux, missing

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="session")
def linux(tmp_path_factory: pytest.TempPathFactory) -> Linux:
    lacking = missing()
    if lacking:
        pytest.skip(f"needs {lacking}")
    return make_linux(tmp_path_factory.getbasetemp().parent / "linux")


@dataclass(frozen=True)
class Case:
    machine: str
    devices: str
    features: str = "<acpi/><apic/>"
    #: the card that is unplugged before the guest is started again
    unplugged: str = ""


def at(slot: int, bus: int = 0, function: int = 0, more: str = "") -> str:
    return f"<address type='pci' bus='{bus}' slot='{slot}' function='{function}'{more}/>"


def nics(*cards: tuple[str, str]) -> str:
    return "".join(
        f"<interface type='user'><mac address='52:54:00:00:00:{n:02x}'/><model type='{model}'/>{more}</interface>"
        for n, (model, more) in enumerate(cards, 1)
    )


def disk(bus: str, target: str, more: str = "", device: str = "disk") -> str:
    return (
        f"<disk type='file' device='{device}'><driver name='qemu' type='raw'/><source file='/a'/>"
        f"<target dev='{target}' bus='{bus}'/>{more}</disk>"
    )


def drive(controller: int, target: int, unit: int) -> str:
    return f"<address type='drive' controller='{controller}' bus='0' target='{target}' unit='{unit}'/>"


def bus(index: int, model: str, more: str = "") -> str:
    return f"<controller type='pci' index='{index}' model='{model}'>{more}</controller>"


def scsi(index: int, model: str) -> str:
    return f"<controller type='scsi' index='{index}' model='{model}'/>"


MULTI = " multifunction='on'"
BRIDGES = (
    bus(1, "pcie-root-port")
    + bus(2, "pcie-to-pci-bridge", at(0, 1))
    + bus(3, "pci-bridge", at(4, 2))
    + bus(4, "pcie-root-port", "<target hotplug='off'/>")
    + bus(5, "pcie-root-port")
    + bus(6, "dmi-to-pci-bridge")
    + nics(
        ("e1000", at(6, 2)),
        ("e1000", at(7, 3)),
        ("e1000", at(8, 2) + "<acpi index='13'/>"),
        ("virtio", at(0, 4) + "<acpi index='14'/>"),
        ("virtio", at(0, 5) + "<acpi index='15'/>"),
        ("virtio", at(9) + "<acpi index='16'/>"),
        ("e1000", at(9, 6)),
    )
)
CASES = {
    "pc": Case(
        "pc",
        nics(
            ("virtio", ""),
            ("e1000", ""),
            ("rtl8139", "<acpi index='3'/>"),
            ("virtio", at(9, 0, 0, MULTI)),
            ("virtio", at(9, 0, 1)),
            ("ne2k_pci", ""),
            ("usb-net", ""),
            ("vmxnet3", ""),
        )
        + disk("ide", "hda", "<serial>i j</serial><wwn>5000c50015ea71af</wwn>")
        + disk("ide", "hdd", "", "cdrom")
        + disk("virtio", "vda", "<serial>data 1</serial>")
        + scsi(0, "virtio-scsi")
        + disk("scsi", "sda", "<serial>x y</serial>" + drive(0, 0, 0))
        + disk("scsi", "sdb", "<wwn>5000c50015ea71ad</wwn><vendor>ACME</vendor>" + drive(0, 3, 0))
        + disk("scsi", "sdc", "<vendor>ACME</vendor><product>Box 2</product>" + drive(0, 1, 260))
        + scsi(1, "lsilogic")
        + disk("scsi", "sdd", drive(1, 0, 3))
        + disk("usb", "sde", "<serial>u v</serial>"),
        unplugged="52:54:00:00:00:02",
    ),
    "q35": Case(
        "q35",
        bus(1, "pcie-root-port", at(2, 0, 0, MULTI))
        + bus(2, "pcie-root-port", at(2, 0, 1))
        + bus(3, "pcie-root-port", at(2, 0, 3))
        + bus(4, "pcie-switch-upstream-port", at(0, 2))
        + bus(5, "pcie-switch-downstream-port", at(0, 4))
        + bus(6, "pcie-switch-downstream-port", at(1, 4))
        + nics(
            ("virtio", at(0, 1)),
            ("virtio", at(0, 3, 0, MULTI)),
            ("e1000e", at(0, 3, 1)),
            ("virtio", at(0, 5)),
            ("virtio", at(0, 6) + "<acpi index='7'/>"),
            ("virtio", at(0x10)),
            ("e1000", ""),
        )
        + "<controller type='usb' index='0' model='qemu-xhci'/>"
        + "<hub type='usb'><address type='usb' bus='0' port='2'/></hub>"
        + disk("sata", "sda", "<serial>abc</serial>")
        + disk("sata", "sdd", "", "cdrom")
        + disk("virtio", "vda")
        + disk("usb", "sde", "<address type='usb' bus='0' port='3'/>")
        + disk("usb", "sdf", "<serial>U</serial><address type='usb' bus='0' port='2.1'/>")
        + scsi(0, "vmpvscsi")
        + disk("scsi", "sdg", drive(0, 2, 0)),
    ),
    "q35-bridges": Case("pc-q35-7.2", BRIDGES),
    "q35-bridges-before-acpi": Case("pc-q35-6.0", BRIDGES),
    "expanders": Case(
        "q35",
        bus(1, "pcie-expander-bus", "<target busNr='200'/>")
        + bus(2, "pcie-root-port", at(0, 1))
        + bus(3, "pcie-root-port", at(1, 1))
        + nics(("virtio", at(0, 2)), ("virtio", at(0, 3)), ("virtio", at(5)))
        + disk("virtio", "vda"),
    ),
    "pc-bridges": Case(
        "pc",
        bus(1, "pci-bridge", at(4))
        + bus(2, "pci-bridge", at(3, 1))
        + bus(3, "pci-expander-bus", "<target busNr='100'/>" + at(11))
        + nics(
            ("e1000", at(4, 1)),
            ("e1000", at(5, 1)),
            ("virtio", at(6, 2)),
            ("virtio", at(6)),
            ("virtio", at(2, 3)),
            ("e1000", at(8, 1) + "<acpi index='9'/>"),
        ),
    ),
    "pc-bridges-without-acpi": Case(
        "pc",
        bus(1, "pci-bridge", at(4)) + nics(("e1000", at(5, 1)), ("virtio", at(7) + "<acpi index='2'/>")),
        features="<apic/>",
    ),
    "pc-bridges-of-2014": Case(
        "pc-i440fx-2.0",
        bus(1, "pci-bridge", at(4)) + nics(("e1000", at(5, 1)), ("virtio", at(7) + "<acpi index='2'/>")),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_predicted_names_are_those_of_a_linux(name: str, linux: Linux, qemu: str, tmp_path: Path) -> None:
    case, emulator, host = CASES[name], Emulator.probe(qemu), Host.nominal()
    text = f"""<domain type='qemu'><name>g</name><memory unit='MiB'>384</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='{case.machine}'>hvm</type></os><features>{case.features}</features>
<cpu mode='custom'><model>qemu64</model></cpu><on_reboot>destroy</on_reboot><devices>{case.devices}
<serial type='file'><source path='{tmp_path}/console'/></serial></devices></domain>"""
    guest = bootable(text, linux, tmp_path).define(emulator, host)
    if case.unplugged:
        guest = guest.detach(case.unplugged)
    seen = boot(guest, emulator, tmp_path)
    s = survey(guest, emulator, host)
    predicted, real = {}, {}
    for device, named in zip((*s.domain.lists["interface"], *s.domain.lists["disk"]), names(s), strict=True):
        links = {other for other in named.others if other.startswith("/dev/disk")}
        if named.kind == "interface":
            predicted[named.device] = (named.name, {named.name, *named.others})
            real[named.device] = seen.cards[device.node.value("mac/@address") or ""]
        else:
            number = int(Path(device.node.value("source/@file") or "").stem)
            predicted[named.device] = (named.name, {named.name, *links})
            real[named.device] = _links(named.name, links, seen, number)
    assert predicted == real


def _links(name: str, links: set[str], seen: Seen, number: int) -> tuple[str, set[str]]:
    """The links to a disk, but for those of another way to say the same."""
    found = {link for link in seen.disks.get(number, set()) if not _UNSAID.search(link)}
    return (name if name in found else "", found)


#: by-path/virtio-pci-… beside by-path/pci-…, ata-1 beside ata-1.0, and the path that stands for the serial number of
#: a USB disk that has none
_UNSAID = re.compile(r"/virtio-pci-|-ata-\d+$|/usb-QEMU_QEMU_HARDDISK_1-0000")
