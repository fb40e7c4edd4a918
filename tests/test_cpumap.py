"""The CPU map: reading, packing, and finding the model that describes a CPU best."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qemushim.emulator.model import Emulator
from qemushim.errors import ConfigError
from qemushim.machine.cpudecode import CpuData, _cost, decode
from qemushim.machine.cpuhost import described_bits
from qemushim.machine.cpumap import BUNDLED, CpuMap

FILES = {
    "index.xml": """<cpus>
      <arch name='x86'>
        <include filename='vendors.xml'/>
        <include filename='features.xml'/>
        <group name='all'><include filename='old.xml'/><include filename='new.xml'/></group>
      </arch>
      <arch name='ppc64'><model name='POWER1'><pvr value='0x10000' mask='0xffff0000'/></model></arch>
      <arch name='arm'><feature name='sve'/><model name='cortex-m0'/></arch>
    </cpus>""",
    "vendors.xml": "<cpus><vendor name='Acme' string='AcmeAcmeAcme'/></cpus>",
    "features.xml": """<cpus>
      <feature name='add'><cpuid eax_in='0x1' ecx='0x1'/></feature>
      <feature name='sub'><cpuid eax_in='0x1' ecx='0x2'/></feature>
      <feature name='mul'><cpuid eax_in='0x7' ecx_in='0x1' edx='0x1'/></feature>
      <feature name='stay' migratable='no'><msr index='0x10a' eax='0x4' edx='0x0'/></feature>
    </cpus>""",
    "old.xml": """<cpus><model name='Old'>
      <decode host='on' guest='on'/><signature family='6' model='1' stepping='0-2'/><vendor name='Acme'/>
      <feature name='add'/><feature name='sub' removed='yes'/>
    </model></cpus>""",
    "new.xml": """<cpus>
      <model name='Old-v1'><decode host='on' guest='off'/><model name='Old'/></model>
      <model name='New'><check partial='compat'/><model name='Old'/><signature family='6' model='9'/>
        <feature name='mul'/><feature name='stay' added='yes'/></model>
    </cpus>""",
}
SMALL = CpuMap.read(FILES)
X86 = SMALL.x86


def test_a_model_inherits_from_the_one_that_it_names() -> None:
    old, alias, new = X86.models.values()
    assert (alias.alias_of, alias.guest, new.alias_of) == ("Old", False, "")
    assert alias.bits == old.bits == X86.bits(["add"])
    assert new.bits == X86.bits(["add", "mul"])
    assert (new.vendor, new.compare, new.removed, new.added) == ("Acme", True, ("sub",), ("stay",))
    assert new.signatures[0].matches(6, 9, 200)
    assert old.signatures[0].matches(6, 1, 2)
    assert not old.signatures[0].matches(6, 1, 3)


def test_features_and_bits_are_two_ways_to_say_the_same() -> None:
    assert X86.names(X86.bits(["mul", "add", "no such feature"])) == ["add", "mul"]
    assert X86.unmigratable == {"stay"}
    assert SMALL.ppc64.models == {"POWER1": ((0x10000, 0xFFFF0000),)}
    assert SMALL.arm.features == {"sve"}


def test_a_packed_map_is_the_same_map() -> None:
    again = CpuMap.load(SMALL.dump())
    assert again.x86 == X86
    assert again.ppc64 == SMALL.ppc64


def test_a_missing_file_is_named() -> None:
    with pytest.raises(ConfigError, match=r"CPU map: no file old\.xml"):
        CpuMap.read({name: text for name, text in FILES.items() if name != "old.xml"})


def test_the_bundled_map_is_small_and_read_once() -> None:
    assert Path(BUNDLED).stat().st_size < 60_000
    assert CpuMap.bundled() is CpuMap.bundled()
    assert {"qemu64", "EPYC", "Skylake-Server"} <= CpuMap.bundled().x86.models.keys()


def test_the_tool_packs_a_folder(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    tool = Path(__file__).parent.parent / "tools" / "record_cpumap.py"
    out = tmp_path / "out.dat"
    subprocess.run([sys.executable, tool, tmp_path, "-o", out], check=True, capture_output=True)
    assert CpuMap.load(out.read_bytes()).x86 == X86


def test_the_signature_outweighs_the_number_of_features() -> None:
    models: dict[str, list[str]] = {"Old": [], "New": []}
    near = decode(X86, CpuData(X86.bits(["add", "mul"]), "Acme", (6, 1, 0)), models)
    assert near is not None
    # New would need nothing, but the CPU says that it is an Old; what Old lost is switched off
    assert (near.model, near.features) == ("Old", (("mul", "require"), ("sub", "disable")))
    newer = decode(X86, CpuData(X86.bits(["add", "mul"]), "Acme", (6, 9, 0)), models)
    assert newer is not None
    assert newer.model == "New"


def test_models_that_qemu_lacks_or_of_other_vendors_are_no_choice() -> None:
    data = CpuData(X86.bits(["add"]), "Acme")
    assert decode(X86, data, {"Old-v1": []}) is None
    assert decode(X86, CpuData(data.bits, "Another"), {"Old": []}) is None


def test_what_keeps_a_model_from_running_is_switched_off() -> None:
    found = decode(X86, CpuData(X86.bits(["add", "sub"]), "Acme"), {"Old": ["add"]})
    assert found is not None
    assert found.features == (("sub", "require"), ("add", "disable"))


def test_only_the_first_half_of_the_disabled_features_is_dear() -> None:
    assert [_cost(3, n) for n in range(5)] == [(3, 0), (5, 2), (6, 2), (9, 5), (10, 5)]


REAL = CpuMap.bundled().x86
RUNS = {m.name: m.blockers for m in Emulator.recorded("10.0.0").accelerators[0].cpus}


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(sorted(REAL.features))), st.sampled_from(["Intel", "AMD", ""]))
def test_a_description_says_what_the_cpu_has(names: set[str], vendor: str) -> None:
    bits = REAL.bits(names)
    found = decode(REAL, CpuData(bits, vendor), dict.fromkeys(RUNS, ()))
    assert found is not None
    assert described_bits(REAL, found) == bits
    listed = [name for name, _ in found.features]
    assert len(listed) == len(set(listed))
