"""Inputs, hubs, watchdogs, panic devices, the balloon, NVRAM and pstore."""

from __future__ import annotations

import json

import pytest

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host

LATEST = Emulator.recorded("10.0.0")
S390 = Emulator.recorded("10.0.0", "s390x")
PSERIES = Emulator.recorded("7.1.0", "ppc64")
ARM = Emulator.recorded("8.2.0", "aarch64")

MACHINES = {"aarch64": "virt", "ppc64": "pseries", "s390x": "s390-ccw-virtio", "x86_64": "pc"}


def domain(devices: str, arch: str = "x86_64", machine: str = "") -> str:
    return f"""<domain type='qemu'><name>g</name><uuid>2d1f1aee-8a8c-4b2e-9a5b-0d7a3a0f1c11</uuid>
<memory unit='MiB'>512</memory><vcpu>1</vcpu>
<os><type arch='{arch}' machine='{machine or MACHINES[arch]}'>hvm</type></os>
<features><acpi/></features>
<devices>{devices}</devices></domain>"""


def xml(devices: str, emulator: Emulator = LATEST, machine: str = "") -> str:
    text = domain(devices, emulator.arch, machine)
    if emulator.arch != "x86_64":
        text = text.replace("<features><acpi/></features>", "")
    return text


def stored(devices: str, emulator: Emulator = LATEST, machine: str = "") -> str:
    guest = Guest.from_xml(xml(devices, emulator, machine))
    return guest.define(emulator, Host.nominal(emulator.arch)).to_xml()


def values(devices: str, flag: str, emulator: Emulator = LATEST, machine: str = "") -> list[str]:
    guest = Guest.from_xml(xml(devices, emulator, machine))
    tokens = guest.command(emulator, Host.nominal(emulator.arch)).tokens
    return [tokens[i + 1] for i, token in enumerate(tokens) if token == flag]


def made(
    devices: str, *drivers: str, emulator: Emulator = LATEST, machine: str = ""
) -> list[dict[str, object]]:
    found = [json.loads(text) for text in values(devices, "-device", emulator, machine)]
    return [device for device in found if device["driver"].startswith(drivers)]


# -- input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emulator", "kind", "bus"),
    [
        (LATEST, "mouse", "ps2"),
        (LATEST, "tablet", "usb"),
        (S390, "keyboard", "virtio"),
        (ARM, "mouse", "usb"),
    ],
)
def test_default_bus(emulator: Emulator, kind: str, bus: str) -> None:
    extra = "<controller type='usb' model='qemu-xhci'/>" if bus == "usb" else ""
    assert f"<input type='{kind}' bus='{bus}'" in stored(f"{extra}<input type='{kind}'/>", emulator)


def test_inputs() -> None:
    found = made(
        "<input type='tablet'/><input type='keyboard' bus='virtio'><driver ats='on'/></input>"
        "<input type='passthrough'><source evdev='/dev/input/event3'/></input>",
        "usb-tablet", "virtio-keyboard", "virtio-input-host",
    )  # fmt: skip
    tablet, keyboard, host = found
    assert tablet["bus"] == "usb.0"
    assert keyboard["ats"] is True
    assert host["evdev"] == "/dev/input/event3"


def test_qemu_reads_an_input_device() -> None:
    device = (
        "<input type='evdev'><source dev='/dev/e,1' grab='all' grabToggle='scrolllock' repeat='off'/></input>"
    )
    found = [json.loads(text) for text in values(device, "-object")]
    reader = next(o for o in found if o["qom-type"] == "input-linux")
    assert list(reader.items())[2:] == [
        ("evdev", "/dev/e,1"),
        ("repeat", False),
        ("grab_all", True),
        ("grab-toggle", "scrolllock"),
    ]
    assert "<input type='evdev'>" in stored(device)


