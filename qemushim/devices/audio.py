"""``<sound>`` and ``<audio>``: sound cards, and what the host does with what they play and record.

https://libvirt.org/formatdomain.html#sound-devices and #audio-backends; the options are those of
https://www.qemu.org/docs/master/system/invocation.html (``-audiodev``).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from qemushim.command.option import Option, Value, compact, to_json
from qemushim.devices.base import Device, VirtioDriver, virtio_properties
from qemushim.devices.placement import address_properties, virtio_driver, zpci_options
from qemushim.document.fields import Choice, Field, Integer, Many, One, Positive, Switch, Text, Unsigned
from qemushim.document.item import Item, Schema, Tail
from qemushim.document.node import Node
from qemushim.errors import ConfigError, error

if TYPE_CHECKING:
    from qemushim.context import Build, Define

# -- back ends -----------------------------------------------------------------------------------------------

TYPES = ("none", "alsa", "coreaudio", "jack", "oss", "pulseaudio", "sdl", "spice", "file", "dbus", "pipewire")
FORMATS = ("s8", "u8", "s16", "u16", "s32", "u32", "f32")
SDL_DRIVERS = ("esd", "alsa", "arts", "pulseaudio")

#: the back ends that QEMU calls by another name
AUDIO_DRIVERS = {"file": "wav", "pulseaudio": "pa"}
#: attribute → QEMU's name, for those that differ by more than nothing
AUDIO_NAMES = {
    "bufferCount": "buffer-count",
    "bufferLength": "buffer-length",
    "clientName": "client-name",
    "connectPorts": "connect-ports",
    "dspPolicy": "dsp-policy",
    "exactName": "exact-name",
    "fixedSettings": "fixed-settings",
    "mixingEngine": "mixing-engine",
    "serverName": "server-name",
    "streamName": "stream-name",
    "timerPeriod": "timer-period",
    "tryMMap": "try-mmap",
    "tryPoll": "try-poll",
}


class Stream(Item):
    """``<input>`` or ``<output>``: one direction of a back end."""

    mixing_engine = Switch("@mixingEngine")
    fixed_settings = Switch("@fixedSettings")
    voices = Positive("@voices")
    buffer_length = Positive("@bufferLength")
    frequency = Positive("settings/@frequency")
    channels = Positive("settings/@channels")
    format = Choice("settings/@format", FORMATS)


class AlsaStream(Stream):
    head = Tail()
    dev = Text("@dev")


class BufferedStream(Stream):
    """Of Core Audio and SDL."""

    head = Tail()
    buffer_count = Positive("@bufferCount")


class JackStream(Stream):
    head = Tail()
    server_name = Text("@serverName")
    client_name = Text("@clientName")
    connect_ports = Text("@connectPorts")
    exact_name = Switch("@exactName")


class OssStream(Stream):
    head = Tail()
    dev = Text("@dev")
    buffer_count = Positive("@bufferCount")
    try_poll = Switch("@tryPoll")


class PulseStream(Stream):
    """Of PulseAudio and PipeWire."""

    head = Tail()
    name = Text("@name")
    stream_name = Text("@streamName")
    latency = Positive("@latency")


class Backend(Item):
    """``<audio>`` as one type of it: what all have."""

    id = Positive("@id", required=True)
    type = Choice("@type", TYPES, required=True)
    timer_period = Positive("@timerPeriod")
    input = One("input", Stream)
    output = One("output", Stream)

    #: its own attributes that are an option of QEMU
    passed: tuple[str, ...] = ()


class Alsa(Backend):
    head = Tail()
    input = One("input", AlsaStream)
    output = One("output", AlsaStream)


class CoreAudio(Backend):
    head = Tail()
    input = One("input", BufferedStream)
    output = One("output", BufferedStream)


class Jack(Backend):
    head = Tail()
    input = One("input", JackStream)
    output = One("output", JackStream)


class _DspPolicy(Integer["int | None"]):
    """OSS's trade of latency for load, from 0."""

    def __init__(self) -> None:
        Field.__init__(self, "@dspPolicy")

    def read(self, raw: str) -> int:
        number: int = super().read(raw)
        if number < 0:
            raise ValueError(raw)
        return number

    def wrong(self, raw: str, place: Node) -> ConfigError:
        try:
            super().read(raw)
        except ValueError:
            return super().wrong(raw, place)
        return error.xml(f"cannot parse 'dspPolicy' value '{raw}'", place, self.advice())


