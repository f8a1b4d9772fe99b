"""Images are read as people mean them, or refused by name."""

from __future__ import annotations

import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aft.config.groups import Augmentation
from aft.data.images import find_fault, image_suffixes, open_image
from aft.data.loading import load_data, load_inputs
from aft.data.views import make_views
from aft.errors import DataError
from helpers.errors import says

Folder = Callable[..., Path]


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "I;16", "I", "F"])
    def test_every_mode_becomes_rgb(self, mode: str, tmp_path: Path) -> None:
        grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
        if mode == "I;16":
            image = Image.fromarray(grey.astype(np.uint16) * 257)
        else:
            image = Image.fromarray(grey).convert(mode)
        path = tmp_path / ("a.tif" if mode in ("F", "I", "I;16", "CMYK") else "a.png")
        image.save(path)
        opened = np.asarray(open_image(path))
        assert opened.shape == (8, 8, 3) and find_fault(path.read_bytes()) is None
        if mode != "1":
            assert np.abs(opened[..., 0].astype(int) - grey).max() <= 2

    def test_transparency_becomes_white(self, tmp_path: Path) -> None:
        Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(tmp_path / "a.png")
        assert np.asarray(open_image(tmp_path / "a.png")).min() == 255

    def test_rotation_is_applied(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=exif)
        assert open_image(tmp_path / "a.jpg").size == (4, 8)

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            (np.float32, [0.0, 0.25, 1.0]),
            (np.float32, [0.0, 300.0]),
            (np.float32, [-1.0, 200.0]),
            (np.float32, [float("nan"), 200.0]),
            (np.int32, [0, 70_000]),
            (np.int32, [-5, 200]),
        ],
    )
    def test_unusual_ranges_are_refused(self, kind: type, values: list[float]) -> None:
        content = encode(Image.fromarray(np.asarray([values], kind)), "TIFF")
        fault = find_fault(content)
        assert fault is not None and f"{np.asarray(values, kind).max():g}" in fault
        with pytest.raises(DataError):
            open_image(content)


def exif(tag: int, kind: int, count: int, value: bytes, orientation: int = 6) -> bytes:
    """A JPEG of 16 x 12 pixels with an orientation and one more EXIF entry."""
    entries = struct.pack("<HHIHH", 0x112, 3, 1, orientation, 0)
    entries += struct.pack("<HHI", tag, kind, count) + value + struct.pack("<I", 0)
    body = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + entries
    plain = encode(Image.new("RGB", (16, 12), (200, 10, 30)), "JPEG")
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


class TestEXIF:
    @pytest.mark.parametrize(
        "entry",
        [
            (0x11A, 11, 1, struct.pack("<f", 72.0)),  # a rational as float
            (0x11A, 2, 4, b"72\0\0"),  # as text
            (0x11A, 7, 4, b"abcd"),  # as bytes
            (0x10F, 11, 1, struct.pack("<f", 1.0)),  # a text as float
            (0x10F, 3, 1, struct.pack("<HH", 7, 0)),  # as a number
            (0x128, 4, 1, struct.pack("<I", 70_000)),  # out of range
            (0x102, 9, 1, struct.pack("<i", -1)),  # negative
        ],
    )
    def test_entries_that_cannot_be_written_back(self, entry: tuple[int, int, int, bytes]) -> None:
        content = exif(*entry)
        assert find_fault(content) is None
        assert open_image(content).size == (12, 16)  # the orientation is applied

    @pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about the EXIF data
    @pytest.mark.parametrize("cut", [12, 16, 24])
    def test_damaged_data(self, cut: int) -> None:
        content = bytearray(exif(0x11A, 11, 1, struct.pack("<f", 72.0)))
        content[12 + cut : 12 + cut + 4] = b"\xff" * 4
        assert find_fault(bytes(content)) is None
        assert sorted(open_image(bytes(content)).size) == [12, 16]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation(self, orientation: int) -> None:
        corners = np.zeros((16, 32, 3), np.uint8)
        corners[:8, :16], corners[:8, 16:], corners[8:, :16] = 250, 150, 80
        file = Image.Exif()
        file[0x112] = orientation
        content = encode(Image.fromarray(corners), "JPEG", exif=file, quality=95)
        turned = np.asarray(open_image(content).convert("L"))
        # Where row 0 and column 0 of the stored pixels are, by the standard.
        top = corners[..., 0]
        right = {
            **{1: top, 2: top[:, ::-1], 3: top[::-1, ::-1], 4: top[::-1]},
            **{5: top.T, 6: np.rot90(top, -1), 7: top[::-1, ::-1].T, 8: np.rot90(top)},
        }[orientation]
        assert turned.shape == right.shape
        assert np.abs(turned.astype(int) - right).mean() < 5

    def test_a_tiff_is_turned_once(self) -> None:
        pixels = Image.new("RGB", (16, 12))
        assert open_image(encode(pixels, "TIFF", tiffinfo={0x112: 6})).size == (12, 16)


