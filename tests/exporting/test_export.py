"""Exports: every kind of student, each format, and the folder without torch and aft."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("timm")
pytest.importorskip("transformers")

import aft
from aft.data.readers.find_columns import InputColumn
from aft.errors import AftError, ConfigError, ExportError, ModelError
from aft.students.backbone import load_backbone
from aft.students.saved import SavedStudent
from aft.students.student import new_student
from aft.students.towers import join
from aft.tasks import Task
from helpers.pictures import draw_picture
from helpers.text_data import draw_text, make_picture_text_folder, make_text_table
from helpers.text_models import (
    SENTENCES,
    make_bert,
    make_convnext,
    make_gpt2,
    make_roberta,
    make_vit,
)

CLASSES = Task("classification", ("a", "b", "c"))
TEXT, IMAGE = InputColumn("text", "text"), InputColumn("image", "image")
PAIR = (InputColumn("premise", "text"), InputColumn("hypothesis", "text"))


def words() -> list[str]:
    generator = np.random.default_rng(0)
    return [draw_text(topic, generator) for topic in ("sport", "food", "space") * 20]


def save(
    folder: Path,
    specs: str | dict[str, str],
    columns: Sequence[InputColumn],
    task: Task = CLASSES,
    **how: Any,
) -> Path:
    """A student with a head whose outputs differ, as after training."""
    if isinstance(specs, str):
        backbone = load_backbone(specs, texts=words)
    else:
        parts = {name: load_backbone(spec, texts=words) for name, spec in specs.items()}
        backbone = join(parts, **how)
    mean, std = (torch.tensor(v) for v in ((10.0, -3.0), (4.0, 0.5)))
    target = (mean, std) if task.kind == "regression" else (None, None)
    module = new_student(backbone, task, *target).eval()
    torch.nn.init.normal_(module.head.weight, std=1.0)
    for part in module.modules():  # random vectors of words are nearly 0
        if isinstance(part, torch.nn.Embedding):
            torch.nn.init.normal_(part.weight, std=0.3)
    SavedStudent(module, task, tuple(columns), backbone).save(folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(1)
    (root / "pictures").mkdir()
    for number in range(34):
        draw_picture(number % 3, 40 + number, generator).save(root / "pictures" / f"{number}.png")
    return {
        "image": str(root / "pictures"),
        "text": str(make_text_table(root / "t.jsonl", train=30, test=36)),
        "pair": str(make_text_table(root / "p.jsonl", train=30, test=36, pairs=True)),
        "both": str(make_picture_text_folder(root / "both", train=8, test=36, missing=3)),
    }


SMALL = {
    "cnn": ("small:cnn-tiny", "image", (IMAGE,), {}),
    "torchvision": ("torchvision:mobilenet_v3_small?weights=random&size=32", "image", (IMAGE,), {}),
    "timm": ("timm:resnet10t?weights=random&size=32", "image", (IMAGE,), {}),
    "ngrams": ("small:ngrams?dim=8", "text", (TEXT,), {}),
    "static": ("small:static?dim=8&max_tokens=9", "text", (TEXT,), {}),
    "pair": ("small:static?dim=8&template=is {0} like {1} ?&max_tokens=14", "pair", PAIR, {}),
    "towers": (
        {"image": "small:cnn-tiny?size=32", "text": "small:static?dim=8"},
        "both",
        (IMAGE, TEXT),
        {"fusion": "product"},
    ),
}


@pytest.mark.parametrize("name", SMALL)
def test_built_in_and_image_students(
    name: str, data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aft.exporting.parity.AGREEMENT", 0.9)  # random networks are often unsure
    specs, source, columns, how = SMALL[name]
    run = save(tmp_path / "student", specs, columns, **how)
    found = aft.export(
        run, data=data[source], out=tmp_path / "out", format=("onnx", "onnx-int8", "torch")
    )
    for one in found["formats"].values():
        assert one["p50_ms"] <= one["p95_ms"] and one["rows_per_second"] > 0
    assert found["formats"]["onnx"]["relative_difference"] < 1e-5
    assert not list(tmp_path.glob(".*"))
    import onnx

    model = onnx.load_model(str(tmp_path / "out" / "model.onnx"))
    known = {one.key: one.value for one in model.metadata_props}
    assert json.loads(known["classes"]) == ["a", "b", "c"] and known["version"] == aft.__version__
    assert {d.dim_param for i in model.graph.input for d in i.type.tensor_type.shape.dim[:1]} == {
        "rows"
    }


TRANSFORMERS: dict[str, tuple[Callable[[Path], Path], str, str, str]] = {
    "bert": (make_bert, "?pooling=cls", "text", "transformers"),
    "bert spaced": (
        partial(make_bert, num_hidden_layers=4),
        *("?pooling=cls&layers=2&from=spaced", "text", "transformers"),
    ),
    "bert mean": (make_bert, "", "text", "onnx"),
    "bert pair": (make_bert, "", "pair", "onnx"),
    "roberta": (make_roberta, "?pooling=cls", "text", "transformers"),
    "gpt2": (make_gpt2, "", "text", "onnx"),
    "vit": (make_vit, "", "image", "transformers"),
    "vit spaced": (
        partial(make_vit, num_hidden_layers=4),
        *("?layers=2&from=spaced", "image", "transformers"),
    ),
    "convnext": (make_convnext, "", "image", "transformers"),
}


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers(name: str, data: dict[str, str], tmp_path: Path) -> None:
    make, options, source, native = TRANSFORMERS[name]
    columns = {"text": (TEXT,), "pair": PAIR, "image": (IMAGE,)}[source]
    run = save(tmp_path / "student", f"hf:{make(tmp_path / 'model')}{options}", columns)
    formats = ("onnx", native)
    found = aft.export(run, data=data[source], out=tmp_path / "out", format=formats)
    assert all(one["relative_difference"] < 1e-4 for one in found["formats"].values())
    if native == "onnx" and source != "pair":
        with pytest.raises(ExportError, match="--format onnx"):
            aft.export(run, data=data[source], out=tmp_path / "no", format="transformers")
        assert not (tmp_path / "no").exists()


def test_timm_folder(data: dict[str, str], tmp_path: Path) -> None:
    import timm

    run = save(tmp_path / "student", "timm:resnet10t?weights=random&size=32", (IMAGE,))
    aft.export(run, data=data["image"], out=tmp_path / "out", format="timm")
    assert not (tmp_path / "out" / "predict.py").exists()
    model = timm.create_model(f"local-dir:{tmp_path / 'out' / 'timm'}", pretrained=True).eval()
    student = SavedStudent.load(run)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(model(images), student.module(images).logits)
    config = timm.data.resolve_model_data_config(model)
    assert list(config["input_size"]) == [3, 32, 32] and model.pretrained_cfg["num_classes"] == 3


@pytest.mark.parametrize("kind", ["multilabel", "regression"])
def test_other_tasks(kind: Any, data: dict[str, str], tmp_path: Path) -> None:
    run = save(tmp_path / "student", "small:ngrams?dim=8", (TEXT,), Task(kind, ("x", "y")))
    out = tmp_path / "out"
    found = aft.export(run, data=data["text"], out=out, format=["onnx", "onnx-int8"])
    import onnx

    tables = onnx.load_model(str(out / "model-int8.onnx")).graph.initializer
    vectors = SavedStudent.load(run).module.backbone.embedding.weight
    assert (onnx.TensorProto.UINT8, [*vectors.shape]) in [(t.data_type, [*t.dims]) for t in tables]
    assert found["formats"]["onnx"]["agreement"] > 0.999
    assert answers(out, data["text"]) == expected(run, data["text"], tmp_path, kind)


def answers(
    folder: Path, *files: str, python: Sequence[str] = (sys.executable,), **env: Any
) -> Any:
    done = subprocess.run(
        [*python, str(folder / "predict.py"), *files], capture_output=True, text=True, **env
    )
    assert done.returncode == 0, done.stderr
    return rounded(csv.DictReader(io.StringIO(done.stdout)))


def expected(run: Path, source: str, place: Path, kind: str = "classification") -> Any:
    table = place / "predictions.csv"
    aft.predict(run=run, data=source, out=table, overwrite=True, progress=False)
    given = next(
        (one for one in (Path(source, "metadata.jsonl"), Path(source)) if one.is_file()), None
    )
    lines = given.read_text(encoding="utf-8") if given and given.suffix == ".jsonl" else "{}"
    kept = set(json.loads(lines.partition("\n")[0]))  # predictions keep the columns of a table
    with table.open() as file:
        return rounded(csv.DictReader(file), kept)


def rounded(rows: Any, kept: Any = ()) -> list[list[str]]:
    def cell(text: str) -> str:
        try:
            return "|".join(f"{float(part) + 1e-9:.3f}" for part in text.split("|"))
        except ValueError:
            return text

    left_out = {"file", *kept}
    return [[cell(value) for name, value in row.items() if name not in left_out] for row in rows]


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A Python that finds numpy, ONNX Runtime, Pillow and tokenizers, but neither torch nor aft."""
    root = tmp_path_factory.mktemp("bare")
    for package in ("numpy", "onnxruntime", "pillow", "tokenizers", "flatbuffers", "protobuf"):
        for file in importlib.metadata.files(package) or ():
            top = Path(str(file)).parts[0]
            if top != ".." and not (root / top).exists():
                os.symlink(file.locate().parents[len(file.parts) - 2], root / top)
    start = (
        "import sys\n"
        "sys.path[:] = [one for one in sys.path if 'site-packages' not in one]\n"
        f"sys.path.append({str(root)!r})\n"
        "for name in ('torch', 'aft', 'transformers'):\n"
        "    try: __import__(name)\n"
        "    except ModuleNotFoundError: continue\n"
        "    sys.exit(name + ' is there')\n"
        "import runpy; sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return [sys.executable, "-I", "-S", "-c", start]


def many_modes(folder: Path) -> Path:
    """Pictures of every mode, 200 in all."""
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(2)
    modes = ("RGB", "P", "RGBA", "LA", "L", "1", "CMYK", "I;16", "RGB rotated", "P transparent")
    for number in range(200):
        mode = modes[number % len(modes)]
        picture: Any = draw_picture(number % 3, 30 + number % 20, generator).convert("RGB")
        picture = picture.crop((0, 0, picture.width, picture.height - 7))
        end, options = "png", {}
        if mode == "I;16":
            picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 200)
        elif mode == "RGB rotated":
            options["exif"] = Image.Exif()
            options["exif"][274] = 1 + number // 10 % 8
            end = "jpg"
        elif mode == "P transparent":
            picture, options["transparency"] = picture.quantize(8), 0
        elif mode in ("RGBA", "LA"):
            alpha = Image.linear_gradient("L").resize(picture.size)
            picture = picture.convert(mode)
            picture.putalpha(alpha)
        else:
            picture = picture.convert(mode)
            end = "tif" if mode == "CMYK" else "png"
        picture.save(folder / f"{number:03}.{end}", **options)
    return folder


