"""What belongs to the whole guest and is no device: name, boot, clock, SMBIOS, firmware, threads, environment."""

from __future__ import annotations

import re
from calendar import timegm
from functools import partial

from qemushim.devices.block_limits import LENGTHS, RATES
from qemushim.document.node import Node
from qemushim.document.units import canonical_uuid
from qemushim.fromargv.arguments import Argument
from qemushim.fromargv.block import read_chain, read_drive_image
from qemushim.fromargv.line import Line, put, yes_no
from qemushim.fromargv.syntax import NOWHERE, Bag, UnreadableError, wrong
from qemushim.machine.clock import TRACKS
from qemushim.machine.identity import DEPRECATION
from qemushim.machine.smbios import ENTRIES

#: a letter of -boot → what boots
_BOOTS = {"a": "fd", "b": "fd", "c": "hd", "d": "cdrom", "n": "network", "o": "network", "p": "network"}


def read_identity(line: Line) -> None:
    """``-name``, ``-uuid``, ``-compat``."""
    argument = line.last("-name")
    name = None
    if argument is not None:
        bag = argument.bag
        name = bag.take("guest")
        bag.drop("debug-threads", "process")
        line.say_left(bag)
    put(line.root, "name", name or "")
    uuid = line.last("-uuid")
    if uuid is not None:
        found = canonical_uuid(uuid.text or "")
        if found is None:
            raise wrong(f"-uuid {uuid.text}: this is no UUID", uuid.place, "8-4-4-4-12 hexadecimal digits")
        put(line.root, "uuid", found)
    for option in line.all("-compat"):
        given = dict(option.bag.pairs)
        behavior = next((name for name, wanted in DEPRECATION.items() if wanted == given), None)
        if behavior is not None:
            option.read = True
            line.root.add("qemu:deprecation", {"behavior": behavior})


def default_name(line: Line, name: str) -> None:
    """A guest has to have a name: that of its first image, where the command has none."""
    node = line.root.ensure("name")
    node.text = name or node.text
    if node.text:
        return
    for disk in line.devices.all("disk"):
        path = disk.value("source/@file") or disk.value("source/@dev") or ""
        stem = path.rpartition("/")[2].rpartition(".")[0] or path.rpartition("/")[2]
        if stem and disk.get("device") == "disk":
            node.text = re.sub(r"[^A-Za-z0-9_.+-]", "-", stem)
            break
    node.text = node.text or "guest"
    line.note("read", f"the command has no -name: the domain is called {node.text}")


def read_boot(line: Line) -> None:
    """``-boot``, ``-kernel`` and its like, ``-acpitable``."""
    argument = line.last("-boot")
    os = line.root.ensure("os")
    if argument is not None:
        bag = argument.bag
        bag.drop("strict", "splash")
        order, once = bag.take("order"), bag.take("once")
        for letter in order or "":
            device = _BOOTS.get(letter)
            if device is not None and device not in line.boot_order:
                line.boot_order.append(device)
        if once is not None:
            line.note("lost", f"-boot once={once}: libvirt has no order for one start", argument)
            if not line.boot_order:
                line.boot_order = [_BOOTS[letter] for letter in once if letter in _BOOTS]
                line.boot_order += [d for d in ("hd",) if d not in line.boot_order]
        put(os, "bootmenu/@enable", yes_no(bag.switch("menu")))
        put(os, "bootmenu/@timeout", bag.take("splash-time"))
        put(os, "bios/@rebootTimeout", bag.take("reboot-timeout"))
        line.say_left(bag)
    for flag, tag in (
        ("-kernel", "kernel"),
        ("-initrd", "initrd"),
        ("-append", "cmdline"),
        ("-shim", "shim"),
        ("-dtb", "dtb"),
    ):
        found = line.last(flag)
        if found is not None:
            put(os, tag, found.text)
    for table in line.all("-acpitable"):
        bag = line.use(table)
        signature = bag.take("sig")
        kind = (signature or "").lower() if (signature or "").lower() in ("slic", "msdm") else "raw"
        path = bag.take("file", "data") or ""
        os.ensure("acpi").add("table", {"type": kind}, text=path)
        line.say_left(bag)


