"""A real QEMU: what it says of itself against what its help lists, and whether it takes what we print."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.emulator.model import Emulator
from qemushim.emulator.probe import probe
from qemushim.guest import Guest
from qemushim.host import Host
from tests.goldens import cases
from tools import real_qemu

pytestmark = pytest.mark.qemu


@pytest.fixture(scope="module")
def real(qemu: str) -> Emulator:
    return probe(qemu)


def help_of(binary: str, option: str) -> str:
    return subprocess.run((binary, option, "help"), capture_output=True, text=True, check=True).stdout


def test_machine_types_are_those_of_the_help(real: Emulator) -> None:
    """“NAME  description (default) (alias of OTHER)”, a line each; “none” is no machine for guests."""
    lines = [line.split(maxsplit=1) for line in help_of(real.binary, "-machine").splitlines()[1:]]
    listed = {name: text for name, text in lines if name != "none"}
    machines = real.accelerators[0].machines
    assert {m.name for m in machines} | {m.alias for m in machines if m.alias} == listed.keys()
    for name, text in listed.items():
        alias = re.search(r"\(alias of (\S+)\)", text)
        assert real.canonical_machine(name) == (alias[1] if alias else name)
        machine = real.machine(name)
        assert machine is not None
        assert machine.deprecated == ("deprecated" in text)
    assert [name for name, text in listed.items() if "(default)" in text] == [
        m.name for m in machines if m.is_default
    ]


def test_devices_are_those_of_the_help(real: Emulator) -> None:
    listed = set(re.findall(r'^name "([^"]+)"', help_of(real.binary, "-device"), re.MULTILINE))
    assert len(listed) > 100
    assert not {name for name in listed if not real.has_device(name)}


def test_objects_are_those_of_the_help(real: Emulator) -> None:
    listed = help_of(real.binary, "-object").split()[3:]
    assert len(listed) > 10
    # QMP does not list what belongs to another host (other kinds of encrypted memory)
    assert sum(real.has_object(name) for name in listed) > 0.8 * len(listed)


def test_asked_with_and_without_kvm(real: Emulator) -> None:
    """Both accelerators have the same machine types; only that of the host knows its processor."""
    if real.accelerator("kvm") is None:
        pytest.skip("no KVM here")
    kvm, tcg = real.accelerators
    assert {m.name for m in kvm.machines} == {m.name for m in tcg.machines}
    assert kvm.host_cpu != tcg.host_cpu


def test_guest_is_defined_and_built(real: Emulator) -> None:
    text = """<domain type='qemu'><name>g</name><memory unit='MiB'>64</memory>
    <os><type arch='x86_64' machine='q35'>hvm</type></os>
    <devices><disk type='file'><source file='/x.img'/><target dev='vda' bus='virtio'/></disk></devices></domain>"""
    guest = Guest.from_xml(text).define(real, Host.nominal())
    assert f"machine='{real.canonical_machine('q35')}'" in guest.to_xml()
    assert guest.command(real, Host.nominal(), update=False).argv.count("-device") >= 3


def test_golden_guests_are_accepted(real: Emulator) -> None:
    """Every golden guest of this architecture that needs nothing of the host comes as far as its first instruction."""
    documents = sorted({case.path for case in cases() if case.parses and case.arch == "x86_64"})
    outcomes = {}
    for document in documents:
        with tempfile.TemporaryDirectory(prefix="guest-") as folder:
            outcomes[document.name] = real_qemu.try_guest(document.read_bytes(), real, Path(folder))
    assert not {name: outcome.why for name, outcome in outcomes.items() if outcome.kind == "refused"}
    count = Counter(outcome.kind for outcome in outcomes.values())
    # what a case needs of the host grows with the cases; those that need nothing must all come up
    assert count["accepted"] >= (35 if shutil.which("qemu-img") else 20), count


def test_what_qemu_says_no_to_is_seen(real: Emulator, tmp_path: Path) -> None:
    """The measure itself: an option that QEMU does not know is a refusal, in QEMU's own words."""
    command = Command(real.binary, [Option("-machine", "none"), Option("-nonsense", None)])
    outcome = real_qemu.start(command, tmp_path)
    assert (outcome.kind, "nonsense" in outcome.why) == ("refused", True)
