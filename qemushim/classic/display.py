"""Pointers, graphics and video cards."""

from __future__ import annotations

from collections.abc import Iterator

from qemushim.classic.context import Classic, ClassicBuild
from qemushim.classic.document import Graphics, Input, Video
from qemushim.command.option import Option
from qemushim.document.node import Node
from qemushim.errors import error

#: KiB of video memory by model
_VRAM = {"cirrus": 9216, "vga": 9216, "vmvga": 9216, "xen": 4096, "qxl": 65536}
#: model → word of ``-vga``, or the option of QEMU before it had ``-vga``
_VGA_WORDS = {"cirrus": "cirrus", "qxl": "qxl", "vga": "std", "vmvga": "vmware", "xen": ""}
_VGA_FLAGS = {"cirrus": "", "vga": "-std-vga", "vmvga": "-vmwarevga", "xen": ""}
_FIRST_VNC_PORT = 5900


# -- defaults ------------------------------------------------------------------------------------------------


def complete_inputs(c: Classic) -> None:
    """The mouse that comes with graphics is implied: the document's goes, one behind the others comes."""
    devices = c.domain.devices
    hvm = c.domain.is_hvm
    implied = "ps2" if hvm else "xen"
    mouse = Node("input", {"type": "mouse", "bus": implied})
    for device in devices.inputs:
        if device.bus is None:
            device.bus = ("ps2" if device.type == "mouse" else "usb") if hvm else "xen"
        _check_input(device, hvm)
        if device.bus == implied and device.type == "mouse":
            devices.node.remove(device.node)
            mouse = device.node
    if devices.graphics:
        devices.node.append(mouse)


def _check_input(device: Input, hvm: bool) -> None:
    if hvm and device.bus == "ps2" and device.type != "mouse":
        raise error.internal(f"ps2 bus does not support {device.type} input device", device.node, "bus='usb'")
    if hvm and device.bus == "xen":
        raise error.internal("unsupported input bus xen", device.node, "bus='usb' or bus='ps2'")
    if not hvm and device.bus != "xen":
        raise error.internal(f"unsupported input bus {device.bus}", device.node, "bus='xen'")
    if not hvm and device.type != "mouse":
        raise error.internal(
            f"xen bus does not support {device.type} input device", device.node, "type='mouse'"
        )


def complete_graphics(c: Classic) -> None:
    """A port that is not given is chosen at the start; a card that is not given is Cirrus'."""
    devices = c.domain.devices
    for graphics in devices.graphics:
        if graphics.type == "vnc":
            _complete_vnc(graphics)
        elif graphics.type == "sdl" and not graphics.fullscreen:
            graphics.node.drop("fullscreen")
    if devices.graphics and not devices.videos:
        video = Video(devices.node.add("video"))
        video.model = "cirrus" if c.domain.is_hvm else "xen"
    for video in devices.videos:
        if video.model is None:
            video.model = "cirrus" if c.domain.is_hvm else "xen"
        if video.model == "none":
            continue
        video.vram = video.vram if video.vram is not None else _VRAM.get(video.model, 0)
        video.heads = video.heads if video.heads is not None else 1


def _complete_vnc(graphics: Graphics) -> None:
    port = _number(graphics)
    automatic = port in (None, -1) or graphics.autoport
    graphics.port = "-1" if automatic else str(port)
    graphics.autoport = automatic


def _number(graphics: Graphics) -> int | None:
    if not graphics.port:
        return None
    try:
        return int(graphics.port)
    except ValueError:
        raise error.internal(f"cannot parse vnc port {graphics.port}", graphics.node, "a number") from None


# -- arguments -----------------------------------------------------------------------------------------------


def input_options(b: ClassicBuild) -> Iterator[Option]:
    """The USB controller, and what hangs on it; PS/2 and Xen's own pointers are there without asking."""
    yield b.option("-usb", None, None, "a USB controller is always there")
    words = {"keyboard": "kbd"}
    for device in b.domain.devices.inputs:
        if device.bus != "usb":
            continue
        if b.has("device"):
            driver = f"usb-{words.get(device.type, device.type)}"
            yield b.device(driver, [("id", b.alias(device))], device.node, "a USB pointer or keyboard")
        else:
            yield b.option(
                "-usbdevice", device.type, device.node, "a USB pointer or keyboard by the old option"
            )


