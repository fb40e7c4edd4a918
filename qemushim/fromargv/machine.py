"""The board: machine type and its properties, accelerator, features, power, security.

The inverse of ``qemushim.machine.machine`` and ``qemushim.machine.features``.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from qemushim.board import board_of
from qemushim.document.node import Node
from qemushim.fromargv.arguments import Argument, arch_of
from qemushim.fromargv.line import Line, put, yes_no
from qemushim.fromargv.syntax import Bag, Place, parse_size, wrong
from qemushim.fromargv.words import Words
from qemushim.machine.machine import EARLY_FEATURES, LATE_FEATURES

#: architectures whose QEMU starts without -machine → the machine type it takes
_DEFAULT_MACHINES = {
    "i686": "pc",
    "x86_64": "pc",
    "ppc64": "pseries",
    "s390x": "s390-ccw-virtio",
    "sparc": "SS-5",
}
#: accelerator → type of the domain
_DOMAIN_TYPES = {"hvf": "hvf", "kvm": "kvm", "tcg": "qemu", "xen": "xen"}
#: accelerators that libvirt has no type of domain for
_FOREIGN = frozenset({"hax", "whpx", "nvmm", "qtest", "mshv"})
#: machine properties that libvirt sets itself, or that follow from other elements
_DERIVED = (
    *("usb", "memory-backend", "nvdimm", "hmat", "confidential-guest-support", "memory-encryption"),
    *("pflash0", "pflash1", "iommu", "pcspk-audiodev", "graphics", "loadparm", "max-cpu-compat"),
)


def read_machine(line: Line) -> None:
    """``-machine``, ``-accel`` and what says the same: type, architecture, emulator, features."""
    bags = [line.use(argument) for argument in line.all("-machine")]
    name = next((found for bag in reversed(bags) if (found := bag.take("type"))), None)
    arch = arch_of(line.binary, name or "")
    if name is None:
        name = _DEFAULT_MACHINES.get(arch, "")
        if not name:
            raise wrong(
                f"QEMU for {arch} has no default machine type",
                line.arguments[0].place if line.arguments else Place(),
                "-machine virt",
            )
    plain, plus, _ = name.partition("+pve")
    if plus:
        line.note("changed", f"{name}: Proxmox has machine types of its own; {plain} is taken")
        name = plain
    line.board = board_of(arch, name)
    _read_accelerator(line, bags)
    os_type = line.root.ensure("os/type")
    os_type.attrib.update({"arch": arch, "machine": name})
    os_type.text = "hvm"
    line.devices.add("emulator", text=line.binary) if line.binary.startswith("/") else None
    features = Node("features")
    acpi = _switch(bags, "acpi")
    if line.given("-no-acpi"):
        acpi = False
    if acpi or (acpi is None and _has_acpi(line)):
        features.ensure("acpi")
    line.root.append(features)
    _read_features(line, bags, features)
    _read_memory_properties(line, bags)
    _read_devices(line, bags)
    for bag in bags:
        _leave(line, bag)


def _has_acpi(line: Line) -> bool:
    """Whether a machine has ACPI where nothing is said of it: all that have firmware to find it."""
    if line.board.is_x86:
        return True
    flash = bool(line.chipset.flash.get(0)) or any(
        a.flag == "-pflash" or (a.flag == "-drive" and a.bag.peek("if") == "pflash") for a in line.arguments
    )
    return flash and (line.board.is_arm_virt or line.board.is_loongarch_virt)


def _leave(line: Line, bag: Bag) -> None:
    """What no element says goes on as another ``-machine``, which QEMU merges with libvirt's."""
    for key in _DERIVED:
        bag.drop(key)
    for key, value in bag.pairs:
        line.keep(
            ["-machine", f"{key}={'on' if value is True else value}"], f"machine property {key}", bag.place
        )


def _take(bags: list[Bag], *keys: str) -> str | None:
    found = None
    for bag in bags:
        value = bag.take(*keys)
        found = value if value is not None else found
    return found