def test_pictures_without_torch(bare: list[str], data: dict[str, str], tmp_path: Path) -> None:
    run = save(tmp_path / "student", "small:cnn-tiny?size=24", (IMAGE,))
    aft.export(run, data=data["image"], out=tmp_path / "out")
    pictures = many_modes(tmp_path / "modes")
    files = sorted(map(str, pictures.iterdir()))
    found = answers(tmp_path / "out", *files, python=bare)
    assert len(found) == 200 and found == expected(run, str(pictures), tmp_path)


@pytest.mark.parametrize("name", ["ngrams", "pair", "static"])
def test_texts_without_torch(
    name: str, bare: list[str], data: dict[str, str], tmp_path: Path
) -> None:
    specs, source, columns, _ = SMALL[name]
    run = save(tmp_path / "student", specs, columns)
    aft.export(run, data=data[source], out=tmp_path / "out")
    file = make_text_table(tmp_path / "many.jsonl", 100, 100, seed=5, pairs=name == "pair")
    found = answers(tmp_path / "out", str(file), python=bare)
    assert len(found) == 200 and found == expected(run, str(file), tmp_path)
    if name != "pair":
        lines = tmp_path / "many.txt"
        lines.write_text("\n".join([*SENTENCES, "zzz"]))
        assert answers(tmp_path / "out", str(lines)) == expected(run, str(lines), tmp_path)


