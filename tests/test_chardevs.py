"""Serial ports, consoles, channels, smartcards, redirected devices, and what they are connected to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.devices.chardev import is_generated_path
from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Descriptors, Host, Paths, QemuConf
from tests.small_guests import (
    ARM,
    LATEST,
    PSERIES,
    RISCV,
    S390,
    document,
    guest,
    refusal,
    stored,
    tokens,
    values,
)

OLDER = Emulator.recorded("9.1.0")
SPICE = "<graphics type='spice' port='5900' autoport='no' listen='127.0.0.1'/>"
#: a host that opens sockets and files for QEMU
PASSING = Host.nominal()._replace(descriptors=Descriptors(unix_listen=20, file_source=30, file_log=31))
#: character back ends as QMP spells them
QMP = LATEST.with_flags(add=("chardev.json",))


def chardevs(devices: str, emulator: Emulator = LATEST, host: Host | None = None) -> list[str]:
    """Every back end but the monitor's."""
    return [text for text in values("-chardev", tokens(devices, emulator, host)) if "charmonitor" not in text]


def device(devices: str, driver: str, emulator: Emulator = LATEST) -> Any:
    found = [json.loads(text) for text in values("-device", tokens(devices, emulator))]
    return next(one for one in found if one["driver"] == driver)


def channel(source: str) -> str:
    kind, _, inner = source.partition(" ")
    return f"<channel type='{kind}'>{inner}<target type='virtio' name='a.b'/></channel>"


# -- back ends -------------------------------------------------------------------------------------

#: source → as key=value behind the id, as the QMP type and data
BACK_ENDS = {
    "null": ("null", "", "null", {}),
    "pipe <source path='/a,b'/>": ("pipe", ",path=/a,,b", "pipe", {"device": "/a,b"}),
    "dev <source path='/dev/x'/>": ("serial", ",path=/dev/x", "serial", {"device": "/dev/x"}),
    "file <source path='/x'/>": (
        "file",
        ",path=/dev/fdset/0,append=on",
        "file",
        {"out": "/dev/fdset/0", "append": True},
    ),
    "unix <source mode='connect' path='/s'/>": (
        "socket",
        ",path=/s",
        "socket",
        {"addr": {"type": "unix", "data": {"path": "/s"}}, "server": False},
    ),
    "unix <source mode='bind' path='/s'/>": (
        "socket",
        ",fd=20,server=on,wait=off",
        "socket",
        {"addr": {"type": "fd", "data": {"str": "20"}}, "wait": False, "server": True},
    ),
    "tcp <source mode='bind' host='h' service='9'/><protocol type='telnet'/>": (
        "socket",
        ",host=h,port=9,telnet=on,server=on,wait=off",
        "socket",
        {
            "addr": {"type": "inet", "data": {"host": "h", "port": "9"}},
            "wait": False,
            "telnet": True,
            "server": True,
        },
    ),
    "tcp <source host='h' service='9'><reconnect enabled='yes' timeout='2'/></source>": (
        "socket",
        ",host=h,port=9,reconnect-ms=2000",
        "socket",
        {
            "addr": {"type": "inet", "data": {"host": "h", "port": "9"}},
            "telnet": False,
            "server": False,
            "reconnect-ms": 2000,
        },
    ),
    "udp <source mode='connect' service='9'/>": (
        "udp",
        ",host=,port=9,localaddr=,localport=0",
        "udp",
        {"remote": {"type": "inet", "data": {"host": "", "port": "9"}}},
    ),
    "qemu-vdagent <source><mouse mode='client'/><clipboard copypaste='no'/></source>": (
        "qemu-vdagent",
        ",name=vdagent,clipboard=off,mouse=on",
        "qemu-vdagent",
        {"clipboard": False, "mouse": True},
    ),
}


