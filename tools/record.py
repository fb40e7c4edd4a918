#!/usr/bin/env python3
"""Distil recordings of QEMU binaries into the snapshots that come with the package.

A recording is a QMP conversation (``caps_VERSION_ARCH[+VARIANT].replies``), a help text (``NAME.txt``), or a
folder with ``help.txt`` and, where the binary has them, ``machines.txt`` and ``devices.txt``.  The same name
given twice is one emulator: the first help text counts, and the texts that it lacks are taken from the
second.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qemushim.emulator import snapshot
from qemushim.emulator.helptext import from_help
from qemushim.emulator.model import Emulator
from qemushim.emulator.qmp import from_qmp
from qemushim.errors import EmulatorError

_RECORDING = re.compile(r"(?:caps_)?(?P<version>[^_]+)_(?P<arch>[^+]+)(?:\+(?P<variant>.+))?")


@dataclass
class Texts:
    """What a classic binary printed."""

    help: str = ""
    machines: str = ""
    devices: str = ""

    def complete(self, other: Texts) -> None:
        self.help = self.help or other.help
        self.machines = self.machines or other.machines
        self.devices = self.devices or other.devices


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recordings", nargs="+", type=Path, metavar="DIR_OR_FILE")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    total = 0
    for name, emulator in emulators(arguments.recordings):
        data = snapshot.dump(emulator)
        (arguments.output / (name + snapshot.SUFFIX)).write_bytes(data)
        total += len(data)
        print(f"{name}: {len(data)} bytes, {len(emulator.flags)} capabilities")
    print(f"{total} bytes together")
    return 0


def emulators(paths: list[Path]) -> list[tuple[str, Emulator]]:
    """(name, emulator) of all recordings below the paths."""
    found: dict[str, Emulator] = {}
    classic: dict[str, Texts] = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.suffix == ".replies":
                name, emulator = modern(file)
                found[name] = emulator
            elif is_help(file):
                name, texts = classic_texts(file)
                classic.setdefault(name, Texts()).complete(texts)
    for name, texts in classic.items():
        found[name] = from_texts(name, texts)
    return sorted(found.items())


def modern(file: Path) -> tuple[str, Emulator]:
    """The name and the emulator of a recorded conversation.

    The version in the name is the one that the file is called by: a recording of a development build says
    9.2.50.
    """
    match = _RECORDING.fullmatch(file.stem)
    variant = (match["variant"] if match else None) or ""
    emulator = from_qmp(file.read_text(), variant=variant)
    version = match["version"] if match else ".".join(map(str, emulator.version))
    return f"{version}-{emulator.arch}" + (f"+{variant}" if variant else ""), emulator


def is_help(file: Path) -> bool:
    """Whether the file is a help text itself (its companions are read along with it)."""
    if file.suffix != ".txt" or file.stem.endswith("-device"):
        return False
    with file.open(encoding="utf-8", errors="replace") as lines:
        return lines.readline().startswith(("QEMU PC emulator version", "QEMU emulator version"))


def classic_texts(file: Path) -> tuple[str, Texts]:
    """The name of a classic binary (its file's or folder's, without a plain ``qemu-``) and its texts."""
    if file.name == "help.txt":
        name, beside = file.parent.name, ("machines.txt", "devices.txt")
    else:
        name, beside = file.stem, (f"{file.stem}-machine.txt", f"{file.stem}-device.txt")
    if not name.startswith("qemu-kvm-"):
        name = name.removeprefix("qemu-")
    others = (file.with_name(other) for other in beside)
    machines, devices = (other.read_text(errors="replace") if other.exists() else "" for other in others)
    return name, Texts(file.read_text(errors="replace"), machines, devices)


def from_texts(name: str, texts: Texts) -> Emulator:
    fork = re.match(r"kvm-(\d+)", name)
    try:
        return from_help(
            texts.help,
            machines_text=texts.machines,
            devices_text=texts.devices,
            kvm_version=int(fork[1]) if fork else 0,
        )
    except EmulatorError as problem:
        raise SystemExit(f"{name}: {problem}") from problem


if __name__ == "__main__":
    sys.exit(main())