def finish_boot(line: Line) -> None:
    """The boot order: of devices where they have one, else of kinds; libvirt would boot the first disk."""
    for node in line.devices.children:
        if line.chipset.loadparm and node.value("boot/@order") == "1":
            node.ensure("boot").set("loadparm", line.chipset.loadparm)
    orders = [node.ensure("boot") for node in line.devices.children if node.value("boot/@order")]
    if any(boot.get("order") == "0" for boot in orders):
        # libvirt counts from 1; only which comes first matters
        for boot in orders:
            boot.set("order", int(boot.attrib["order"]) + 1)
    if orders:
        if line.boot_order:
            line.note("changed", "-boot order= counts only where no device has a bootindex")
        return
    os = line.root.ensure("os")
    order = line.boot_order
    if not order and not line.by_libvirt:
        # QEMU's own: the first disk, then a floppy, then a CD-ROM
        order = ["hd"]
        if any(disk.get("device") == "cdrom" for disk in line.devices.all("disk")):
            order.append("cdrom")
    elif not order:
        order = [_silent_boot(line)]
    for device in order:
        os.add("boot", {"dev": device})


def _silent_boot(line: Line) -> str:
    """A kind of device that the guest has none of: libvirt gives no device an order."""
    kinds = {disk.get("device") for disk in line.devices.all("disk")}
    have = {
        "hd": bool(kinds & {"disk", "lun"}),
        "cdrom": "cdrom" in kinds,
        "network": bool(line.devices.all("interface")),
        "fd": "floppy" in kinds,
    }
    return next((device for device in ("hd", "network", "cdrom", "fd") if not have[device]), "hd")


#: (tag, attribute; ``""`` the text) of paths on the host
_PATHS = (("source", "file"), ("source", "dir"), ("kernel", ""), ("initrd", ""), ("dtb", ""), ("loader", ""))


def finish_paths(line: Line, directory: str) -> None:
    """libvirt runs elsewhere: relative paths are made absolute where it is known what they are relative to."""
    relative: list[str] = []
    for node in line.root.iter():
        for tag, attribute in (*_PATHS, ("nvram", "")):
            if node.tag != tag:
                continue
            path = node.get(attribute) if attribute else node.text.strip()
            if not path or path.startswith("/"):
                continue
            relative.append(path)
            if directory:
                full = f"{directory.rstrip('/')}/{path.removeprefix('./')}"
                if attribute:
                    node.set(attribute, full)
                else:
                    node.text = full
    if relative and not directory:
        line.note(
            "changed", f"{', '.join(relative)}: libvirt needs absolute paths (--directory DIR makes them)"
        )


# -- firmware ---------------------------------------------------------------------------------------


def read_firmware(line: Line) -> None:
    """``-bios``, flash devices."""
    os = line.root.ensure("os")
    bios = line.last("-bios")
    if bios is not None and bios.text == "none":
        line.keep(bios.tokens, "-bios none", bios.place)
    elif bios is not None and bios.text != "default":
        os.add("loader", {"type": "rom"}, text=bios.text or "")
    drives = [a for a in line.all("-drive") if a.bag.peek("if") == "pflash"]
    drives.sort(key=lambda a: a.bag.number("unit") or 0)
    if line.chipset.flash.get(0):
        reason = line.try_all(partial(_flash_nodes, line, os))
        if reason:
            words = ",".join(f"pflash{n}={node}" for n, node in sorted(line.chipset.flash.items()) if node)
            line.keep(["-machine", words], f"the firmware's flash ({reason})", NOWHERE)
    elif drives:
        _flash_drives(line, os, drives)


def _flash_nodes(line: Line, os: Node) -> None:
    code = read_chain(line, line.chipset.flash[0])
    path = code.source.get("file") or code.source.get("dev") or ""
    readonly = "yes" if code.readonly else "no"
    loader = os.add("loader", {"readonly": readonly, "type": "pflash", "format": code.format}, text=path)
    if line.chipset.secure_flash:
        loader.set("secure", "yes")
    if not line.chipset.flash.get(1):
        if code.readonly:
            loader.set("stateless", "yes")
        return
    variables = read_chain(line, line.chipset.flash[1])
    nvram = os.add("nvram", {"format": variables.format})
    if variables.kind == "file":
        nvram.text = variables.source.get("file") or ""
    else:
        nvram.set("type", variables.kind)
        nvram.append(variables.source)


