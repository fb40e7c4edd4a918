"""Bad input gets one clear line with file and line, exit code 1, within a second; never a traceback."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from qemushim.errors import ConfigError
from qemushim.guest import Guest
from tests.conftest import ROOT

DOMAIN = """<domain type='kvm'>
  <name>bad</name>
  <memory unit='MiB'>512</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
{devices}
  </devices>
</domain>
"""
DISK = "<disk type='file'>\n<source file='/a'/>\n<target dev='{dev}' bus='{bus}'/>{more}</disk>"
NIC = "<interface type='user'><mac address='{mac}'/>{more}</interface>"
SLOT = "<address type='pci' domain='0' bus='0' slot='{slot}' function='0'/>"

#: name → (document, line of the error, words of the message)
CASES = {
    "empty": ("", 1, "empty"),
    "not-xml": ("[domain]\nname = x\n", 1, "'<' not found"),
    "no-domain": ("<network>\n<name>x</name></network>", 1, "expecting <domain>"),
    "unknown-bus": (DOMAIN.format(devices=DISK.format(dev="hda", bus="warp", more="")), 8, "'warp'"),
    "bad-slot": (
        DOMAIN.format(devices=NIC.format(mac="52:54:00:00:00:01", more="\n" + SLOT.format(slot="0x20"))),
        7,
        "slot='0x20'",
    ),
    "duplicate-slot": (
        DOMAIN.format(
            devices="\n".join(
                NIC.format(mac=f"52:54:00:00:00:0{n}", more=SLOT.format(slot="0x07")) for n in (1, 2)
            )
        ),
        7,
        "0000:00:07.0",
    ),
    "bad-mac": (DOMAIN.format(devices=NIC.format(mac="52:54:zz:00:00:01", more="")), 6, "52:54:zz:00:00:01"),
    "bad-unit": (DOMAIN.format(devices="").replace("MiB", "parsecs"), 3, "parsecs"),
    "entity-bomb": (
        "<!DOCTYPE d [<!ENTITY a 'aaaaaaaaaa'>"
        + "".join(f"<!ENTITY {chr(98 + n)} '{f'&{chr(97 + n)};' * 10}'>" for n in range(9))
        + "]>\n<domain><name>&j;</name></domain>",
        1,
        "document type",
    ),
}


def qemushim(*words: str, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "qemushim", *words],
        cwd=ROOT,
        input=stdin,
        capture_output=True,
        check=False,
        timeout=30,
    )


@pytest.mark.parametrize("subcommand", ["argv", "define"])
@pytest.mark.parametrize("name", CASES)
def test_refused_with_file_and_line(name: str, subcommand: str, tmp_path: Path) -> None:
    document, line, words = CASES[name]
    file = tmp_path / f"{name}.xml"
    file.write_text(document)
    done = qemushim(subcommand, str(file))
    first, *rest = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert first.startswith(f"{file}:{line}: "), first
    assert words in first
    assert all(other.startswith("hint: ") for other in rest)
    assert not done.stdout


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("big", b"<domain>" + b"<!-- " + b"x" * 100_000_000 + b" -->" + b"</domain>"),
        ("binary", bytes(range(256)) * 4096),
        ("many", b"<domain>" + b"<x/>" * 1_000_000 + b"</domain>"),
        ("deep", b"<d>" * 1_000_000),
    ],
)
def test_heavy_input_is_refused_at_once(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.xml"
    file.write_bytes(content)
    start = time.monotonic()
    done = qemushim("define", str(file))
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"{file}:")
    # generous: it is the growth that is tested, a bomb would take minutes
    assert time.monotonic() - start < 10


def test_a_double_slot_shows_the_slot_map(tmp_path: Path) -> None:
    file = tmp_path / "double.xml"
    file.write_text(CASES["duplicate-slot"][0])
    assert "hint: " in qemushim("define", str(file)).stderr.decode()


def test_missing_file_and_wrong_usage(tmp_path: Path) -> None:
    gone = qemushim("argv", str(tmp_path / "none.xml"))
    assert gone.returncode == 1
    assert b"No such file" in gone.stderr
    assert qemushim("argv").returncode == 2
    assert qemushim("fly").returncode == 2
    assert qemushim("argv", str(tmp_path), "--qemu", "10.0").returncode == 1
    unknown = qemushim("argv", "-", "--qemu", "77.7", stdin=DOMAIN.format(devices="").encode())
    assert unknown.returncode == 1
    assert b"hint: " in unknown.stderr


def test_hostile_text_can_not_play_with_the_terminal() -> None:
    done = qemushim("define", "-", stdin="<domain type='\u009b31mred'/>".encode())
    assert done.returncode == 1
    assert "\u009b" not in done.stderr.decode()


def test_of_several_mistakes_the_one_that_is_read_first_is_told() -> None:
    """libvirt reads disks before sound cards, and the number of vCPUs before either, wherever they stand."""
    sound, disk = "<sound model='none'/>", "<disk type='tape'/>"
    document = "<domain type='kvm'><devices>{}</devices>{}</domain>"
    with pytest.raises(ConfigError, match="'type' in element 'disk': 'tape'"):
        Guest.from_xml(document.format(sound + disk, ""))
    with pytest.raises(ConfigError, match="maximum vcpus count must be an integer"):
        Guest.from_xml(document.format(sound + disk, "<vcpu>many</vcpu>"))