@pytest.mark.parametrize("source", BACK_ENDS)
def test_back_ends(source: str) -> None:
    kind, flat, qmp_kind, data = BACK_ENDS[source]
    assert chardevs(channel(source), host=PASSING) == [f"{kind},id=charchannel0{flat}"]
    qmp = {"id": "charchannel0", "backend": {"type": qmp_kind, "data": data}}
    assert chardevs(channel(source), QMP, PASSING) == [json.dumps(qmp, separators=(",", ":"))]


def test_reconnecting_in_seconds_or_milliseconds() -> None:
    source = "unix <source mode='connect' path='/s'><reconnect enabled='%s' timeout='3'/></source>"
    assert chardevs(channel(source % "yes"))[0].endswith(",reconnect-ms=3000")
    assert chardevs(channel(source % "yes"), OLDER)[0].endswith(",reconnect=3")
    assert chardevs(channel(source % "no"), OLDER)[0].endswith(",reconnect=0")


def test_qemu_opens_what_is_not_passed() -> None:
    log = "<log file='/l' append='off'/>"
    assert chardevs(channel(f"file <source path='/f' append='on'/>{log}")) == [
        "file,id=charchannel0,path=/f,append=on,logfile=/l,logappend=off"
    ]
    assert chardevs(channel("unix <source mode='bind' path='/s'/>")) == [
        "socket,id=charchannel0,path=/s,server=on,wait=off"
    ]


def test_files_are_passed_in_sets_counted_across_devices() -> None:
    argv = tokens(
        """<channel type='file'><source path='/c'/><target type='virtio' name='c'/></channel>
        <serial type='file'><source path='/s'/><log file='/l'/></serial>""",
        host=PASSING,
    )
    assert values("-add-fd", argv) == [
        "set=0,fd=30,opaque=serial0-source",
        "set=1,fd=31,opaque=serial0-log",
        "set=2,fd=30,opaque=channel0-source",
    ]
    assert "file,id=charserial0,path=/dev/fdset/0,append=on,logfile=/dev/fdset/1,logappend=on" in values(
        "-chardev", argv
    )


@pytest.mark.parametrize("given_", ["", " tls='yes'", " tls='no'"])
@pytest.mark.parametrize("default", [False, True])
def test_tls_of_one_connection_or_of_all(given_: str, default: bool) -> None:
    config = QemuConf(chardev_tls=default, chardev_tls_x509_secret_uuid="u")
    host = Host.nominal()._replace(config=config, find_secret=lambda kind, reference: b"s")
    xml = f"<serial type='tcp'><source mode='bind' host='h' service='1'{given_}/></serial>"
    argv = tokens(xml, host=host)
    objects = {found["id"]: found for found in map(json.loads, values("-object", argv))}
    if given_ == " tls='no'" or (not given_ and not default):
        assert "objcharserial0_tls0" not in objects
        return
    credentials = objects["objcharserial0_tls0"]
    assert (credentials["endpoint"], credentials["verify-peer"]) == ("server", False)
    assert credentials["passwordid"] in objects
    assert values("-chardev", argv)[-1].endswith(",tls-creds=objcharserial0_tls0")


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00\r", exclude_categories=("C",)), min_size=1)
)
def test_a_path_can_not_break_out(path: str) -> None:
    xml = Guest.from_xml(document("<channel type='pipe'><source/><target type='virtio'/></channel>"))
    xml.domain.lists["channel"][0].node.ensure("source").set("path", path)
    argv = xml.command(LATEST, Host.nominal()).tokens
    assert f"pipe,id=charchannel0,path={path.replace(',', ',,')}" in argv


# -- serial ports ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emulator", "machine", "kind", "model"),
    [
        (LATEST, "pc", "isa-serial", "isa-serial"),
        (ARM, "virt", "system-serial", "pl011"),
        (RISCV, "virt", "system-serial", "16550a"),
        (PSERIES, "pseries", "spapr-vio-serial", "spapr-vty"),
        (S390, "", "sclp-serial", "sclpconsole"),
    ],
)
def test_default_serial(emulator: Emulator, machine: str, kind: str, model: str) -> None:
    text = stored("<serial type='pty'><source path='/dev/pts/9'/></serial>", emulator, "", machine)
    assert f"<target type='{kind}' port='0'>\n        <model name='{model}'/>" in text
    assert "/dev/pts/9" not in text