def _flash_drives(line: Line, os: Node, drives: list[Argument]) -> None:
    for number, argument in enumerate(drives[:2]):
        bag = line.use(argument)
        bag.drop("if", "unit", "index", "id")
        image, _ = read_drive_image(line, bag)
        if image is None:
            continue
        path = image.source.get("file") or image.source.get("dev") or ""
        if number == 0:
            readonly = "yes" if image.readonly else "no"
            loader = os.add(
                "loader", {"readonly": readonly, "type": "pflash", "format": image.format}, text=path
            )
            if line.chipset.secure_flash:
                loader.set("secure", "yes")
            if len(drives) == 1 and image.readonly:
                loader.set("stateless", "yes")
        else:
            os.add("nvram", {"format": image.format}, text=path)
        line.say_left(bag)


# -- clock ------------------------------------------------------------------------------------------

_TRACKS = {qemu: track for track, qemu in TRACKS.items()}


def read_clock(line: Line) -> None:
    """``-rtc``."""
    argument = line.last("-rtc")
    clock = line.root.ensure("clock")
    bag = argument.bag if argument is not None else Bag("-rtc", NOWHERE, [])
    base = bag.take("base") or "utc"
    zone = line.environment.get("TZ")
    if base == "localtime" and zone and line.by_libvirt:
        line.environment.pop("TZ")
        clock.attrib |= {"offset": "timezone", "timezone": zone}
    elif base in ("utc", "localtime"):
        clock.set("offset", base)
    else:
        seconds = _seconds(base, bag)
        if seconds >= 0:
            clock.attrib |= {"offset": "absolute", "start": str(seconds)}
        else:
            # libvirt has no absolute start before 1970
            clock.attrib |= {"offset": "variable", "basis": "utc", "adjustment": str(seconds - line.host.now)}
    track, drift = bag.take("clock"), bag.take("driftfix")
    if drift == "none":
        drift = None
    if track not in (None, "host") or drift is not None:
        timer = Node("timer", {"name": "rtc"})
        if drift == "slew":
            timer.set("tickpolicy", "catchup")
        put(timer, "@track", _TRACKS.get(track or ""))
        clock.children.insert(0, timer)
    line.say_left(bag)


def _seconds(text: str, bag: Bag) -> int:
    """Seconds since 1970 of ``2006-06-17T16:01:21`` or ``2006-06-17``.  Raises ``ConfigError``."""
    found = re.fullmatch(r"(\d{1,6})-(\d{1,2})-(\d{1,2})(?:T(\d{1,2}):(\d{1,2}):(\d{1,2}))?", text)
    if found is None or not 0 < int(found[2]) < 13 or not 0 < int(found[3]) < 32:
        raise wrong(
            f"-rtc base={text}: utc, localtime or a point in time is needed", bag.place, "2024-05-31T16:11:22"
        )
    parts = [int(part or 0) for part in found.groups()]
    year = parts[0]
    if 1 <= year <= 9999:
        return timegm((*parts, 0, 0, 0))
    raise wrong(f"-rtc base={text}: the year is out of range", bag.place)


# -- SMBIOS, firmware's files -------------------------------------------------------------------------

_TABLES = {"0": "bios", "1": "system", "2": "baseBoard", "3": "chassis"}


def read_smbios(line: Line) -> None:
    """``-smbios``, ``-fw_cfg``."""
    sysinfo = Node("sysinfo", {"type": "smbios"})
    line.read_each("-smbios", lambda line, argument, bag: _table(bag, sysinfo))
    if sysinfo.children:
        line.root.append(sysinfo)
        _take_uuid(line, sysinfo)
        put(line.root, "os/smbios/@mode", "sysinfo")
    files = Node("sysinfo", {"type": "fwcfg"})
    for argument in line.all("-fw_cfg"):
        bag = line.use(argument)
        # a value goes to the end of the argument, commas and all
        name, _, rest = (argument.text or "").removeprefix("name=").partition(",")
        key, _, value = rest.partition("=")
        entry = files.add("entry", {"name": name})
        if key == "file":
            entry.set("file", value)
        elif key == "string":
            entry.text = value.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
        else:
            files.remove(entry)
            argument.read = False
            line.reasons[id(argument)] = f"a firmware file by {key}"
        bag.pairs = []
    if files.children:
        line.root.append(files)