class Oss(Backend):
    head = Tail()
    try_mmap = Switch("@tryMMap")
    exclusive = Switch("@exclusive")
    dsp_policy = _DspPolicy()
    input = One("input", OssStream)
    output = One("output", OssStream)
    passed = ("try_mmap", "exclusive", "dsp_policy")


class PulseAudio(Backend):
    head = Tail()
    server_name = Text("@serverName")
    input = One("input", PulseStream)
    output = One("output", PulseStream)


class PipeWire(Backend):
    head = Tail()
    runtime_dir = Text("@runtimeDir")
    input = One("input", PulseStream)
    output = One("output", PulseStream)


class Sdl(Backend):
    head = Tail()
    driver = Choice("@driver", SDL_DRIVERS)
    input = One("input", BufferedStream)
    output = One("output", BufferedStream)


class File(Backend):
    head = Tail()
    path = Text("@path")
    passed = ("path",)


KINDS: dict[str, type[Backend]] = {
    "alsa": Alsa,
    "coreaudio": CoreAudio,
    "file": File,
    "jack": Jack,
    "oss": Oss,
    "pipewire": PipeWire,
    "pulseaudio": PulseAudio,
    "sdl": Sdl,
}
#: fields of a stream that count only where the settings are fixed
_SETTINGS = frozenset({"frequency", "channels", "format"})


class Audio(Device):
    """``<audio>``: a back end, which sound cards and graphics refer to by its number."""

    tag = "audio"

    id = Positive("@id", 0, required=True)
    type = Choice("@type", TYPES, required=True)

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        return KINDS.get(node.get("type") or "", Backend).schema

    @property
    def own(self) -> Backend:
        """The element as its type knows it."""
        return KINDS.get(self.type or "", Backend)(self.node)

    def check(self, d: Define) -> None:
        if sum(other.id == self.id for other in d.domain.all(Audio)) > 1:
            raise error.xml(f"audio ID {self.id} is used multiple times", self.node, "give each its own id")
        if self.type == "spice" and not any(
            g.node.get("type") == "spice" for g in d.domain.lists["graphics"]
        ):
            raise error.unsupported(
                "Spice audio is not supported without spice graphics", self.node, "type='none'"
            )
        own = self.own
        for stream in (own.input, own.output):
            if stream is not None:
                _check_settings(stream)

    def options(self, b: Build) -> Iterator[Option]:
        if not names_backends(b):
            return
        own = self.own
        kind = self.type or ""
        properties: dict[str, Value] = {"id": f"audio{self.id}", "driver": AUDIO_DRIVERS.get(kind, kind)}
        properties["timer-period"] = own.timer_period
        for name in own.passed:
            field = own.fields[name]
            properties[AUDIO_NAMES.get(field.attribute, field.attribute)] = getattr(own, name)
        if isinstance(own, PulseAudio):
            properties["server"] = own.server_name
        for name, stream in (("in", own.input), ("out", own.output)):
            if stream is not None:
                properties[name] = _stream_properties(stream) or None
        rule = "where the host plays and records the guest's sound"
        yield Option("-audiodev", to_json(compact(properties)), self.node, rule)

    def environment(self, b: Build) -> dict[str, str]:
        """Variables that QEMU's process gets on its account."""
        own = self.own
        if not names_backends(b):
            kind = self.type or "none"
            found = {"QEMU_AUDIO_DRV": AUDIO_DRIVERS.get(kind, kind)}
            return found | ({"SDL_AUDIODRIVER": own.driver} if isinstance(own, Sdl) and own.driver else {})
        if isinstance(own, Sdl):
            return {"SDL_AUDIODRIVER": own.driver} if own.driver else {}
        if isinstance(own, PipeWire):
            given = b.host.environment
            found = {name: given[name] for name in ("PIPEWIRE_CORE", "PIPEWIRE_REMOTE") if name in given}
            folder = own.runtime_dir or next((given[n] for n in _PIPEWIRE_FOLDERS if n in given), "")
            return {**found, "PIPEWIRE_RUNTIME_DIR": folder} if folder else found
        return {}


