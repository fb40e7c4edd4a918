"""Help texts of classic binaries: short ones written here, and all recorded ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qemushim.emulator.helptext import Rules, from_help, read_devices, read_machines, read_release
from qemushim.emulator.model import Emulator
from qemushim.errors import EmulatorError
from tests.conftest import CORPUS

HELP = CORPUS / "classic/help"
CASES: list[dict[str, Any]] = []
if (HELP / "manifest.json").exists():
    CASES = json.loads((HELP / "manifest.json").read_text())
FOLDERS = sorted((CORPUS / "classic/recorded").glob("*/help.txt"))
NO_CORPUS = "no conformance corpus beside this checkout"


def text(first: str, *lines: str) -> str:
    return "\n".join([f"{first}, Copyright (c) someone", "usage: qemu [options] [disk_image]", *lines, ""])


PLAIN = "QEMU PC emulator version 0.12.5"


# -- the first line ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "version", "package", "is_kvm", "number"),
    [
        ("QEMU PC emulator version 0.9.1", (0, 9, 1), "", False, 0),
        ("QEMU PC emulator version   0.10.5", (0, 10, 5), "", False, 0),
        ("QEMU PC emulator version 0.9.1 (kvm-77)", (0, 9, 1), "kvm-77", True, 77),
        ("QEMU PC emulator version 0.9.1 (kvm-84-maint)", (0, 9, 1), "kvm-84-maint", True, 84),
        ("QEMU PC emulator version 0.9.1 (kvm-devel)", (0, 9, 1), "kvm-devel", True, 0),
        ("QEMU PC emulator version 0.12.4 (qemu-kvm-0.12.4)", (0, 12, 4), "qemu-kvm-0.12.4", True, 0),
        ("QEMU PC emulator version 0.10.50 (qemu-kvm-devel-86)", (0, 10, 50), "qemu-kvm-devel-86", True, 0),
        ("QEMU emulator version 1.0", (1, 0, 0), "", False, 0),
        ("QEMU emulator version 1.2.1 (Vendor 1.2.1-3)", (1, 2, 1), "", False, 0),
    ],
)
def test_release(first: str, version: tuple[int, int, int], package: str, is_kvm: bool, number: int) -> None:
    release = read_release(text(first))
    assert (release.version, release.package, release.is_kvm, release.kvm_version) == (
        *(version, package),
        *(is_kvm, number),
    )


@pytest.mark.parametrize(
    "first", ["", "bash: qemu: command not found", "EMU emulator version 1.0", "QEMU emulator"]
)
def test_no_help_text(first: str) -> None:
    with pytest.raises(EmulatorError, match="not a QEMU help text"):
        from_help(first)


@pytest.mark.parametrize("first", ["QEMU emulator version 0.15.1", "QEMU PC emulator version 1.0"])
def test_early_rules_refuse_later_first_lines(first: str) -> None:
    with pytest.raises(EmulatorError, match=r"libvirt 0\.8\.0 does not accept"):
        from_help(text(first), rules="0.8.0")
    assert from_help(text(first)).classic


# -- the options ---------------------------------------------------------------------------------------------


def flags(*lines: str, first: str = PLAIN, rules: Rules = "1.0.0", devices: str = "") -> frozenset[str]:
    """The capabilities that the lines add to those of the bare version."""
    return (
        from_help(text(first, *lines), rules=rules, devices_text=devices).flags
        - from_help(text(first), rules=rules).flags
    )


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-no-kqemu  x", {"kqemu"}),
        ("-no-kvm-irqchip", {"kvm"}),
        ("-no-kvm-pit-reinjection", {"kvm", "no-kvm-pit"}),
        ("-drive file=x,format=f,serial=s,boot=on", {"drive", "drive-format", "drive-serial", "drive-boot"}),
        ("-drive [,cache=writethrough|writeback|none]", {"drive", "drive-cache-v2"}),
        ("-other format=f", set()),
        ("-vga [std|cirrus]", {"vga"}),
        ("-vga x\n-std-vga", set()),
        ("-rtc-td-hack", {"rtc-td-hack"}),
        ("-rtc [base=utc]", {"rtc"}),
        ("-smp n[,cores=c][,threads=t]", set()),
        ("-smp n[,cores=c][,threads=t][,sockets=s]", {"smp-topology"}),
        ("-xen-domid id", {"xen-domid"}),
        ("-domid id", {"domid"}),
        ("-device driver", {"device"}),
        ("-pcidevice host", {"pcidevice"}),
    ],
)
def test_words_of_both_rules(line: str, expected: set[str]) -> None:
    assert flags(line, rules="0.8.0") == expected
    assert flags(line) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-vga [std|none]\n", {"vga", "vga-none"}),
        ("-vga [std]\n        select\n        qxl maybe\n-other none", {"vga", "vga-qxl"}),
        (
            "-drive [,cache=writethrough|writeback|none|unsafe]",
            {"drive", "drive-cache-v2", "drive-cache-unsafe"},
        ),
        ("-fsdev d,id=i[,readonly]", {"fsdev", "fsdev-readonly"}),
        ("-fsdev d,id=i\n      [,writeout=immediate]", {"fsdev", "fsdev-writeout"}),
        ("-name a[,process=b]", {"name", "name-process"}),
        ("-smbios file=b", set()),
        ("-smbios type=0", {"smbios-type"}),
        ("-vnc display", {"vnc"}),
        ("-spice x\n-enable-nesting\n-no-acpi", {"spice", "nesting", "no-acpi"}),
        ("-qmp dev\n-netdev [user|bridge]", {"netdev-bridge"}),
        ("-qmp dev\n-netdev [user]\nuse libvirt instead", {"monitor-json", "netdev"}),
    ],
)
def test_words_of_the_later_rules(line: str, expected: set[str]) -> None:
    assert flags(line) == expected


def test_mature_qmp() -> None:
    assert flags("-qmp dev", "-netdev [user]", first="QEMU emulator version 0.13.0") == {
        "monitor-json",
        "netdev",
    }


@pytest.mark.parametrize(
    ("first", "rules", "expected"),
    [
        ("QEMU PC emulator version 0.8.2", "0.8.0", set()),
        ("QEMU PC emulator version 0.9.0", "0.8.0", {"vnc-colon"}),
        ("QEMU PC emulator version 0.9.1 (kvm-73)", "0.8.0", {"vnc-colon", "migrate-kvm-stdio"}),
        ("QEMU PC emulator version 0.9.1 (kvm-74)", "0.8.0", {"vnc-colon", "migrate-kvm-stdio", "vnet-hdr"}),
        ("QEMU PC emulator version 0.9.1 (kvm-79)", "0.8.0", {"vnc-colon", "vnet-hdr", "migrate-qemu-tcp"}),
        (
            "QEMU PC emulator version 0.9.1 (kvm-80)",
            "0.8.0",
            {"vnc-colon", "vnet-hdr", "migrate-qemu-tcp", "migrate-qemu-exec"},
        ),
        (
            "QEMU PC emulator version 0.10.0",
            "0.8.0",
            {"vnc-colon", "0-10", "migrate-qemu-tcp", "migrate-qemu-exec"},
        ),
    ],
)
def test_versions(first: str, rules: Rules, expected: set[str]) -> None:
    assert from_help(text(first), rules=rules).flags == expected


def test_vhost_is_called_differently() -> None:
    fork = "QEMU PC emulator version 0.12.5 (qemu-kvm-0.12.5)"
    assert flags("-net tap[,vhost=on|off]", first=fork, rules="0.8.0") == {"vnet-host"}
    assert flags("-net tap[,vhost=on|off]", first=fork) == {"vhost-net"}
    assert flags("-net tap[,vhost=on|off]", rules="0.8.0") == set()


# -- devices and machines ------------------------------------------------------------------------------------

DEVICES = """\
open /dev/kvm: not here
name "lsi53c895a", bus PCI, alias "lsi"
name "usb-hub", bus USB
name "kvm-pci-assign", bus PCI, alias "pci-assign", desc "takes a card, away"
virtio-blk-pci.scsi=on/off
kvm-pci-assign.configfd=string
"""


def test_devices() -> None:
    types, properties = read_devices(DEVICES)
    assert types == {"lsi53c895a", "lsi", "usb-hub", "kvm-pci-assign", "pci-assign"}
    assert properties["virtio-blk-pci"] == {"scsi"}
    assert properties["pci-assign"] == properties["kvm-pci-assign"] == {"configfd"}
    assert flags(devices=DEVICES) == {"scsi-lsi", "usb-hub", "virtio-blk-scsi", "pci-configfd"}
    assert flags(devices=DEVICES, rules="0.8.0") == set()


MACHINES = """\
Supported machines are:
isapc      ISA-only PC
pc         Standard PC (alias of pc-0.99)
pc-0.99    Standard PC (default)
pc-0.98    Standard PC, qemu 0.98
"""


def test_machines() -> None:
    default, other, older = read_machines(MACHINES)
    assert (default.name, default.alias, default.is_default) == ("pc-0.99", "pc", True)
    assert default.description == "Standard PC"
    assert (other.name, other.description) == ("isapc", "ISA-only PC")
    assert (older.name, older.description) == ("pc-0.98", "Standard PC, qemu 0.98")


def test_machines_of_an_emulator() -> None:
    emulator = Emulator.from_help(text(PLAIN), machines_text=MACHINES)
    assert emulator.canonical_machine("pc") == "pc-0.99"
    assert emulator.machine("pc") == emulator.default_machine()


def test_without_machine_list_there_is_pc() -> None:
    machine = from_help(text(PLAIN), machines_text="qemu: what?").default_machine()
    assert machine is not None
    assert machine.name == "pc"


@pytest.mark.parametrize(
    ("lines", "binary", "arch"),
    [
        ((), "", "x86_64"),
        ((), "/usr/bin/qemu", "i686"),
        ((), "/usr/bin/qemu-kvm", "x86_64"),
        ((), "/opt/qemu-system-arm", "armv7l"),
        (("usage: qemu-system-ppc64 [options]",), "", "ppc64"),
    ],
)
def test_architecture(lines: tuple[str, ...], binary: str, arch: str) -> None:
    assert from_help(text(PLAIN, *lines), binary=binary).arch == arch


def test_accelerators() -> None:
    assert [a.name for a in from_help(text(PLAIN)).accelerators] == ["tcg"]
    assert [a.name for a in from_help(text(PLAIN, "-enable-kvm")).accelerators] == ["kvm", "tcg"]


def test_number_of_a_fork_that_names_none() -> None:
    help_text = text("QEMU PC emulator version 0.9.1 (kvm-devel)")
    assert "vnet-hdr" not in from_help(help_text).flags
    emulator = from_help(help_text, kvm_version=81)
    assert (emulator.is_kvm_fork, emulator.kvm_version) == (True, 81)
    assert "vnet-hdr" in emulator.flags


# -- the texts of the corpus ---------------------------------------------------------------------------------


@pytest.mark.skipif(not CASES, reason=NO_CORPUS)
@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_text_of_the_corpus(case: dict[str, Any]) -> None:
    help_text = (HELP / case["file"]).read_text()
    devices = (HELP / case["device_file"]).read_text() if "device_file" in case else ""
    emulator = from_help(help_text, devices_text=devices)
    assert emulator.flags == set(case.get("v1.0.0_capabilities", case["capabilities"]))
    assert (emulator.is_kvm_fork, emulator.kvm_version) == (case["is_kvm"], case["kvm_version"])
    assert ".".join(map(str, emulator.version)) == case["version"]
    early = case.get("v0.8.0_rules", {"parses": True, "capabilities": case["capabilities"]})
    if early["parses"]:
        assert from_help(help_text, rules="0.8.0").flags == set(early["capabilities"])
    else:
        with pytest.raises(EmulatorError):
            from_help(help_text, rules="0.8.0")


@pytest.mark.skipif(not FOLDERS, reason=NO_CORPUS)
@pytest.mark.parametrize("file", FOLDERS, ids=[file.parent.name for file in FOLDERS])
def test_recorded_binary(file: Path) -> None:
    def beside(name: str) -> str:
        path = file.with_name(name)
        return path.read_text() if path.exists() else ""

    devices = beside("devices.txt")
    emulator = from_help(file.read_text(), machines_text=beside("machines.txt"), devices_text=devices)
    default = emulator.default_machine()
    assert default is not None
    assert default.is_default
    assert emulator.machine("pc") == default
    assert emulator.has_device("virtio-net-pci") == bool(devices)
