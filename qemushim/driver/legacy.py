"""The flag way on a QEMU of today: a command line as libvirt 0.8.0 wrote it, as far as today's QEMU still takes it.

QEMU chooses the slots, and is asked for them afterwards (``info pci``).  What it no longer takes is said in the
nearest words that leave the choice of the slot to it.  https://www.qemu.org/docs/master/about/removed-features.html
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

from qemushim.command.command import Command
from qemushim.command.option import Option
from qemushim.emulator.model import Emulator
from qemushim.errors import EmulatorError, error

#: seconds that a binary has to print its help
_PATIENCE = 10
#: capabilities that lead away from flags, or to flags that are gone
_HIDDEN = frozenset({"device", "netdev", "fsdev", "balloon"})
#: ``-soundhw`` word → QEMU's device of it, where they differ
_SOUND = {"ac97": "AC97", "es1370": "ES1370", "sb16": "sb16"}


def flag_emulator(binary: str) -> Emulator:
    """What a binary's help text shows, without what would lead away from flags.  Raises ``EmulatorError``."""
    known = Emulator.from_help(_ask(binary, "-help"), machines_text=_ask(binary, "-M", "?"), binary=binary)
    return known._replace(flags=known.flags - _HIDDEN)


def _ask(binary: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            (binary, *arguments),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            errors="replace",
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        raise EmulatorError(f"cannot ask '{binary}': {problem}") from problem
    return done.stdout


def todays_flags(command: Command) -> None:
    """Say in the words of today's QEMU what it no longer takes in the old ones.  Raises ``ConfigError``."""
    backends = _backends(command.options)
    options: list[Option] = []
    for option in command.options:
        change = _CHANGES.get(option.flag)
        options += [option] if change is None else change(option, backends)
    command.options = options


def _backends(options: list[Option]) -> dict[str, str]:
    """Number of a ``vlan=`` → name of the host's side in it."""
    found = {}
    for option in options:
        head, keys = _parts(option)
        if option.flag == "-net" and head not in ("nic", "none"):
            found[keys["vlan"]] = keys.get("name") or f"hostnet{keys['vlan']}"
    return found


def _net(option: Option, backends: dict[str, str]) -> list[Option]:
    """Virtual LANs are gone: each card is tied to its own back end."""
    head, keys = _parts(option)
    if head == "none":
        return [option]
    name = backends[keys.pop("vlan")]
    if head == "nic":
        # what is tied to a back end goes by no name of its own
        keys.pop("name", None)
        keys["netdev"] = name
        return [_written("-net", head, keys, option)]
    keys.pop("name", None)
    return [_written("-netdev", head, {**keys, "id": name}, option)]


def _sound(option: Option, backends: dict[str, str]) -> list[Option]:
    found = []
    for number, word in enumerate((option.text or "").split(",")):
        name = _SOUND.get(word)
        if name is None:
            raise error.unsupported(f"today's QEMU has no sound card '{word}' by a flag", option.source)
        if not number:
            found.append(option._replace(flag="-audiodev", text="none,id=audio1"))
        found.append(option._replace(flag="-device", text=f"{name},audiodev=audio1"))
    return found


def _watchdog(option: Option, backends: dict[str, str]) -> list[Option]:
    return [option._replace(flag="-device")]


def _drive(option: Option, backends: dict[str, str]) -> list[Option]:
    _, keys = _parts(option)
    if keys.get("if") == "scsi":
        raise error.unsupported(
            "today's QEMU has no SCSI disks by flags",
            option.source,
            "bus='virtio', bus='ide', or without --legacy",
        )
    keys.pop("boot", None)
    # a format that is guessed is not to be written to
    keys.setdefault("format", "raw")
    return [_written("-drive", "", keys, option)]


def _chardev(option: Option, backends: dict[str, str]) -> list[Option]:
    text = (option.text or "").replace(",server,nowait", ",server=on,wait=off")
    return [option._replace(text=text)]


def _dropped(option: Option, backends: dict[str, str]) -> list[Option]:
    return []


_CHANGES: dict[str, Callable[[Option, dict[str, str]], list[Option]]] = {
    "-balloon": _dropped,
    "-chardev": _chardev,
    "-drive": _drive,
    "-net": _net,
    "-soundhw": _sound,
    "-watchdog": _watchdog,
}


def _parts(option: Option) -> tuple[str, dict[str, str]]:
    """``head,key=value,…`` taken apart; a comma that belongs to a value stays double."""
    head, keys = "", {}
    for part in _split(option.text or ""):
        name, equals, value = part.partition("=")
        if equals:
            keys[name] = value
        else:
            head = head or part
    return head, keys


def _split(text: str) -> Iterator[str]:
    part = ""
    for piece in text.replace(",,", "\0").split(","):
        part = piece.replace("\0", ",,")
        yield part


def _written(flag: str, head: str, keys: dict[str, str], like: Option) -> Option:
    words = [head] if head else []
    words += [f"{name}={value}" for name, value in keys.items()]
    return like._replace(flag=flag, text=",".join(words))
