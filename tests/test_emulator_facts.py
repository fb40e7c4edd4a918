"""Flags and the facts behind them; paths through a QAPI schema."""

from __future__ import annotations

from collections import Counter

import pytest

from qemushim.emulator.flags import FACTS, Kind, compute_flags, ordered
from qemushim.emulator.model import Emulator
from qemushim.emulator.qapi import QUESTIONS, Schema

SCHEMA = Schema(
    [
        {"name": "add", "meta-type": "command", "arg-type": "1", "ret-type": "[2]", "features": ["hot"]},
        {"name": "1", "meta-type": "object", "tag": "kind", "members": [{"name": "kind", "type": "3"},
            {"name": "extra", "type": "str", "default": None, "features": ["unstable"]}],
            "variants": [{"case": "file", "type": "4"}, {"case": "net", "type": "5"}]},
        {"name": "[2]", "meta-type": "array", "element-type": "4"},
        {"name": "3", "meta-type": "enum", "values": ["file", "net"], "members": [{"name": "file"}]},
        {"name": "4", "meta-type": "object", "members": [{"name": "path", "type": "6"}], "features": ["fd"]},
        {"name": "5", "meta-type": "object", "members": [{"name": "next", "type": "1"}]},
        {"name": "6", "meta-type": "alternate", "members": [{"type": "str"}, {"type": "5"}]},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
    ]
)  # fmt: skip


@pytest.mark.parametrize(
    "path",
    [
        "add",
        "add/$hot",
        "add/arg-type",
        "add/arg-type/kind",
        "add/arg-type/kind/^net",
        "add/arg-type/*extra",
        "add/arg-type/extra/$unstable",
        "add/arg-type/extra/!string",
        "add/arg-type/+file",
        "add/arg-type/+file/$fd",
        "add/arg-type/+file/path/!string",
        "add/arg-type/+file/path/next/+net",
        "add/ret-type/path",
        "add/ret-type/$fd",
    ],
)
def test_path_is_there(path: str) -> None:
    assert SCHEMA.has(path)


@pytest.mark.parametrize(
    "path",
    [
        "remove",
        "add/$cold",
        "add/path",
        "add/arg-type/path",
        "add/arg-type/*kind",
        "add/arg-type/kind/^usb",
        "add/arg-type/+usb",
        "add/arg-type/+net/$fd",
        "add/arg-type/extra/!int",
        "add/ret-type/kind",
    ],
)
def test_path_is_not_there(path: str) -> None:
    assert not SCHEMA.has(path)


def test_all_questions_behind_flags_are_asked() -> None:
    assert list(QUESTIONS) == sorted(set(QUESTIONS))
    for fact in FACTS.values():
        assert fact.kind is not Kind.QAPI or set(fact.names) <= set(QUESTIONS)


def test_no_fact_stands_behind_two_flags() -> None:
    counts = Counter((fact.kind, name) for fact in FACTS.values() for name in fact.names)
    assert [name for name, count in counts.items() if count > 1] == []


def test_flags_are_those_of_the_facts() -> None:
    emulator = Emulator(
        "sparc",
        (9, 0, 0),
        types=frozenset(("virtio-net-ccw", "lsi53c895a")),
        properties={"virtio-blk-ccw": frozenset(("scsi",))},
        schema=frozenset(("block-commit/arg-type/backing-mask-protocol",)),
        options={"spice": frozenset(("gl",))},
    )
    expected = {"virtio-net", "lsi", "virtio-blk-pci.scsi", "spice", "spice-gl", "ncr53c90", "told"}
    assert compute_flags(emulator, ["told"]) == expected


def test_order_is_libvirts() -> None:
    assert ordered(["zzz", "tcg", "aaa", "kvm", "hvf"]) == ["kvm", "tcg", "hvf", "aaa", "zzz"]


@pytest.fixture(scope="module")
def recorded() -> Emulator:
    return Emulator.recorded("10.0.0")


def test_bundled_flags_follow_from_the_facts(recorded: Emulator) -> None:
    assert compute_flags(recorded) == recorded.flags


def test_removed_flag_takes_its_facts_along(recorded: Emulator) -> None:
    less = recorded.with_flags(remove=["piix3-usb-uhci", "spice-gl", "query-vnc", "usb-redir.filter"])
    assert not less.flag("piix3-usb-uhci")
    assert not less.has_device("piix3-usb-uhci")
    assert less.option("spice")
    assert not less.option("spice", "gl")
    assert not less.device_property("usb-redir", "filter")
    assert recorded.has_device("piix3-usb-uhci")
    assert recorded.flags - less.flags == {"piix3-usb-uhci", "spice-gl", "usb-redir.filter"}


def test_added_flag_brings_its_facts_along(recorded: Emulator) -> None:
    assert not recorded.has_object("sev-guest")
    more = recorded.with_flags(add=["sev-guest", "virtio-gpu.virgl", "chardev.json", "tpm-spapr"])
    assert more.has_object("sev-guest")
    assert more.device_property("virtio-gpu-pci", "virgl")
    assert more.flag("chardev.json")
    assert more.flags > recorded.flags


@pytest.mark.parametrize("flag", sorted(FACTS))
def test_changed_flag_is_the_only_change(flag: str, recorded: Emulator) -> None:
    """Facts put in and taken out again by one flag make that flag and those that depend on it, no others."""
    dependent = {name for name, fact in FACTS.items() if fact.kind is Kind.FLAG} | {flag}
    dependent |= {name for name, fact in FACTS.items() if any(n.startswith(f"{flag}.") for n in fact.names)}
    without = recorded.with_flags(remove=[flag])
    again = without.with_flags(add=[flag])
    assert flag not in without.flags
    assert flag in again.flags
    assert without.flags == recorded.flags - {flag}
    assert compute_flags(again) - dependent == recorded.flags - dependent
    if FACTS[flag].kind not in (Kind.ARCH, Kind.FLAG, Kind.NEVER, Kind.REPLY):
        assert flag not in compute_flags(without)
        assert flag in compute_flags(again)


def test_accelerators_come_and_go(recorded: Emulator) -> None:
    without = recorded.with_flags(remove=["kvm"])
    assert without.accelerator("kvm") is None
    assert without.accelerator("qemu") is not None
    again = without.with_flags(add=["kvm"])
    assert again.accelerators[0].name == "kvm"
    assert again.accelerators[0].machines == recorded.accelerators[0].machines


def test_words_of_a_classic_emulator_are_changed_alone() -> None:
    classic = Emulator.recorded("0.12.3")
    changed = classic.with_flags(add=["kvm"], remove=["device"])
    assert changed.flags == (classic.flags | {"kvm"}) - {"device"}
    assert changed.accelerators == classic.accelerators
