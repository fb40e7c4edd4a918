"""Memory: sizes, huge pages, NUMA cells, memory devices."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qemushim.guest import Guest
from tests.guestwide import (
    HOST,
    LATEST,
    OLD,
    POWER,
    S390,
    document,
    element,
    failed_start,
    refusal,
    stored,
    tokens,
    value,
    values,
)


def objects(argv: list[str]) -> list[dict[str, Any]]:
    """The memory of a command line, by what it is made of."""
    found = [json.loads(v) for v in values("-object", argv)]
    return [o for o in found if o["qom-type"].startswith(("memory-backend", "thread-context"))]


def cells(*memory: int, extra: str = "") -> str:
    """NUMA cells of so many MiB, each with one vCPU."""
    inside = "".join(
        f"<cell id='{n}' cpus='{n}' memory='{size}' unit='MiB'/>" for n, size in enumerate(memory)
    )
    return f"<cpu><numa>{inside}{extra}</numa></cpu>"


NOT_CONTIGUOUS = (
    "XML error: Exactly one 'cell' element per guest NUMA cell allowed, non-contiguous ranges or ranges not "
    "starting from 0 are not allowed"
)
RESTRICTIVE = (
    "XML error: 'restrictive' mode is required in {} element when mode is 'restrictive' in {} element"
)
NO_NODESET = (
    "unsupported configuration: nodeset for NUMA memory tuning must be set if 'placement' is 'static'"
)
GROW = "<maxMemory slots='4' unit='GiB'>8</maxMemory>"


# -- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("memory", "total", "current"),
    [
        ("<memory unit='KB'>300000</memory>", 292969, 292969),
        ("<memory>1000</memory><currentMemory unit='b'>1</currentMemory>", 1000, 1),
        ("<memory unit='GiB'>1</memory><currentMemory unit='GiB'>2</currentMemory>", 1048576, 1048576),
        ("<memory unit='m'>2</memory><currentMemory>0</currentMemory>", 2048, 2048),
    ],
)
def test_sizes(memory: str, total: int, current: int) -> None:
    text = stored(memory=memory)
    assert element(text, "memory") == f"<memory unit='KiB'>{total}</memory>"
    assert element(text, "currentMemory") == f"<currentMemory unit='KiB'>{current}</currentMemory>"


def test_size_is_needed() -> None:
    message = "XML error: Memory size must be specified via <memory> or in the <numa> configuration"
    assert refusal(memory="") == message
    assert refusal(memory="<memory unit='parsec'>1</memory>").startswith("invalid argument: unknown suffix")


def test_maximum() -> None:
    assert "<maxMemory unit='KiB'>8388608</maxMemory>" in stored(
        cells(256), memory="<maxMemory slots='0' unit='GiB'>8</maxMemory>"
    )
    small = "<maxMemory>1</maxMemory><memory>2</memory>"
    assert refusal(memory=small).startswith("XML error: maximum memory size must be equal or greater")


@given(st.integers(1, 1 << 40))
def test_start_rounds_up_to_mebibytes(size: int) -> None:
    argv = Guest.from_xml(document(memory=f"<memory>{size}</memory>")).command(LATEST, HOST).tokens
    given_ = int(value("-m", argv).removeprefix("size=").removesuffix("k"))
    assert given_ % 1024 == 0
    assert size <= given_ < size + 1024


def test_migration_keeps_the_sizes_of_the_source() -> None:
    unaligned = cells(1).replace("memory='1' unit='MiB'", "memory='1500'")
    assert objects(tokens(unaligned, memory=""))[0]["size"] == 2048 * 1024
    assert objects(tokens(unaligned, memory="", incoming="fd:9"))[0]["size"] == 1500 * 1024


def test_too_large_to_round_up() -> None:
    most = (1 << 53) - 1
    told = f"<cpu><numa><cell cpus='0' memory='{most}'/></numa></cpu>"
    assert failed_start(told, memory="") == (
        "unsupported configuration: memory size of NUMA node '0' overflowed after alignment"
    )


# -- what memory is made of -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backing", "made"),
    [
        ("<hugepages/>", {"mem-path": "/mnt/huge2M/libvirt/qemu/-1-g", "prealloc": True}),
        (
            "<hugepages><page size='1' unit='GiB'/></hugepages>",
            {"mem-path": "/mnt/huge1G/libvirt/qemu/-1-g", "prealloc": True},
        ),
        ("<hugepages><page size='4' unit='KiB'/></hugepages>", {}),
        ("<source type='file'/>", {"mem-path": "/var/lib/libvirt/qemu/ram/-1-g/pc.ram"}),
        ("<source type='memfd'/><access mode='shared'/>", {"share": True}),
        ("<source type='memfd'/><hugepages/>", {"hugetlb": True, "hugetlbsize": 2097152, "prealloc": True}),
        (
            "<allocation mode='immediate' threads='3'/><access mode='private'/><discard/>",
            {
                "mem-path": "/var/lib/libvirt/qemu/ram/-1-g/pc.ram",
                "discard-data": True,
                "share": False,
                "prealloc": True,
                "prealloc-threads": 3,
            },
        ),
    ],
)
def test_backing(backing: str, made: dict[str, Any]) -> None:
    (ram,) = objects(tokens(f"<memoryBacking>{backing}</memoryBacking>"))
    assert ram.pop("qom-type") in ("memory-backend-ram", "memory-backend-file", "memory-backend-memfd")
    assert ram.pop("x-use-canonical-path-for-ramblock-id", False) is False
    assert ram == {"id": "pc.ram", "size": 268435456, **made}


def test_backing_is_written_in_order() -> None:
    told = (
        "<memoryBacking><discard/><locked/><hugepages><page unit='MiB' size='2' nodeset='0'/></hugepages>"
        "<nosharepages/></memoryBacking>"
    )
    assert element(stored(told), "memoryBacking") == (
        "<memoryBacking><hugepages><page size='2048' unit='KiB'/></hugepages><nosharepages/><locked/>"
        "<discard/></memoryBacking>"
    )
    argv = tokens(told)
    assert value("-overcommit", argv) == "mem-lock=on"
    assert ",mem-merge=off," in value("-machine", argv)


@pytest.mark.parametrize(
    ("pages", "message"),
    [
        ("<page size='2048'/><page size='1048576'/>", "two master hugepages detected: 1048576 and 2048"),
        ("<page size='2048' nodeset='0,3'/>", "hugepages: node 3 not found"),
    ],
)
def test_page_refusals(pages: str, message: str) -> None:
    told = f"<memoryBacking><hugepages>{pages}</hugepages></memoryBacking>"
    assert refusal(told) == message


def test_pages_that_the_host_has_not() -> None:
    told = "<memoryBacking><hugepages><page size='16' unit='MiB'/></hugepages></memoryBacking>"
    assert failed_start(told) == "internal error: Unable to find any usable hugetlbfs mount for 16384 KiB"


# -- NUMA -----------------------------------------------------------------------------------------


def test_cells() -> None:
    argv = tokens(cells(128, 128), cpus=3, memory="")
    assert value("-m", argv) == "size=262144k"
    assert values("-numa", argv) == [
        "node,nodeid=0,cpus=0,cpus=2,memdev=ram-node0",
        "node,nodeid=1,cpus=1,memdev=ram-node1",
    ]
    assert "memory-backend=" not in value("-machine", argv)
    assert "<cell id='0' cpus='0,2' memory='131072' unit='KiB'/>" in stored(
        cells(128, 128), cpus=3, memory=""
    )


def test_machines_that_took_plain_numbers() -> None:
    argv = tokens(cells(128, 128), cpus=2, machine="pc-i440fx-5.0")
    assert values("-numa", argv) == ["node,nodeid=0,cpus=0,mem=128", "node,nodeid=1,cpus=1,mem=128"]
    assert objects(argv) == []
    huge = "<memoryBacking><hugepages/></memoryBacking>"
    argv = tokens(huge + cells(128, 128), cpus=2, machine="pc-i440fx-5.0")
    assert "-mem-prealloc" in argv
    assert value("-mem-path", argv) == "/mnt/huge2M/libvirt/qemu/-1-g"


def test_cells_are_sorted() -> None:
    told = "<cpu><numa><cell id='1' memory='2'/><cell id='0' cpus='0' memory='1'/></numa></cpu>"
    text = stored(told, memory="")
    assert text.index("<cell id='0'") < text.index("<cell id='1'")


def test_distances_hold_both_ways() -> None:
    told = cells(1, 1).replace(
        "memory='1' unit='MiB'/>",
        "memory='1' unit='MiB'><distances><sibling id='1' value='33'/></distances></cell>",
        1,
    )
    assert "<sibling id='0' value='33'/>" in stored(told, cpus=2)
    dist = [v for v in values("-numa", tokens(told, cpus=2)) if v.startswith("dist")]
    assert dist == [
        f"dist,src={a},dst={b},val={v}" for a, b, v in ((0, 0, 10), (0, 1, 33), (1, 0, 33), (1, 1, 10))
    ]
    far = told.replace("sibling id='1'", "sibling id='7'")
    assert refusal(far, cpus=2) == (
        "XML error: 'sibling_id 7' does not refer to a valid cell within NUMA 'cell id 0'"
    )


def test_memory_attributes() -> None:
    links = (
        "<interconnects><bandwidth initiator='0' target='1' type='read' value='1' unit='GiB'/>"
        "<latency initiator='0' target='1' cache='1' type='write' value='9'/></interconnects>"
    )
    told = cells(1, 1, extra=links).replace(
        "<cell id='1' cpus='1' memory='1' unit='MiB'/>",
        "<cell id='1' memory='1' unit='MiB'><cache level='1' associativity='full' policy='writethrough'>"
        "<size value='1024' unit='KiB'/><line value='64' unit='B'/></cache></cell>",
    )
    text = stored(told)
    assert text.index("<bandwidth") < text.index("<latency")
    assert "value='1048576' unit='KiB'/>" in text
    argv = tokens(told)
    assert ",hmat=on," in value("-machine", argv)
    assert values("-numa", argv) == [
        "node,nodeid=0,cpus=0,initiator=0,memdev=ram-node0",
        "node,nodeid=1,initiator=0,memdev=ram-node1",
        "hmat-lb,initiator=0,target=1,hierarchy=memory,data-type=read-bandwidth,bandwidth=1048576K",
        "hmat-lb,initiator=0,target=1,hierarchy=first-level,data-type=write-latency,latency=9",
        "hmat-cache,node-id=1,size=1024K,level=1,associativity=complex,policy=write-through,line=64",
    ]


@pytest.mark.parametrize(
    ("numa", "message"),
    [
        (
            "<cell id='1' memory='1'/>",
            NOT_CONTIGUOUS,
        ),
        (
            "<cell id='0' cpus='0' memory='1'/><cell id='1' cpus='0' memory='1'/>",
            "unsupported configuration: NUMA cells 0 and 1 have overlapping vCPU ids",
        ),
        (
            "<cell cpus='0-5' memory='1'/>",
            "unsupported configuration: Number of CPUs in <numa> exceeds the desired maximum vcpu count",
        ),
        (
            "<cell cpus='x' memory='1'/>",
            "invalid argument: Failed to parse bitmap 'x'",
        ),
    ],
)
def test_cell_refusals(numa: str, message: str) -> None:
    assert refusal(f"<cpu><numa>{numa}</numa></cpu>") == message


def test_tuning() -> None:
    told = "<numatune><memory nodeset='2,1'/></numatune>"
    assert element(stored(told), "numatune") == ("<numatune><memory mode='strict' nodeset='1-2'/></numatune>")
    assert objects(tokens(told))[0]["host-nodes"] == [1, 2]
    auto = "<numatune><memory mode='preferred' placement='auto' nodeset='3'/></numatune>"
    assert element(stored(auto), "numatune") == (
        "<numatune><memory mode='preferred' placement='auto'/></numatune>"
    )
    assert objects(tokens(auto))[0]["policy"] == "preferred"
    assert failed_start("<numatune><memory nodeset='9'/></numatune>") == (
        "unsupported configuration: NUMA node 9 is unavailable"
    )


def test_bindings_are_sorted_and_need_cells() -> None:
    tune = (
        "<numatune><memnode cellid='1' nodeset='0-1,^0'/><memnode cellid='0' mode='interleave' nodeset='0'/>"
        "</numatune>"
    )
    text = element(stored(tune + cells(1, 1), cpus=2), "numatune")
    assert text == (
        "<numatune><memnode cellid='0' mode='interleave' nodeset='0'/>"
        "<memnode cellid='1' mode='strict' nodeset='1'/></numatune>"
    )
    assert refusal(tune) == "XML error: Element 'memnode' is invalid without any guest NUMA cells"


@pytest.mark.parametrize(
    ("tune", "message"),
    [
        (
            "<memory mode='strict' nodeset='0'/><memnode cellid='0' mode='restrictive' nodeset='0'/>",
            RESTRICTIVE.format("memory", "memnode"),
        ),
        (
            "<memory mode='restrictive' nodeset='0'/><memnode cellid='0' nodeset='0'/>",
            RESTRICTIVE.format("memnode", "memory"),
        ),
        (
            "<memory placement='auto'/><memnode cellid='0' nodeset='0'/>",
            "unsupported configuration: Per-node binding is not compatible with automatic NUMA placement.",
        ),
        (
            "<memory placement='static'/>",
            NO_NODESET,
        ),
        ("<memory nodeset='1,^1'/>", "unsupported configuration: Invalid value of 'nodeset': 1,^1"),
    ],
)
def test_tuning_refusals(tune: str, message: str) -> None:
    assert refusal(f"<numatune>{tune}</numatune>" + cells(1)) == message


def test_threads_that_fill_pages_run_near_them() -> None:
    told = (
        "<memoryBacking><hugepages/></memoryBacking><numatune><memory nodeset='0-2'/></numatune>"
        "<cputune><emulatorpin cpuset='4-11'/></cputune>"
    )
    context, ram = objects(tokens(told))
    assert context == {"qom-type": "thread-context", "id": "tc-pc.ram", "node-affinity": [1, 2]}
    assert ram["prealloc-context"] == "tc-pc.ram"
    (ram,) = objects(tokens(told, OLD))
    assert "prealloc-context" not in ram


# -- memory devices -------------------------------------------------------------------------------


def dimm(size: int = 512, model: str = "dimm", inside: str = "", source: str = "", node: str = "0") -> str:
    cell = f"<node>{node}</node>" if node else ""
    target = f"<target><size unit='MiB'>{size}</size>{cell}{inside}</target>"
    return f"<memory model='{model}'>{source}{target}</memory>"


def test_dimm() -> None:
    argv = tokens(cells(256), devices=dimm(), memory=GROW)
    assert value("-m", argv) == "size=262144k,slots=4,maxmem=8388608k"
    assert objects(argv)[-1] == {"qom-type": "memory-backend-ram", "id": "memdimm0", "size": 512 << 20}
    assert '{"driver":"pc-dimm","node":0,"memdev":"memdimm0","id":"dimm0","slot":0}' in argv


def test_nvdimm() -> None:
    source = "<source><pmem/><alignsize unit='MiB'>4</alignsize><path>/dev/pmem,0</path></source>"
    device = dimm(model="nvdimm", source=source, inside="<label><size>128</size></label><readonly/>")
    text = stored(cells(256), devices=device, memory=GROW)
    assert (
        text.index("<path>/dev/pmem,0</path>")
        < text.index("<alignsize unit='KiB'>4096")
        < text.index("<pmem/>")
    )
    argv = tokens(cells(256), devices=device, memory=GROW)
    assert ",nvdimm=on" in value("-machine", argv)
    assert objects(argv)[-1] == {
        "qom-type": "memory-backend-file",
        "id": "memnvdimm0",
        "mem-path": "/dev/pmem,0",
        "size": 512 << 20,
        "align": 4 << 20,
        "pmem": True,
    }
    assert '"label-size":131072,"unarmed":true,"memdev":"memnvdimm0"' in "".join(values("-device", argv))


def test_virtio_memory() -> None:
    inside = "<block>2048</block><requested unit='MiB'>64</requested><address base='0x140000000'/>"
    told = dimm(model="virtio-mem", inside=inside)
    argv = tokens("<memoryBacking><hugepages/></memoryBacking>" + cells(256), devices=told, memory=GROW)
    assert objects(argv)[-1] == {
        "qom-type": "memory-backend-file",
        "id": "memvirtiomem0",
        "mem-path": "/mnt/huge2M/libvirt/qemu/-1-g",
        "reserve": False,
        "size": 512 << 20,
    }
    device = next(v for v in values("-device", argv) if "virtio-mem" in v)
    assert '"memdev":"memvirtiomem0","prealloc":true,"memaddr":5368709120,"id":"virtiomem0"' in device
    overlap = refusal(cells(256), devices=told * 2, memory=GROW)
    assert overlap == (
        "unsupported configuration: memory device address [0x140000000:0x160000000] overlaps with other "
        "memory device (0x140000000)"
    )


def test_virtio_memory_of_s390_needs_no_cell() -> None:
    told = dimm(model="virtio-mem", inside="<block>1024</block><requested>0</requested>", node="")
    argv = tokens(
        emulator=S390, devices=told, memory="<maxMemory unit='GiB'>8</maxMemory><memory>1048576</memory>"
    )
    assert any(v.startswith('{"driver":"virtio-mem-ccw"') for v in values("-device", argv))


def test_growing_guests_get_a_cell() -> None:
    memory = GROW + "<memory unit='MiB'>1024</memory>"
    assert refusal(memory=memory, update=False) == (
        "unsupported configuration: At least one numa node has to be configured when enabling memory hotplug"
    )
    text = stored(memory=memory, devices=dimm(node=""), cpus=2)
    assert "<cell id='0' cpus='0-1' memory='524288' unit='KiB'/>" in text
    assert "<node>0</node>" in text


def test_ppc64_plugs_large_blocks() -> None:
    memory = GROW + "<memory unit='MiB'>1024</memory>"
    text = stored(emulator=POWER, memory=memory, devices=dimm(300))
    assert "<size unit='KiB'>524288</size>" in text
    assert element(text, "memory") == f"<memory unit='KiB'>{(1024 - 300 + 512) * 1024}</memory>"
    label = dimm(513, "nvdimm", "<label><size>128</size></label>", "<source><path>/p</path></source>")
    text = stored(emulator=POWER, memory=memory, devices=label)
    assert "<uuid>" in text[text.index("<memory model") :]
    assert "<size unit='KiB'>524416</size>" in text


@pytest.mark.parametrize(
    ("device", "memory", "words"),
    [
        (
            dimm(node="5"),
            GROW,
            "can't add memory backend for guest node '5' as the guest has only '1' NUMA nodes",
        ),
        (dimm(node=""), GROW, "target NUMA node needs to be specified for memory device"),
        (dimm(), "<memory unit='GiB'>2</memory>", "cannot use/hotplug a memory device"),
        (dimm(model="nvdimm"), GROW, "path is required for model 'nvdimm'"),
        (dimm(model="virtio-mem", inside="<block>3000</block>"), GROW, "block size must be a power of two"),
        (
            dimm(model="virtio-mem", inside="<block>2048</block><requested unit='GiB'>1</requested>"),
            GROW,
            "requested size must be smaller than or equal to @size",
        ),
        (
            dimm(model="virtio-pmem", source="<source><path>/p</path></source>"),
            GROW,
            "virtio-pmem does not support NUMA nodes",
        ),
    ],
)
def test_device_refusals(device: str, memory: str, words: str) -> None:
    assert words in refusal(cells(256), devices=device, memory=memory)