def _take_uuid(line: Line, sysinfo: Node) -> None:
    """The UUID that SMBIOS tells is the domain's, where -uuid does not say it."""
    for entry in (sysinfo.child("system") or Node("system")).all("entry"):
        if entry.get("name") == "uuid" and line.root.child("uuid") is None:
            put(line.root, "uuid", entry.text)


def _table(bag: Bag, sysinfo: Node) -> None:
    kind = bag.take("type") or ""
    if kind == "11":
        strings = sysinfo.ensure("oemStrings")
        for text in bag.texts("value"):
            strings.add("entry", text=text)
    elif kind in _TABLES:
        tag = _TABLES[kind]
        table = Node(tag)
        for name in ENTRIES[tag]:
            value = bag.take(name)
            if value is not None and (value or name != "manufacturer"):
                table.add("entry", {"name": name}, text=value)
        sysinfo.append(table)
    else:
        raise UnreadableError(f"SMBIOS table {kind or 'file'}")
    if bag.pairs:
        raise UnreadableError(f"-smbios type={kind}: {', '.join(bag.keys)}")


# -- threads and limits -------------------------------------------------------------------------------


def read_threads(line: Line) -> None:
    """``-object iothread``, ``main-loop``: every thread gets its number."""
    taken: set[int] = set()
    threads = [a for a in line.all("-object") if a.bag.peek("qom-type") == "iothread"]
    nodes: list[Node] = []
    for argument in threads:
        bag = line.use(argument)
        bag.drop("qom-type")
        name = bag.take("id") or ""
        digits = name.removeprefix("iothread")
        number = int(digits) if digits.isdigit() and name != digits and 0 < int(digits) < 10000 else 1
        while number in taken:
            number += 1
        taken.add(number)
        line.iothreads[name] = str(number)
        node = Node("iothread", {"id": str(number)})
        _pool(bag, node)
        for attribute, key in (("max", "poll-max-ns"), ("grow", "poll-grow"), ("shrink", "poll-shrink")):
            put(node, f"poll/@{attribute}", bag.take(key))
        line.say_left(bag)
        nodes.append(node)
    if nodes:
        line.root.add("iothreads", text=str(len(nodes)))
        line.root.add("iothreadids").children = nodes
    for argument in line.all("-object"):
        if argument.bag.peek("qom-type") == "main-loop":
            bag = line.use(argument)
            bag.drop("qom-type", "id")
            _pool(bag, line.root.add("defaultiothread"))
            line.say_left(bag)


def _pool(bag: Bag, node: Node) -> None:
    put(node, "@thread_pool_min", bag.take("thread-pool-min"))
    put(node, "@thread_pool_max", bag.take("thread-pool-max"))


def read_throttle_groups(line: Line) -> None:
    """``-object throttle-group``."""
    for argument in line.all("-object"):
        if argument.bag.peek("qom-type") != "throttle-group":
            continue
        bag = line.use(argument)
        bag.drop("qom-type")
        name = (bag.take("id") or "").removeprefix("throttle-")
        group = Node("throttlegroup")
        for element, key in (*RATES.items(), *LENGTHS.items()):
            number = bag.number(f"limits.{key}", f"x-{key}")
            if number:
                group.add(element, text=str(number))
        group.add("group_name", text=name)
        line.root.ensure("throttlegroups").append(group)
        line.say_left(bag)


# -- the process --------------------------------------------------------------------------------------

#: variables that libvirt sets itself, or that are the caller's own business
_OWN_VARIABLES = frozenset(
    "LC_ALL LANG PATH HOME USER LOGNAME TMPDIR XDG_DATA_HOME XDG_CACHE_HOME XDG_CONFIG_HOME XDG_RUNTIME_DIR "
    "LD_PRELOAD LD_LIBRARY_PATH DYLD_INSERT_LIBRARIES DYLD_FORCE_FLAT_NAMESPACE QEMU_AUDIO_DRV SDL_AUDIODRIVER "
    "SASL_CONF_PATH DISPLAY XAUTHORITY WAYLAND_DISPLAY PIPEWIRE_RUNTIME_DIR PIPEWIRE_CORE PIPEWIRE_REMOTE "
    "SHELL PWD OLDPWD SHLVL _ TERM SYSTEMD_EXEC_PID INVOCATION_ID JOURNAL_STREAM NOTIFY_SOCKET MAIL "
    "DBUS_SESSION_BUS_ADDRESS LISTEN_FDS LISTEN_PID LISTEN_FDNAMES SUDO_USER SUDO_UID SUDO_GID SUDO_COMMAND".split()
)


