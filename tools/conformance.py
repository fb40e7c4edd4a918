#!/usr/bin/env python3
"""Run every case of a conformance corpus and write what came out, for a scorer to compare.

usage: conformance.py [--hotplug] CORPUS [--only TEXT] [--jobs N] -o OUT.jsonl

CORPUS holds manifest.json and the inputs it names.  A line of OUT.jsonl is one case:
{"id": …, "argv": […], "text": …, "xml": …, "error": …}.  Inputs and capabilities are read, never an expected file.

With --hotplug it is hotplug.json whose cases are run, and what came out is compared here: a line of OUT.jsonl is
{"id": …, "passed": …, "why": …, "commands": […], "xml": …, "error": …}.
"""

from __future__ import annotations

import argparse
import json
import sys
import traceback
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import conformance_classic, conformance_hotplug, conformance_modern

Case = dict[str, Any]


@cache
def runner(corpus: Path, era: str) -> Any:
    """What runs the cases of a corpus; made once in each process."""
    return conformance_classic.Runner(corpus) if era == "classic" else conformance_modern.Runner(corpus)


def run(job: tuple[Path, Case]) -> dict[str, Any]:
    corpus, case = job
    try:
        return {"id": case["id"], **runner(corpus, case.get("era", "modern")).run(case)}
    except Exception as bug:  # a bug in one case must not hide the others
        trace = traceback.format_exc().strip().splitlines()
        return {"id": case["id"], "error": f"BUG {type(bug).__name__}: {bug}", "trace": trace[-6:]}


def write_results(output: Path, results: list[dict[str, Any]]) -> None:
    """A line each; the file is there when it is complete."""
    temporary = output.with_name(output.name + ".part")
    temporary.write_text("".join(json.dumps(r) + "\n" for r in results))
    temporary.replace(output)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--hotplug", action="store_true", help="devices that join and leave running guests")
    parser.add_argument("--only", default="", metavar="TEXT", help="only cases whose id holds this")
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="processes (default: 2)")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT.jsonl")
    parser.add_argument("--bugs", action="store_true", help="print the traceback of each case that hit a bug")
    options = parser.parse_args()
    corpus = options.corpus.resolve()
    if options.hotplug:
        results = conformance_hotplug.run_all(corpus, options.only)
        write_results(options.output, results)
        for result in results:
            if not result["passed"]:
                print(f"- {result['id']}: {result['why']}")
        print(f"hotplug  {sum(result['passed'] for result in results):5}/{len(results):<5}")
        return 0
    cases = [c for c in json.loads((corpus / "manifest.json").read_text()) if options.only in c["id"]]
    jobs = [(corpus, case) for case in cases]
    if options.jobs > 1 and len(jobs) > 8:
        with ProcessPoolExecutor(options.jobs) as pool:
            results = list(pool.map(run, jobs, chunksize=8))
    else:
        results = [run(job) for job in jobs]
    write_results(options.output, results)
    bugs = [r for r in results if "trace" in r]
    for r in bugs if options.bugs else ():
        print(r["id"], r["error"], *r["trace"], sep="\n    ", file=sys.stderr)
    print(f"{len(results)} cases, {len(bugs)} bugs", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