def test_a_board_connects_its_own_ports() -> None:
    assert values("-serial", tokens("<serial type='null'/>", ARM)) == ["chardev:charserial0"]
    assert device("<serial type='null'/>", "isa-serial")["index"] == 0


def test_ports_are_numbered_around_those_that_are_given() -> None:
    text = stored("<serial type='null'/><serial type='null'><target port='2'/></serial><serial type='null'/>")
    assert [text.count(f"<target type='isa-serial' port='{port}'>") for port in (2, 3, 4)] == [1, 1, 1]


def test_named_isa_ports_take_the_lowest_free_number() -> None:
    isa = "<serial type='null'><target type='isa-serial'/></serial>"
    text = stored(isa + "<serial type='null'><target type='isa-serial' port='0'/></serial>" + isa)
    assert [text.count(f"<target type='isa-serial' port='{port}'>") for port in (0, 1, 2)] == [1, 1, 1]
    assert "Maximum supported number of ISA serial ports is '4'" in refusal(isa * 5)


# -- consoles --------------------------------------------------------------------------------------


def consoles(devices: str, emulator: Emulator = LATEST) -> list[tuple[str, str, str]]:
    """(type, target, port) of each console of the definition."""
    found = Guest.from_xml(stored(devices, emulator)).domain.node.ensure("devices").all("console")
    return [
        (n.get("type") or "", n.value("target/@type") or "", n.value("target/@port") or "") for n in found
    ]


def test_a_lone_console_becomes_a_serial_port() -> None:
    text = stored("<console type='unix'><source mode='bind' path='/s'/></console>")
    assert text.count("path='/s'") == 2
    assert consoles("<console type='null'/>") == [("null", "serial", "0")]


def test_a_lone_serial_port_becomes_a_console() -> None:
    assert consoles("<serial type='null'><target port='3'/></serial>") == [("null", "serial", "3")]
    usb = "<controller type='usb' model='qemu-xhci'/><serial type='null'><target type='usb-serial'/></serial>"
    assert consoles(usb) == []


def test_consoles_of_their_own_are_numbered_behind() -> None:
    virtio = "<console type='pty'><target type='virtio' port='7'/></console>"
    assert consoles("<serial type='null'/>" + virtio) == [("null", "serial", "0"), ("pty", "virtio", "1")]
    assert consoles(virtio) == [("pty", "virtio", "0")]


def test_a_console_says_what_its_serial_port_says() -> None:
    text = stored("<serial type='null'/><console type='pty'/>", PSERIES)
    assert text.count("<address type='spapr-vio' reg='0x30000000'/>") == 2
    assert "<console type='null'>" in text
    assert Guest.from_xml(text).define(PSERIES, Host.nominal("ppc64")).to_xml() == text


def test_only_the_first_console_is_a_serial_port() -> None:
    message = "unsupported configuration: Only the first console can be a serial port"
    assert refusal("<console type='pty'/><console type='pty'/>") == message


# -- channels --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "generated"),
    [
        ("/run/libvirt/qemu/channel/1-guest/a.b", True),
        ("/var/lib/libvirt/qemu/channel/target/guest.a.b", True),
        ("/var/lib/libvirt/qemu/channel/target/domain-guest/a.b", True),
        ("/var/lib/libvirt/qemu/channel/guest/a.b", False),
        ("/var/lib/libvirt/qemu/channel/a.b", False),
        ("/run/libvirt/qemu/channel/x/y.a.b", False),
        ("/tmp/1-guest/a.b", False),
    ],
)
def test_paths_that_libvirt_made_up(path: str, generated: bool) -> None:
    assert is_generated_path(path, "a.b", Paths()) is generated


