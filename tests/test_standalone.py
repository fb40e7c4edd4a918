"""Guests that are run by hand: what is otherwise than under libvirt, and that a QEMU starts with what is printed."""

from __future__ import annotations

import json
import shlex
from itertools import pairwise
from pathlib import Path

import pytest

from qemushim.cli import main
from qemushim.emulator.bundled import recorded
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host
from qemushim.standalone import Standalone, standalone
from tests.conftest import ROOT
from tests.goldens import GOLDEN
from tests.standalone_runs import local, run

EXAMPLE = (ROOT / "examples" / "web-server.xml").read_text()
#: cases of everything that is otherwise, which a QEMU without KVM and without devices of its host can start
STARTED = (
    *("chardev-kinds", "clock-zone", "controllers", "cpu-numa-hmat", "disk-driver", "disk-limits"),
    *("graphics-spice", "graphics-vnc", "interface-backends", "interface-rules", "pc-usb-input", "pc-web"),
)


def alone(text: str, version: str = "10.0", **how: object) -> Standalone:
    return standalone(Guest.from_xml(text), recorded(version), Host.nominal(), **how)  # type: ignore[arg-type]


def inside(devices: str, top: str = "") -> str:
    return (
        "<domain type='kvm'><name>a b</name><memory unit='GiB'>1</memory>"
        f"<os><type arch='x86_64' machine='q35'>hvm</type></os>{top}<devices>{devices}</devices></domain>"
    )


def values(made: Standalone, flag: str) -> list[str]:
    return [value for name, value in pairwise(made.command.argv) if name == flag]


def test_nothing_is_passed_and_nothing_waits() -> None:
    made = alone(EXAMPLE)
    argv = made.command.argv
    assert "-S" not in argv and "-no-shutdown" not in argv
    assert not made.command.descriptors and not made.command.files and not made.command.environment
    assert "masterKey0" not in " ".join(argv) and '"fd"' not in " ".join(argv)
    assert "-S" in alone(EXAMPLE, paused=True).command.argv


def test_the_hardware_is_the_same() -> None:
    def hardware(argv: list[str]) -> list[str]:
        return [
            value for flag, value in pairwise(argv) if flag in ("-device", "-machine", "-m", "-smp", "-uuid")
        ]

    under_libvirt = Guest.from_xml(EXAMPLE).command(recorded("10.0"), Host.nominal())
    assert hardware(alone(EXAMPLE).command.argv) == hardware(under_libvirt.argv)


def test_sockets_are_below_a_folder_of_its_own() -> None:
    made = alone(EXAMPLE)
    assert made.prepare == ["mkdir -p -m 700 ./web-1.run"]
    sockets = [value for value in values(made, "-chardev") if value.startswith("socket")]
    assert len(sockets) == 2 and all("path=./web-1.run/" in value for value in sockets)
    assert "path=/x/monitor.sock" in values(alone(EXAMPLE, folder="/x"), "-chardev")[0]
    assert alone(inside("")).prepare == ["mkdir -p -m 700 './a b.run'"]


def test_taps_become_user_networking() -> None:
    made = alone(EXAMPLE)
    assert [json.loads(value)["type"] for value in values(made, "-netdev")] == ["user", "user"]
    assert any("is on user networking instead of 'bridge'" in note for note in made.notes)


def test_displays_become_one_that_can_be_used() -> None:
    made = alone(inside("<graphics type='spice' autoport='yes'/><channel type='spicevmc'/>".replace(
        "<channel type='spicevmc'/>", "<channel type='spicevmc'><target type='virtio'/></channel>")))  # fmt: skip
    assert values(made, "-vnc") == ["127.0.0.1:0,audiodev=audio1"] and not values(made, "-spice")
    assert "null,id=charchannel0" in values(made, "-chardev")
    both = alone(inside("<graphics type='spice'/><graphics type='vnc' passwd='p'/>"))
    assert values(both, "-vnc") == ["127.0.0.1:0,audiodev=audio1"] and not values(both, "-spice")
    assert values(alone(inside("")), "-display") == ["none"]


def test_secrets_are_in_the_clear() -> None:
    made = alone((GOLDEN / "disk-encrypted.xml").read_text())
    secrets = [json.loads(value) for value in values(made, "-object") if '"secret"' in value]
    assert secrets and all("keyid" not in secret and secret["format"] == "base64" for secret in secrets)


def test_firmware_variables_are_made_first() -> None:
    made = alone((GOLDEN / "firmware-chosen.xml").read_text())
    assert made.prepare[1].startswith(
        "{ test -e ./firmware-chosen.run/firmware-chosen_VARS.fd || cp /usr/share/OVMF/"
    )


def test_helpers_are_named() -> None:
    notes = alone((GOLDEN / "tpm-emulator.xml").read_text()).notes
    assert any(note.startswith("start first: swtpm socket --tpm2") for note in notes)
    notes = alone((GOLDEN / "filesystems.xml").read_text()).notes
    assert (
        "start first: virtiofsd --socket-path=./filesystems.run/fs0-fs.sock --shared-dir /srv/share" in notes
    )


def test_devices_that_need_a_descriptor_open_their_own() -> None:
    made = alone((GOLDEN / "small-devices.xml").read_text())
    assert not any("vhostfd" in value for value in values(made, "-device"))
    made = alone((GOLDEN / "disk-vhost.xml").read_text())
    assert any('"path":"/dev/vhost-vdpa-0"' in value for value in values(made, "-blockdev"))
    made = alone((GOLDEN / "tpm-kinds.xml").read_text())
    assert values(made, "-tpmdev")[0].startswith("passthrough,id=tpm-tpm0,path=/dev/tpm0,")
    made = alone((GOLDEN / "disk-places.xml").read_text())
    assert not values(made, "-add-fd")


def test_not_for_a_qemu_without_qmp() -> None:
    with pytest.raises(ConfigError, match="run by hand only with a QEMU that speaks QMP"):
        standalone(Guest.from_xml(EXAMPLE), recorded("0.12.3"), Host.nominal())


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["argv", str(ROOT / "examples" / "web-server.xml"), "--qemu", "7.2", "--standalone"]) == 0
    shown = capsys.readouterr()
    first, rest = shown.out.split(" && \\\n", 1)
    assert first == "mkdir -p -m 700 ./web-1.run"
    assert shlex.split(rest.replace("\\\n", ""))[0] == "/usr/bin/qemu-system-x86_64"
    assert shown.err.count("note: the card") == 2


def test_a_real_qemu_starts_with_the_example(qemu: str, tmp_path: Path) -> None:
    assert run(local(EXAMPLE, tmp_path, kvm=False), Emulator.probe(qemu), tmp_path) == "running"


@pytest.mark.parametrize("name", STARTED)
def test_a_real_qemu_starts(name: str, qemu: str, tmp_path: Path) -> None:
    guest = local((GOLDEN / f"{name}.xml").read_text(), tmp_path, kvm=False)
    assert run(guest, Emulator.probe(qemu), tmp_path) == "running"
