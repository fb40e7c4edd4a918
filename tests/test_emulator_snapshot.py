"""Snapshots, and finding an emulator by what a person calls it."""

from __future__ import annotations

import zlib
from pathlib import Path

import pytest

from qemushim.emulator import bundled, snapshot
from qemushim.emulator.bundled import available, find, recorded
from qemushim.emulator.model import (
    Accelerator,
    CpuModel,
    Emulator,
    Gic,
    HostCpu,
    HostCpuProperty,
    Machine,
    Sev,
    Sgx,
)
from qemushim.errors import EmulatorError
from tools import record

CPUS = (
    CpuModel("max", "max-arm-cpu"),
    CpuModel("old", blockers=("sve",), deprecated=True),
    CpuModel("x", blockers=()),
)
PLAIN_PROPERTIES = (HostCpuProperty("n", 7), HostCpuProperty("t", "é"))
FULL = Emulator(
    arch="aarch64",
    version=(8, 2, 1),
    binary="/usr/bin/emulator",
    package="home-made",
    variant="odd",
    flags=frozenset(("b", "a")),
    types=frozenset(("virt-machine", "tcg-accel")),
    properties={"virtio-blk-pci": frozenset(("scsi", "queue-size")), "empty": frozenset()},
    schema=frozenset(("query-vnc",)),
    options={"machine": frozenset(("acpi",)), "sandbox": frozenset()},
    migration=frozenset(("rdma-pin-all",)),
    accelerators=(
        Accelerator(
            "kvm",
            (Machine("virt-8.2", "virt", True, 512, True, "cortex-a15-arm-cpu", False, "ram", False, True),),
            CPUS,
            HostCpu("host", (HostCpuProperty("sve", True, False), *PLAIN_PROPERTIES), True, ("te",)),
        ),
        Accelerator("tcg"),
    ),
    tpm_models=frozenset(("tpm-tis",)),
    tpm_types=frozenset(("emulator",)),
    gic=(Gic(3, True, False),),
    sev=Sev(51, 1, "pdh", "chain", "cpu0"),
    sgx=Sgx(True, False, True, 1024, ((0, 512), (1, 512))),
    hyperv=("relaxed", "vapic"),
    microcode=17,
    kernel_version="6.1 #1",
)
CLASSIC = Emulator("x86_64", (0, 12, 5), classic=True, is_kvm_fork=True, kvm_version=88)


@pytest.mark.parametrize("emulator", [FULL, CLASSIC, Emulator("sparc", (9, 0, 0))])
def test_round_trip(emulator: Emulator) -> None:
    data = snapshot.dump(emulator)
    assert snapshot.is_snapshot(data)
    assert snapshot.load(data) == emulator
    assert snapshot.dump(snapshot.load(data)) == data


def packed(text: str) -> bytes:
    return b"qemushim emulator snapshot %d\n" % snapshot.FORMAT + zlib.compress(text.encode())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a snapshot"),
        (b"\x7fELF and more", "not a snapshot"),
        (b"qemushim emulator snapshot", "not a snapshot"),
        (b"qemushim emulator snapshot 99\nabc", "has format 99"),
        (b"qemushim emulator snapshot \xff\xfe\nabc", "has format"),
        (snapshot.dump(FULL)[:-20], "ends too early"),
        (snapshot.dump(FULL)[:200] + b"X" + snapshot.dump(FULL)[201:], "damaged"),
        (packed("no json"), "damaged"),
        (packed("[]"), "damaged"),
        (packed("{}"), "damaged"),
        (packed('{"version": [1, 2]}'), "damaged"),
        (packed(" " * (33 << 20)), "ends too early, or never"),
    ],
)
def test_bad_snapshot(data: bytes, message: str) -> None:
    with pytest.raises(EmulatorError, match=message):
        snapshot.load(data)


def test_every_bundled_snapshot_loads() -> None:
    known = available()
    assert len({item.name for item in known}) == len(known) > 40
    for item in known:
        emulator = bundled._load(item.name)
        assert emulator.classic == item.classic
        assert item.classic or (emulator.arch, emulator.variant) == (item.arch, item.variant)
        assert emulator.default_machine() is not None
        assert emulator.flags


def test_bundled_snapshots_are_small() -> None:
    folder = Path(bundled.__file__).with_name("snapshots")
    assert sum(file.stat().st_size for file in folder.iterdir()) < 1 << 20


