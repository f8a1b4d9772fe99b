"""How the demo's comparison depends on learning rate and beta, on training pictures only.

Each seed holds out 30 % of the demo's training pictures to score and 10 % to choose the
checkpoint; the test pictures stay untouched, and the seeds are others than the demo's. The student
alone is the row with beta 0, and has the same grid of learning rates.

    python benchmarks/demo_settings.py            # about 10 minutes on 2 cores, resumes
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from pathlib import Path

import aft
from aft.config import DemoConfig
from aft.demo import TEACHER, demo_options, fetch_data

LR = (3e-4, 1e-3)
BETA = (0.0, 3.0, 10.0)
RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="auto", choices=["auto", "clipart", "openmoji"])
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--out", type=Path, default=Path("runs/demo-settings"))
    options = parser.parse_args()
    data = fetch_data(DemoConfig(data=options.data))
    cells = []
    for lr, beta in itertools.product(LR, BETA):
        scores = []
        for seed in range(100, 100 + options.seeds):
            run = aft.train(
                **{
                    **demo_options(data),
                    "data": str(data.folder / "train"),
                    "lr": lr,
                    "beta": beta,
                },
                teachers=(TEACHER,) if beta else (),
                test_fraction=0.3,
                steps=options.steps,
                seed=seed,
                out=options.out / data.name / f"lr{lr:g}-beta{beta:g}-{seed}",
                resume=True,
                progress=False,
            )
            scores.append(run.metrics["accuracy"])
        cells.append({"lr": lr, "beta": beta, "accuracy": scores})
        print(
            f"lr {lr:<6g} beta {beta:<4g} accuracy {statistics.mean(scores):.4f} "
            f"± {statistics.stdev(scores):.4f}",
            flush=True,
        )
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"demo_settings-{data.name}.json"
    command = f"python benchmarks/demo_settings.py --data {data.name} --seeds {options.seeds}"
    command += f" --steps {options.steps}"
    file.write_text(
        json.dumps({"command": command, "version": aft.__version__, "cells": cells}, indent=1)
        + "\n"
    )
    print(f"written {file}")


if __name__ == "__main__":
    main()
