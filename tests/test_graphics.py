"""How a guest's screen is seen: VNC, SPICE, SDL, OpenGL without a screen, D-Bus, RDP."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.document.node import Node
from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host, QemuConf

HOST = Host.nominal()
LATEST = Emulator.recorded("10.0.0")


def domain(graphics: str) -> str:
    return f"""<domain type='qemu'><name>g</name><uuid>2d1f1aee-8a8c-4b2e-9a5b-0d7a3a0f1c11</uuid>
<memory unit='MiB'>64</memory><vcpu>1</vcpu><os><type arch='x86_64' machine='pc'>hvm</type></os>
<devices>{graphics}</devices></domain>"""


def stored(graphics: str) -> str:
    """The graphics as a definition keeps them."""
    xml = Guest.from_xml(domain(graphics)).define(LATEST, HOST).to_xml()
    lines = xml.splitlines()
    first = next(i for i, line in enumerate(lines) if "<graphics" in line)
    if lines[first].endswith("/>"):
        return lines[first].strip()
    last = next(i for i, line in enumerate(lines) if "</graphics>" in line)
    return "".join(line.strip() for line in lines[first : last + 1])


def shown(graphics: str, config: QemuConf | None = None, host: Host = HOST) -> list[str]:
    """The options that show the screen, with what belongs to them."""
    if config is not None:
        host = host._replace(config=config)
    tokens = Guest.from_xml(domain(graphics)).command(LATEST, host).tokens
    wanted = ("-vnc", "-spice", "-display", "-k", "-full-screen")
    out: list[str] = []
    for i, token in enumerate(tokens):
        if token in wanted:
            out.append(token if token == "-full-screen" else f"{token} {tokens[i + 1]}")
        elif "tls-creds" in token and token.startswith("{"):
            out.append(token)
    return out


# -- definitions ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (
            "<graphics type='vnc'/>",
            "<graphics type='vnc' port='-1' autoport='yes'><listen type='address'/></graphics>",
        ),
        (
            "<graphics type='vnc' port='5901' listen='::1'/>",
            (
                "<graphics type='vnc' port='5901' autoport='no' listen='::1'>"
                "<listen type='address' address='::1'/></graphics>"
            ),
        ),
        (
            "<graphics type='vnc' port='5901' autoport='yes' websocket='0'/>",
            "<graphics type='vnc' port='-1' autoport='yes'><listen type='address'/></graphics>",
        ),
        (
            "<graphics type='vnc' socket='/run/s'/>",
            "<graphics type='vnc' socket='/run/s'><listen type='socket' socket='/run/s'/></graphics>",
        ),
        (
            "<graphics type='vnc' socket='/var/lib/libvirt/qemu/domain-7-g/vnc.sock'/>",
            "<graphics type='vnc' port='-1' autoport='yes'><listen type='address'/></graphics>",
        ),
        (
            "<graphics type='vnc' port='1'><listen type='none'/></graphics>",
            "<graphics type='vnc'><listen type='none'/></graphics>",
        ),
        (
            "<graphics type='vnc' port='5901'><listen type='network' network='n' address='::7'/></graphics>",
            "<graphics type='vnc' port='5901' autoport='no'><listen type='network' network='n'/></graphics>",
        ),
        ("<graphics type='spice'/>", "<graphics type='spice'><listen type='none'/></graphics>"),
        (
            "<graphics type='spice' port='-1' tlsPort='-1'/>",
            "<graphics type='spice' autoport='yes'><listen type='address'/></graphics>",
        ),
        (
            (
                "<graphics type='spice' port='5900' defaultMode='any' passwd='&lt;'>"
                "<channel name='usbredir' mode='any'/><channel name='record' mode='secure'/>"
                "<channel name='main' mode='insecure'/><mouse mode='client'/></graphics>"
            ),
            (
                "<graphics type='spice' port='5900' autoport='no' passwd='&lt;'><listen type='address'/>"
                "<channel name='main' mode='insecure'/><channel name='record' mode='secure'/>"
                "<mouse mode='client'/></graphics>"
            ),
        ),
        (
            "<graphics type='sdl' fullscreen='no' display=':1'><gl enable='no'/></graphics>",
            "<graphics type='sdl' display=':1'><gl enable='no'/></graphics>",
        ),
        (
            "<graphics type='rdp' autoport='yes' multiUser='yes' username='u'/>",
            (
                "<graphics type='rdp' port='0' autoport='yes' multiUser='yes' username='u'>"
                "<listen type='address'/></graphics>"
            ),
        ),
        (
            "<graphics type='dbus' p2p='no' address='unix:path=/x'/>",
            "<graphics type='dbus' address='unix:path=/x'/>",
        ),
    ],
)
def test_definition(given: str, kept: str) -> None:
    assert stored(given) == kept
    assert stored(kept) == kept


@given(address=st.ip_addresses().map(str), port=st.integers(5900, 65535), style=st.integers(0, 2))
def test_both_spellings_of_a_listen_address_mean_the_same(address: str, port: int, style: int) -> None:
    from qemushim.devices.graphics_kind import complete_listens

    node = Node("graphics", {"type": "vnc", "port": str(port)})
    if style != 1:
        node.set("listen", address)
    if style != 0:
        node.add("listen", {"type": "address", "address": address})
    first = complete_listens(node)
    assert (first.type, first.address) == ("address", address)
    assert node.get("listen") == address
    assert len(node.all("listen")) == 1


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        (
            "<graphics type='vnc' listen='1.1.1.1'><listen type='address' address='2.2.2.2'/></graphics>",
            "graphics 'listen' attribute '1.1.1.1' must match 'address' attribute of first listen element",
        ),
        (
            "<graphics type='vnc' socket='/a'><listen type='socket' socket='/b'/></graphics>",
            "graphics 'socket' attribute '/a' must match 'socket' attribute",
        ),
        ("<graphics type='rdp'><listen type='none'/></graphics>", "is not available for graphics type 'rdp'"),
        (
            "<graphics type='vnc'><listen type='address' network='n'/></graphics>",
            "'network' attribute is valid only for listen type 'network'",
        ),
        ("<graphics type='desktop'/>", "desktop graphics are not supported with this QEMU"),
        (
            "<graphics type='sdl'/><graphics type='egl-headless'/>",
            "only supported with one of: 'vnc', 'spice'",
        ),
        (
            "<graphics type='spice'><gl enable='yes'/></graphics><graphics type='egl-headless'/>",
            "multiple OpenGL displays",
        ),
        ("<graphics type='spice'><gl/></graphics>", "Missing required attribute 'enable' in element 'gl'"),
        ("<graphics type='spice'><image compression='zip'/></graphics>", "'compression' in element 'image'"),
        ("<graphics/>", "Missing required attribute 'type' in element 'graphics'"),
        ("<graphics type='vnc' port='x'/>", "cannot parse vnc port x"),
        ("<graphics type='vnc' passwd='x' passwdValidTo='tomorrow'/>", "expect YYYY-MM-DDTHH:MM:SS"),
        (
            "<graphics type='vnc' passwd='x' passwdValidTo='2031-13-01T00:00:00'/>",
            "cannot parse password validity time",
        ),
    ],
)
def test_refused(xml: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Guest.from_xml(domain(xml)).define(LATEST, HOST)
    assert words in refused.value.message


# -- command lines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        ("<graphics type='vnc'/>", "-vnc 127.0.0.1:0,audiodev=audio1"),
        ("<graphics type='vnc' port='5907' listen='::'/>", "-vnc [::]:7,audiodev=audio1"),
        (
            "<graphics type='vnc' websocket='5701' sharePolicy='ignore' passwd='' powerControl='yes'/>",
            "-vnc 127.0.0.1:0,websocket=5701,share=ignore,password=on,power-control=on,audiodev=audio1",
        ),
        ("<graphics type='vnc' websocket='-1'/>", "-vnc 127.0.0.1:0,websocket=5700,audiodev=audio1"),
        (
            "<graphics type='vnc'><listen type='socket' socket='/a,b'/></graphics>",
            "-vnc vnc=unix:/a,,b,audiodev=audio1",
        ),
        (
            "<graphics type='vnc'><listen type='socket'/></graphics>",
            "-vnc vnc=unix:/var/lib/libvirt/qemu/domain--1-g/vnc.sock,audiodev=audio1",
        ),
        ("<graphics type='vnc'><listen type='none'/></graphics>", "-vnc none,audiodev=audio1"),
        ("<graphics type='spice'/>", "-spice port=0,disable-ticketing=on,seamless-migration=on"),
        (
            "<graphics type='spice' autoport='yes' passwd='x'><mouse mode='client'/></graphics>",
            "-spice port=5901,addr=127.0.0.1,agent-mouse=on,seamless-migration=on",
        ),
        ("<graphics type='sdl'><gl enable='yes'/></graphics>", "-display sdl,gl=on"),
        ("<graphics type='egl-headless'/>", "-display egl-headless,rendernode=/dev/dri/renderD128"),
        ("<graphics type='dbus'/>", "-display dbus,addr=unix:path=/run/libvirt/qemu/dbus/-1-g-dbus.sock"),
        (
            "<graphics type='dbus' p2p='yes'><gl enable='yes' rendernode='/dev/r'/></graphics>",
            "-display dbus,p2p=on,gl=on,rendernode=/dev/r",
        ),
    ],
)
def test_command(xml: str, expected: str) -> None:
    assert shown(xml) == [expected]


def test_keyboard_and_full_screen() -> None:
    assert shown("<graphics type='vnc' keymap='fr'/>")[-1] == "-k fr"
    assert shown("<graphics type='sdl' fullscreen='yes'/>") == ["-full-screen", "-display sdl"]
    assert shown("<graphics type='dbus'/><graphics type='rdp'/>")[0].startswith("-display dbus")


def test_sockets_and_secrets_of_qemu_conf() -> None:
    conf = QemuConf(vnc_auto_unix_socket=True, vnc_password="x", vnc_sasl=True, vnc_sasl_dir="/etc/sasl2")
    assert shown("<graphics type='vnc'/>", conf) == [
        "-vnc vnc=unix:/var/lib/libvirt/qemu/domain--1-g/vnc.sock,password=on,sasl=on,audiodev=audio1"
    ]
    own = shown("<graphics type='vnc' listen='0.0.0.0'/>", conf)[0]
    assert own.startswith("-vnc 0.0.0.0:0,")


def test_vnc_with_tls_and_a_secret() -> None:
    conf = QemuConf(vnc_tls=True, vnc_tls_x509_verify=True, vnc_tls_x509_secret_uuid="a" * 36)
    host = HOST._replace(config=conf, find_secret=lambda kind, name: b"pass")
    *objects, vnc = shown("<graphics type='vnc'/>", host=host)
    secret, credentials = (json.loads(text) for text in objects)
    assert (secret["qom-type"], secret["id"]) == ("secret", "vnc-tls-creds0-secret0")
    assert credentials["passwordid"] == secret["id"]
    assert credentials["verify-peer"] is True
    assert vnc == "-vnc 127.0.0.1:0,tls-creds=vnc-tls-creds0,audiodev=audio1"


TLS = QemuConf(spice_tls=True, spice_password="x")


@pytest.mark.parametrize(
    ("xml", "expected"),
    [
        (
            "<graphics type='spice' autoport='yes'/>",
            "port=5901,tls-port=5902,addr=127.0.0.1,x509-dir=/etc/pki/libvirt-spice",
        ),
        (
            "<graphics type='spice' autoport='yes' defaultMode='secure'/>",
            "tls-port=5902,addr=127.0.0.1,x509-dir=/etc/pki/libvirt-spice,tls-channel=default",
        ),
        (
            "<graphics type='spice' autoport='yes' defaultMode='insecure'/>",
            "port=5901,addr=127.0.0.1,plaintext-channel=default",
        ),
        (
            "<graphics type='spice' tlsPort='-1'><channel name='main' mode='secure'/></graphics>",
            "tls-port=5902,addr=127.0.0.1,x509-dir=/etc/pki/libvirt-spice,tls-channel=main",
        ),
    ],
)
def test_spice_ports(xml: str, expected: str) -> None:
    assert shown(xml, TLS) == [f"-spice {expected},seamless-migration=on"]


@pytest.mark.parametrize(
    ("xml", "words"),
    [
        ("<graphics type='spice' tlsPort='5909'/>", "TLS is disabled in qemu.conf"),
        ("<graphics type='spice' tlsPort='-1'/>", "spice TLS is disabled in qemu.conf"),
        (
            "<graphics type='spice' port='5909' defaultMode='secure'/>",
            "defaultMode secure requested in XML configuration, but TLS connection is not available",
        ),
        (
            "<graphics type='spice' port='5909'><channel name='main' mode='secure'/></graphics>",
            "secure channels set in XML configuration, but TLS connection is not available",
        ),
        ("<graphics type='vnc'/><graphics type='vnc'/>", "only 1 graphics device of each type"),
    ],
)
def test_not_started(xml: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        shown(xml)
    assert words in refused.value.message


def test_a_network_without_an_address() -> None:
    host = HOST._replace(find_network=lambda name: None)
    with pytest.raises(ConfigError, match="listen network 'n' had no usable address"):
        shown("<graphics type='vnc'><listen type='network' network='n'/></graphics>", host=host)


def test_the_address_of_a_network() -> None:
    host = HOST._replace(find_network=lambda name: {"address": "10.7.0.1"} if name == "lab" else None)
    xml = "<graphics type='vnc'><listen type='network' network='lab'/></graphics>"
    assert shown(xml, host=host) == ["-vnc 10.7.0.1:0,audiodev=audio1"]


def test_environment_of_a_window() -> None:
    xml = "<graphics type='sdl' display=':3' xauth='/root/.x'/>"
    environment = Guest.from_xml(domain(xml)).command(LATEST, HOST).environment
    assert environment["DISPLAY"] == ":3"
    assert environment["XAUTHORITY"] == "/root/.x"


@given(text=st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1))
def test_nothing_in_a_path_breaks_out(text: str) -> None:
    from qemushim.context import Build
    from qemushim.devices.graphics import Graphics

    guest = Guest.from_xml(domain("")).domain
    node = Node("graphics", {"type": "vnc"})
    node.add("listen", {"type": "socket", "socket": text})
    guest.add(Graphics, node.attrib).node.children = node.children
    (vnc,) = guest.lists["graphics"][0].options(Build(guest, LATEST, HOST))
    assert vnc.text == f"vnc=unix:{text.replace(',', ',,')}"