def test_two_columns_without_torch(bare: list[str], data: dict[str, str], tmp_path: Path) -> None:
    specs, source, columns, how = SMALL["towers"]
    run = save(tmp_path / "student", specs, columns, **how)
    aft.export(run, data=data[source], out=tmp_path / "out")
    table = make_picture_text_folder(tmp_path / "many", 100, 100, missing=10, seed=3)
    found = answers(tmp_path / "out", str(table / "metadata.jsonl"), python=bare)
    assert len(found) == 200 and found == expected(run, str(table), tmp_path)


def test_an_export_that_differs_is_not_written(
    data: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = save(tmp_path / "student", "small:cnn-tiny", (IMAGE,))
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match="--data"):
        aft.export(run, out=out)
    with pytest.raises(ExportError, match="--format onnx"):
        aft.export(run, data=data["image"], out=out, format="timm")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ModelError, match=r"\[openvino\]"):
        aft.export(run, data=data["image"], out=out, format="openvino")
    monkeypatch.setattr("aft.exporting.parity.TOLERANCE", -1.0)
    with pytest.raises(AftError, match="relative"):
        aft.export(run, data=data["image"], out=out)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["student"]


def test_folders(data: dict[str, str], tmp_path: Path) -> None:
    run = save(tmp_path / "student", "small:cnn-tiny", (IMAGE,))
    out = tmp_path / "out"
    options: dict[str, Any] = {"data": data["image"], "out": out, "progress": False}
    aft.export(run, **options)
    document = json.loads((out / "export.json").read_text())
    assert document["rows"] == 34 and document["split"] == "all"
    assert {one.name for one in out.iterdir()} == {
        *("README.md", "config.json", "export.json", "model.onnx", "predict.py")
    }
    with pytest.raises(ConfigError, match="--overwrite"):
        aft.export(run, **options)
    aft.export(run, **options, format="torch", overwrite=True)
    assert (out / "model.pt2").exists() and not (out / "model.onnx").exists()
    (out / "export.json").unlink()
    with pytest.raises(ConfigError, match="another --out"):
        aft.export(run, **options, overwrite=True)


def test_the_held_out_rows_of_a_run(tmp_path: Path) -> None:
    table = make_text_table(tmp_path / "t.jsonl", train=60, test=30)
    options: dict[str, Any] = {"safety_net": False, "baselines": False, "progress": False}
    run = aft.train(
        data=str(table), student="small:static?dim=8", steps=20, out=tmp_path / "run", **options
    )
    found = aft.export(run.out, out=tmp_path / "out", rows=20)
    one = found["formats"]["onnx"]
    assert found["split"] == "test" and found["rows"] == 20
    assert one["score"] == one["score_of_student"] and found["table"].count("\n") == 3
    table.write_text(table.read_text().replace("sport", "food"))
    with pytest.raises(ConfigError, match="--data"):
        aft.export(run.out, out=tmp_path / "other")