def _switch(bags: list[Bag], key: str) -> bool | None:
    found = None
    for bag in bags:
        value = bag.switch(key)
        found = value if value is not None else found
    return found


def _read_accelerator(line: Line, bags: list[Bag]) -> None:
    """``-accel``, ``-machine accel=``, ``-enable-kvm``; the first that is named counts, others are second choices."""
    names: list[str] = []
    for argument in line.all("-accel"):
        bag = line.use(argument)
        name = bag.take("accel") or ""
        names.append(name)
        _read_accel_properties(line, bag)
    for text in [found for bag in bags if (found := bag.take("accel"))]:
        names += text.split(":")
    if line.given("-enable-kvm"):
        names.append("kvm")
    if line.given("-enable-hax"):
        names.append("hax")
    kqemu = line.given("-no-kqemu") | line.given("-kernel-kqemu")
    if line.given("-no-kvm") or kqemu:
        names = [name for name in names if name != "kvm"] or ["tcg"]
    if not names:
        binary = line.binary.rpartition("/")[2]
        names = ["kvm" if "kvm" in binary or line.dialect.kvm else "tcg"]
    foreign = [name for name in names if name not in _DOMAIN_TYPES]
    chosen = next((name for name in names if name in _DOMAIN_TYPES), "tcg")
    for name in foreign:
        line.note("lost", f"libvirt has no domains of the accelerator {name}; {chosen} is taken")
    line.root.attrib = {"type": _DOMAIN_TYPES[chosen]}


def _read_accel_properties(line: Line, bag: Bag) -> None:
    ring = bag.take("dirty-ring-size")
    if ring is not None:
        put(line.root, "features/kvm/dirty-ring/@state", "on")
        put(line.root, "features/kvm/dirty-ring/@size", ring)
    cache = bag.number("tb-size")
    if cache is not None:
        put(line.root, "features/tcg/tb-cache/@unit", "MiB")
        put(line.root, "features/tcg/tb-cache", cache)
    irqchip = bag.take("kernel-irqchip")
    if irqchip is not None:
        _irqchip(line.root.ensure("features"), irqchip)
    for key, value in bag.pairs:
        if (key, value) not in (("thread", "multi"),):
            line.note("lost", f"accelerator property {key}={value}: libvirt has no element for it")


