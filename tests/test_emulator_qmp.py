"""From a QMP conversation to an emulator: a small conversation written here, and all recorded ones."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from qemushim.emulator import interview
from qemushim.emulator.flags import ordered
from qemushim.emulator.model import Accelerator, Emulator, HostCpuProperty
from qemushim.emulator.qmp import Answers, Message, distil, from_qmp, read_conversation
from qemushim.errors import EmulatorError
from tests.conftest import CORPUS

RECORDINGS = sorted((CORPUS / "modern/qemucapabilitiesdata").glob("*.replies"))
needs_recordings = pytest.mark.skipif(not RECORDINGS, reason="no conformance corpus beside this checkout")
recordings = pytest.mark.parametrize("file", RECORDINGS, ids=[file.stem for file in RECORDINGS])

SCHEMA = [
    {
        "name": "device_add",
        "meta-type": "command",
        "arg-type": "0",
        "ret-type": "0",
        "features": ["json-cli-hotplug"],
    },
    {"name": "query-cpu-definitions", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "query-cpu-model-expansion", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
    {"name": "0", "meta-type": "object", "members": []},
]
TYPES = ["tcg-accel", "virtio-blk-pci", "virtio-net-pci", "max-x86_64-cpu", "sev-guest", "sgx-epc", "qxl"]
MACHINES = [
    {"name": "none", "cpu-max": 1},
    {"name": "minimal", "cpu-max": 8, "numa-mem-supported": False, "acpi": False},
    {"name": "pc-i440fx-8.8", "alias": "pc", "is-default": True, "cpu-max": 255, "default-ram-id": "pc.ram"},
]
REPLIES: dict[str, Any] = {
    "query-version": {"qemu": {"major": 8, "minor": 8, "micro": 1}, "package": "home-made"},
    "query-target": {"arch": "i386"},
    "query-qmp-schema": SCHEMA,
    "query-kvm": {"present": True, "enabled": True},
    "qom-list-types": [{"name": name} for name in TYPES],
    "query-machines": MACHINES,
    "query-cpu-definitions": [
        {"name": "max", "typename": "max-i386-cpu", "unavailable-features": [], "deprecated": False},
        {"name": "Elder", "unavailable-features": ["lm"], "deprecated": True},
        {"name": "Unsure"},
    ],
    "query-tpm-models": ["tpm-crb"],
    "query-tpm-types": ["emulator"],
    "query-command-line-options": [
        {"option": "machine", "parameters": [{"name": "hpet"}]},
        {"option": "machine", "parameters": [{"name": "usb"}]},
        {"option": "sandbox", "parameters": []},
    ],
    "query-migrate-capabilities": [{"capability": "rdma-pin-all", "state": False}],
}
PROPERTIES = {
    "virtio-blk-pci": [{"name": "scsi", "default-value": False}, {"name": "queue-size"}],
    "max-x86_64-cpu": [{"name": "unavailable-features"}],
    "generic-pc-machine": [{"name": "i8042"}],
}


def answer(command: Message) -> Message:
    """What a made-up binary replies."""
    name, arguments = command["execute"], command.get("arguments", {})
    if name in REPLIES:
        return {"return": REPLIES[name]}
    if name == "qmp_capabilities":
        return {"return": {}}
    if "typename" in arguments and arguments["typename"] in PROPERTIES:
        return {"return": PROPERTIES[arguments["typename"]]}
    if name == "query-cpu-model-expansion":
        return {"return": {"model": expansion(arguments["model"])}}
    return {"error": {"class": "GenericError", "desc": "no"}}


def expansion(model: dict[str, Any]) -> dict[str, Any]:
    wanted = model.get("props", {})
    if "hv-passthrough" in wanted:
        props = {
            "hv-relaxed": True,
            "hv-spinlocks": 8191,
            "hv-vapic": False,
            "hv-vendor-id": "",
            "hv-reset": 0,
        }
        return {"name": "base", "props": props}
    switch = "migratable" in wanted
    props = {"sse2": True, "invtsc": switch, "family": 6, "huge": 1 << 64, "vendor": "Me", "absent": False}
    return {"name": "base", "props": props}


def converse() -> list[tuple[Message, Message]]:
    """The whole conversation with the made-up binary."""
    answers = Answers()
    pairs: list[tuple[Message, Message]] = []

    def run(commands: Iterator[Message]) -> None:
        for command in commands:
            pairs.append((command, answer(command)))
            answers.take(*pairs[-1])

    run(interview.first_run(answers))
    assert interview.wants_second_run(answers)
    run(interview.second_run(answers))
    return pairs


@pytest.fixture(scope="module")
def emulator() -> Emulator:
    return distil(converse(), binary="/usr/bin/emulator")


def test_identity(emulator: Emulator) -> None:
    assert (emulator.arch, emulator.version, emulator.package) == ("i686", (8, 8, 1), "home-made")
    assert emulator.binary == "/usr/bin/emulator"
    assert not emulator.classic


def test_facts(emulator: Emulator) -> None:
    assert emulator.qapi("device_add/$json-cli-hotplug")
    assert emulator.has_device("qxl")
    assert emulator.device_property("virtio-blk-pci", "queue-size")
    assert not emulator.device_property("qxl", "vgamem_mb")
    assert emulator.device_property("generic-pc-machine", "i8042")
    assert emulator.option("machine", "hpet")
    assert emulator.option("machine", "usb")
    assert emulator.option("sandbox")
    assert not emulator.option("spice")
    assert emulator.migration == {"rdma-pin-all"}


def test_flags(emulator: Emulator) -> None:
    expected = {
        *(
            "kvm",
            "seccomp-sandbox",
            "tpm-crb",
            "tpm-emulator",
            "migrate-rdma",
            "qxl",
            "virtio-net",
            "tcg",
            "cpu-max",
        ),
        *(
            "virtio-blk-pci.scsi",
            "virtio-blk-pci.scsi.default.disabled",
            "virtio-blk.queue-size",
            "x86-max-cpu",
        ),
        *("cpu-unavailable-features", "canonical-cpu-features", "device.json+hotplug", "machine-hpet"),
        *("machine-i8042-opt", "query-cpu-definitions", "query-cpu-model-expansion"),
    }
    assert emulator.flags == expected


def test_types_that_the_host_can_not_give_are_dropped(emulator: Emulator) -> None:
    assert not emulator.has_object("sev-guest")
    assert not emulator.has_object("sgx-epc")
    assert emulator.sev is None
    assert emulator.sgx is None


def test_machines(emulator: Emulator) -> None:
    machines = emulator.accelerators[0].machines
    assert [machine.name for machine in machines] == ["pc-i440fx-8.8", "minimal"]
    assert emulator.canonical_machine("pc") == "pc-i440fx-8.8"
    assert machines[0].numa_mem_supported
    assert machines[0].acpi is None
    assert machines[1].acpi is False


def test_cpus(emulator: Emulator) -> None:
    blockers = {cpu.name: cpu.blockers for cpu in emulator.accelerators[1].cpus}
    assert blockers == {"max": (), "Elder": ("lm",), "Unsure": None}


def test_host_cpu(emulator: Emulator) -> None:
    assert [accelerator.name for accelerator in emulator.accelerators] == ["kvm", "tcg"]
    host = emulator.accelerators[0].host_cpu
    assert host is not None
    assert host.migratability
    assert host.properties == (
        HostCpuProperty("sse2", True, True),
        HostCpuProperty("invtsc", True, False),
        HostCpuProperty("family", 6),
        HostCpuProperty("vendor", "Me"),
        HostCpuProperty("absent", False),
    )
    assert emulator.hyperv == ("relaxed", "spinlocks")


def test_family_of_machine_types_goes_by_its_alias() -> None:
    machines = [{"name": "virt-8.8", "alias": "virt", "cpu-max": 1}, {"name": "virt-8.7", "cpu-max": 1}]
    conversation = [
        *[
            ({"execute": name}, {"return": value})
            for name, value in REPLIES.items()
            if name != "query-machines"
        ],
        ({"execute": "query-machines"}, {"return": machines}),
        (interview.ask("qom-list-properties", typename="virt-8.8-machine"), {"return": [{"name": "iommu"}]}),
    ]
    assert distil(conversation).flag("machine.virt.iommu")


def test_second_question_counts_for_its_own_property_alone() -> None:
    first = ({"name": "queue-size"}, {"name": "loadparm"})
    second = ({"name": "scsi"},)
    asked = interview.ask("device-list-properties", typename="virtio-blk-ccw")
    conversation: list[tuple[Message, Message]] = [
        ({"execute": n}, {"return": v}) for n, v in REPLIES.items()
    ]
    conversation += [(asked, {"return": first}), (asked, {"return": second})]
    assert distil(conversation).properties["virtio-blk-ccw"] == {"queue-size"}


def recording(pairs: Iterable[tuple[Message, Message]]) -> str:
    documents = []
    for number, (command, reply) in enumerate(pairs, 1):
        documents += [{**command, "id": f"it-{number}"}, {**reply, "id": f"it-{number}"}]
    return "\n\n".join(json.dumps(document, indent=2) for document in documents)


def test_recording_and_live_answers_are_alike(emulator: Emulator) -> None:
    greeting = json.dumps({"QMP": {"version": {}, "capabilities": []}}) + "\n\n"
    assert from_qmp(greeting + recording(converse()), binary=emulator.binary) == emulator


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ends before"),
        ("nonsense", "is not JSON"),
        ("[1]", "neither command nor reply"),
        (recording(converse()[:3]), "does not tell"),
        (recording(converse()[:3]) + '\n\n{"execute": "stop"}', "ends before"),
        ('{"execute": "stop", "id": 1}\n\n{"return": {}, "id": 2}', "belongs to another"),
        ('{"return": {}}\n\n{"execute": "stop"}', "out of step"),
        ('{"execute": "query-version"}\n\n{"return": []}', "reply to query-version has an unexpected shape"),
    ],
)
def test_bad_recording(text: str, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        from_qmp(text)


# -- the recorded conversations of the corpus ----------------------------------------------------------------


def load(file: Path) -> Emulator:
    return from_qmp(file.read_text(), variant=file.stem.partition("+")[2])


@needs_recordings
@recordings
def test_interview_asks_what_was_recorded(file: Path) -> None:
    pairs = read_conversation(file.read_text())
    answers = Answers()
    asked: list[Message] = []

    def run(commands: Iterator[Message]) -> None:
        for command in commands:
            asked.append(command)
            answers.take(command, pairs[len(asked) - 1][1])

    run(interview.first_run(answers))
    if interview.wants_second_run(answers, hvf="+hvf" in file.name):
        run(interview.second_run(answers))
    assert asked == [{name: value for name, value in command.items() if name != "id"} for command, _ in pairs]


@needs_recordings
@recordings
def test_flags_of_recording(file: Path) -> None:
    expected = [flag.get("name") for flag in ET.parse(file.with_suffix(".xml")).getroot().findall("flag")]
    assert ordered(load(file).flags) == expected


@needs_recordings
@recordings
def test_data_of_recording(file: Path) -> None:
    root = ET.parse(file.with_suffix(".xml")).getroot()
    emulator = load(file)
    major, minor, micro = emulator.version
    assert str(major * 1000000 + minor * 1000 + micro) == root.findtext("version")
    assert (emulator.arch, emulator.package) == (root.findtext("arch"), root.findtext("package") or "")
    assert emulator.hyperv == tuple(cap.get("name") for cap in root.findall("hypervCapabilities/cap"))
    assert [(str(gic.version), gic.kernel, gic.emulated) for gic in emulator.gic] == [
        (item.get("version"), item.get("kernel") == "yes", item.get("emulated") == "yes")
        for item in root.findall("gic")
    ]
    for accelerator in emulator.accelerators:
        compare_accelerator(accelerator, root)


def compare_accelerator(accelerator: Accelerator, root: ET.Element) -> None:
    def found(tag: str) -> list[ET.Element]:
        return root.findall(f"{tag}[@type='{accelerator.name}']")

    assert [machine_row(item) for item in found("machine")] == [
        (
            m.name,
            m.alias,
            m.is_default,
            m.max_cpus,
            m.hotplug_cpus,
            m.default_cpu_type,
            m.default_ram_id,
            m.acpi,
        )
        for m in accelerator.machines
    ]
    assert [item.get("numaMemSupported") == "yes" for item in found("machine")] == [
        machine.numa_mem_supported for machine in accelerator.machines
    ]
    assert [cpu_row(item) for item in found("cpu")] == [
        (cpu.name, cpu.typename, cpu.blockers, cpu.deprecated) for cpu in accelerator.cpus
    ]
    host = accelerator.host_cpu
    assert [item.get("model") for item in found("hostCPU")] == ([host.model] if host else [])
    if host is not None:
        [item] = found("hostCPU")
        assert [property_row(row) for row in item.findall("property")] == [
            (row.name, row.value, row.migratable) for row in host.properties
        ]
        assert (
            tuple(row.get("name") for row in item.findall("deprecatedFeatures/property")) == host.deprecated
        )


def machine_row(item: ET.Element) -> tuple[Any, ...]:
    acpi = {"yes": True, "no": False, None: None}[item.get("acpi")]
    names = item.get("name"), item.get("alias", "")
    numbers = item.get("default") == "yes", int(item.get("maxCpus", "0")), item.get("hotplugCpus") == "yes"
    return (*names, *numbers, item.get("defaultCPU", ""), item.get("defaultRAMid", ""), acpi)


def cpu_row(item: ET.Element) -> tuple[Any, ...]:
    blockers = (
        tuple(blocker.get("name") for blocker in item.findall("blocker")) if item.get("usable") else None
    )
    return item.get("name"), item.get("typename", ""), blockers, item.get("deprecated") == "yes"


def property_row(item: ET.Element) -> tuple[Any, ...]:
    text = item.get("value", "")
    value = {"boolean": text == "true", "string": text}.get(item.get("type", ""))
    migratable = {"yes": True, "no": False, None: None}[item.get("migratable")]
    return item.get("name"), int(text) if value is None else value, migratable
