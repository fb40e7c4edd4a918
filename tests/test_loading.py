"""What a short run loads: half of a cold start is loading modules, so nobody is to add one unseen.

A module that is needed now and then is imported in the function that needs it.  A kind of device is looked up in
``devices.BY_TAG``, what an element may hold in ``Item.schema``: both are made when a document has one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from qemushim.devices import BY_TAG
from qemushim.devices.base import Device
from tests.conftest import ROOT

GUEST = """\
<domain type='kvm'>
  <name>small</name>
  <uuid>3f1c6b64-7d0e-4c5a-9a55-1f6f0a3f2d11</uuid>
  <memory unit='GiB'>1</memory>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <disk type='file'>
      <driver name='qemu' type='qcow2'/>
      <source file='/images/small.qcow2'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:0a:01:10'/>
      <source network='default'/>
      <model type='virtio'/>
    </interface>
    <graphics type='vnc'/>
%s  </devices>
</domain>
"""
#: folder → the modules that the command line of such a guest may load
NEEDED = {
    "": "address board cli command context devices document emulator errors guest host machine",
    "address": "assign ccw check chipset dimm drive indexes needs numbers past pci pcigroups pcilayout pcioptions "
    "spapr_vio usb virtio virtio_serial walk zpci",
    "cli": "argv common",
    "command": "command layout option",
    "devices": "address alias audio base block_image block_limits block_nodes block_protocols block_secrets "
    "block_volume bootindex chardev charsource controller controller_check disk disk_check disk_frontend "
    "disks_together export graphics graphics_kind graphics_spice idmap input interface interface_check label "
    "membackend memballoon netdev pairing placement prepare sharedmem storage storage_check "
    "storage_define video watchdog",
    "document": "fields item node parse sizes units writer",
    "emulator": "bundled model snapshot",
    "machine": "boot clock consoles cpu cpudecode cpuhost cpumap cpunames cpuoption cpustart cputune domain "
    "environment features firmware identity implicit interconnect machine memory misc namespace numa "
    "order pluggable security smbios throttle tune validate vcpu",
}
#: of Python and of others: what is large, and loaded only where it is needed
LARGE = {
    *(
        "asyncio",
        "base64",
        "concurrent",
        "dataclasses",
        "datetime",
        "email",
        "hashlib",
        "inspect",
        "ipaddress",
    ),
    *("logging", "multiprocessing", "pathlib", "pickle", "random", "shlex", "shutil", "socket", "subprocess"),
    *("tempfile", "textwrap", "urllib", "uuid"),
    *("libvirt", "lxml", "platformdirs", "qemu", "rich", "shtab"),
}


#: runs the tool
TOOL = "from qemushim.cli import main; main(sys.argv[1:])"
#: takes a command line apart, which some Pythons load large things for
ARGPARSE = """\
import argparse
parser = argparse.ArgumentParser(formatter_class=lambda prog: argparse.HelpFormatter(prog, width=80))
parser.add_argument("file")
parser.parse_args(["file"])
"""


def loaded(*words: str, code: str = TOOL) -> set[str]:
    """The modules that a program has loaded at its end."""
    program = f"import sys; {code}\nprint(*sys.modules, file=sys.stderr)"
    done = subprocess.run(
        (sys.executable, "-c", program, *words), cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stderr.splitlines()[-1].split())


@pytest.fixture(scope="module")
def large() -> set[str]:
    return LARGE - loaded(code=ARGPARSE)


def own(modules: set[str]) -> set[str]:
    return {name.removeprefix("qemushim.") for name in modules if name.startswith("qemushim.")}


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "small.xml"
    path.write_text(GUEST % "")
    return path


def test_a_command_line_loads_what_is_listed(document: Path) -> None:
    needed = {f"{folder}.{name}".lstrip(".") for folder, names in NEEDED.items() for name in names.split()}
    found = own(loaded("argv", str(document), "--qemu", "10.0"))
    assert sorted(found - needed) == [], "import it in the function that needs it, or say here that all do"
    assert sorted(needed - found) == [], "no longer loaded: take it from the list"


@pytest.mark.parametrize("subcommand", ["argv", "define", "check"])
def test_nothing_large_is_loaded(document: Path, large: set[str], subcommand: str) -> None:
    assert not large & loaded(subcommand, str(document), "--qemu", "10.0")


def test_a_kind_of_device_is_loaded_with_the_first(document: Path) -> None:
    document.write_text(GUEST % "<vsock model='virtio'><cid auto='yes'/></vsock>\n")
    found = own(loaded("define", str(document)))
    assert "devices.vsock" in found
    assert not {"devices.hostdev", "devices.memory", "devices.tpm"} & found


@pytest.mark.parametrize("words", [("--version",), ("emulators",)], ids=" ".join)
def test_what_needs_no_guest_loads_none(large: set[str], words: tuple[str, ...]) -> None:
    found = loaded(*words)
    assert not large & found
    assert not {"guest", "context", "devices", "machine"} & own(found)


@pytest.mark.parametrize("tag", BY_TAG)
def test_every_kind_is_where_the_table_says(tag: str) -> None:
    kind = BY_TAG[tag]
    assert issubclass(kind, Device)
    assert kind.tag == tag


def test_what_is_no_device_is_in_no_table() -> None:
    assert "emulator" not in BY_TAG
    with pytest.raises(KeyError):
        BY_TAG["emulator"]
