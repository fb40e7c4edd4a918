"""The promise: an address given once stays.  Guests are drawn from every kind of device, on several boards."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.devices.base import Device
from qemushim.emulator.bundled import find
from qemushim.guest import Guest
from qemushim.host import Host
from tests.goldens import cases

HOST = Host.nominal()
#: board → (machine type, arch, emulator, domain type)
BOARDS = {
    "pc": ("pc", "x86_64", "10.0", "kvm"),
    "q35": ("q35", "x86_64", "9.0", "kvm"),
    "old-q35": ("q35", "x86_64", "6.2", "qemu"),
    "arm": ("virt", "aarch64", "8.2", "qemu"),
    "power": ("pseries", "ppc64", "7.1", "kvm"),
    "mainframe": ("s390-ccw-virtio", "s390x", "10.0", "kvm"),
    "riscv": ("virt", "riscv64", "9.1", "qemu"),
}
#: what every board takes: a template with a number that is never used twice
EVERYWHERE = (
    "<disk type='file'><source file='/srv/{n}.img'/><target dev='vd{letter}' bus='virtio'/></disk>",
    "<disk type='file'><source file='/srv/{n}.img'/><target dev='sd{letter}' bus='scsi'/></disk>",
    "<interface type='user'><mac address='52:54:00:00:00:{n:02x}'/><model type='virtio'/></interface>",
    "<channel type='pty'><target type='virtio' name='org.example.{n}'/></channel>",
    "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>",
    "<controller type='scsi' index='{n}' model='virtio-scsi'/>",
    "<controller type='virtio-serial' index='{n}'/>",
)
X86 = (
    "<interface type='user'><mac address='52:54:00:00:01:{n:02x}'/><model type='e1000'/></interface>",
    "<sound model='ich6'/>",
    "<input type='tablet' bus='usb'/>",
    "<hostdev mode='subsystem' type='pci'><source><address domain='0' bus='{n}' slot='1' function='0'/>"
    "</source></hostdev>",
    "<redirdev bus='usb' type='tcp'><source mode='connect' host='h' service='{n}'/></redirdev>",
)


def device(template: str, number: int) -> str:
    letter = chr(97 + number) if number < 26 else "a" + chr(97 + number - 26)
    return template.format(n=number, letter=letter)


def document(board: str, devices: list[str]) -> str:
    machine, arch, _, virt = BOARDS[board]
    return (
        f"<domain type='{virt}'><name>g</name><memory unit='MiB'>512</memory>"
        f"<os><type arch='{arch}' machine='{machine}'>hvm</type></os><devices>{''.join(devices)}</devices></domain>"
    )


@st.composite
def guests(draw: st.DrawFn) -> tuple[str, list[str]]:
    board = draw(st.sampled_from(sorted(BOARDS)))
    pool = EVERYWHERE + (X86 if BOARDS[board][1] == "x86_64" else ())
    chosen = draw(st.lists(st.sampled_from(pool), max_size=14))
    return board, [device(template, number) for number, template in enumerate(chosen, 1)]


def define(board: str, text: str) -> Guest:
    return Guest.from_xml(text).define(find(BOARDS[board][2], BOARDS[board][1]), HOST)


def key(one: Device) -> tuple[str, ...]:
    """What a device is called by, whatever else of it changes."""
    node = one.node
    names = (
        "target/@dev",
        "mac/@address",
        "target/@name",
        "@index",
        "source/address/@bus",
        "source/@service",
    )
    return (node.tag, node.get("type") or "", *(node.value(name) or "" for name in names))


def places(guest: Guest) -> Iterator[tuple[tuple[str, ...], tuple[tuple[str, str], ...]]]:
    for one in guest.domain.every():
        address = one.node.child("address")
        if address is not None:
            # the first function of a slot is told when a second one comes: no move
            yield key(one), tuple((k, v) for k, v in address.attrib.items() if k != "multifunction")


@settings(max_examples=60, deadline=None)
@given(guests())
def test_defining_is_final_and_repeatable(drawn: tuple[str, list[str]]) -> None:
    board, devices = drawn
    text = document(board, devices)
    first = define(board, text).to_xml()
    assert define(board, text).to_xml() == first
    assert define(board, first).to_xml() == first
    kept = define(board, text).to_xml("keep")
    assert define(board, kept).to_xml("keep") == kept
    assert define(board, kept).to_xml() == first


@settings(max_examples=60, deadline=None)
@given(guests())
def test_no_address_twice_and_none_forgotten(drawn: tuple[str, list[str]]) -> None:
    guest = define(*(drawn[0], document(*drawn)))
    taken: list[tuple[str, ...]] = []
    for one in guest.domain.every():
        if (one.tag, one.node.get("type")) == ("console", "pty"):
            continue  # the shadow of a serial port
        address = one.node.child("address")
        if address is not None and address.get("type") not in ("virtio-mmio", None):
            # drives of different buses count on their own
            kind = one.node.value("target/@bus") or "" if address.get("type") == "drive" else ""
            taken.append((kind, *(v for k, v in sorted(address.attrib.items()) if k != "multifunction")))
    assert len(taken) == len(set(taken))
    needy = {"disk", "interface", "rng", "channel", "hostdev"}
    assert not [one for one in guest.domain.every() if one.tag in needy and one.node.child("address") is None]


@settings(max_examples=60, deadline=None)
@given(guests(), st.data())
def test_nobody_moves_when_another_comes_or_goes(drawn: tuple[str, list[str]], data: st.DataObject) -> None:
    board, devices = drawn
    _, arch, version, _ = BOARDS[board]
    emulator = find(version, arch)
    before = define(board, document(board, devices))
    more = before.attach(device(EVERYWHERE[2], 99), emulator, HOST)
    stood = dict(places(before))
    now = dict(places(more))
    assert {k: now.get(k) for k in stood} == stood
    targets = [one.node.value("target/@dev") for one in before.domain.every() if one.tag == "disk"]
    if targets:
        gone = data.draw(st.sampled_from(targets))
        assert gone is not None
        less = dict(places(before.detach(gone).define(emulator, HOST, update=False)))
        assert {k: v for k, v in stood.items() if k in less} == less


def test_keep_leaves_the_users_lines() -> None:
    """Comments come back to the byte; every start tag is there, in order, its own attributes first."""
    for case in cases():
        file = case.file("xml")
        emulator = find(case.emulator, case.arch)
        if not file.exists() or emulator.classic or case.get("attach") or case.get("detach"):
            continue
        text = case.path.read_text()
        kept = Guest.from_xml(text).define(emulator, case.host(emulator.arch)).to_xml("keep")
        comments = re.findall(r"<!--.*?-->", text, re.DOTALL)
        assert comments == re.findall(r"<!--.*?-->", kept, re.DOTALL)
        tags = iter(re.findall(r"<([\w:]+)([^>]*)>", kept))
        for tag, attributes in re.findall(r"<([\w:]+)([^>]*)>", text):
            names = re.findall(r"([\w:]+)=", attributes)
            assert any(tag == t and names == re.findall(r"([\w:]+)=", a)[: len(names)] for t, a in tags), (
                case.id,
                tag,
            )
