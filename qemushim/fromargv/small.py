"""The small devices: input, random numbers, balloon, watchdog, TPM, shared memory, panic, IOMMU and others.

The inverse of the modules of ``qemushim.devices`` of these names.
"""

from __future__ import annotations

from qemushim.devices.input import USB_INPUTS, VIRTIO_INPUTS
from qemushim.devices.smartcard import DATABASE
from qemushim.devices.tpm import DEFAULT_DEVICE
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.chardevs import read_source
from qemushim.fromargv.line import Line, put
from qemushim.fromargv.places import place, split_driver, usb_place, virtio_settings
from qemushim.fromargv.secrets import opened_file
from qemushim.fromargv.syntax import Bag, UnreadableError

_USB = {driver: kind for kind, driver in USB_INPUTS.items()}
_VIRTIO = {driver: kind for kind, driver in VIRTIO_INPUTS.items()}


def _variant(line: Line, bag: Bag, node: Node, path: str = "@model", plain: str = "virtio") -> None:
    """The model of a virtio device, its common options and its place."""
    _, _, model = split_driver(bag.was("driver") or "")
    put(node, path, model or plain or None)
    virtio_settings(bag, node)
    place(line, bag, node)


def read_input(line: Line, argument: Argument) -> None:
    bag = argument.bag
    driver = bag.take("driver") or ""
    _legacy_inputs(line, argument.id)
    if driver in _USB:
        node = Node("input", {"type": _USB[driver], "bus": "usb"})
        usb_place(line, bag, node)
    else:
        node = Node("input", {"type": _VIRTIO[split_driver(driver)[0]], "bus": "virtio"})
        put(node, "source/@evdev", bag.take("evdev"))
        _variant(line, bag, node, plain="")
    line.finish(bag, node, argument)


def _legacy_inputs(line: Line, name: str) -> None:
    """PS/2 mouse and keyboard, which have no argument: an id that counts them tells that they come first."""
    number = name.removeprefix("input")
    count = len(line.devices.all("input"))
    if not line.board.is_x86 or not number.isdigit() or count or number not in ("1", "2"):
        return
    for kind in ("mouse", "keyboard")[: int(number)]:
        line.devices.add("input", {"type": kind, "bus": "ps2"})


def read_event_devices(line: Line) -> None:
    """``-object input-linux``: input devices of the host that QEMU reads itself."""
    for argument in line.all("-object"):
        if argument.bag.peek("qom-type") != "input-linux":
            continue
        bag = line.use(argument)
        bag.drop("qom-type")
        node = Node("input", {"type": "evdev"})
        source = node.add("source", {"dev": bag.take("evdev") or ""})
        if bag.switch("grab_all"):
            source.set("grab", "all")
        put(source, "@repeat", bag.switch("repeat"))
        put(source, "@grabToggle", bag.take("grab-toggle"))
        line.ids.append((node, bag.take("id") or ""))
        line.say_left(bag)
        line.add(node, argument)


