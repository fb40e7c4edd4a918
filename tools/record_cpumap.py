#!/usr/bin/env python3
"""Write the CPU map that comes with the package from a libvirt's ``cpu_map`` folder.

tools/record_cpumap.py /usr/share/libvirt/cpu_map -o qemushim/machine/cpumap.dat
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from qemushim.errors import ShimError
from qemushim.machine.cpumap import BUNDLED, CpuMap


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a folder with index.xml and what it includes")
    parser.add_argument("-o", "--output", type=Path, default=BUNDLED, help="default: %(default)s")
    arguments = parser.parse_args()
    try:
        cpu_map = CpuMap.read({file.name: file.read_text() for file in arguments.folder.glob("*.xml")})
    except ShimError as problem:
        print(f"{problem.where}{problem}", file=sys.stderr)
        return 1
    packed = cpu_map.dump()
    arguments.output.write_bytes(packed)
    features, models = len(cpu_map.x86.features), len(cpu_map.x86.models)
    print(f"{arguments.output}: {len(packed)} bytes, {features} features and {models} models of x86")
    return 0


if __name__ == "__main__":
    sys.exit(main())
