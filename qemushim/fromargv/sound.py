"""Sound: back ends, cards, codecs.  The inverse of ``qemushim.devices.audio``."""

from __future__ import annotations

from functools import partial

from qemushim.devices.audio import AUDIO_DRIVERS, AUDIO_NAMES, SOUND_CARDS
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.line import Line, put, yes_no
from qemushim.fromargv.places import place, split_driver, usb_place, virtio_settings
from qemushim.fromargv.syntax import Bag, UnreadableError, as_text

_AUDIO = {driver: kind for kind, driver in AUDIO_DRIVERS.items()}
_ATTRIBUTES = {theirs: ours for ours, theirs in AUDIO_NAMES.items()}
_SOUND = {card: model for model, card in SOUND_CARDS.items()}
_SETTINGS = ("frequency", "channels", "format")


def audio_reference(line: Line, bag: Bag, node: Node) -> None:
    """``audiodev=``: which back end, where it is not the first."""
    name = bag.take("audiodev")
    if name is not None:
        number = line.sound.numbers.get(name)
        if number is None:
            raise UnreadableError(f"there is no audiodev {name}")
        if number != line.sound.first or node.get("type") == "dbus":
            put(node, "audio/@id", number)


def read_audio(line: Line) -> None:
    """``-audiodev``, ``-audio``: each back end gets its number."""
    taken: set[int] = set()
    for argument in line.all("-audiodev", "-audio"):
        name = argument.id
        digits = name.removeprefix("audio")
        number = int(digits) if digits.isdigit() and 0 < int(digits) < 10000 and name != digits else 1
        while number in taken:
            number += 1
        taken.add(number)
        line.read_one(argument, partial(_backend, number=number))


def _backend(line: Line, argument: Argument, bag: Bag, number: int) -> None:
    driver = bag.take("driver") or "none"
    bag.drop("id")
    kind = _AUDIO.get(driver, driver)
    card = bag.take("model") if argument.flag == "-audio" else None
    node = Node("audio", {"id": str(number), "type": kind})
    put(node, "@timerPeriod", bag.take("timer-period"))
    for prefix, tag in (("in", "input"), ("out", "output")):
        _stream(bag, node, prefix, tag)
    server = bag.take("server")
    put(node, "@serverName", server)
    for key in ("path", "try-mmap", "exclusive", "dsp-policy"):
        value = bag.take(key)
        if value is not None:
            word = {"on": "yes", "off": "no"}.get(value, value)
            node.set(_ATTRIBUTES.get(key, _camel(key)), word)
    if bag.pairs:
        raise UnreadableError(f"-audiodev {driver}: {', '.join(bag.keys)}")
    if kind == "pipewire":
        put(node, "@runtimeDir", line.environment.pop("PIPEWIRE_RUNTIME_DIR", None))
    driver_name = line.environment.pop("SDL_AUDIODRIVER", None) if kind == "sdl" else None
    put(node, "@driver", driver_name)
    line.add(node, argument)
    line.sound.numbers[argument.id] = str(number)
    line.sound.first = line.sound.first or str(number)
    if card is not None:
        line.sound.cards.append(card)


def _stream(bag: Bag, node: Node, prefix: str, tag: str) -> None:
    pairs = bag.below(prefix)
    if not pairs:
        return
    stream = node.add(tag)
    for key, value in pairs:
        text = as_text(value)
        text = {"on": "yes", "off": "no"}.get(text, text)
        if key in _SETTINGS:
            stream.ensure("settings").set(key, text)
        else:
            stream.set(_ATTRIBUTES.get(key, _camel(key)), text)


def _camel(key: str) -> str:
    head, *rest = key.split("-")
    return head + "".join(part.capitalize() for part in rest)


def is_sound(driver: str) -> bool:
    return driver in _SOUND or split_driver(driver)[0] == "virtio-sound"


def read_sound(line: Line, argument: Argument) -> None:
    """A sound card, with its codecs."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    node = Node("sound", {"model": _SOUND.get(driver, "virtio")})
    used = [argument]
    audio_reference(line, bag, node)
    streams = bag.take("streams")
    put(node, "@streams", streams)
    put(node, "@multichannel", yes_no(bag.switch("multi")))
    if node.get("model") in ("ich6", "ich9"):
        _codecs(line, argument, node, used)
    if node.get("model") == "virtio":
        virtio_settings(bag, node)
    if driver == "usb-audio":
        usb_place(line, bag, node)
    elif driver == "sb16":
        bag.drop("bus")
    else:
        place(line, bag, node)
    line.finish(bag, node, *used)


def _codecs(line: Line, card: Argument, node: Node, used: list[Argument]) -> None:
    """The codecs on a card's own bus."""
    kinds: list[str] = []
    cards = [a for a in line.every("-device") if a.bag.was("driver") in ("intel-hda", "ich9-intel-hda")]
    for argument in line.all("-device"):
        bag = argument.bag
        driver = bag.peek("driver") or ""
        kind = driver.removeprefix("hda-")
        if kind == driver or kind not in ("duplex", "micro", "output"):
            continue
        bus = bag.peek("bus")
        if bus is not None and bus != f"{card.id}.0" and not (len(cards) == 1 and bus == "hda.0"):
            continue
        line.use(argument)
        bag.drop("driver", "id", "bus", "cad")
        if node.child("audio") is None:
            audio_reference(line, bag, node)
        bag.drop("audiodev")
        if bag.pairs:
            raise UnreadableError(f"{driver}: {', '.join(bag.keys)}")
        used.append(argument)
        kinds.append(kind)
    if kinds != ["duplex"]:
        for kind in kinds:
            node.add("codec", {"type": kind})


def read_speaker(line: Line) -> None:
    """The PC speaker: a property of the machine."""
    if line.chipset.speaker is None:
        return
    node = Node("sound", {"model": "pcspk"})
    number = line.sound.numbers.get(line.chipset.speaker)
    if number is not None and number != line.sound.first:
        put(node, "audio/@id", number)
    line.add(node)


def read_soundhw(line: Line) -> None:
    """``-soundhw``, and ``model=`` of ``-audio``."""
    for argument in line.all("-soundhw"):
        line.use(argument)
        line.sound.cards += (argument.text or "").split(",")
    for name in line.sound.cards:
        if name == "pcspk":
            line.add(Node("sound", {"model": "pcspk"}))
            continue
        model = {"hda": "ich6", "all": "ich6", "virtio": "virtio"}.get(name, name)
        if model not in ("ac97", "es1370", "ich6", "sb16", "virtio", "ich9"):
            line.note("lost", f"sound card {name}: libvirt has none of that name")
            continue
        node = Node("sound", {"model": model})
        if model != "sb16":
            line.buses.unplaced.append((node, 0, None))
        line.add(node)