@pytest.mark.parametrize(
    ("device", "words"),
    [
        ("<input type='tablet' bus='ps2'/>", "ps2 bus does not support tablet input device"),
        ("<input type='mouse' bus='xen'/>", "unsupported input bus xen"),
        ("<input type='passthrough'><source/></input>", "Missing evdev path"),
        ("<input type='evdev'><source/></input>", "Missing evdev path"),
        (
            "<input type='mouse' bus='virtio' model='virtio-transitional'/>",
            "virtio (non-)transitional models are not supported for input type=mouse",
        ),
        ("<input type='joystick'/>", "unknown input device type 'joystick'"),
        ("<hub type='pci'/>", "unknown hub device type 'pci'"),
        ("<memballoon model='virtio'/><memballoon model='none'/>", "single memory balloon"),
        ("<memballoon model='xen'/>", "a device with connect flags 00"),
        (
            "<watchdog model='ib700' action='reset'/><watchdog model='i6300esb' action='none'/>",
            "watchdogs with different actions",
        ),
        ("<watchdog model='diag288'/>", "s390"),
        ("<watchdog model='itco'/>", "itco"),
        ("<watchdog/>", "Missing required attribute 'model' in element 'watchdog'"),
        ("<panic model='s390'/>", "only S390 guests support panic device of model 's390'"),
        (
            "<panic model='hyperv'><address type='isa' iobase='0x505'/></panic>",
            "not supported for model 'hyperv'",
        ),
        ("<panic model='pvpanic'><address type='isa' iobase='0x505'/></panic>", "only with PCI address type"),
        ("<nvram/>", "PPC64"),
        ("<pstore backend='ramoops'/>", "'backend' in element 'pstore': 'ramoops'"),
    ],
)
def test_refused(device: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        stored(device)
    assert words in refused.value.message


# -- the others ----------------------------------------------------------------------------------------------


def test_watchdogs_share_one_action() -> None:
    device = "<watchdog model='i6300esb' action='dump'/>"
    assert [d["driver"] for d in made(device, "i6300esb", machine="q35")] == ["i6300esb"]
    # the chipset's own joins in
    assert values(device, "-global", machine="q35") == ["ICH9-LPC.noreboot=off"]
    assert values(device, "-watchdog-action", machine="q35") == ["pause"]
    assert "<watchdog model='itco' action='dump'/>" in stored(device, machine="q35")


def test_panic_devices() -> None:
    assert "<panic model='isa'/>" in stored("<panic/>")
    assert made("<panic><address type='isa' iobase='0x507'/></panic>", "pvpanic") == [
        {"driver": "pvpanic", "ioport": 0x507}
    ]
    assert [d["driver"] for d in made("<panic model='pvpanic'/>", "pvpanic")] == ["pvpanic-pci"]
    assert not made("<panic model='hyperv'/>", "pvpanic")
    assert "<panic model='pseries'/>" in stored("<panic/>", PSERIES)


def test_balloon() -> None:
    device = "<memballoon model='virtio' autodeflate='on'><stats period='{}'/></memballoon>"
    assert "<stats period='10'/>" in stored(device.format(10))
    assert "<stats" not in stored(device.format(0))
    assert made(device.format(5), "virtio-balloon")[0]["deflate-on-oom"] is True
    assert made(device.format(5), "virtio-balloon", emulator=S390)[0]["driver"] == "virtio-balloon-ccw"
    assert not made("<memballoon model='none'/>", "virtio-balloon")


def test_nvram_of_pseries() -> None:
    device = "<nvram><address type='spapr-vio' reg='0x3000'/></nvram>"
    assert "spapr-nvram.reg=0x3000" in values(device, "-global", PSERIES)


def test_pstore() -> None:
    device = "<pstore backend='acpi-erst'><size unit='KiB'>16</size></pstore>"
    assert "<path>/var/lib/libvirt/qemu/nvram/g_PSTORE.raw</path>" in stored(device, machine="q35")
    memory = next(
        o for o in map(json.loads, values(device, "-object", machine="q35")) if o["id"] == "mempstore0"
    )
    assert memory["size"] == 16384
    assert made(device, "acpi-erst", machine="q35")[0]["memdev"] == "mempstore0"