def test_a_made_up_path_is_made_up_anew() -> None:
    xml = channel("unix <source mode='connect' path='/run/libvirt/qemu/channel/3-old/a.b'/>")
    assert "<source" not in stored(xml)
    command = guest(xml).command(LATEST, PASSING)
    assert [d.target for d in command.descriptors if d.user == "channel0"] == [
        "/run/libvirt/qemu/channel/-1-g/a.b"
    ]


def test_a_spice_agent_has_a_name() -> None:
    xml = f"{SPICE}<channel type='spicevmc'><target type='virtio'/></channel>"
    assert device(xml, "virtserialport")["name"] == "com.redhat.spice.0"


def test_forwarding_into_a_channel() -> None:
    xml = "<channel type='null'><target type='guestfwd' address='10.0.2.9' port='80'/></channel>"
    found = json.loads(values("-netdev", tokens(xml))[0])
    assert found["guestfwd"] == [{"str": "tcp:10.0.2.9:80-chardev:charchannel0"}]


# -- smartcards and redirected devices -------------------------------------------------------------


def test_certificates_make_a_smartcard() -> None:
    names = "".join(f"<certificate>{name}</certificate>" for name in ("a", "b", "c"))
    found = device(f"<smartcard mode='host-certificates'>{names}</smartcard>", "ccid-card-emulated")
    assert list(found) == ["driver", "backend", "cert1", "cert2", "cert3", "db", "id", "bus"]
    assert "needs exactly three certificates" in refusal("<smartcard mode='host-certificates'/>")


def test_redirection_rules_are_written_as_usb_has_them() -> None:
    xml = """<redirdev type='spicevmc'/><redirfilter>
    <usbdev class='8' vendor='0x1a2B' product='-1' version='1.9' allow='yes'/>
    <usbdev allow='no'/></redirfilter>"""
    text = stored(SPICE + xml)
    assert "<usbdev class='0x08' vendor='0x1A2B' version='1.90' allow='yes'/>" in text
    assert "<redirdev bus='usb' type='spicevmc'" in text
    found = device(SPICE + xml, "usb-redir")
    assert found["filter"] == "0x08:0x1A2B:-1:0x0190:1|-1:-1:-1:-1:0"


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (
            "<serial type='unix'/>",
            "internal error: Missing source path attribute for char device",
        ),
        (
            "<serial type='tcp'><source host='h'/></serial>",
            "internal error: Missing source service attribute for char device",
        ),
        (
            "<serial type='udp'><source mode='bind' service='1'/></serial>",
            "internal error: Missing source service attribute for char device",
        ),
        (
            "<serial type='tcp'><source host='h' service='1'/><protocol type='telnets'/></serial>",
            "unsupported configuration: tcp chardev protocol 'telnets' not supported",
        ),
        (
            channel("unix <source mode='bind' path='/s'><reconnect enabled='yes' timeout='1'/></source>"),
            "internal error: chardev reconnect is possible only for connect mode",
        ),
        (
            channel("tcp <source host='h' service='1'><reconnect enabled='yes' timeout='0'/></source>"),
            "invalid argument: chardev reconnect source timeout cannot be '0'",
        ),
        (
            "<serial type='pty'><target type='tin-can'/></serial>",
            "unsupported configuration: unknown target type 'tin-can' specified for character device",
        ),
        (
            "<serial type='string'/>",
            "unsupported configuration: unknown type presented to host for character device: string",
        ),
        (
            "<channel type='pty'/>",
            "unsupported configuration: unknown target type '(null)' specified for character device",
        ),
        (
            "<redirdev/>",
            "internal error: missing type in redirdev",
        ),
    ],
)
def test_refused(xml: str, message: str) -> None:
    assert refusal(xml) == message


def test_a_port_of_another_board() -> None:
    xml = "<serial type='pty'><target type='sclp-serial'/></serial>"
    assert "target model 'sclpconsole' not compatible with guest architecture or machine type" in refusal(xml)
    assert (
        refusal("<parallel type='pty'/>", S390)
        == "unsupported configuration: parallel ports are not supported"
    )
