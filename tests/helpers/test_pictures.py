from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image


def test_picture_folder_is_seeded_and_holds_no_duplicates(
    picture_folder: Callable[..., Path],
) -> None:
    def contents(name: str) -> dict[str, bytes]:
        root = picture_folder(name, classes=6, train=5, test=2)
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.png")}

    first = contents("first")
    assert len(first) == len(set(first.values())) == 6 * 7
    assert contents("second") == first


def test_picture_folder_is_made_as_asked(picture_folder: Callable[..., Path]) -> None:
    root = picture_folder(classes=2, train=3, test=0, size=32)
    assert sorted(p.name for p in root.iterdir()) == ["train"]
    assert sorted(p.name for p in (root / "train").iterdir()) == ["circle", "square"]
    with Image.open(root / "train" / "circle" / "000.png") as image:
        assert (image.mode, image.size) == ("RGB", (32, 32))
