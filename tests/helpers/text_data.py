"""Small labelled texts, pairs of texts, and pictures with texts, made up with a seed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from helpers.pictures import SHAPES, draw_picture

_WORDS = {
    "sport": "match goal team player league coach stadium score season win",
    "food": "bread soup oven salt butter kitchen dinner recipe spoon taste",
    "space": "rocket orbit planet star moon launch engine crew gravity comet",
    "": "the a of and to in is was with for it on that this",
}
TOPICS = {topic: words.split() for topic, words in _WORDS.items() if topic}
FILLERS = _WORDS[""].split()


def draw_text(topic: str, generator: np.random.Generator, words: int = 12) -> str:
    """Words of a topic among words of none."""
    chosen = [
        generator.choice(TOPICS[topic] if generator.random() < 0.4 else FILLERS)
        for _ in range(int(generator.integers(4, words)))
    ]
    return " ".join([*chosen, str(generator.choice(TOPICS[topic]))])


def make_text_table(
    path: Path, train: int = 90, test: int = 30, seed: int = 0, pairs: bool = False
) -> Path:
    """Write a `.jsonl` table of texts and topics, or of pairs that are of one topic or of two."""
    generator = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    topics = list(TOPICS)
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            topic = topics[number % len(topics)]
            text = draw_text(topic, generator)
            if pairs:
                same = number % 2 == 0
                other = topic if same else topics[(number + 1) % len(topics)]
                second = draw_text(other, generator)
                row = {"premise": text, "hypothesis": second, "label": "yes" if same else "no"}
            else:
                row = {"text": text, "label": topic}
            rows.append({**row, "split": split})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_picture_text_folder(
    root: Path, train: int = 48, test: int = 24, size: int = 32, seed: int = 0, missing: int = 0
) -> Path:
    """Pictures of three shapes with texts of three topics; the label is both together.

    Args:
        root: The folder to fill.
        train: Rows of the train split.
        test: Rows of the test split.
        size: Of the pictures in pixels.
        seed: The same seed gives the same bytes.
        missing: So many rows of train have no text, and so many others no picture.
    """
    generator = np.random.default_rng(seed)
    rows = []
    root.mkdir(parents=True, exist_ok=True)
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            shape, topic = number % 2, list(TOPICS)[number // 2 % 2]
            name = f"{split}-{number}.png"
            draw_picture(shape, size, generator).save(root / name)
            row: dict[str, Any] = {"image": name, "text": draw_text(topic, generator)}
            if split == "train" and number < missing:
                row["text"] = ""
            elif split == "train" and number < 2 * missing:
                row["image"] = None
            rows.append({**row, "label": f"{SHAPES[shape]} {topic}", "split": split})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (root / "metadata.jsonl").write_text(lines, encoding="utf-8")
    return root
