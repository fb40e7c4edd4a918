"""How a command line is spelled for a QEMU that is older than everything that was recorded.

What Debian's QEMU still takes of it is tried on that; the rest is what the releases' own notes say.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host, NumaNode
from tests.goldens import GOLDEN
from tests.older import older
from tests.standalone_runs import local, run

HOST = Host.nominal()


def options(name: str, version: tuple[int, int, int]) -> list[tuple[str, str]]:
    guest = Guest.from_xml((GOLDEN / f"{name}.xml").read_text())
    return list(pairwise(guest.command(older(version), HOST).argv))


def value(name: str, version: tuple[int, int, int], flag: str) -> str:
    return next((text for word, text in options(name, version) if word == flag), "")


@pytest.mark.parametrize(
    ("flag", "version", "words"),
    [
        ("-object", (6, 1, 0), '{"qom-type":"secret"'),
        ("-object", (5, 2, 0), "secret,id=masterKey0,format=raw,file="),
        ("-accel", (2, 9, 0), "kvm"),
        ("-accel", (2, 8, 0), ""),
        ("-machine", (5, 0, 0), "pc-i440fx-6.2,usb=off,dump-guest-core=off,memory-backend=pc.ram"),
        ("-machine", (4, 2, 0), "pc-i440fx-6.2,usb=off,dump-guest-core=off"),
        ("-machine", (2, 8, 0), "pc-i440fx-6.2,accel=kvm,usb=off,dump-guest-core=off"),
        ("-m", (2, 1, 0), "size=2097152k"),
        ("-m", (2, 0, 0), "2048"),
        ("-overcommit", (3, 0, 0), "mem-lock=off"),
        ("-realtime", (2, 12, 0), "mlock=off"),
        ("-overcommit", (2, 12, 0), ""),
        ("-name", (2, 1, 0), "guest=pc-web,debug-threads=on"),
        ("-name", (2, 0, 0), "pc-web"),
        ("-boot", (1, 5, 0), "strict=on"),
        ("-boot", (1, 4, 0), ""),
        ("-msg", (1, 4, 0), ""),
        ("-sandbox", (2, 11, 0), "on,obsolete=deny"),
        ("-sandbox", (2, 10, 0), ""),
        ("-audiodev", (4, 2, 0), '{"id":"audio1"'),
        ("-audiodev", (4, 1, 0), ""),
        ("-netdev", (4, 2, 0), "tap,fd="),
        ("-drive", (2, 9, 0), ""),
    ],
)
def test_spelling(flag: str, version: tuple[int, int, int], words: str) -> None:
    found = value("pc-web", version, flag)
    assert found.startswith(words) if words else not found


def test_images_are_drives_before_blockdev() -> None:
    words = options("pc-web", (2, 8, 0))
    drives = [text for flag, text in words if flag == "-drive"]
    assert drives and all(",if=none,id=libvirt-" in text for text in drives)
    assert not any(flag == "-blockdev" for flag, _ in words)
    shown = {
        text.split("drive=")[1].split(",")[0]
        for flag, text in words
        if flag == "-device" and "drive=" in text
    }
    assert shown == {text.split("id=")[1].split(",")[0] for text in drives}
    text = (GOLDEN / "nic-stays.xml").read_text()
    served = "<disk type='network'><source protocol='nbd' name='x'><host name='h'/></source><target dev='vdz'/></disk>"
    guest = Guest.from_xml(text.replace("<devices>", f"<devices>{served}"))
    with pytest.raises(ConfigError, match="takes no images of this kind"):
        guest.command(older((2, 8, 0)), HOST)


def test_a_storage_node_says_how_it_is_opened_before_3_1() -> None:
    nodes = [text for flag, text in options("pc-web", (3, 0, 0)) if flag == "-blockdev"]
    assert nodes and not any("auto-read-only" in node for node in nodes)


def test_sound_goes_where_a_variable_says_before_4_2() -> None:
    text = (GOLDEN / "input-kinds.xml").read_text()
    command = Guest.from_xml(text).command(older((4, 1, 0)), HOST)
    assert command.environment["QEMU_AUDIO_DRV"] == "none"
    assert "audiodev" not in " ".join(command.argv)


def test_lists_and_tables_of_objects_are_flat_before_6_0() -> None:
    text = (GOLDEN / "disk-limits.xml").read_text()
    command = Guest.from_xml(text).command(older((5, 2, 0)), HOST)
    groups = [word for word in command.argv if word.startswith("throttle-group,")]
    assert groups and all(",x-bps-total=" in group and "limits" not in group for group in groups)
    two = HOST._replace(numa=(NumaNode(0), NumaNode(1)))
    top = "<numatune><memory mode='strict' nodeset='0-1'/></numatune>"
    guest = Guest.from_xml((GOLDEN / "pc-web.xml").read_text().replace("<os>", f"{top}<os>"))
    memory = next(w for w in guest.command(older((5, 2, 0)), two).argv if w.startswith("memory-backend"))
    assert memory.endswith("host-nodes=0,host-nodes=1,policy=bind")


def test_no_secrets_without_objects_for_them() -> None:
    assert not any("masterKey0" in text for _, text in options("pc-web", (2, 5, 0)))
    with pytest.raises(ConfigError, match="no objects for secrets"):
        options("disk-encrypted", (2, 5, 0))


#: golden guests → the oldest QEMU that can have them: throttle groups are block nodes, the memory of a node an object
TRIED = {
    "pc-web": (2, 0, 0),
    "q35-web": (2, 0, 0),
    "disk-limits": (2, 9, 0),
    "disk-frontends": (2, 0, 0),
    "cpu-numa-hmat": (2, 1, 0),
}


@pytest.mark.parametrize(
    ("name", "version"),
    [
        (name, version)
        for name, oldest in TRIED.items()
        for version in ((5, 2, 0), (4, 2, 0), (3, 0, 0), (2, 8, 0), (2, 0, 0))
        if version >= oldest
    ],
)
def test_a_newer_qemu_still_takes_it(
    name: str, version: tuple[int, int, int], qemu: str, tmp_path: Path
) -> None:
    text = (GOLDEN / f"{name}.xml").read_text()
    # -realtime is gone from the QEMU that this is tried on
    emulator = older(version)
    emulator = emulator._replace(options={k: v for k, v in emulator.options.items() if k != "realtime"})
    guest = local(text, tmp_path, kvm=False)
    assert run(guest, emulator.with_binary(qemu), tmp_path) == "running"
