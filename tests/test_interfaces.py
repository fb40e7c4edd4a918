"""Network cards and what they are connected to."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.emulator.model import Emulator
from qemushim.guest import Guest
from qemushim.host import Descriptors, Host
from tests.small_guests import ARM, LATEST, OLD, PSERIES, RISCV, S390, guest, refusal, stored, tokens, values

MAC = "<mac address='52:54:00:01:02:03'/>"
#: a host that passes descriptors under numbers of its own choice
PASSING = Host.nominal()._replace(descriptors=Descriptors(bridge=50, tap=60, vhost_net=70, vdpa=42))


def netdev(devices: str, emulator: Emulator = LATEST, host: Host | None = None, extra: str = "") -> Any:
    return json.loads(values("-netdev", tokens(devices, emulator, host, extra))[0])


def card(devices: str, emulator: Emulator = LATEST) -> Any:
    found = [json.loads(text) for text in values("-device", tokens(devices, emulator))]
    return next(device for device in found if "netdev" in device)


# -- defaults --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("emulator", "machine", "model"),
    [
        (LATEST, "pc", "rtl8139"),
        (ARM, "virt", "virtio"),
        (ARM, "vexpress-a15", "lan9118"),
        (S390, "", "virtio"),
        (RISCV, "", "virtio"),
        (PSERIES, "", "rtl8139"),
    ],
)
def test_default_model(emulator: Emulator, machine: str, model: str) -> None:
    assert f"<model type='{model}'/>" in stored(
        f"<interface type='user'>{MAC}</interface>", emulator, "", machine
    )


def test_each_card_without_an_address_gets_one_of_its_own() -> None:
    text = stored("<interface type='user'/><interface type='user'/>")
    assert len(set(re.findall("mac address='(52:54:00:[^']*)'", text))) == 2
    assert stored("<interface type='user'/><interface type='user'/>") == text


@given(st.lists(st.integers(0, 255), min_size=6, max_size=6))
def test_mac_addresses_are_written_one_way(octets: list[int]) -> None:
    octets[0] &= 0xFE
    loose = ":".join(f"{octet:X}" for octet in octets)
    strict = ":".join(f"{octet:02x}" for octet in octets)
    assert f"<mac address='{strict}'/>" in stored(
        f"<interface type='user'><mac address='{loose}'/></interface>"
    )


def test_known_models_are_spelled_one_way_and_others_kept() -> None:
    text = stored(
        f"<interface type='user'>{MAC}<model type='VirtIO'/></interface>"
        f"<interface type='user'>{MAC}<model type='Sungem'/></interface>"
    )
    assert "<model type='virtio'/>" in text
    assert "<model type='Sungem'/>" in text


def test_what_has_no_meaning_is_not_stored() -> None:
    text = stored(
        f"""<interface type='ethernet'>{MAC}<target dev='vnet7'/><model type='e1000'/>
        <driver name='vhost' queues='4'/><backend vhost='/dev/mine'/>
        <coalesce><rx><frames max='0'/></rx></coalesce></interface>"""
    )
    for word in ("vnet7", "<driver name='vhost'", "backend", "coalesce"):
        assert word not in text


def test_a_bridge_has_no_port() -> None:
    text = stored(f"<interface type='bridge'>{MAC}<source bridge='br0' port='none'/></interface>")
    assert "<source bridge='br0'/>" in text


def test_a_definition_stays_as_it_is() -> None:
    once = stored(
        f"""<interface type='direct'>{MAC}<source dev='eth0'/><vlan><tag id='3'/><tag id='4'/></vlan>
        <virtualport type='openvswitch'/><model type='virtio'/>
        <driver queues='2' rx_queue_size='512'/></interface>
        <interface type='ethernet'>{MAC}<source><ip address='10.1.1.1' prefix='24'/></source></interface>"""
    )
    assert "mode='vepa'" in once
    assert "trunk='yes'" in once
    assert "interfaceid='" in once
    assert "<ip address='10.1.1.1' family='ipv4' prefix='24'/>" in once
    assert Guest.from_xml(once).define(LATEST, Host.nominal()).to_xml() == once


# -- back ends -------------------------------------------------------------------------------------


def test_one_descriptor_for_each_queue() -> None:
    xml = f"<interface type='bridge'>{MAC}<source bridge='br0'/><model type='virtio'/>%s</interface>"
    one = netdev(xml % "", host=PASSING)
    assert (one["fd"], one["vhostfd"]) == ("50", "70")
    two = netdev(xml % "<driver queues='2'/>", host=PASSING)
    assert (two["fds"], two["vhostfds"]) == ("50:51", "70:71")
    assert "vhost" not in netdev(xml % "<driver name='qemu'/>")


def test_the_process_is_told_what_to_open() -> None:
    xml = f"<interface type='bridge'>{MAC}<source bridge='br0'/><model type='virtio'/></interface>"
    command = guest(xml).command(LATEST, Host.nominal())
    kinds = {descriptor.kind for descriptor in command.descriptors if descriptor.user == "net0"}
    assert kinds == {"tap", "vhost-net"}


@pytest.mark.parametrize(
    ("kind", "source", "key", "value"),
    [
        ("server", "<source port='5000'/>", "listen", ":5000"),
        ("client", "<source address='10.0.0.1' port='5000'/>", "connect", "10.0.0.1:5000"),
        ("mcast", "<source address='230.0.0.1' port='5000'/>", "mcast", "230.0.0.1:5000"),
    ],
)
def test_sockets(kind: str, source: str, key: str, value: str) -> None:
    found = netdev(f"<interface type='{kind}'>{MAC}{source}</interface>")
    assert found == {"type": "socket", key: value, "id": "hostnet0"}


def test_user_networking_takes_addresses() -> None:
    found = netdev(
        f"<interface type='user'>{MAC}<ip address='10.9.0.0' prefix='16'/>"
        "<ip address='fd00::' family='ipv6'/></interface>"
    )
    assert found == {"type": "user", "net": "10.9.0.0/16", "ipv6-prefix": "fd00::", "id": "hostnet0"}


def test_a_netdev_was_not_always_json() -> None:
    argv = tokens(f"<interface type='user'>{MAC}<ip address='10.9.0.0' prefix='16'/></interface>", OLD)
    assert values("-netdev", argv) == ["user,net=10.9.0.0/16,id=hostnet0"]


def test_passt() -> None:
    xml = f"<interface type='user'>{MAC}<backend type='passt'/><source dev='eth0'/></interface>"
    found = netdev(xml)
    assert found["type"] == "stream"
    assert found["addr"]["path"].endswith("/passt/-1-g-net0.socket")
    assert found["reconnect-ms"] == 5000
    assert "passt network backend is not supported" in refusal(xml, OLD)


def test_vhost_user() -> None:
    xml = f"<interface type='vhostuser'>{MAC}<source type='unix' path='/v,1' mode='server'/></interface>"
    argv = tokens(xml, extra="<memoryBacking><access mode='shared'/></memoryBacking>")
    assert "socket,id=charnet0,path=/v,,1,server=on" in values("-chardev", argv)
    assert json.loads(values("-netdev", argv)[0])["type"] == "vhost-user"


def test_vdpa_is_passed_as_a_set_of_descriptors() -> None:
    argv = tokens(f"<interface type='vdpa'>{MAC}<source dev='/dev/vhost-vdpa-1'/></interface>", host=PASSING)
    assert values("-add-fd", argv) == ["set=0,fd=42,opaque=net0-vdpa"]
    assert json.loads(values("-netdev", argv)[0])["vhostdev"] == "/dev/fdset/0"


def test_the_host_says_what_a_network_is() -> None:
    xml = f"<interface type='network'>{MAC}<source network='pool'/><model type='virtio'/></interface>"
    host = PASSING._replace(find_network=lambda name: {"type": "direct"})
    assert netdev(xml, host=host)["fd"] == "60"
    assert netdev(xml, host=PASSING)["fd"] == "50"


# -- cards -----------------------------------------------------------------------------------------


def test_many_queues_want_vectors_except_on_ccw() -> None:
    xml = f"<interface type='ethernet'>{MAC}<model type='virtio'/><driver queues='3'/></interface>"
    found = card(xml)
    assert (found["mq"], found["vectors"]) == (True, 8)
    found = card(xml, S390)
    assert found["mq"] is True
    assert "vectors" not in found


def test_offloads_in_qemus_order() -> None:
    found = card(
        f"""<interface type='bridge'><source bridge='br0'/>{MAC}
        <model type='virtio'/><driver txmode='iothread' event_idx='off'>
        <guest ufo='off' csum='on'/><host mrg_rxbuf='off' gso='off'/></driver>
        <mtu size='9000'/></interface>"""
    )
    expected = "driver tx event_idx gso mrg_rxbuf guest_csum guest_ufo host_mtu netdev id mac bus addr"
    assert list(found) == expected.split()
    assert found["tx"] == "bh"


def test_an_exported_card_is_a_plain_tap_device_with_a_place_of_its_own() -> None:
    place = "<address type='pci' domain='0x0000' bus='0x00' slot='0x09' function='0x0'/>"
    kept = (
        f"<interface type='network'>{MAC}<source network='default'/><model type='virtio'/>{place}</interface>"
    )
    argv = guest(kept).command(LATEST, Host.nominal(), export=True).argv
    made = next(json.loads(text) for text in values("-device", argv) if "virtio-net" in text)
    # the balloon has the first slot that is free
    assert (made["bus"], made["addr"], made["mac"]) == ("pci.0", "0x3", "52:54:00:01:02:03")
    assert json.loads(values("-netdev", argv)[0])["type"] == "tap"


def test_a_board_with_its_own_card() -> None:
    argv = tokens(f"<interface type='user'>{MAC}</interface>", ARM, machine="vexpress-a15")
    assert values("-net", argv) == ["nic,macaddr=52:54:00:01:02:03,netdev=hostnet0,model=lan9118,id=net0"]


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("xml", "message"),
    [
        (
            "<interface type='user'><mac address='52:54:00'/></interface>",
            "XML error: unable to parse mac address '52:54:00'",
        ),
        (
            "<interface type='user'><mac address='01:00:00:00:00:00'/></interface>",
            "XML error: expected unicast mac address, found multicast '01:00:00:00:00:00'",
        ),
        (
            "<interface type='bridge'/>",
            "XML error: interface type='bridge' requires a 'source' element",
        ),
        (
            "<interface type='user'><model type='a b'/></interface>",
            "invalid argument: Model name contains invalid characters",
        ),
        (
            "<interface type='user'><model type='virtio'/><driver tx_queue_size='300'/></interface>",
            "unsupported configuration: tx_queue_size has to be a power of two",
        ),
        (
            "<interface type='user'><portForward proto='tcp'/></interface>",
            "The <portForward> element can only be used with the 'passt' backend",
        ),
        (
            "<interface type='vhostuser'><backend type='passt'/></interface>",
            "unsupported configuration: 'interface' requires shared memory",
        ),
        (
            f"<interface type='user'>{MAC}<backend tap='/dev/mine'/></interface>",
            "interface 52:54:00:01:02:03 - custom tap device path is not supported",
        ),
    ],
)
def test_refused(xml: str, message: str) -> None:
    assert message in refusal(xml)


def test_shared_memory_may_be_said_by_cell() -> None:
    xml = f"<interface type='vhostuser'>{MAC}<backend type='passt'/></interface>"
    cell = "<cpu><numa><cell id='0' cpus='0' memory='256' unit='MiB' memAccess='shared'/></numa></cpu>"
    assert netdev(xml, extra=cell)["type"] == "vhost-user"
