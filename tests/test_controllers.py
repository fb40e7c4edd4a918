"""``<controller>``: defaults, implicit ones, their order and indexes, their options."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Host
from tests.small_guests import ARM, LATEST, PSERIES, RISCV, S390, document, refusal, stored, tokens, values

PPC = Emulator.recorded("7.2.0", "ppc")
SPARC = Emulator.recorded("9.0.0", "sparc")
LOONGARCH = Emulator.recorded("8.2.0", "loongarch64")
LEAN = "<memballoon model='none'/>"


def controllers(devices: str, emulator: Emulator = LATEST, machine: str = "pc") -> list[tuple[str, str, str]]:
    """(type, index, model) in the order of the definition."""
    xml = stored(devices, emulator, "", machine)
    return re.findall(r"<controller type='([^']+)' index='(\d+)'(?: model='([^']+)')?", xml)


def options(devices: str, emulator: Emulator = LATEST, machine: str = "pc") -> list[dict[str, Any]]:
    """The properties of every ``-device``."""
    found = values("-device", tokens(devices, emulator, machine=machine))
    return [json.loads(word) for word in found]


def option(devices: str, driver: str, emulator: Emulator = LATEST, machine: str = "pc") -> dict[str, Any]:
    """The properties of the device of one driver, behind ``driver``."""
    found = next(o for o in options(devices, emulator, machine) if o["driver"] == driver)
    return {key: value for key, value in found.items() if key != "driver"}


# -- what a guest has by itself ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emulator", "machine", "expected"),
    [
        (LATEST, "pc", ["usb piix3-uhci", "pci pci-root"]),
        (LATEST, "q35", ["usb qemu-xhci", "sata ", "pci pcie-root"]),
        (LATEST, "isapc", []),
        (ARM, "virt", ["pci pcie-root"]),
        (ARM, "versatilepb", ["usb pci-ohci", "pci pci-root"]),
        (PSERIES, "pseries", ["usb qemu-xhci", "pci pci-root"]),
        (PSERIES, "mac99", ["usb qemu-xhci", "pci pci-root"]),
        (PPC, "mac99", ["usb piix3-uhci", "pci pci-root"]),
        (RISCV, "virt", ["pci pcie-root"]),
        (RISCV, "spike", []),
        (S390, "s390-ccw-virtio", ["pci pci-root"]),
        (LOONGARCH, "virt", ["pci pcie-root"]),
        (SPARC, "SS-5", []),
    ],
)
def test_implicit_controllers(emulator: Emulator, machine: str, expected: list[str]) -> None:
    found = (
        controllers(LEAN, emulator, machine) if emulator is not SPARC else controllers("", emulator, machine)
    )
    assert [f"{kind} {model}" for kind, index, model in found if index == "0"] == expected


@pytest.mark.parametrize(
    ("missing", "models"),
    [
        (["qemu-xhci"], ["nec-xhci"]),
        (["qemu-xhci", "nec-usb-xhci"], ["ich9-ehci1", "ich9-uhci1", "ich9-uhci2", "ich9-uhci3"]),
        (["qemu-xhci", "nec-usb-xhci", "ich9-usb-ehci1"], []),
    ],
)
def test_usb_of_q35_is_the_best_there_is(missing: list[str], models: list[str]) -> None:
    found = controllers(LEAN, LATEST.with_flags(remove=missing), "q35")
    assert [model for kind, _, model in found if kind == "usb"] == models


@pytest.mark.parametrize(
    ("emulator", "machine", "model"),
    [
        (LATEST, "pc", "piix3-uhci"),
        (LATEST, "q35", "piix3-uhci"),
        (ARM, "virt", "qemu-xhci"),
        (RISCV, "virt", "piix3-uhci"),
        (LOONGARCH, "virt", "qemu-xhci"),
        (S390, "s390-ccw-virtio", "none"),
        (PSERIES, "pseries", "qemu-xhci"),
    ],
)
def test_usb_controller_without_model(emulator: Emulator, machine: str, model: str) -> None:
    assert ("usb", "0", model) in controllers("<controller type='usb'/>" + LEAN, emulator, machine)


def test_an_existing_pseries_guest_keeps_its_old_usb_controller() -> None:
    text = document("<controller type='usb'/>", "ppc64")
    xml = Guest.from_xml(text).define(PSERIES, Host.nominal("ppc64"), update=False).to_xml()
    assert "<controller type='usb' index='0' model='pci-ohci'>" in xml


def test_no_usb_controller_that_would_do() -> None:
    bare = LATEST.with_flags(remove=["piix3-usb-uhci"])
    assert refusal("<controller type='usb'/>", bare) == (
        "unsupported configuration: no model provided for USB controller"
    )
    old = LATEST.with_flags(remove=["nec-usb-xhci"])
    assert refusal("<controller type='usb' model='nec-xhci'/>", old) == (
        "unsupported configuration: USB controller model 'nec-xhci' not supported in this QEMU binary"
    )


@pytest.mark.parametrize(
    ("emulator", "machine", "model"),
    [
        (LATEST, "pc", "lsilogic"),
        (LATEST.with_flags(remove=["lsi"]), "pc", "virtio-scsi"),
        (PSERIES, "pseries", "ibmvscsi"),
        (S390, "s390-ccw-virtio", "virtio-scsi"),
        (LOONGARCH, "virt", "virtio-scsi"),
        (SPARC, "SS-5", "ncr53c90"),
    ],
)
def test_scsi_controller_without_model(emulator: Emulator, machine: str, model: str) -> None:
    for asked in ("", " model='auto'"):
        assert ("scsi", "0", model) in controllers(f"<controller type='scsi'{asked}/>", emulator, machine)


def test_disks_bring_their_controllers() -> None:
    disk = "<disk type='file'><source file='/{0}'/><target dev='{0}' bus='{1}'/></disk>"
    devices = disk.format("sdh", "scsi") + disk.format("sdg", "sata") + disk.format("hda", "ide")
    found = controllers(devices + disk.format("fda", "fdc").replace("<disk", "<disk device='floppy'"))
    assert [f"{kind}{index}" for kind, index, _ in found] == [
        *("usb0", "pci0", "scsi0", "scsi1", "fdc0", "ide0", "sata0", "sata1"),
    ]


# -- indexes and order -------------------------------------------------------------------------------------


def test_lowest_unused_index_where_the_document_has_them() -> None:
    scsi = "<controller type='scsi'{} model='virtio-scsi'/>"
    found = controllers(scsi.format(" index='1'") + scsi.format("") + scsi.format(""))
    assert [index for kind, index, _ in found if kind == "scsi"] == ["1", "0", "2"]


def test_parts_of_a_usb2_controller_share_an_index() -> None:
    part = "<controller type='usb' model='ich9-{}'/>"
    devices = "".join(part.format(model) for model in ("ehci1", "uhci1", "uhci2", "ehci1", "uhci1"))
    found = [(index, model) for kind, index, model in controllers(devices) if kind == "usb"]
    assert found == [
        ("0", "ich9-ehci1"),
        ("0", "ich9-uhci1"),
        ("0", "ich9-uhci2"),
        ("1", "ich9-ehci1"),
        ("1", "ich9-uhci1"),
    ]


def test_order_by_index_with_the_master_first() -> None:
    devices = (
        "<controller type='usb' index='1' model='nec-xhci'/>"
        "<controller type='usb' index='0' model='ich9-uhci1'/>"
        "<controller type='scsi' index='2'/>"
        "<controller type='usb' index='0' model='ich9-ehci1'/>"
        "<controller type='scsi' index='0'/>"
    )
    found = [(kind, index, model) for kind, index, model in controllers(devices) if kind in ("usb", "scsi")]
    assert [f"{kind}{index} {model}" for kind, index, model in found] == [
        "usb0 ich9-ehci1",
        "usb0 ich9-uhci1",
        "usb1 nec-xhci",
        "scsi0 lsilogic",
        "scsi2 lsilogic",
    ]


def test_disks_of_a_bus_stand_together_by_name() -> None:
    disk = "<disk type='file'><source file='/{0}'/><target dev='{0}' bus='{1}'/></disk>"
    names = [
        ("vdc", "virtio"),
        ("hdb", "ide"),
        ("vda", "virtio"),
        ("hda", "ide"),
        ("vdaa", "virtio"),
        ("vdb", "virtio"),
    ]
    xml = stored("".join(disk.format(*name) for name in names))
    assert re.findall(r"<target dev='(\w+)'", xml) == ["vda", "vdb", "vdc", "vdaa", "hda", "hdb"]


# -- refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (
            "<controller type='usb' index='0' model='ich9-uhci2'/>",
            "No master USB controller specified",
        ),
        (
            "<controller type='usb' model='none'/><controller type='usb' model='ehci'/>",
            "Can't add another USB controller: USB is disabled for this domain",
        ),
        (
            "<controller type='usb' index='0' model='qemu-xhci' ports='16'/>",
            "unsupported configuration: 'qemu-xhci' controller only supports up to '15' ports",
        ),
        (
            "<controller type='virtio-serial'><driver iothread='1'/></controller>",
            "XML error: 'iothread' attribute only supported for virtio scsi controllers",
        ),
        (
            "<controller type='pci' index='-1' model='pci-bridge'/>",
            (
                "XML error: Invalid value for attribute 'index' in element 'controller': '-1'. "
                "Expected non-negative value"
            ),
        ),
        ("<controller type='scsi' model='fast'/>", "unsupported configuration: Unknown model type 'fast'"),
        (
            "<controller type='quick'/>",
            "XML error: Invalid value for attribute 'type' in element 'controller': 'quick'.",
        ),
        (
            "<controller type='ide' index='1'/>",
            "unsupported configuration: Only a single IDE controller is supported for this machine type",
        ),
        (
            "<controller type='scsi' model='buslogic'/>",
            "unsupported configuration: Unsupported controller model: buslogic",
        ),
    ],
)
def test_refusals(devices: str, message: str) -> None:
    assert refusal(devices) == message


@pytest.mark.parametrize(
    ("inside", "index", "message"),
    [
        (
            "<target><node>0</node></target>",
            0,
            "The PCI controller with index=0 can't be associated with a NUMA node",
        ),
        (
            "<target index='0'/>",
            1,
            "Only the PCI controller with index 0 can have target index 0, and vice versa",
        ),
        (
            "<target index='1'/>",
            0,
            "Only the PCI controller with index 0 can have target index 0, and vice versa",
        ),
        ("<target index='31'/>", 1, "PCI controller target index '31' out of range - must be 0-30"),
    ],
)
def test_host_bridges_of_pseries(inside: str, index: int, message: str) -> None:
    devices = f"<controller type='pci' index='{index}' model='pci-root'>{inside}</controller>"
    assert refusal(devices, PSERIES) == f"unsupported configuration: {message}"


def test_options_that_a_model_does_not_have() -> None:
    devices = "<controller type='pci' index='1' model='pci-bridge'><target busNr='5'/></controller>"
    assert "Option 'busNr' is not valid for PCI controller with index '1', model 'pci-bridge'" in refusal(
        devices
    )


# -- options -----------------------------------------------------------------------------------------------


def test_pci_controllers() -> None:
    reserve = "<target chassisNr='7' memReserve='2048'/>"
    bridge = f"<controller type='pci' index='1' model='pci-bridge'>{reserve}</controller>"
    assert option(bridge, "pci-bridge") == {
        "chassis_nr": 7,
        "mem-reserve": 2048 * 1024,
        "id": "pci.1",
        "bus": "pci.0",
        "addr": "0x2",
    }
    port = "<controller type='pci' index='1' model='pcie-root-port'><target hotplug='off'/></controller>"
    port += LEAN + "<controller type='usb' model='none'/>"
    assert option(port, "pcie-root-port", machine="q35") == {
        "port": 8,
        "chassis": 1,
        "id": "pci.1",
        "hotplug": False,
        "bus": "pcie.0",
        "addr": "0x1",
    }
    phb = "<controller type='pci' index='1' model='pci-root'/>"
    on_pseries = values("-device", tokens(phb, PSERIES))
    assert '{"driver":"spapr-pci-host-bridge","index":1,"id":"pci.1"}' in on_pseries


def test_expander_on_a_numa_node() -> None:
    numa = "<cpu><numa><cell id='0' cpus='0' memory='262144'/></numa></cpu>"
    target = "<target><node>0</node></target>"
    expander = f"<controller type='pci' index='1' model='pci-expander-bus'>{target}</controller>"
    argv = tokens(expander, extra=numa)
    found = next(word for word in values("-device", argv) if '"pxb"' in word)
    assert json.loads(found) | {"addr": ""} == {
        "driver": "pxb",
        "bus_nr": 254,
        "id": "pci.1",
        "numa_node": 0,
        "bus": "pci.0",
        "addr": "",
    }


def test_root_of_i440fx_without_hotplug() -> None:
    argv = tokens("<controller type='pci' index='0' model='pci-root'><target hotplug='off'/></controller>")
    assert "PIIX4_PM.acpi-root-pci-hotplug=off" in values("-global", argv)


def test_address_space_above_4_gib() -> None:
    hole = "<controller type='pci' index='0' model='{}'><pcihole64 unit='MiB'>2</pcihole64></controller>"
    assert "i440FX-pcihost.pci-hole64-size=2048K" in values("-global", tokens(hole.format("pci-root")))
    on_q35 = tokens(hole.format("pcie-root"), machine="q35")
    assert "q35-pcihost.pci-hole64-size=2048K" in values("-global", on_q35)


def test_usb_controllers() -> None:
    xhci = "<controller type='usb' index='0' model='qemu-xhci' ports='5'/>"
    assert option(xhci, "qemu-xhci") == {"p2": 5, "p3": 5, "id": "usb", "bus": "pci.0", "addr": "0x2"}
    parts = "".join(f"<controller type='usb' model='ich9-{model}'/>" for model in ("ehci1", "uhci1", "uhci2"))
    assert option(parts, "ich9-usb-uhci2") == {
        "masterbus": "usb.0",
        "firstport": 2,
        "bus": "pci.0",
        "addr": "0x2.0x1",
    }


def test_virtio_scsi_controller() -> None:
    driver = "<driver queues='4' cmd_per_lun='8' max_sectors='512' ioeventfd='on' iommu='on'/>"
    devices = f"<controller type='scsi' model='virtio-scsi'>{driver}</controller>"
    assert option(devices, "virtio-scsi-pci") == {
        "iommu_platform": True,
        "id": "scsi0",
        "num_queues": 4,
        "cmd_per_lun": 8,
        "max_sectors": 512,
        "ioeventfd": True,
        "bus": "pci.0",
        "addr": "0x2",
    }
    assert "driver" in next(
        o for o in options(devices, S390, "s390-ccw-virtio") if o["driver"] == "virtio-scsi-ccw"
    )


@pytest.mark.parametrize("model", ["virtio-transitional", "virtio-non-transitional"])
def test_strict_virtio_models(model: str) -> None:
    devices = f"<controller type='scsi' model='{model}'/>"
    assert option(devices, f"virtio-scsi-pci{model.removeprefix('virtio')}")["id"] == "scsi0"


def test_virtio_serial_controller() -> None:
    devices = "<controller type='virtio-serial' index='0' ports='16' vectors='4'/>"
    assert option(devices, "virtio-serial-pci") == {
        "id": "virtio-serial0",
        "max_ports": 16,
        "vectors": 4,
        "bus": "pci.0",
        "addr": "0x2",
    }


def test_built_in_controllers_have_no_option() -> None:
    disk = "<disk type='file'><source file='/a'/><target dev='{}' bus='{}'/></disk>"
    assert not [
        o for o in options(disk.format("hda", "ide") + LEAN) if o["driver"].startswith(("ide-p", "piix3-ide"))
    ]
    on_q35 = options(disk.format("sda", "sata") + LEAN, machine="q35")
    assert "ahci" not in [o["driver"] for o in on_q35]
    assert option("<controller type='sata' index='1'/>", "ahci", machine="q35")["id"] == "sata1"


def test_json_is_not_for_old_binaries() -> None:
    old = Emulator.recorded("6.2.0")
    argv = tokens("<controller type='virtio-serial' index='0'/>", old)
    assert "virtio-serial-pci,id=virtio-serial0,bus=pci.0,addr=0x2" in values("-device", argv)
