"""``Command``: the environment, the files and the descriptors that a driver needs, and the text of the golden files."""

from __future__ import annotations

import gc

import pytest

from qemushim.cli import main
from qemushim.command.command import SecretFile
from qemushim.document.node import Node
from qemushim.emulator.bundled import recorded
from qemushim.guest import Guest
from qemushim.host import Descriptors, Host
from tests.conftest import ROOT
from tests.goldens import GOLDEN

LATEST = recorded("10.0")
EXAMPLE = (ROOT / "examples" / "web-server.xml").read_text()


def test_environment() -> None:
    command = Guest.from_xml((GOLDEN / "namespace-qemu.xml").read_text()).command(LATEST, Host.nominal())
    folder = "/var/lib/libvirt/qemu/domain--1-namespace-qemu"
    assert list(command.environment.items()) == [
        ("LC_ALL", "C"),
        ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
        ("HOME", folder),
        ("XDG_DATA_HOME", f"{folder}/.local/share"),
        ("XDG_CACHE_HOME", f"{folder}/.cache"),
        ("XDG_CONFIG_HOME", f"{folder}/.config"),
        ("G_SLICE", "always-malloc"),
        ("EMPTY", ""),
    ]


def test_nothing_is_left_to_the_garbage_collector() -> None:
    def nodes() -> int:
        return sum(isinstance(found, Node) for found in gc.get_objects())

    texts = [path.read_text() for path in (GOLDEN / "q35-web.xml", GOLDEN / "small-devices.xml")]
    gc.collect()
    gc.disable()
    try:
        before = nodes()
        for text in texts:
            assert Guest.from_xml(text).command(LATEST, Host.nominal()).argv
        assert nodes() == before
    finally:
        gc.enable()


def test_files() -> None:
    command = Guest.from_xml(EXAMPLE).command(LATEST, Host.nominal()._replace(domain_id=7))
    key = "/var/lib/libvirt/qemu/domain-7-web-1/master-key.aes"
    assert command.files == [SecretFile(key, "master key")]
    assert any(key in word for word in command.argv)


def test_every_descriptor_is_listed_with_what_it_is_open_on() -> None:
    host = Host.nominal()._replace(descriptors=Descriptors(first=10))
    command = Guest.from_xml(EXAMPLE).command(LATEST, host)
    assert [(d.number, d.kind, d.target, d.user) for d in command.descriptors] == [
        (10, "tap", "", "net0"),
        (11, "vhost-net", "/dev/vhost-net", "net0"),
        (12, "tap", "", "net1"),
        (13, "vhost-net", "/dev/vhost-net", "net1"),
    ]


def test_a_descriptor_for_every_queue_and_device() -> None:
    host = Host.nominal()._replace(descriptors=Descriptors(first=10))
    cases = {
        "small-devices": {"vsock": 1},
        "tpm-kinds": {"tpm": 2},
        "disk-vhost": {"vhost-vdpa": 1},
        "hostdev-kinds": {"tap": 1, "vhost-net": 1, "vhost-scsi": 1},
        "interface-tuning": {"tap": 5, "vhost-net": 4},
    }
    for name, wanted in cases.items():
        command = Guest.from_xml((GOLDEN / f"{name}.xml").read_text()).command(LATEST, host)
        kinds = [descriptor.kind for descriptor in command.descriptors]
        assert {kind: kinds.count(kind) for kind in kinds} == wanted, name
        numbers = [descriptor.number for descriptor in command.descriptors]
        assert numbers == list(range(10, 10 + len(numbers))), name
        assert all(str(number) in " ".join(command.argv) for number in numbers)


def test_sockets_are_passed_where_the_host_says_so() -> None:
    host = Host.nominal()._replace(descriptors=Descriptors(unix_listen=1729))
    command = Guest.from_xml(EXAMPLE).command(LATEST, host)
    listening = [descriptor for descriptor in command.descriptors if descriptor.kind == "listen"]
    assert [descriptor.number for descriptor in listening] == [1729, 1729]
    assert listening[0].target == "/var/lib/libvirt/qemu/domain--1-web-1/monitor.sock"


@pytest.mark.parametrize(
    ("name", "version"),
    [("disk-servers", "7.0"), ("q35-web", "10.0"), ("s390x-ccw", "10.0"), ("sysinfo", "10.0")],
)
def test_shell_prints_the_golden_text(name: str, version: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["argv", str(GOLDEN / f"{name}.xml"), "--qemu", version, "--format", "shell"]) == 0
    assert capsys.readouterr().out == (GOLDEN / f"{name}.{version}.args").read_text()
