"""Which documents a change is for: every combination of flags, on every kind of connection."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import qemushim
from tests.libvirt_daemons import KINDS, PATIENCE, Daemons
from tests.machines import boot_sector
from tests.test_driver_libvirt_daemon import BOTH, CONFIG, LIVE, NAME, clean, document, image, nic, places

libvirt = pytest.importorskip("libvirt", reason="needs libvirt-python (pip install libvirt-python)")
pytestmark = [pytest.mark.libvirt, pytest.mark.qemu]

__all__ = ["clean", "image"]

CURRENT = 0
FLAGS = {"current": CURRENT, "live": LIVE, "config": CONFIG, "both": BOTH}
RNG = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>"
#: what comes and goes, by the names in ``places``
COMING = ("disk vdb", "disk sda", "interface 52:54:00:00:02:01")


@pytest.fixture(scope="module", params=["test", *KINDS])
def connection(request: pytest.FixtureRequest, daemons: Daemons) -> Iterator[Any]:
    libvirt.registerErrorHandler(lambda *_: None, None)
    if request.param == "test":
        with qemushim.open("test:///default") as connection:
            connection.lookupByName("test").destroy()
            connection.lookupByName("test").undefine()
            yield connection
        return
    with qemushim.open(daemons.uri(request.param)) as connection:
        yield connection


def is_test(connection: Any) -> bool:
    return bool(connection.getType() == "TEST")


def text_of(connection: Any, devices: str, machine: str = "q35") -> str:
    """Without KVM: on a host that is a guest itself, the firmware's real mode takes KVM many times as long."""
    virt = "test" if is_test(connection) else "qemu"
    return re.sub("domain type='[a-z]*'", f"domain type='{virt}'", document(devices, machine))


def hotplugs(connection: Any) -> bool:
    """Whether the driver can give a running guest a device: libvirt's own test driver could not at first."""
    return not is_test(connection) or connection.getLibVersion() > 9_001_000


def both(domain: Any) -> tuple[dict[str, str], dict[str, str]]:
    """The places of the stored definition, and of what runs (of the stored one again where nothing does)."""
    return places(domain, CONFIG), places(domain, 0)


def settled(domain: Any, live: dict[str, str]) -> bool:
    """Whether the running guest comes to be so: it lets go of devices in its own time."""
    end = time.monotonic() + PATIENCE
    while places(domain, 0) != live and time.monotonic() < end:
        time.sleep(0.05)
    return places(domain, 0) == live


def coming(connection: Any, image: Callable[[str], str]) -> dict[str, str]:
    found = [image("vdb"), image("sda").replace("virtio", "scsi"), nic(1)]
    named = dict(zip(COMING, found, strict=True))
    if is_test(connection):
        # its hotplug knows little else
        del named["disk sda"], named["interface 52:54:00:00:02:01"]
    return named


@pytest.mark.parametrize("flags", FLAGS.values(), ids=FLAGS)
@pytest.mark.parametrize("running", [False, True], ids=["off", "running"])
def test_attach_update_detach(
    connection: Any, image: Callable[[str], str], running: bool, flags: int
) -> None:
    boot = image("vda")
    # a guest that lets go of what is taken from it
    with open(re.findall("file='(/[^']*)'", boot)[0], "r+b") as file:
        file.write(boot_sector("pc"))
    controller = "<controller type='scsi' model='virtio-scsi'/>"
    domain = connection.defineXML(text_of(connection, controller + boot + RNG, "pc"))
    if running:
        domain.create()
    stored, live = both(domain)
    meant = flags or (LIVE if running else CONFIG)
    devices = coming(connection, image)
    if meant & LIVE and not (running and hotplugs(connection)):
        # what libvirt says to it is what is said, and nothing is changed
        code = libvirt.VIR_ERR_NO_SUPPORT if running else libvirt.VIR_ERR_OPERATION_INVALID
        calls = [(domain.attachDeviceFlags, text) for text in devices.values()]
        for call, text in (*calls, (domain.detachDeviceFlags, boot), (domain.updateDeviceFlags, boot)):
            with pytest.raises(libvirt.libvirtError) as caught:
                call(text, flags)
            assert caught.value.get_error_code() in (code, libvirt.VIR_ERR_NO_SUPPORT)
        assert both(domain) == (stored, live)
        return
    for text in devices.values():
        # an alias is the run's own: another guest's is not taken over
        assert domain.attachDeviceFlags(text.replace("<target", "<alias name='net7'/><target"), flags) == 0
    grown = both(domain)
    new = [{name: where for name, where in after.items() if name in devices} for after in grown]
    assert all(before.items() <= after.items() for before, after in zip((stored, live), grown, strict=True))
    assert "net7" not in domain.XMLDesc(CONFIG)
    assert "<alias" not in domain.XMLDesc(CONFIG)
    assert (len(new[0]), len(new[1])) == (
        len(devices) if meant & CONFIG else 0,
        len(devices) if meant & LIVE or not running else 0,
    )
    assert all(where for documents in new for where in documents.values())
    if meant == BOTH:
        assert new[0] == new[1]
    for text in devices.values():
        if "<interface" in text and not is_test(connection):
            domain.updateDeviceFlags(text.replace("<model", "<link state='down'/><model"), flags)
    assert both(domain) == grown
    if is_test(connection) and meant & LIVE:
        with pytest.raises(libvirt.libvirtError, match="not supported by the connection driver"):
            domain.detachDeviceFlags(devices["disk vdb"], flags)
        assert both(domain) == grown
        return
    for text in reversed(devices.values()):
        assert domain.detachDeviceFlags(text, flags) == 0
    assert settled(domain, live)
    assert places(domain, CONFIG) == stored


