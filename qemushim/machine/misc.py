"""Small guest-wide options."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from qemushim.command.option import Option
from qemushim.devices.charsource import listen_chardev
from qemushim.document.node import Node

if TYPE_CHECKING:
    from qemushim.context import Build

_DENIED = "obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


def display_none_options(b: Build) -> Iterator[Option]:
    """``-display none`` for a guest without graphics."""
    if not b.domain.lists["graphics"]:
        yield b.option("-display", "none", rule="the guest has no graphics: QEMU shall open no window")


def defaults_options(b: Build) -> Iterator[Option]:
    """``-no-user-config``, ``-nodefaults``."""
    yield b.option("-no-user-config", rule="nothing but the document decides")
    yield b.option("-nodefaults", rule="no device that the document does not name")


def monitor_options(b: Build) -> Iterator[Option]:
    """The monitor: a UNIX socket, passed where libvirt listens on it."""
    yield listen_chardev(b, "charmonitor", f"{b.domain_dir}/monitor.sock")
    pairs = {"id": "monitor", "mode": "control"}
    yield b.pairs("-mon", "", {"chardev": "charmonitor", **pairs}, rule="the monitor speaks QMP")


def genid_options(b: Build) -> Iterator[Option]:
    """``-device vmgenid``."""
    genid = b.domain.genid
    if genid is not None:
        properties = {"driver": "vmgenid", "guid": genid, "id": "vmgenid0"}
        yield b.device(properties, b.domain.node.child("genid"), "the generation id of the guest")


def _feature(b: Build, name: str) -> Node | None:
    features = b.domain.node.child("features")
    return features.child(name) if features is not None else None


def vmcoreinfo_options(b: Build) -> Iterator[Option]:
    """``-device vmcoreinfo``."""
    feature = _feature(b, "vmcoreinfo")
    if feature is not None and feature.get("state") != "off":
        yield b.device({"driver": "vmcoreinfo"}, feature, "the guest tells where its core information is")


def incoming_options(b: Build) -> Iterator[Option]:
    """``-incoming``."""
    if b.incoming:
        source = b.incoming
        if source == "stdio":
            source = f"fd:{b.pass_fd(b.host.descriptors.migration, 'migration')}"
        yield b.option("-incoming", source, rule="the guest migrates in")


def sandbox_options(b: Build) -> Iterator[Option]:
    """``-sandbox``."""
    if not b.emulator.option("sandbox"):
        return
    if not b.emulator.option("sandbox", "obsolete"):
        # QEMU < 2.11 has all or nothing, and all is too much for some guests: only where the host says so
        if b.host.config.seccomp_sandbox == 1:
            yield b.option("-sandbox", "on", rule="seccomp_sandbox = 1 in qemu.conf")
        return
    if b.host.config.seccomp_sandbox == 0:
        yield b.option("-sandbox", "off", rule="seccomp_sandbox = 0 in qemu.conf")
    else:
        yield b.option("-sandbox", f"on,{_DENIED}", rule="QEMU gives up system calls that it does not need")


def message_options(b: Build) -> Iterator[Option]:
    """``-run-with``, ``-msg``."""
    feature = _feature(b, "async-teardown")
    if feature is not None and b.emulator.option("run-with", "async-teardown"):
        value = "off" if feature.get("enabled") == "no" else "on"
        yield b.option(
            "-run-with", f"async-teardown={value}", feature, "memory is given back in the background"
        )
    if b.host.config.log_timestamp and b.emulator.option("msg", "timestamp"):
        yield b.option("-msg", "timestamp=on", rule="messages in the log carry the time")