def _check_settings(stream: Stream) -> None:
    """Settings count where they are fixed, which they are by the mixing engine.  Raises ``ConfigError``."""
    settings = stream.node.child("settings")
    if settings is not None and not stream.fixed_settings:
        message = "audio settings specified without fixed settings flag"
        raise error.unsupported(message, settings, "fixedSettings='yes'")
    if stream.fixed_settings and not stream.mixing_engine:
        message = "fixed audio settings requires mixing engine"
        raise error.unsupported(message, stream.node, "mixingEngine='yes'")


#: where PipeWire's socket is looked for, first of them that is set
_PIPEWIRE_FOLDERS = ("PIPEWIRE_RUNTIME_DIR", "XDG_RUNTIME_DIR", "USERPROFILE")


def _stream_properties(stream: Stream) -> dict[str, Value]:
    """A direction's properties: the common ones, settings where they are fixed, then the back end's own."""
    common: list[tuple[str, Value]] = []
    own: list[tuple[str, Value]] = []
    for name, field in stream.fields.items():
        value: Any = getattr(stream, name)
        if value is None or (name in _SETTINGS and not stream.fixed_settings):
            continue
        pair = (AUDIO_NAMES.get(field.attribute, field.attribute), value)
        (common if name in Stream.fields else own).append(pair)
    return dict([*common, *own])


def names_backends(b: Build) -> bool:
    """Whether devices name their back end (QEMU 4.2); before that a variable of the process says it for all."""
    return b.emulator.version >= (4, 2, 0)


def check_backend(d: Define, number: int | None, source: Node) -> None:
    """Raise ``ConfigError`` where the back end that a device names does not exist."""
    if number and all(backend.id != number for backend in d.domain.all(Audio)):
        hint = f"add <audio id='{number}' type='…'/>"
        raise error.xml(f"no audio device with ID {number}", source, hint)


def audio_backend(b: Build, number: int | None) -> str | None:
    """QEMU's id of a back end, or of the first where none is named; ``None`` where there is none to name."""
    for backend in b.domain.all(Audio):
        if not number or backend.id == number:
            return f"audio{backend.id}" if names_backends(b) else None
    return None


def require_backend(b: Build, number: int | None, source: Node) -> str | None:
    """The same for what can not do without one.  Raises ``ConfigError``."""
    found = audio_backend(b, number)
    if found is None and names_backends(b):
        raise error.internal(
            "unable to find audio backend for sound device",
            source,
            f"add <audio id='{number or 1}' type='…'/>",
        )
    return found


def audio_environment(b: Build) -> dict[str, str]:
    """The variables that audio back ends add to the environment, in order."""
    found: dict[str, str] = {}
    for audio in b.domain.all(Audio):
        found.update(audio.environment(b))
    return found


# -- the back end of a guest that names none -----------------------------------------------------------------

#: values of QEMU_AUDIO_DRV that libvirt calls otherwise
_OLD_DRIVERS = {"pa": "pulseaudio", "wav": "file"}


def default_audio(d: Define) -> None:
    """One back end for a guest without any, of the kind that its graphics suggest.

    With VNC, or without graphics, the host stays silent unless its administrator allows sound; then, and for
    SDL, the variable QEMU_AUDIO_DRV of the host decides.  The last of several graphics wins.
    """
    if d.domain.all(Audio):
        return
    config = d.host.config
    kinds = [graphics.node.get("type") or "" for graphics in d.domain.lists["graphics"]]
    found: dict[str, str] | None = None
    if not kinds:
        found = _host_audio(d, config.nographics_allow_host_audio)
    for kind in kinds:
        if kind == "vnc":
            found = _host_audio(d, config.vnc_allow_host_audio)
        elif kind == "sdl":
            found = _host_audio(d, allowed=True)
        elif kind == "spice":
            found = {"type": "spice"}
    if found is not None:
        d.domain.add(Audio, {"id": "1", **found})


def _host_audio(d: Define, allowed: bool) -> dict[str, str] | None:
    """The back end that the host's environment asks for; ``None`` where it asks for none."""
    if not allowed:
        return {"type": "none"}
    given = d.host.environment
    name = given.get("QEMU_AUDIO_DRV", "")
    if not name:
        return None
    kind = _OLD_DRIVERS.get(name, name)
    if kind not in TYPES:
        raise error.unsupported(f"unknown QEMU_AUDIO_DRV setting {name}", hint=f"one of: {', '.join(TYPES)}")
    driver = given.get("SDL_AUDIODRIVER", "")
    return {"type": kind, "driver": driver} if kind == "sdl" and driver in SDL_DRIVERS else {"type": kind}


