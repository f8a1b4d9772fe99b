"""How many processes read inputs: by what reading and the network take."""

from __future__ import annotations

import os
import time

import pytest
import torch

from aft.devices import choose_num_workers, measure_workers

CPU, CARD = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    ("device", "cores", "reading", "network", "expected"),
    [
        (CPU, 16, 1.0, 1.0, 0),  # 16 core-seconds of network for one of reading
        (CPU, 16, 16.0, 1.0, 8),  # half of the work
        (CPU, 4, 100.0, 0.01, 3),  # one core is left for the network
        (CPU, 1, 100.0, 0.01, 0),
        (CARD, 16, 1.0, 4.0, 1),
        (CARD, 16, 5.0, 1.0, 5),
        (CARD, 16, 5.0, 0.0, 15),
        (CARD, 64, 5.0, 0.0, 16),
        (CARD, 16, 0.01, 0.001, 0),  # a second of reading in all
    ],
)
def test_the_rule(monkeypatch, device, cores, reading, network, expected):
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert choose_num_workers(device, 100, reading, network) == expected


@pytest.mark.parametrize(("device", "runs", "expected"), [(CPU, 1, 2), (CARD, 2, 4)])
def test_a_batch_is_measured(monkeypatch, device, runs, expected):
    now = [0.0]
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    def read():
        now[0] += 4.0
        return "batch"

    seen = []

    def run(batch):
        seen.append(batch)
        now[0] += 9.0 if len(seen) < runs else 1.0  # warm-up

    assert measure_workers(device, 100, read, run) == expected
    assert seen == ["batch"] * runs


def test_little_is_not_measured(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert measure_workers(CPU, 3, lambda: pytest.fail("read"), print) == 0
    assert measure_workers(CPU, 100, lambda: 1, lambda batch: pytest.fail("run")) == 0
