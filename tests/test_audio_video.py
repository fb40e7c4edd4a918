"""Sound cards, audio back ends and graphics cards."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host, QemuConf

HOST = Host.nominal()
LATEST = Emulator.recorded("10.0.0")


def domain(devices: str, arch: str = "x86_64", machine: str = "pc") -> str:
    return f"""<domain type='qemu'><name>g</name><uuid>2d1f1aee-8a8c-4b2e-9a5b-0d7a3a0f1c11</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu>
<os><type arch='{arch}' machine='{machine}'>hvm</type></os>
<devices>{devices}</devices></domain>"""


def define(devices: str, emulator: Emulator = LATEST, host: Host = HOST, **place: str) -> Guest:
    return Guest.from_xml(domain(devices, **place)).define(emulator, host)


def options(devices: str, flag: str, host: Host = HOST) -> list[str]:
    tokens = Guest.from_xml(domain(devices)).command(LATEST, host).tokens
    return [tokens[i + 1] for i, token in enumerate(tokens) if token == flag]


def devices(xml: str, *drivers: str) -> list[dict[str, Any]]:
    found = [json.loads(text) for text in options(xml, "-device")]
    return [device for device in found if device["driver"].startswith(drivers)]


# -- audio ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("graphics", "kind"),
    [
        ("", "none"),
        ("<graphics type='vnc'/>", "none"),
        ("<graphics type='spice'/>", "spice"),
        ("<graphics type='spice'/><graphics type='vnc'/>", "none"),
        ("<graphics type='vnc'/><graphics type='egl-headless'/>", "none"),
        ("<graphics type='sdl'/>", None),
        ("<graphics type='dbus'/>", None),
    ],
)
def test_default_back_end_follows_the_graphics(graphics: str, kind: str | None) -> None:
    audio = define(graphics).domain.lists["audio"]
    assert [a.node.attrib for a in audio] == ([{"id": "1", "type": kind}] if kind else [])


def test_the_hosts_administrator_may_let_the_host_decide() -> None:
    host = HOST._replace(
        config=QemuConf(nographics_allow_host_audio=True),
        environment={"QEMU_AUDIO_DRV": "pa"},
    )
    assert define("", host=host).domain.lists["audio"][0].node.attrib["type"] == "pulseaudio"
    vnc = define("<graphics type='vnc'/>", host=host)
    assert vnc.domain.lists["audio"][0].node.attrib["type"] == "none"
    silent = host._replace(environment={})
    assert not define("", host=silent).domain.lists["audio"]


def test_settings_count_only_where_they_are_fixed() -> None:
    xml = (
        "<audio id='3' type='jack'><input mixingEngine='yes' fixedSettings='{}' voices='2' clientName='x'>"
        "<settings frequency='8000' channels='1' format='u8'/></input><output/></audio>"
    )
    fixed = json.loads(options(xml.format("yes"), "-audiodev")[0])
    assert list(fixed) == ["id", "driver", "in"]
    assert fixed["id"] == "audio3"
    assert list(fixed["in"]) == [
        "mixing-engine", "fixed-settings", "voices", "frequency", "channels", "format", "client-name",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="audio settings specified without fixed settings flag"):
        options(xml.format("no"), "-audiodev")


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        ("<audio id='1' type='file' path='/a,b'/>", {"driver": "wav", "path": "/a,b"}),
        ("<audio id='1' type='pulseaudio' serverName='s'/>", {"driver": "pa", "server": "s"}),
        (
            "<audio id='1' type='oss' dspPolicy='0' tryMMap='no'/>",
            {"driver": "oss", "try-mmap": False, "dsp-policy": 0},
        ),
        ("<audio id='1' type='dbus' timerPeriod='7'/>", {"driver": "dbus", "timer-period": 7}),
    ],
)
def test_back_ends(xml: str, expected: dict[str, object]) -> None:
    assert json.loads(options(xml, "-audiodev")[0]) == {"id": "audio1", **expected}


def test_environment_of_back_ends() -> None:
    host = HOST._replace(environment={"XDG_RUNTIME_DIR": "/run/user/7"})
    xml = "<audio id='1' type='sdl' driver='esd'/><audio id='2' type='pipewire'/>"
    environment = Guest.from_xml(domain(xml)).command(LATEST, host).environment
    assert environment["SDL_AUDIODRIVER"] == "esd"
    assert environment["PIPEWIRE_RUNTIME_DIR"] == "/run/user/7"


def test_an_unused_attribute_of_another_back_end_is_not_kept() -> None:
    xml = define("<audio id='1' type='alsa' path='/x'><input dev='d' name='n'/></audio>").to_xml()
    assert "<audio id='1' type='alsa'>\n      <input dev='d'/>\n    </audio>" in xml


def test_zero_and_missing_numbers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"attribute 'id' in element 'audio': Zero is not permitted"):
        define("<audio id='0' type='none'/>")
    with pytest.raises(ConfigError, match=r"Missing required attribute 'id' in element 'audio'"):
        define("<audio type='none'/>")
    with pytest.raises(ConfigError, match="no audio device with ID 9"):
        options("<sound model='ac97'><audio id='9'/></sound><audio id='1' type='none'/>", "-device")
    with pytest.raises(ConfigError, match="audio ID 1 is used multiple times"):
        define("<audio id='1' type='none'/><audio id='1' type='alsa'/>")
    with pytest.raises(ConfigError, match="Spice audio is not supported without spice graphics"):
        define("<audio id='1' type='spice'/>")


def test_sound_cards() -> None:
    found = devices(
        "<sound model='ac97'/><sound model='ich9'><codec type='micro'/><codec type='output'/></sound>"
        "<sound model='virtio'/><sound model='usb' multichannel='yes'/><sound model='pcspk'/>",
        "AC97", "ich9-intel-hda", "hda", "virtio-sound", "usb-audio",
    )  # fmt: skip
    assert [d["driver"] for d in found] == [
        "AC97", "ich9-intel-hda", "hda-micro", "hda-output", "virtio-sound-pci", "usb-audio",
    ]  # fmt: skip
    hda, micro, output, virtio, usb = found[1:]
    assert "audiodev" not in hda
    assert micro["bus"] == output["bus"] == f"{hda['id']}.0"
    assert (micro["cad"], output["cad"]) == (0, 1)
    assert (virtio["streams"], usb["multi"]) == (2, True)


def test_hda_has_a_codec_even_where_none_is_named() -> None:
    assert [d["driver"] for d in devices("<sound model='ich6'/>", "intel-hda", "hda")] == [
        "intel-hda",
        "hda-duplex",
    ]


def test_virtio_sound_needs_a_qemu_that_has_it() -> None:
    with pytest.raises(ConfigError, match="virtio-sound"):
        define("<sound model='virtio'/>", Emulator.recorded("8.1.0"))
    assert "<driver" not in define("<sound model='ac97'><driver iommu='on'/></sound>").to_xml()


# -- video ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "machine", "version", "model"),
    [
        ("x86_64", "pc", "10.0.0", "cirrus"),
        ("ppc64", "pseries", "7.1.0", "vga"),
        ("aarch64", "virt", "8.2.0", "virtio"),
        ("s390x", "s390-ccw-virtio", "10.0.0", "virtio"),
    ],
)
def test_default_card(arch: str, machine: str, version: str, model: str) -> None:
    xml = domain("<graphics type='vnc'/>", arch, machine)
    guest = Guest.from_xml(xml).define(Emulator.recorded(version, arch), Host.nominal(arch))
    card = guest.domain.lists["video"][0].node.child("model")
    assert card is not None
    assert card.attrib["type"] == model
    assert card.attrib["primary"] == "yes"


@given(size=st.integers(1024, 1 << 21))
def test_memory_of_a_card_is_a_power_of_two(size: int) -> None:
    from qemushim.context import Define
    from qemushim.devices.video import Video
    from qemushim.document.node import Node

    guest = Guest.from_xml(domain("")).domain
    video = Video(Node("video", children=[Node("model", {"type": "qxl", "vram": str(size)})]))
    video.complete(Define(guest, LATEST, HOST))
    assert video.vram >= size
    assert video.vram & (video.vram - 1) == 0
    assert video.vram < 2 * size


def test_only_the_first_card_is_vga() -> None:
    found = devices(
        "<video><model type='qxl' heads='2'/></video><video><model type='qxl'/></video>"
        "<video><model type='virtio' primary='yes'/></video>",
        "qxl", "virtio-vga", "virtio-gpu",
    )  # fmt: skip
    assert [(d["driver"], d["max_outputs"]) for d in found] == [("virtio-vga", 1), ("qxl", 2), ("qxl", 1)]


def test_a_card_that_is_a_process_of_its_own() -> None:
    host = HOST._replace(vhost_user=(("50-gpu.json", {"type": "gpu", "binary": "/usr/libexec/gpu"}),))
    xml = "<video><driver name='vhostuser'/><model type='virtio'/></video>"
    tokens = Guest.from_xml(domain(xml)).command(LATEST, host).tokens
    assert any(token.startswith("socket,id=chr-vu-video0,") for token in tokens)
    with pytest.raises(ConfigError, match="Unable to find a satisfying vhost-user-gpu"):
        Guest.from_xml(domain(xml)).command(LATEST, HOST)


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("<video><model type='none'/></video><video><model type='vga'/></video>", "must be the only video"),
        ("<video><model type='vga'/></video><video><model type='cirrus'/></video>", "only valid as primary"),
        (
            "<video><model type='qxl' primary='yes'/></video>" * 2,
            "Only one primary video device is supported",
        ),
        ("<video><model type='vga' ram='1024'/></video>", "ram attribute only supported for video type qxl"),
        ("<video><model type='qxl' vgamem='3000'/></video>", "power of two"),
        ("<video><model type='vga' vram='512'/></video>", "at least 1 MiB"),
        ("<video><model type='vga' blob='on'/></video>", "does not support blob"),
        ("<video><model type='virtio'><acceleration accel2d='yes'/></model></video>", "accel2d"),
        ("<video><model type='vbox'/></video>", "does not support video model 'vbox'"),
        ("<video><driver packed='on'/><model type='vga'/></video>", "packed driver option"),
        ("<video><model type='virtio'><resolution x='1'/></model></video>", "Missing required attribute 'y'"),
    ],
)
def test_cards_that_can_not_be(xml: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        define(xml)


def test_no_card_at_all() -> None:
    guest = define(
        "<video><driver name='qemu'/><model type='none' vram='9' heads='1'/><alias name='ua-v'/></video>"
    )
    assert "<video>\n      <model type='none'/>\n      <alias name='ua-v'/>\n    </video>" in guest.to_xml()
    assert not devices("<video><model type='none'/></video>", "VGA", "cirrus")
