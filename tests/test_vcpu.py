"""``<vcpu>``, ``<vcpus>``, ``<iothreads>``, ``<cputune>``, ``-smp`` and IOThread objects."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.guest import Guest
from qemushim.host import Host

LATEST = Emulator.recorded("10.0.0")
OLD = Emulator.recorded("6.2.0")
POWER = Emulator.recorded("7.1.0", "ppc64")

TAGS = ("vcpu", "vcpus", "iothreads", "iothreadids", "defaultiothread", "cputune")


def guest(inside: str, arch: str = "x86_64", machine: str = "pc") -> Guest:
    return Guest.from_xml(
        f"""<domain type='qemu'><name>g</name><uuid>2d1f1aee-8a8c-4b2e-9a5b-0d7a3a0f1c11</uuid>
<memory unit='MiB'>512</memory>
<os><type arch='{arch}' machine='{machine}'>hvm</type></os>
{inside}<devices><controller type='usb' model='none'/><memballoon model='none'/></devices></domain>"""
    )


def stored(inside: str, emulator: Emulator = LATEST) -> str:
    """The elements of these tests in the definition, without white space."""
    machine = "pseries" if emulator.arch == "ppc64" else "pc"
    text = guest(inside, emulator.arch, machine).define(emulator, Host.nominal(emulator.arch)).to_xml()
    found = Guest.from_xml(text).domain
    again = Guest.from_xml(text).define(emulator, Host.nominal(emulator.arch), update=False).to_xml()
    assert again == text
    lines = []
    for tag in TAGS:
        if found.node.child(tag) is not None:
            start = text.index(f"  <{tag}")
            end = text.find(f"  </{tag}>\n", start)
            lines.append(text[start:end] + f"</{tag}>" if end >= 0 else text[start : text.index("\n", start)])
    return "".join(line.strip() for block in lines for line in block.splitlines())


def values(inside: str, flag: str, emulator: Emulator = LATEST) -> list[str]:
    tokens = guest(inside).command(emulator, Host.nominal()).tokens
    return [tokens[i + 1] for i, token in enumerate(tokens) if token == flag]


def objects(inside: str) -> list[dict[str, object]]:
    return [
        o for o in map(json.loads, values(inside, "-object")) if o["qom-type"] in ("iothread", "main-loop")
    ]


# -- vCPUs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("", "<vcpu placement='static'>1</vcpu>"),
        ("<vcpu>4</vcpu>", "<vcpu placement='static'>4</vcpu>"),
        ("<vcpu current='4'>4</vcpu>", "<vcpu placement='static'>4</vcpu>"),
        (
            "<vcpu cpuset='7,0-2,^1' current='2'>4</vcpu>",
            "<vcpu placement='static' cpuset='0,2,7' current='2'>4</vcpu>",
        ),
        ("<vcpu placement='auto' cpuset='1'>4</vcpu>", "<vcpu placement='auto'>4</vcpu>"),
        (
            "<vcpu>2</vcpu><numatune><memory mode='strict' placement='auto'/></numatune>",
            "<vcpu placement='auto'>2</vcpu>",
        ),
    ],
)
def test_count_and_placement(given: str, want: str) -> None:
    assert stored(given) == want


def test_every_vcpu_gets_a_state_where_one_has() -> None:
    given = "<vcpu current='1'>3</vcpu><vcpus><vcpu id='2' enabled='yes' hotpluggable='yes'/></vcpus>"
    assert stored(given) == (
        "<vcpu placement='static' current='2'>3</vcpu>"
        "<vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='no' hotpluggable='yes'/>"
        "<vcpu id='2' enabled='yes' hotpluggable='yes'/></vcpus>"
    )
    # what is plugged in later is not there when QEMU starts
    assert values(given, "-smp") == ["1,maxcpus=3,sockets=3,cores=1,threads=1"]


TOPOLOGY = "<vcpu current='2'>8</vcpu><cpu><topology sockets='1' dies='2' cores='2' threads='2'/></cpu>"


def test_topology() -> None:
    want = "2,maxcpus=8,sockets=1,dies=2,clusters=1,cores=2,threads=2"
    assert values(TOPOLOGY, "-smp") == [want]
    assert values(TOPOLOGY, "-smp", OLD) == [want.replace("clusters=1,", "")]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(1, 3), min_size=5, max_size=5))
def test_a_topology_fits_or_is_refused(numbers: list[int]) -> None:
    names = ("sockets", "dies", "clusters", "cores", "threads")
    attributes = " ".join(f"{name}='{n}'" for name, n in zip(names, numbers, strict=True))
    product = 1
    for number in numbers:
        product *= number
    cpu = f"<cpu><topology {attributes}/></cpu>"
    text = ",".join(f"{name}={n}" for name, n in zip(names, numbers, strict=True))
    assert values(f"<vcpu>{product}</vcpu>{cpu}", "-smp") == [f"{product},{text}"]
    with pytest.raises(ConfigError, match="CPU topology doesn't match maximum vcpu count"):
        stored(f"<vcpu>{product + 1}</vcpu>{cpu}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("<vcpu>many</vcpu>", "XML error: maximum vcpus count must be an integer"),
        (
            "<vcpu current='3'>2</vcpu>",
            "unsupported configuration: maximum vCPU count must not be less than current vCPU count",
        ),
        ("<vcpu cpuset='1,^1'>2</vcpu>", "unsupported configuration: Invalid value of 'cpuset': 1,^1"),
        ("<vcpu cpuset='a-b'>2</vcpu>", "invalid argument: Failed to parse bitmap 'a-b'"),
        (
            "<vcpu>1000</vcpu>",
            "unsupported configuration: Maximum CPUs greater than specified machine type limit 255",
        ),
        ("<vcpus><vcpu id='0' enabled='no'/></vcpus>", "XML error: vCPU0 can't be offline"),
        (
            "<vcpus><vcpu id='1' enabled='no'/></vcpus>",
            "XML error: vcpu id '1' is out of range of maximum vcpu count",
        ),
        (
            (
                "<vcpu>2</vcpu><cputune><vcpusched vcpus='0-1' scheduler='batch'/>"
                "<vcpusched vcpus='1' scheduler='idle'/></cputune>"
            ),
            "'vcpusched' attributes 'vcpus' must not overlap",
        ),
        (
            "<cputune><iothreadsched iothreads='1' scheduler='batch'/></cputune>",
            "unsupported configuration: Cannot find 'iothread' : 1",
        ),
        (
            "<cputune><quota>7</quota></cputune>",
            "unsupported configuration: Value of cputune 'quota' must be in range [1000, 18446744073709551]",
        ),
    ],
)
def test_what_can_not_be(given: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        stored(given)
    assert str(caught.value) == message
    assert caught.value.line


def test_a_pseries_machine_plugs_whole_cores() -> None:
    inside = "<vcpu current='{}'>8</vcpu><cpu><topology sockets='1' cores='2' threads='4'/></cpu>"
    assert "current='4'" in stored(inside.format(4), POWER)
    with pytest.raises(ConfigError, match=r"multiple of the vCPU hotplug granularity \(4\)"):
        stored(inside.format(3), POWER)


# -- IOThreads -----------------------------------------------------------------------------------------------


def test_missing_iothreads_take_the_lowest_free_ids() -> None:
    inside = "<iothreads>4</iothreads><iothreadids><iothread id='3'/><iothread id='1'/></iothreadids>"
    assert [o["id"] for o in objects(inside)] == ["iothread3", "iothread1", "iothread2", "iothread4"]
    assert "<iothread id='3'/><iothread id='1'/><iothread id='2'/><iothread id='4'/>" in stored(inside)


def test_the_number_grows_with_the_list() -> None:
    inside = "<iothreads>1</iothreads><iothreadids><iothread id='5'/><iothread id='9'/></iothreadids>"
    assert "<iothreads>2</iothreads>" in stored(inside)
    assert stored("<iothreads>2</iothreads>").endswith("<iothreads>2</iothreads>")


def test_pools_and_polling() -> None:
    inside = (
        "<iothreadids><iothread id='1' thread_pool_min='2' thread_pool_max='8'>"
        "<poll max='500' grow='2' shrink='4'/></iothread></iothreadids><defaultiothread thread_pool_max='3'/>"
    )
    assert objects(inside) == [
        {
            "qom-type": "iothread",
            "id": "iothread1",
            "thread-pool-min": 2,
            "thread-pool-max": 8,
            "poll-max-ns": 500,
            "poll-grow": 2,
            "poll-shrink": 4,
        },
        {"qom-type": "main-loop", "id": "main-loop", "thread-pool-max": 3},
    ]
    with pytest.raises(ConfigError, match="thread_pool_max is not supported by this QEMU"):
        guest("<defaultiothread thread_pool_max='3'/>").define(OLD, Host.nominal())


# -- cputune -------------------------------------------------------------------------------------------------


def test_tuning_is_written_in_order_one_element_each() -> None:
    inside = """<vcpu>3</vcpu><iothreads>2</iothreads><cputune>
<iothreadsched iothreads='1-2' scheduler='fifo' priority='5'/>
<vcpusched vcpus='1-2' scheduler='batch' priority='9'/>
<emulatorpin cpuset='1,0'/><vcpupin vcpu='2' cpuset='3'/><vcpupin vcpu='0' cpuset='1'/>
<vcpupin vcpu='7' cpuset='1'/><quota>-1</quota><shares>0</shares>
<cachetune vcpus='0-1'><cache id='0' level='3' type='both' size='3072' unit='KiB'/></cachetune>
</cputune>"""
    assert stored(inside) == (
        "<vcpu placement='static'>3</vcpu><iothreads>2</iothreads><cputune>"
        "<shares>0</shares><quota>-1</quota>"
        "<vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='2' cpuset='3'/><emulatorpin cpuset='0-1'/>"
        "<vcpusched vcpus='1' scheduler='batch'/><vcpusched vcpus='2' scheduler='batch'/>"
        "<iothreadsched iothreads='1' scheduler='fifo' priority='5'/>"
        "<iothreadsched iothreads='2' scheduler='fifo' priority='5'/>"
        "<cachetune vcpus='0-1'><cache id='0' level='3' type='both' size='3' unit='MiB'/></cachetune>"
        "</cputune>"
    )