def test_redefined_bare_nothing_moves(connection: Any, image: Callable[[str], str]) -> None:
    devices = [image("vda"), nic(1), RNG, image("sda").replace("virtio", "scsi"), nic(2)]
    domain = connection.defineXML(text_of(connection, "".join(devices)))
    first = places(domain, CONFIG)
    assert all(where for name, where in first.items() if name != "controller pci 0")
    again = connection.defineXML(text_of(connection, "".join(reversed(devices))))
    assert places(again, CONFIG) == first
    without = connection.defineXML(text_of(connection, "".join(devices[2:])))
    gone = {"disk vda", "interface 52:54:00:00:02:01"}
    left = places(without, CONFIG)
    assert left == {name: where for name, where in first.items() if name in left}
    assert not gone & left.keys()


def test_strict_names_each_change(connection: Any, image: Callable[[str], str]) -> None:
    strict = qemushim.wrap(connection._raw, strict=True)
    text = text_of(connection, image("vda") + nic(1) + RNG)
    domain = strict.defineXML(text)
    before = domain.XMLDesc(CONFIG)
    strict.defineXML(text.replace("<memory unit='MiB'>64</memory>", "<memory unit='KiB'>65536</memory>"))
    bad = text.replace(RNG, "").replace("52:54:00:00:02:01", "52:54:00:00:02:09").replace(">64<", ">128<")
    with pytest.raises(libvirt.libvirtError) as caught:
        strict.defineXML(bad)
    assert caught.value.get_error_code() == libvirt.VIR_ERR_CONFIG_UNSUPPORTED
    for words in ("rng virtio is removed", "52:54:00:00:02:09", "131072"):
        assert words in str(caught.value)
    assert domain.XMLDesc(CONFIG) == before


def test_out_of_slots(connection: Any, image: Callable[[str], str]) -> None:
    """What is full, and what to add; and no document is changed."""
    if not hotplugs(connection):
        pytest.skip("libvirt's test driver plugs nothing into a running guest before 9.1")
    domain = connection.defineXML(text_of(connection, image("vda")))
    domain.create()

    def fill() -> None:
        for letter in "bcdefghij":
            domain.attachDeviceFlags(image(f"vd{letter}"), BOTH)

    with pytest.raises(qemushim.AddressError) as caught:
        fill()
    assert re.search(
        r"full: bus 1-\d+ \(pcie-root-port\); add <controller .*model='pcie-root-port'/>", str(caught.value)
    )
    stored, live = both(domain)
    assert {name: where for name, where in stored.items() if name in live} == live


def test_plan_is_what_is_defined(connection: Any, image: Callable[[str], str]) -> None:
    text = text_of(connection, image("vda") + nic(1) + RNG)
    plan = connection.plan(text)
    assert not [domain for domain in connection.listAllDomains() if domain.name() == NAME]
    domain = connection.define(plan)
    assert connection.plan(text).added == ()
    assert not connection.plan(domain.XMLDesc(CONFIG)).breaks


def test_flags_that_nobody_knows(connection: Any, image: Callable[[str], str]) -> None:
    domain = connection.defineXML(text_of(connection, image("vda")))
    before = domain.XMLDesc(CONFIG)
    calls = {"vdb": domain.attachDeviceFlags, "vda": domain.detachDeviceFlags}
    for name, call in (*calls.items(), ("vda", domain.updateDeviceFlags)):
        with pytest.raises(libvirt.libvirtError) as caught:
            call(image(name), CONFIG | 1 << 20)
        assert caught.value.get_error_code() == libvirt.VIR_ERR_INVALID_ARG
    assert domain.XMLDesc(CONFIG) == before
