"""Exports compared with their students: differences, agreement, score, size and speed.

One student of images, one of texts, one of transformers and one of two columns, each trained for a
few steps on real data, as float and as 8-bit ONNX. Takes about six minutes on two quiet cores.

    python benchmarks/export.py
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import aft
import tables
from aft.demo_data.models import fetch_minilm
from aft.exporting.folder import show_formats
from aft.ids import default_cache_dir
from data_sets import DATA_SETS

RESULTS = Path(__file__).parent / "results"
FORMATS = ("onnx", "onnx-int8")
ROWS = 500


def students(cache: Path) -> dict[str, tuple[str, dict[str, Any]]]:
    """Data set and training options of each student, by its name in the table."""
    minilm = f"hf:{fetch_minilm(cache, False)}?max_tokens=64"
    both = ("image=small:cnn?size=64", "text=small:static")
    quick = {"safety_net": False, "baselines": False}
    return {
        "images, small:cnn": ("clipart", {"student": "small:cnn?size=64", "steps": 300, **quick}),
        "texts, small:ngrams": ("reuters", {"student": "small:ngrams", "steps": 150, **quick}),
        "texts, MiniLM (6 layers)": ("reuters", {"student": minilm, "steps": 40, **quick}),
        "images and names": ("emoji-names", {"student": both, "steps": 200, **quick}),
    }


def main() -> None:
    cache = default_cache_dir() / "demo"
    known = students(cache)
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(known), choices=list(known))
    parser.add_argument("--steps", type=int, help="steps of training instead of those above")
    options = parser.parse_args()
    found = {name: measure(*known[name], options.steps, cache) for name in options.only}
    document = {
        "command": "python benchmarks/export.py",
        "version": aft.__version__,
        "machine": tables.machine(),
        "students": found,
    }
    print(as_text(document))
    if options.steps is None and options.only == list(known):
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "export.json").write_text(json.dumps(document, indent=1) + "\n")
        tables.put("export", as_text(document), ["docs/export.md"])


def measure(data: str, options: dict[str, Any], steps: int | None, cache: Path) -> dict[str, Any]:
    """Train a student, export it, and return how its exports compare with it."""
    folder = str(DATA_SETS[data](cache, False).folder)
    options = {**options, **({} if steps is None else {"steps": steps})}
    with tempfile.TemporaryDirectory() as place:
        run = aft.train(
            data=folder, out=Path(place, "run"), device="cpu", progress=False, **options
        )
        found = aft.export(
            run.out, format=FORMATS, out=Path(place, "export"), rows=ROWS, progress=False
        )
    return {"data": data, **{key: found[key] for key in ("split", "rows", "formats")}}


def as_text(document: dict[str, Any]) -> str:
    """A heading and a table per student."""
    parts = [
        f"**{name}** on {one['rows']} rows of {one['data']} ({one['split']}):\n\n"
        f"{show_formats(one['formats'])}\n\n"
        for name, one in document["students"].items()
    ]
    end = f"Made by `{document['command']}` ({document['machine']}), networks alone.\n"
    return "".join([*parts, end])


if __name__ == "__main__":
    main()
