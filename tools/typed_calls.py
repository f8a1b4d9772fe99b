"""Calls that mypy checks: it reports a comment to ignore an error that is none."""

from __future__ import annotations

import aft
from aft.config.commands import TrainConfig


def calls() -> float:
    """Right and wrong calls of commands; never run."""
    result = aft.train(data="d", student="small:cnn", teachers=["st:a"], out="runs/a", steps=3)
    config = TrainConfig(data=[{"text": "a"}], student=["small:cnn"])
    aft.train(config, steps=3)
    aft.predict(run="runs/a", data=["a"], out="out.csv")
    aft.AFTClassifier("small:cnn", teachers=["st:a"], patience=3).fit(["a"], ["b"]).predict(["a"])
    aft.AFTRegressor("small:cnn", steps="many")  # type: ignore[arg-type]
    aft.train(student="small:cnn")  # type: ignore[call-overload]
    aft.train(data="d", student="small:cnn", stepz=3)  # type: ignore[call-overload]
    aft.train(data="d", student="small:cnn", steps="many")  # type: ignore[call-overload]
    aft.score(data="d", task="clustering")  # type: ignore[call-overload]
    return aft.train(config).metrics["accuracy"] + result.metrics["accuracy"]