# -- sound cards ---------------------------------------------------------------------------------------------

MODELS = ("sb16", "es1370", "pcspk", "ac97", "ich6", "ich9", "usb", "ich7", "virtio")
#: model → QEMU's device; the speaker is part of the machine
SOUND_CARDS = {
    "ac97": "AC97",
    "es1370": "ES1370",
    "ich6": "intel-hda",
    "ich9": "ich9-intel-hda",
    "sb16": "sb16",
    "usb": "usb-audio",
}
#: cards that QEMU does not have everywhere: model → (device, what libvirt calls it)
_OPTIONAL = {
    "ich9": ("ich9-intel-hda", "The ich9-intel-hda audio controller"),
    "usb": ("usb-audio", "usb-audio controller"),
}
#: cards that take codecs
_HDA = frozenset({"ich6", "ich9"})


class Codec(Item):
    """``<codec>`` of an HDA card."""

    tag = "codec"

    type = Choice("@type", ("duplex", "micro", "output"), required=True)


class Sound(Device):
    """``<sound>``: a sound card."""

    tag = "sound"

    model = Choice("@model", MODELS, required=True)
    multichannel = Switch("@multichannel")
    streams = Unsigned("@streams")
    codecs = Many("codec", Codec)
    audio = Positive("audio/@id", required=True)
    tail = Tail()
    driver = One("driver", VirtioDriver)

    @classmethod
    def schema_for(cls, node: Node) -> Schema:
        """What only other models have is not looked at."""
        model = node.get("model") or ""
        own = {"codecs": model in _HDA, "multichannel": model == "usb", "streams": model == "virtio"}
        return cls.only(*(name for name in cls.fields if own.get(name, True)))

    def complete(self, d: Define) -> None:
        if self.model not in _HDA:
            self.node.discard("codec")
        if self.model != "usb":
            self.node.drop("multichannel")
        if self.model != "virtio":
            self.node.drop("streams")
            self.node.discard("driver")
        elif not self.streams:
            self.streams = 2

    def check(self, d: Define) -> None:
        check_backend(d, self.audio, self.node)
        model = self.model or ""
        if model == "ich7":
            raise error.internal(
                f"sound card model '{model}' is not supported by qemu",
                self.node,
                "model='ich9', 'ac97', 'usb' or 'virtio'",
            )
        if model == "virtio" and not (
            d.emulator.has_device("virtio-sound-pci") or d.emulator.has_device("virtio-sound-device")
        ):
            raise error.unsupported(
                "virtio-sound controller is not supported by this QEMU binary",
                self.node,
                "model='ich9', or QEMU 8.2 or newer",
            )
        device, words = _OPTIONAL.get(model, ("", ""))
        if device and not d.emulator.has_device(device):
            raise error.unsupported(
                f"{words} is not supported in this QEMU binary", self.node, "another model"
            )
        if model in _HDA:
            for kind in self._codec_kinds():
                if not d.emulator.has_device(f"hda-{kind}"):
                    raise error.unsupported(
                        f"hda-{kind} not supported in this QEMU binary", self.node, "another type of <codec>"
                    )

    def _codec_kinds(self) -> list[str]:
        """The codecs of an HDA card, by their number on its bus; it has at least one."""
        return [codec.type or "" for codec in self.codecs] or ["duplex"]

    def options(self, b: Build) -> Iterator[Option]:
        model = self.model or ""
        backend = require_backend(b, self.audio, self.node)
        if model == "pcspk":
            return
        virtio = model == "virtio"
        properties: dict[str, Value] = {
            "driver": virtio_driver("virtio-sound", self, b) if virtio else SOUND_CARDS[model],
            **(virtio_properties(self) if virtio else {}),
            "id": self.alias,
            "audiodev": None if model in _HDA else backend,
            "multi": self.multichannel if model == "usb" else None,
            "streams": self.streams or None if virtio else None,
        }
        yield from zpci_options(self, b)
        yield b.device({**properties, **address_properties(self, b)}, self.node, "a sound card")
        for number, kind in enumerate(self._codec_kinds() if model in _HDA else ()):
            yield b.device(
                {
                    "driver": f"hda-{kind}",
                    "id": f"{self.alias}-codec{number}",
                    "bus": f"{self.alias}.0",
                    "cad": number,
                    "audiodev": backend,
                },
                self.node,
                "what the card plays and records with",
            )