def test_recording_tool(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "QEMU PC emulator version 0.9.1 (kvm-devel), Copyright\n"
    (tmp_path / "kvm-77").mkdir()
    (tmp_path / "kvm-77/help.txt").write_text(first)
    (tmp_path / "kvm-77/machines.txt").write_text("Supported machines are:\nisapc  ISA-only PC (default)\n")
    (tmp_path / "qemu-0.12.9.txt").write_text("QEMU PC emulator version 0.12.9, Copyright\n-device driver\n")
    (tmp_path / "qemu-0.12.9-device.txt").write_text('name "sga", bus ISA\n')
    out = tmp_path / "out"
    monkeypatch.setattr("sys.argv", ["record", str(tmp_path), "-o", str(out)])
    assert record.main() == 0
    assert sorted(file.name for file in out.iterdir()) == ["0.12.9.snapshot", "kvm-77.snapshot"]
    fork = find(str(out / "kvm-77.snapshot"))
    assert (fork.kvm_version, fork.canonical_machine("isapc")) == (77, "isapc")
    assert find(str(out / "0.12.9.snapshot")).has_device("sga")
    assert "kvm-77: " in capsys.readouterr().out


# -- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "arch", "version", "variant"),
    [
        ("10.0.0", "x86_64", (10, 0, 0), ""),
        ("10.0", "x86_64", (10, 0, 0), ""),
        ("7.0.0", "ppc64", (7, 0, 0), ""),
        ("latest", "x86_64", (10, 0, 0), ""),
        ("latest", "aarch64", (8, 2, 0), ""),
        ("latest+hvf", "x86_64", (7, 2, 0), "hvf"),
        ("9.2.0+amdsev", "x86_64", (9, 2, 0), "amdsev"),
        ("~9.1.3", "x86_64", (9, 1, 0), ""),
        ("~9.1", "x86_64", (9, 1, 0), ""),
        ("~99.0", "x86_64", (10, 0, 0), ""),
        ("~2.5", "x86_64", (6, 2, 0), ""),
        ("0.12.3", "x86_64", (0, 12, 3), ""),
        ("0.12.3", "i686", (0, 12, 3), ""),
        ("0.12", "x86_64", (0, 12, 3), ""),
        ("~0.14", "x86_64", (0, 12, 90), ""),
        ("1.0.0", "x86_64", (1, 0, 0), ""),
        ("qemu-kvm-0.12.3", "x86_64", (0, 12, 3), ""),
        ("kvm-83", "x86_64", (0, 9, 1), ""),
    ],
)
def test_found_by_name(spec: str, arch: str, version: tuple[int, int, int], variant: str) -> None:
    emulator = find(spec, arch)
    assert (emulator.version, emulator.arch, emulator.variant) == (version, arch, variant)
    assert recorded(spec, arch) is emulator or recorded(spec, arch) == emulator


@pytest.mark.parametrize("spec", ["10.0-x86_64", "10.0.0-x86_64", "latest-x86_64", "~11.0-x86_64"])
def test_architecture_in_the_name_wins(spec: str) -> None:
    assert find(spec, "s390x").arch == "x86_64"


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("~9.1.3", "no QEMU 9.1.3 for x86_64 comes with this package; taking the nearest: 9.1.0-x86_64"),
        ("~9.1", ""),
        ("9.1", ""),
        (
            "9.2-aarch64",
            "no plain QEMU 9.2-aarch64 for aarch64 comes with this package; taking 9.2.0-aarch64+hvf",
        ),
        ("9.2-aarch64+hvf", ""),
    ],
)
def test_another_than_the_named_one_is_said(spec: str, said: str) -> None:
    lines: list[str] = []
    found = find(spec, say=lines.append)
    assert "\n".join(lines) == said
    assert found.variant == ("hvf" if "aarch64" in spec else "")


def test_forks_are_not_mixed_up() -> None:
    assert not find("0.12.3").is_kvm_fork
    assert find("qemu-kvm-0.12.3").is_kvm_fork
    assert find("kvm-83").kvm_version == 83


@pytest.mark.parametrize(
    ("spec", "arch", "listed"),
    [
        ("9.1.3", "x86_64", "x86_64: 6.2.0"),
        ("10", "x86_64", "x86_64: 6.2.0"),
        ("10.0.0", "riscv64", "riscv64: 9.1.0"),
        ("10.0.0+odd", "x86_64", "10.0.0+amdsev"),
        ("0.11.9", "x86_64", "0.11.1"),
        ("qemu-kvm-9.0", "x86_64", "qemu-kvm-0.12.3"),
        ("10.0.0", "pdp11", "aarch64: 8.2.0"),
        ("no-such-thing", "x86_64", "classic: 0.9.1"),
        ("/no/such/file", "x86_64", "classic: 0.9.1"),
    ],
)
def test_unknown_name_lists_what_there_is(spec: str, arch: str, listed: str) -> None:
    with pytest.raises(EmulatorError) as caught:
        find(spec, arch)
    assert spec in caught.value.message
    assert listed in caught.value.hint


# -- files ---------------------------------------------------------------------------------------------------


def test_found_by_snapshot_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.snapshot"
    file.write_bytes(snapshot.dump(FULL))
    assert find(str(file)) == FULL
    file.chmod(0o755)
    assert find(str(file)) == FULL


def test_found_by_help_text(tmp_path: Path) -> None:
    text = "QEMU PC emulator version 0.12.5, Copyright\nusage: qemu\n-device driver\n"
    (tmp_path / "help.txt").write_text(text)
    (tmp_path / "machines.txt").write_text("Supported machines are:\npc-0.12    Standard PC (default)\n")
    (tmp_path / "devices.txt").write_text('name "sga", bus ISA\n')
    emulator = find(str(tmp_path))
    assert emulator == find(str(tmp_path / "help.txt"))
    assert emulator.has_device("sga")
    assert [machine.name for machine in emulator.accelerators[0].machines] == ["pc-0.12"]
    (tmp_path / "odd.txt").write_text(text)
    (tmp_path / "odd-device.txt").write_text('name "usb-hub", bus USB\n')
    assert find(str(tmp_path / "odd.txt")).has_device("usb-hub")


@pytest.mark.parametrize("content", ["", "just a text", "{", '{"execute": "stop"}'])
def test_file_of_another_kind(tmp_path: Path, content: str) -> None:
    file = tmp_path / "thing"
    file.write_text(content)
    with pytest.raises(EmulatorError):
        find(str(file))


def test_folder_without_help_text(tmp_path: Path) -> None:
    with pytest.raises(EmulatorError, match="No such file"):
        find(str(tmp_path))


def test_unreadable_file() -> None:
    """Nobody can read the beginning of this one, root neither."""
    with pytest.raises(EmulatorError, match="cannot read '/proc/self/mem': Input/output error"):
        find("/proc/self/mem")