class TestFormats:
    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM"])
    def test_usual_formats(self, kind: str) -> None:
        content = encode(Image.new("RGB", (8, 6), (200, 10, 30)), kind)
        assert find_fault(content) is None and open_image(content).size == (8, 6)

    def test_several_images_in_one(self) -> None:
        first, second = Image.new("RGB", (8, 6)), Image.new("RGB", (8, 6), (9, 9, 9))
        content = encode(first, "MPO", save_all=True, append_images=[second])
        assert find_fault(content) is None and open_image(content).size == (8, 6)

    def test_suffixes(self) -> None:
        usual = {".jpg", ".jpeg", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
        assert usual <= image_suffixes()
        assert not image_suffixes() & {".eps", ".ps", ".pdf", ".wmf", ".emf", ".fits", ".h5"}

    @pytest.mark.parametrize("end", [".eps", ".png"])
    def test_postscript_starts_no_program(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
    ) -> None:
        program = tmp_path / "gs"
        program.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\nexit 1\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        file = tmp_path / f"a{end}"
        file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")
        assert find_fault(file.read_bytes()) is not None
        with pytest.raises(DataError) as error:
            open_image(file)
        assert says(error.value, file, "PNG") and not (tmp_path / "started").exists()


def png_header(width: int, height: int) -> bytes:
    """A PNG of a few bytes that announces this size."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


class TestSizes:
    @pytest.mark.parametrize(
        ("width", "height", "named"),
        [
            (1, 45_000_000, "1 x 45000000"),
            (2_001, 2, "2001 x 2"),
            (20_000, 20_000, "400000000"),
        ],
    )
    def test_too_large_is_refused_before_decoding(
        self, width: int, height: int, named: str
    ) -> None:
        content = png_header(width, height)
        fault = find_fault(content)
        assert fault is not None and named in fault
        with pytest.raises(DataError) as error:
            open_image(content, "row 7")
        assert says(error.value, "row 7", named)

    def test_long_pictures_are_read(self) -> None:
        assert find_fault(encode(Image.new("L", (2_000, 2)), "PNG")) is None

    def test_no_memory_is_no_fault_of_the_image(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise MemoryError

        content = encode(Image.new("L", (4, 4)), "PNG")
        monkeypatch.setattr(Image.Image, "crop", fail)
        with pytest.raises(MemoryError):
            find_fault(content)


class TestChangedFiles:
    def test_another_picture_is_refused(self, picture_folder: Folder) -> None:
        root = picture_folder(train=4, test=0) / "train"
        train = load_data(str(root), validation_fraction=0.0, progress=False).splits["train"]
        assert train.files[1] == "circle/001.png"
        shutil.copy(root / "square/002.png", root / "circle/001.png")
        train.input(0)
        with pytest.raises(DataError) as error:
            train.subset([0, 1]).only("image").input(1)
        assert says(error.value, root / "circle/001.png")
        (root / "circle/001.png").unlink()
        with pytest.raises(DataError) as error:
            train.input(1)
        assert says(error.value, root / "circle/001.png")

    @pytest.mark.parametrize("augment", ["standard", "flip"])
    def test_views_are_of_the_picture(self, picture_folder: Folder, augment: Augmentation) -> None:
        root = picture_folder(train=4, test=0) / "train"
        train = load_data(str(root), validation_fraction=0.0, progress=False).splits["train"]
        views = make_views(train, 2, 0, augment).subset([1, 13])
        views.input(0)
        shutil.copy(root / "square/002.png", root / "circle/001.png")
        for row in range(2):
            with pytest.raises(DataError) as error:
                views.subset([row]).input(0)
            assert says(error.value, root / "circle/001.png")

    def test_pictures_inside_a_table(self, tmp_path: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        contents = [encode(Image.new("RGB", (8, 8), (i, 0, 0)), "PNG") for i in range(3)]
        pyarrow.parquet.write_table(pyarrow.table({"image": contents}), tmp_path / "t.parquet")
        samples, _ = load_inputs(str(tmp_path / "t.parquet"), progress=False)
        assert samples.input(2).getpixel((0, 0)) == (2, 0, 0)  # type: ignore[union-attr]
        samples.contents[2] = 0
        with pytest.raises(DataError) as error:
            samples.input(2)
        assert says(error.value, samples.files[2])