def nographic_options(b: ClassicBuild) -> Iterator[Option]:
    if not b.domain.devices.graphics:
        yield b.option("-nographic", None, None, "no graphics are asked for")


def graphics_options(b: ClassicBuild) -> Iterator[Option]:
    """VNC or SDL.  Raises ``ConfigError`` for what this QEMU can not show a screen by."""
    graphics = b.domain.devices.graphics
    if len(graphics) > 1:
        if b.letter:
            return
        raise error.unsupported(
            "only 1 graphics device is supported",
            graphics[1].node,
            "this QEMU shows its screen in one way at a time",
        )
    for one in graphics:
        if one.type == "vnc":
            yield b.option("-vnc", _vnc(b, one), one.node, "the screen is served by VNC")
            if one.keymap:
                yield b.option("-k", one.keymap, one.node, "the keyboard layout of VNC clients")
        elif one.type == "sdl":
            if one.fullscreen:
                yield b.option("-full-screen", None, one.node, "the window fills the host's screen")
            if b.has("sdl"):
                yield b.option("-sdl", None, one.node, "the screen is a window of the host")
        else:
            raise error.unsupported(f"unsupported graphics type '{one.type}'", one.node, "vnc or sdl")


def _vnc(b: ClassicBuild, graphics: Graphics) -> str:
    config = b.host.config
    port = b.host.vnc_port if graphics.autoport else _number(graphics)
    assert port is not None, "a VNC port that is not given is automatic"
    display = str(port - _FIRST_VNC_PORT)
    if not b.has("vnc-colon"):
        return display
    listen = graphics.listen or config.vnc_listen
    if ":" in listen and not b.letter:
        listen = f"[{listen}]"
    words = [f"{listen}:{display}"]
    if graphics.node.get("passwd") or config.vnc_password:
        words.append("password")
    if config.vnc_tls:
        words.append("tls")
        key = "x509verify" if config.vnc_tls_x509_verify else "x509"
        words.append(f"{key}={config.vnc_tls_x509_cert_dir}")
    if config.vnc_sasl:
        words.append("sasl")
    return ",".join(words)


def graphics_environment(b: ClassicBuild) -> Iterator[tuple[str, str]]:
    """Variables that the way to show a screen needs."""
    graphics = b.domain.devices.graphics
    if len(graphics) != 1:
        return
    config = b.host.config
    if graphics[0].type == "vnc":
        if config.vnc_sasl and config.vnc_sasl_dir:
            yield "SASL_CONF_DIR", config.vnc_sasl_dir
        # sound does not go over VNC, so it must not go to the host's speakers
        yield "QEMU_AUDIO_DRV", "none"
    elif graphics[0].type == "sdl":
        if graphics[0].xauth:
            yield "XAUTHORITY", graphics[0].xauth
        if graphics[0].display:
            yield "DISPLAY", graphics[0].display
        for name in ("QEMU_AUDIO_DRV", "SDL_AUDIODRIVER"):
            if name in b.host.environment:
                yield name, b.host.environment[name]


def video_options(b: ClassicBuild) -> Iterator[Option]:
    """The one graphics card."""
    videos = b.domain.devices.videos
    if len(videos) > 1:
        raise error.unsupported(
            "only one video card is currently supported", videos[1].node, "keep the first"
        )
    if not videos or videos[0].model == "none":
        # what is not asked for is left out by -nodefaults; kvm-83 knows -vga, but not the word
        if (
            b.has("vga")
            and not b.has("device")
            and (b.letter or b.has("vga-none") or b.emulator.version >= (0, 10))
        ):
            yield b.option("-vga", "none", None, "without it this QEMU makes a graphics card")
        return
    video = videos[0]
    words = _VGA_WORDS if b.has("vga") else _VGA_FLAGS
    word = words.get(video.model or "")
    if word is None or (video.model == "qxl" and not b.has("vga-qxl")):
        raise error.unsupported(
            f"video type {video.model} is not supported with QEMU", video.node, "use cirrus, vga or vmvga"
        )
    rule = "the graphics card"
    if word and b.has("vga"):
        yield b.option("-vga", word, video.node, rule)
    elif word:
        yield b.option(word, None, video.node, rule)
