"""How fast is aft, beside what the same machine can do at best? One table, and curves of growth.

    python benchmarks/speed.py                      # everything, 20 to 25 minutes on two cores
    python benchmarks/speed.py --only steps loss    # some parts; the results of the others stay
    python benchmarks/speed.py --from store         # go on after an interruption
    python benchmarks/speed.py --quick              # tiny sizes, to see that it runs

Every row compares aft with a limit, such as the same arithmetic on inputs in memory. Both sides
alternate, in one process where that is possible; a ratio is the median over rounds of the ratio
within a round, with its quartiles. Times are CPU seconds with one thread, if not said otherwise.
Results go to results/speed.json after each part; the table and the pictures to docs/speed.md.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported

import argparse
import importlib
import json
import time
from pathlib import Path
from typing import Any

import torch

import aft
import speed_tables
import tables
from speed_parts.timing import children_seconds

RESULTS = Path(__file__).parent / "results" / "speed.json"
PARTS = (
    *("steps", "store", "loss", "start", "images", "texts", "job"),
    *("classes", "samples", "processes"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    chosen.add_argument("--from", dest="first", choices=PARTS, metavar="PART")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; store nothing")
    parser.add_argument("--draw", action="store_true", help="table and pictures of known results")
    options = parser.parse_args()
    parts = PARTS[PARTS.index(options.first) :] if options.first else options.only
    for name in () if options.draw else parts:
        print(f"[speed] {name}", flush=True)
        found = run(name, options.quick)
        print(f"[speed] {name}: {found['seconds']} s, {found['cpu_seconds']} CPU s", flush=True)
        if not options.quick:
            known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
            known[name] = found
            RESULTS.write_text(
                json.dumps({p: known[p] for p in PARTS if p in known}, indent=1) + "\n"
            )
    if not options.quick:
        speed_tables.write(json.loads(RESULTS.read_text()))


def run(name: str, quick: bool = False) -> dict[str, Any]:
    """Measure one part: its rows of the table, its curves, and what it took.

    Args:
        name: One of :data:`PARTS`.
        quick: Whether to take tiny sizes and a round or two, whose times mean nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    wall, own, others = time.perf_counter(), time.process_time(), children_seconds()
    try:
        found = importlib.import_module(f"speed_parts.{name}").measure(quick)
    finally:
        torch.set_num_threads(threads)
    return {
        "command": f"python benchmarks/speed.py --only {name}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "seconds": round(time.perf_counter() - wall),
        "cpu_seconds": round(time.process_time() - own + children_seconds() - others),
        "rows": [],
        "curves": [],
        **found,
    }


if __name__ == "__main__":
    main()