def read_hub(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver")
    node = Node("hub", {"type": "usb"})
    usb_place(line, bag, node)
    line.finish(bag, node, argument)


def read_rng(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver")
    node = Node("rng", {"model": "virtio"})
    used = [argument]
    backend = node.add("backend", {"model": "random"})
    name = bag.take("rng")
    if name is None:
        # QEMU makes a back end of its own
        backend.text = "/dev/urandom"
    else:
        source = line.object(name)
        used.append(source)
        _rng_backend(line, line.use(source), backend, used)
    rate, period = bag.take("max-bytes"), bag.take("period")
    if rate is not None:
        put(node, "rate/@bytes", rate)
        put(node, "rate/@period", period)
    _variant(line, bag, node)
    line.finish(bag, node, *used)


def _rng_backend(line: Line, bag: Bag, backend: Node, used: list[Argument]) -> None:
    kind = (bag.take("qom-type") or "").removeprefix("rng-")
    bag.drop("id")
    if kind not in ("random", "builtin", "egd"):
        raise UnreadableError(f"random numbers of {kind}")
    backend.set("model", kind)
    if kind == "random":
        backend.text = bag.take("filename") or "/dev/random"
    elif kind == "egd":
        used.append(read_source(line, bag.take("chardev"), backend))
    if bag.pairs:
        raise UnreadableError(f"{bag.what}: {', '.join(bag.keys)}")


def read_balloon(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver")
    node = Node("memballoon")
    put(node, "@autodeflate", bag.switch("deflate-on-oom"))
    put(node, "@freePageReporting", bag.switch("free-page-reporting"))
    _variant(line, bag, node)
    line.finish(bag, node, argument)


def read_watchdog(line: Line, argument: Argument) -> None:
    bag = argument.bag
    model = bag.take("driver") or ""
    node = Node("watchdog", {"model": model, "action": line.chipset.watchdog_action})
    if model == "i6300esb":
        place(line, bag, node)
    line.finish(bag, node, argument)


def read_itco(line: Line) -> None:
    """The watchdog of the chipset, which q35 always has; libvirt knows whether it acts."""
    if not line.chipset.has_itco:
        return
    node = Node("watchdog", {"model": "itco", "action": line.chipset.watchdog_action})
    others = line.devices.all("watchdog")
    names = {name for other, name in line.ids if other in others}
    if others and "watchdog0" not in names and "watchdog1" in names:
        # the other one counts it
        line.devices.children.insert(line.devices.children.index(others[0]), node)
        line.sources[id(node)] = line.sources[id(others[0])]
        return
    line.add(node)


def read_legacy_watchdog(line: Line) -> None:
    for argument in line.all("-watchdog"):
        line.use(argument)
        node = Node("watchdog", {"model": argument.text or "", "action": line.chipset.watchdog_action})
        if argument.text == "i6300esb":
            line.buses.unplaced.append((node, 0, None))
        line.add(node, argument)


def read_panic(line: Line, argument: Argument) -> None:
    bag = argument.bag
    driver = bag.take("driver") or ""
    node = Node("panic", {"model": "isa" if driver == "pvpanic" else "pvpanic"})
    if driver == "pvpanic":
        port = bag.number("ioport")
        if port is not None:
            node.add("address", {"type": "isa", "iobase": hex(port)})
    else:
        place(line, bag, node)
    line.finish(bag, node, argument)


# -- trusted platform modules -------------------------------------------------------------------------

_TPM_MODELS = {"tpm-tis-device": "tpm-tis", "spapr-tpm-proxy": "spapr-tpm-proxy"}


def read_tpm(line: Line, argument: Argument) -> None:
    bag = argument.bag
    driver = bag.take("driver") or ""
    node = Node("tpm", {"model": _TPM_MODELS.get(driver, driver)})
    used = [argument]
    backend = node.add("backend")
    if driver == "spapr-tpm-proxy":
        backend.set("type", "passthrough")
        backend.add("device", {"path": bag.take("host-path") or ""})
        line.finish(bag, node, argument)
        return
    source = line.find(("-tpmdev",), bag.take("tpmdev"))
    used.append(source)
    inner = line.use(source)
    kind = inner.take("type")
    inner.drop("id")
    if kind == "passthrough":
        backend.set("type", "passthrough")
        # libvirt opens the first TPM of the host where none is named
        path = opened_file(line, inner.take("path") or DEFAULT_DEVICE, quiet=True)
        opened_file(line, inner.take("cancel-path") or "", quiet=True)
        backend.add("device", {"path": DEFAULT_DEVICE if path.startswith("/unknown/") else path})
    elif kind == "emulator":
        chardev = line.find(("-chardev",), inner.take("chardev"))
        used.append(chardev)
        _emulator(line, chardev, backend)
    else:
        raise UnreadableError(f"-tpmdev {kind}")
    if inner.pairs:
        raise UnreadableError(f"-tpmdev: {', '.join(inner.keys)}")
    reg = bag.number("reg")
    if reg is not None:
        node.add("address", {"type": "spapr-vio", "reg": f"{reg:#010x}"})
    line.finish(bag, node, *used)


def _emulator(line: Line, chardev: Argument, backend: Node) -> None:
    """swtpm: libvirt starts one of its own, unless the socket is somebody else's."""
    found = Node("backend")
    line.find(("-chardev",), chardev.id)
    read_source(line, chardev.id, found)
    path = found.value("source/@path") or ""
    if found.get("type") == "unix" and not path.endswith("-swtpm.sock") and path != line.host.tpm_socket:
        backend.set("type", "external")
        backend.add("source", {"type": "unix", "mode": "connect", "path": path})
        return
    backend.attrib |= {"type": "emulator", "version": "2.0"}


# -- the rest ---------------------------------------------------------------------------------------


def read_shmem(line: Line, argument: Argument) -> None:
    bag = argument.bag
    model = bag.take("driver") or ""
    node = Node("shmem", {"name": "shmem0"})
    node.add("model", {"type": model})
    used = [argument]
    if model == "ivshmem-plain":
        source = line.object(bag.take("memdev"))
        used.append(source)
        inner = line.use(source)
        path = inner.take("mem-path") or ""
        size = inner.size("size") or 0
        inner.drop("qom-type", "id", "share")
        if inner.pairs:
            raise UnreadableError(f"shared memory: {', '.join(inner.keys)}")
        if not path.startswith("/dev/shm/"):
            raise UnreadableError(f"shared memory at {path or 'no path'}: libvirt's is below /dev/shm")
        node.set("name", path.removeprefix("/dev/shm/"))
        node.add("size", {"unit": "M"}, text=str(size >> 20))
        master = bag.take("master")
        put(node, "@role", {"on": "master", "off": "peer"}.get(master or ""))
    else:
        chardev = line.find(("-chardev",), bag.take("chardev"))
        used.append(chardev)
        inner = line.use(chardev)
        server = node.add("server", {"path": inner.was("path") or ""})
        name = (server.get("path") or "").rpartition("/shmem-")[2]
        node.set("name", name.removesuffix("-sock").replace("/", "-") or "shmem0")
        inner.pairs = []
        put(node, "msi/@vectors", bag.take("vectors"))
        put(node, "msi/@ioeventfd", bag.switch("ioeventfd"))
    place(line, bag, node)
    line.finish(bag, node, *used)


def read_vsock(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver", "vhostfd")
    node = Node("vsock")
    cid = bag.take("guest-cid") or "3"
    node.add("cid", {"auto": "no", "address": cid})
    _variant(line, bag, node)
    line.finish(bag, node, argument)


def read_iommu(line: Line, argument: Argument) -> None:
    bag = argument.bag
    driver = bag.take("driver") or ""
    node = Node("iommu", {"model": "virtio" if driver.startswith("virtio-iommu") else "intel"})
    if node.get("model") == "virtio":
        place(line, bag, node)
    else:
        for attribute, key in (
            ("intremap", "intremap"),
            ("caching_mode", "caching-mode"),
            ("eim", "eim"),
            ("iotlb", "device-iotlb"),
            ("dma_translation", "dma-translation"),
        ):
            put(node, f"driver/@{attribute}", bag.switch(key))
        put(node, "driver/@aw_bits", bag.take("aw-bits"))
    line.finish(bag, node, argument)


def read_crypto(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver")
    node = Node("crypto", {"model": "virtio", "type": "qemu"})
    source = line.object(bag.take("cryptodev"))
    inner = line.use(source)
    kind = (inner.take("qom-type") or "").removeprefix("cryptodev-backend-").removeprefix("cryptodev-backend")
    inner.drop("id")
    if kind not in ("builtin", "lkcf"):
        raise UnreadableError(f"encryption by {kind}")
    backend = node.add("backend", {"model": kind})
    put(backend, "@queues", inner.take("queues"))
    if inner.pairs:
        raise UnreadableError(f"{inner.what}: {', '.join(inner.keys)}")
    _variant(line, bag, node, plain="virtio")
    line.finish(bag, node, argument, source)


def read_pstore(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver")
    node = Node("pstore", {"backend": "acpi-erst"})
    source = line.object(bag.take("memdev"))
    inner = line.use(source)
    node.add("path", text=inner.take("mem-path") or "")
    size = inner.size("size") or 0
    node.add("size", {"unit": "KiB"}, text=str(size // 1024))
    inner.drop("qom-type", "id", "share")
    if inner.pairs:
        raise UnreadableError(f"{inner.what}: {', '.join(inner.keys)}")
    place(line, bag, node)
    line.finish(bag, node, argument, source)


def read_redirection(line: Line, argument: Argument) -> None:
    bag = argument.bag
    bag.drop("driver")
    node = Node("redirdev", {"bus": "usb", "type": "spicevmc"})
    source = read_source(line, bag.take("chardev"), node)
    rules = bag.take("filter")
    if rules is not None and not line.devices.all("redirfilter"):
        line.devices.append(_filter(rules))
    usb_place(line, bag, node)
    line.finish(bag, node, argument, source)


def _filter(text: str) -> Node:
    """``CLASS:VENDOR:PRODUCT:VERSION:ALLOW|…``"""
    node = Node("redirfilter")
    for rule in text.split("|"):
        parts = rule.split(":")
        if len(parts) != 5:
            raise UnreadableError(f"filter={text}")
        device_class, vendor, product, version, allow = parts
        found = node.add("usbdev", {"class": device_class, "vendor": vendor, "product": product})
        if version != "-1":
            number = int(version, 16)
            version = f"{number >> 8:x}.{number & 255:02x}"
        found.attrib |= {"version": version, "allow": "yes" if allow == "1" else "no"}
    return node


def read_smartcard(line: Line, argument: Argument) -> None:
    bag = argument.bag
    driver = bag.take("driver") or ""
    node = Node("smartcard")
    used = [argument]
    if driver == "ccid-card-passthru":
        node.set("mode", "passthrough")
        used.append(read_source(line, bag.take("chardev"), node))
    elif bag.take("backend") == "certificates":
        node.set("mode", "host-certificates")
        for number in (1, 2, 3):
            node.add("certificate", text=bag.take(f"cert{number}") or "")
        database = bag.take("db")
        if database not in (None, DATABASE):
            node.add("database", text=database or "")
    else:
        node.set("mode", "host")
    bus = bag.take("bus")
    index = line.buses.of(bus, "ccid") or 0
    node.add("address", {"type": "ccid", "controller": str(index), "slot": "0"})
    line.finish(bag, node, *used)


# -- directories --------------------------------------------------------------------------------------


def read_filesystem(line: Line, argument: Argument) -> None:
    """9p, virtiofs, MTP."""
    bag = argument.bag
    driver = bag.take("driver") or ""
    base = split_driver(driver)[0]
    node = Node("filesystem", {"type": "mount"})
    used = [argument]
    if driver == "usb-mtp":
        put(node, "driver/@type", "mtp")
        put(node, "source/@dir", bag.take("rootdir"))
        put(node, "target/@dir", bag.take("desc"))
        if bag.switch("readonly"):
            node.add("readonly")
        usb_place(line, bag, node)
        line.finish(bag, node, argument)
        return
    if base == "vhost-user-fs":
        used.append(_virtiofs(line, bag, node))
    else:
        used.append(_plan9(line, bag, node))
    _, _, model = split_driver(driver)
    put(node, "@model", model or None)
    virtio_settings(bag, node)
    place(line, bag, node)
    line.finish(bag, node, *used)


def _virtiofs(line: Line, bag: Bag, node: Node) -> Argument:
    chardev = line.find(("-chardev",), bag.take("chardev"))
    inner = line.use(chardev)
    path = inner.was("path") or ""
    inner.pairs = []
    put(node, "driver/@type", "virtiofs")
    put(node, "driver/@queue", bag.take("queue-size"))
    if path.endswith("-fs.sock"):
        # libvirt starts virtiofsd itself; the directory is on that program's command line
        directory = line.known_host.shared_directories.get(path)
        if directory is None:
            line.note(
                "lost",
                "the directory of a virtiofs share is not on QEMU's command line: put it into <source dir=…>",
                chardev,
            )
        node.add("source", {"dir": directory or "/path/of/the/shared/directory"})
    else:
        node.add("source", {"socket": path})
    node.add("target", {"dir": bag.take("tag") or ""})
    line.needs_shared_memory = True
    return chardev


def _plan9(line: Line, bag: Bag, node: Node) -> Argument:
    source = line.find(("-fsdev",), bag.take("fsdev"))
    inner = line.use(source)
    _plan9_source(inner, node)
    node.add("target", {"dir": bag.take("mount_tag") or ""})
    if inner.switch("readonly"):
        node.add("readonly")
    if inner.pairs:
        raise UnreadableError(f"-fsdev: {', '.join(inner.keys)}")
    return source


#: QEMU's security model → access mode
_ACCESS = {"mapped": "mapped", "mapped-xattr": "mapped", "none": "squash", "passthrough": "passthrough"}


def _plan9_source(inner: Bag, node: Node) -> None:
    kind = inner.take("fsdriver") or "local"
    inner.drop("id")
    if kind not in ("local", "handle"):
        raise UnreadableError(f"-fsdev {kind}")
    model = inner.take("security_model", "security-model")
    if kind == "handle":
        put(node, "driver/@type", "handle")
        node.set("accessmode", "mapped")
    else:
        if model == "mapped-file":
            raise UnreadableError("security_model=mapped-file")
        node.set("accessmode", _ACCESS.get(model or "none", "squash"))
    for attribute in ("multidevs", "fmode", "dmode"):
        put(node, f"@{attribute}", inner.take(attribute))
    writeout = inner.take("writeout")
    if writeout is not None:
        put(node, "driver/@type", kind if kind == "handle" else "path")
        put(node, "driver/@wrpolicy", writeout)
    node.add("source", {"dir": inner.take("path") or ""})


def read_virtfs(line: Line) -> None:
    """``-virtfs``: a directory and its device in one."""
    line.read_each("-virtfs", _virtfs)


def _virtfs(line: Line, argument: Argument, bag: Bag) -> None:
    node = Node("filesystem", {"type": "mount"})
    _plan9_source(bag, node)
    node.add("target", {"dir": bag.take("mount_tag") or ""})
    if bag.switch("readonly"):
        node.add("readonly")
    if bag.pairs:
        raise UnreadableError(f"-virtfs: {', '.join(bag.keys)}")
    if line.board.has_pci and not line.board.is_ccw:
        line.buses.unplaced.append((node, 0, None))
    line.add(node, argument)