def _read_features(line: Line, bags: list[Bag], features: Node) -> None:
    # what the accelerator said comes first; libvirt has an order of its own
    for early in line.root.all("features"):
        if early is not features:
            features.children += early.children
            line.root.remove(early)
    for tag, attribute, name in (*EARLY_FEATURES, *LATE_FEATURES):
        value = _take(bags, name)
        if value is not None and value != "auto":
            features.ensure(tag).set(attribute, value)
    gic = _take(bags, "gic-version")
    if gic is not None:
        put(features, "gic/@version", gic)
    elif line.board.is_arm_virt:
        # QEMU's own default; libvirt would take the newest that the host has
        put(features, "gic/@version", "2")
    irqchip = _take(bags, "kernel_irqchip", "kernel-irqchip")
    if irqchip is not None:
        _irqchip(features, irqchip)
    put(features, "hpt/@resizing", _take(bags, "resize-hpt"))
    page = _take(bags, "cap-hpt-max-page-size")
    if page is not None:
        put(features, "hpt/maxpagesize/@unit", "KiB")
        put(features, "hpt/maxpagesize", parse_size(page) // 1024)
    for name in ("aes", "dea"):
        state = _take(bags, f"{name}-key-wrap")
        if state is not None:
            line.root.ensure("keywrap").add("cipher", {"name": name, "state": state})
    hpet = _switch(bags, "hpet")
    if hpet is not None:
        line.root.ensure("clock").add("timer", {"name": "hpet", "present": yes_no(hpet) or ""})


def _irqchip(features: Node, value: str) -> None:
    driver = {"split": "qemu", "on": "kvm"}.get(value)
    if driver is not None:
        put(features, "ioapic/@driver", driver)


def _read_memory_properties(line: Line, bags: list[Bag]) -> None:
    dump = _switch(bags, "dump-guest-core")
    if dump is not None and dump is not line.host.config.dump_guest_core:
        put(line.root, "memory/@dumpCore", dump)
    if _switch(bags, "mem-merge") is False:
        line.root.ensure("memoryBacking/nosharepages")


def _read_devices(line: Line, bags: list[Bag]) -> None:
    """Devices that are properties of the machine."""
    for bag in bags:
        if bag.peek("iommu") == "smmuv3":
            line.devices.add("iommu", {"model": "smmuv3"})
        if bag.peek("usb") == "on":
            line.chipset.usb = True
        if bag.peek("graphics") == "off":
            put(line.root, "os/bios/@useserial", "yes")
        audio = bag.peek("pcspk-audiodev")
        if audio is not None:
            line.chipset.speaker = audio
        loadparm = bag.peek("loadparm")
        if loadparm is not None:
            line.chipset.loadparm = loadparm
        compat = bag.peek("max-cpu-compat")
        if compat is not None:
            line.chipset.cpu_compat = compat
        line.chipset.main_memory = bag.peek("memory-backend") or line.chipset.main_memory
        for number in (0, 1):
            line.chipset.flash[number] = bag.peek(f"pflash{number}") or line.chipset.flash.get(number, "")
        for key in [k for k in bag.keys if k.startswith("sgx-epc.")]:
            line.chipset.enclaves[key] = bag.take(key) or ""
    if line.given("-usb"):
        line.chipset.usb = True


# -- globals ----------------------------------------------------------------------------------------

_PIIX, _ICH9 = "PIIX4_PM", "ICH9-LPC"


def read_globals(line: Line) -> None:
    """``-global``: properties of what the board is built of."""
    for argument in line.all("-global", "-no-hpet"):
        if argument.flag == "-no-hpet":
            argument.read = True
            line.root.ensure("clock").add("timer", {"name": "hpet", "present": "no"})
            continue
        driver, name, value = _global(argument)
        reader = _GLOBALS.get((driver, name))
        if reader is None:
            continue
        argument.read = True
        reader(line, value)


def _global(argument: Argument) -> tuple[str, str, str]:
    """Driver, property, value, in either spelling."""
    text = argument.text or ""
    if text.startswith("driver="):
        parts = dict(part.partition("=")[::2] for part in text.split(","))
        return parts.get("driver", ""), parts.get("property", ""), parts.get("value", "")
    head, _, value = text.partition("=")
    driver, _, name = head.partition(".")
    return driver, name, value


def _sleep(element: str) -> Callable[[Line, str], None]:
    def read(line: Line, value: str) -> None:
        off = value in ("1", "on", "true", "yes")
        put(line.root, f"pm/{element}/@enabled", "no" if off else "yes")

    return read


def _hole(line: Line, value: str) -> None:
    line.chipset.root_bus["hole64"] = str(parse_size(value) // 1024)


def _root_hotplug(line: Line, value: str) -> None:
    line.chipset.root_bus["hotplug"] = value


def _pit(line: Line, value: str) -> None:
    line.root.ensure("clock").add("timer", {"name": "pit", "tickpolicy": value})


def _no_reboot(line: Line, value: str) -> None:
    line.chipset.has_itco = value in ("off", "false", "no", "0")


def _tseg(line: Line, value: str) -> None:
    put(line.root, "features/smm/@state", "on")
    put(line.root, "features/smm/tseg/@unit", "MiB")
    put(line.root, "features/smm/tseg", value)


def _floppy_boot(letter: str) -> Callable[[Line, str], None]:
    def read(line: Line, value: str) -> None:
        line.chipset.floppy_boot[letter] = value

    return read


def _nvram(line: Line, value: str) -> None:
    line.devices.add("nvram").add("address", {"type": "spapr-vio", "reg": value})


def _secure_flash(line: Line, value: str) -> None:
    line.chipset.secure_flash = value in ("on", "true", "yes", "1")


#: (driver, property) → reader
_GLOBALS = {
    (_PIIX, "disable_s3"): _sleep("suspend-to-mem"),
    (_PIIX, "disable_s4"): _sleep("suspend-to-disk"),
    (_PIIX, "acpi-root-pci-hotplug"): _root_hotplug,
    (_ICH9, "disable_s3"): _sleep("suspend-to-mem"),
    (_ICH9, "disable_s4"): _sleep("suspend-to-disk"),
    (_ICH9, "noreboot"): _no_reboot,
    ("i440FX-pcihost", "pci-hole64-size"): _hole,
    ("q35-pcihost", "pci-hole64-size"): _hole,
    ("kvm-pit", "lost_tick_policy"): _pit,
    ("mch", "extended-tseg-mbytes"): _tseg,
    ("isa-fdc", "bootindexA"): _floppy_boot("A"),
    ("isa-fdc", "bootindexB"): _floppy_boot("B"),
    ("spapr-nvram", "reg"): _nvram,
    ("cfi.pflash01", "secure"): _secure_flash,
}

#: QEMU's machine types in whose days a missing part of the topology went to the sockets
_VERSIONED = re.compile(r"-(\d+)\.(\d+)(?:\.\d+)?$")


def machine_of(words: Words) -> str:
    """The machine type that a command names, ``""`` where it names none."""
    found = ""
    for number, word in enumerate(words.words[:-1]):
        if word.text in ("-M", "-machine", "--machine"):
            value = words.words[number + 1].text
            pairs = dict(part.partition("=")[::2] for part in value.split(","))
            found = pairs.get("type") or (
                value.partition(",")[0] if "=" not in value.partition(",")[0] else found
            )
    return found


def machine_version(name: str) -> tuple[int, int] | None:
    """The version in the name of a machine type (``pc-q35-8.2``), ``None`` where it has none."""
    found = _VERSIONED.search(name)
    return (int(found[1]), int(found[2])) if found else None


def read_security(line: Line) -> None:
    """``-object sev-guest`` and its like."""
    kinds = {"sev-guest": "sev", "sev-snp-guest": "sev-snp", "s390-pv-guest": "s390-pv"}
    for argument in line.all("-object"):
        kind = kinds.get(argument.bag.peek("qom-type") or "")
        if kind is None:
            continue
        bag = line.use(argument)
        bag.drop("qom-type", "id")
        node = Node("launchSecurity", {"type": kind})
        node.attrib |= {
            name: value
            for name, value in (
                ("kernelHashes", yes_no(bag.switch("kernel-hashes"))),
                ("authorKey", yes_no(bag.switch("author-key-enabled"))),
                ("vcek", _inverted(bag.switch("vcek-disabled"))),
            )
            if value is not None
        }
        for tag, key in (("cbitpos", "cbitpos"), ("reducedPhysBits", "reduced-phys-bits")):
            put(node, tag, bag.take(key))
        policy = bag.number("policy")
        put(node, "policy", None if policy is None else hex(policy))
        for tag, key in (
            ("guestVisibleWorkarounds", "guest-visible-workarounds"),
            ("idBlock", "id-block"),
            ("idAuth", "id-auth"),
            ("hostData", "host-data"),
        ):
            put(node, tag, bag.take(key))
        for tag, key in (("dhCert", "dh-cert-file"), ("session", "session-file")):
            path = bag.take(key)
            if path is not None:
                put(node, tag, f"the content of {path}")
                line.note("secret", f"<{tag}> is to hold what is in {path}", argument)
        line.root.append(node)
        line.say_left(bag)


def _inverted(state: bool | None) -> str | None:
    return None if state is None else "no" if state else "yes"