def read_environment(line: Line) -> None:
    """Variables that no element says go to ``<qemu:env>``."""
    driver = line.environment.get("QEMU_AUDIO_DRV")
    if driver is not None and not line.devices.all("audio"):
        kind = {"pa": "pulseaudio", "wav": "file"}.get(driver, driver)
        audio = line.devices.add("audio", {"id": "1", "type": kind})
        put(audio, "@driver", line.environment.get("SDL_AUDIODRIVER"))
    for name, value in line.environment.items():
        if name not in _OWN_VARIABLES:
            line.root.ensure("qemu:commandline").add("qemu:env", {"name": name, "value": value})
            line.note("kept", f"the variable {name}: kept in <qemu:commandline>")


#: options of the process that libvirt has its own way for: flag → what becomes of them
_PROCESS = {
    "-daemonize": "libvirt runs QEMU in the background",
    "-pidfile": "libvirt keeps the process id",
    "-runas": "the user is set in qemu.conf",
    "-chroot": "libvirt has namespaces for that",
    "-enable-fips": "",
    "-no-user-config": "",
    "-nodefconfig": "",
    "-nodefaults": "",
    "-no-shutdown": "",
    "-msg": "",
    "-monitor": "libvirt has the monitor: virsh qemu-monitor-command",
    "-qmp": "libvirt has the monitor: virsh qemu-monitor-command",
    "-incoming": "the guest was started for a migration, or to be restored",
    "-loadvm": "virsh snapshot-revert",
    "-sandbox": "the sandbox is set in qemu.conf (seccomp_sandbox)",
    "-no-frame": "",
    "-no-quit": "",
    "-alt-grab": "",
    "-ctrl-grab": "",
    "-D": "libvirt has a log of each guest in /var/log/libvirt/qemu",
}


def read_process(line: Line) -> None:
    """Options that are no part of the guest."""
    if line.given("-S") and not line.by_libvirt:
        line.note("changed", "-S: start it with “virsh start --paused”")
    for argument in line.all(*_PROCESS):
        line.use(argument)
        why = _PROCESS[argument.flag]
        if why and not line.by_libvirt and argument.text != "none":
            line.note("changed", f"{argument.flag}: {why}", argument)
        if (argument.text or "").startswith("chardev:") and argument.flag in ("-qmp", "-monitor"):
            _use_chardev(line, (argument.text or "").removeprefix("chardev:"))
    _read_monitors(line)
    for option in line.all("-run-with"):
        _run_with(line, option)
    if line.given("-no-reboot"):
        put(line.root, "on_reboot", "destroy")
    for option in line.all("-action"):
        bag = line.use(option)
        if bag.peek("reboot") == "shutdown":
            bag.drop("reboot")
            put(line.root, "on_reboot", "destroy")
        line.say_left(bag)
    if line.given("-snapshot"):
        for disk in line.devices.all("disk"):
            if disk.child("readonly") is None and disk.get("device") == "disk":
                disk.ensure("transient")


def _use_chardev(line: Line, name: str) -> None:
    chardev = line.known("-chardev", name)
    if chardev is not None and not chardev.read:
        line.use(chardev)


def _read_monitors(line: Line) -> None:
    for argument in line.all("-mon"):
        bag = line.use(argument)
        _use_chardev(line, bag.was("chardev") or "")
        if not line.by_libvirt:
            line.note("changed", "-mon: libvirt has the monitor: virsh qemu-monitor-command", argument)
    for argument in line.all("-object"):
        kind = argument.bag.peek("qom-type")
        ours = argument.id == "masterKey0" or (line.managed_reservations and argument.id == "pr-helper0")
        if ours or (kind == "pr-manager-helper" and argument.id == "pr-helper0"):
            line.use(argument)


def _run_with(line: Line, option: Argument) -> None:
    """``async-teardown=on``; ``option`` is text, for its other keys are the process's."""
    for part in (option.text or "").split(","):
        key, _, value = part.partition("=")
        if key == "async-teardown":
            option.read = True
            put(line.root, "features/async-teardown/@enabled", "no" if value in ("off", "no") else "yes")
