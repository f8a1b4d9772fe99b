"""How many processes read inputs: by what reading and the network take."""

from __future__ import annotations

import os
import time

import pytest
import torch

from aft.devices import choose_num_workers

CPU, CARD = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "cores", "reading", "network", "expected"),
    [
        (CPU, 16, 1.0, 1.0, 0),  # 16 core-seconds of network for one of reading
        (CPU, 16, 16.0, 1.0, 8),  # half of the work
        (CPU, 4, 100.0, 0.0, 3),  # one core is left for the network
        (CPU, 1, 100.0, 0.0, 0),
        (CARD, 16, 1.0, 4.0, 1),
        (CARD, 16, 5.0, 1.0, 5),
        (CARD, 16, 5.0, 0.0, 15),
        (CARD, 64, 5.0, 0.0, 16),
        (CARD, 16, 0.03125, 0.0, 0),  # three seconds of reading in all
    ],
)
def test_the_rule(monkeypatch, device, cores, reading, network, expected):
    now, seen = [0.0], []
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def read():
        now[0] += reading
        return "batch"

    def run(batch):
        seen.append(batch)
        warming = device == CARD and len(seen) == 1
        now[0] += 99.0 if warming else network

    assert choose_num_workers(device, 100, read, run) == expected
    measured = cores > 1 and reading > 0.05
    assert seen == ["batch"] * (measured * (2 if device == CARD else 1))


def test_few_batches_are_not_measured(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert choose_num_workers(CPU, 15, lambda: pytest.fail("read"), print) == 0
