"""Predict with the exported student in this folder: ``python predict.py FILE…``.

Needs numpy, onnxruntime, and Pillow for images or tokenizers for texts. A FILE is an image, a .txt
file with one text per line, or a table (.csv, .jsonl) with the student's columns, in which images
are paths relative to the table. Prints CSV with file, label and probability.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
MODELS = ("model.onnx", "model-int8.onnx")
IMAGES = ("JPEG", "MPO", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")
TURNS = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}
"""Pillow's ``Transpose`` that turns an image upright, by its EXIF orientation."""
PADDING = -1
ORIENTATION = 274


class Predictor:
    """An exported student.

    Args:
        folder: Folder of the export, with ``config.json``.
        model: The ``.onnx`` file in it; default: the first of :data:`MODELS` that is there.
    """

    def __init__(self, folder: str | Path = HERE, model: str | None = None) -> None:
        self.folder = Path(folder)
        self.config: dict[str, Any] = json.loads((self.folder / "config.json").read_text("utf-8"))
        self.names: list[str] = self.config["task"]["names"]
        self.kind: str = self.config["task"]["kind"]
        self.columns: list[str] = [column["name"] for column in self.config["columns"]]
        self.parts: list[Images | Texts] = [
            Images(one["preprocessing"])
            if one["kind"] == "image"
            else Texts(one["preprocessing"], self.folder / one["tokenizer"])
            for one in self.config["inputs"]
        ]
        self.model = model
        self._session: Any = None

    def predict(self, inputs: Sequence[Any], batch_size: int = 32) -> list[dict[str, Any]]:
        """Label and probability of each input; for regression the value of each target.

        Args:
            inputs: Images (path, bytes or PIL image) or texts; for several columns dictionaries
                by column name, in which a missing value is None.
            batch_size: Inputs per batch.
        """
        logits = self.logits(inputs, batch_size).astype(np.float64)
        if self.kind == "regression":
            return [dict(zip(self.names, row.tolist(), strict=True)) for row in logits]
        if self.kind == "multilabel":
            found = []
            for row in 1 / (1 + np.exp(-logits)):
                some = np.flatnonzero(row > 0.5)
                names = "|".join(self.names[i] for i in some)
                found.append(
                    {"label": names, "probability": "|".join(f"{row[i]:.6f}" for i in some)}
                )
            return found
        shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities = shifted / shifted.sum(axis=1, keepdims=True)
        return [
            {"label": self.names[int(row.argmax())], "probability": round(float(row.max()), 6)}
            for row in probabilities
        ]

    def logits(self, inputs: Sequence[Any], batch_size: int = 32) -> np.ndarray[Any, Any]:
        """The outputs of the network, ``(n, outputs)``."""
        parts = [
            self.run(self.prepare(inputs[start : start + batch_size]))
            for start in range(0, len(inputs), batch_size)
        ]
        return np.concatenate(parts) if parts else np.zeros((0, len(self.names)), np.float32)

    def prepare(self, inputs: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The inputs of the network for a batch, by name."""
        if isinstance(inputs, str):
            inputs = [inputs]
        feeds = {}
        for one, part in zip(self.config["inputs"], self.parts, strict=True):
            rows = [
                [row.get(name) if isinstance(row, Mapping) else row for name in one["columns"]]
                for row in inputs
            ]
            feeds[one["name"]] = part.batch(rows)
        return feeds

    def run(self, feeds: Mapping[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
        """The outputs of the network for prepared inputs."""
        if self._session is None:
            import onnxruntime

            name = self.model or next(one for one in MODELS if (self.folder / one).exists())
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3  # errors only
            self._session = onnxruntime.InferenceSession(
                str(self.folder / name), options, providers=["CPUExecutionProvider"]
            )
        found: np.ndarray[Any, Any] = self._session.run(None, dict(feeds))[0]
        return found


class Images:
    """Preprocessing of images, see :func:`open_image`; a missing one is the mean colour."""

    def __init__(self, how: Mapping[str, Any]) -> None:
        self.how = how

    def batch(self, rows: Sequence[Sequence[Any]]) -> np.ndarray[Any, Any]:
        """``(B, 3, size, size)``, float32."""
        size = self.how["size"]
        pixels = np.zeros((len(rows), size, size, 3), np.uint8)
        for place, (image,) in enumerate(rows):
            if image is not None:
                pixels[place] = self._resize(open_image(image))
        if self.how["bgr"]:
            pixels = pixels[..., ::-1]
        mean, std = (np.asarray(self.how[name], np.float32) for name in ("mean", "std"))
        batch = (pixels.astype(np.float32) * np.float32(1 / 255) - mean) / std
        batch[[place for place, (image,) in enumerate(rows) if image is None]] = 0
        return np.ascontiguousarray(batch.transpose(0, 3, 1, 2))

    def _resize(self, image: Any) -> np.ndarray[Any, Any]:
        from PIL.Image import Resampling

        size, short = self.how["size"], min(image.size)
        side = int(size / self.how["crop"] + 1e-6)
        width, height = (side if self.how["squash"] else int(side * n / short) for n in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Resampling[self.how["interpolation"].upper()])
        left, top = (round((n - size) / 2) for n in image.size)
        return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB"))


class Texts:
    """Tokenization of one text or several; a missing one is empty."""

    def __init__(self, how: Mapping[str, Any], file: Path) -> None:
        from tokenizers import Tokenizer

        self.how = how
        self.whole, self.cut = (Tokenizer.from_file(str(file)) for _ in range(2))
        self.whole.no_padding()
        self.whole.no_truncation()
        self.cut.no_padding()
        self.cut.enable_truncation(
            how["max_tokens"], strategy="longest_first", direction=how["side"]
        )

    def batch(self, rows: Sequence[Sequence[Any]]) -> np.ndarray[Any, Any]:
        """``(B, L)`` token ids or ``(B, 2, L)`` with token types, padded on the right, int64."""
        encoded = [self._encode(["" if text is None else text for text in row]) for row in rows]
        length = max(one.shape[-1] for one in encoded)
        batch = np.full((len(rows), *encoded[0].shape[:-1], length), PADDING, np.int64)
        for row, one in zip(batch, encoded, strict=True):
            row[..., : one.shape[-1]] = one
        return batch

    def _encode(self, texts: list[str]) -> np.ndarray[Any, Any]:
        if self.how["pairs"] and len(texts) == 2:
            a, b = self.whole.encode_batch(texts, add_special_tokens=False)
            longer, most = len(a.ids) - len(b.ids), self.how["max_tokens"] + 1
            a.truncate(most + (longer > 0), direction=self.how["side"])
            b.truncate(most + (longer < 0), direction=self.how["side"])
            pair = self.cut.post_process(a, b)
            types = [pair.ids, pair.type_ids] if self.how["token_types"] else pair.ids
            return np.asarray(types, np.int64)
        template = self.how["template"]
        encoding = self.cut.encode(
            "\n".join(texts) if template is None else template.format(*texts)
        )
        if encoding.overflowing and self.how["places"] is not None:
            encoding = self._fill(texts)
        return np.asarray(encoding.ids, np.int64)

    def _fill(self, texts: list[str]) -> Any:
        """The whole template, with texts cut to the room that it leaves."""
        whole = self.whole.encode_batch(texts, add_special_tokens=False)
        room, places = self.how["room"], self.how["places"]
        lengths = [len(whole[place].ids) for place in places]
        left = len(lengths)
        for length in sorted(lengths):  # the longest texts are cut first
            if length * left > room:
                break
            room, left = room - length, left - 1
        most = room // left if left else max(lengths)
        while True:
            short = [self._shorten(text, one, most) for text, one in zip(texts, whole, strict=True)]
            encoding = self.whole.encode(self.how["template"].format(*short))
            excess = len(encoding.ids) - self.how["max_tokens"]
            if excess <= 0 or most == 0:
                return encoding
            most = max(0, most - max(1, excess // len(places)))

    def _shorten(self, text: str, encoding: Any, most: int) -> str:
        places = encoding.offsets
        if len(places) <= most or most == 0:
            return text if len(places) <= most else ""
        return (
            text[places[-most][0] :] if self.how["side"] == "left" else text[: places[most - 1][1]]
        )


def open_image(source: Any) -> Any:
    """An upright RGB image from a path, the content of a file, or a PIL image.

    EXIF rotation is applied, transparent images are laid on white, 16-bit grey is scaled to 8 bits,
    and the first frame of an animation is used.
    """
    from PIL import Image

    if isinstance(source, Image.Image):
        return _to_rgb(_turn(source))
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    Image.init()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(
            io.BytesIO(content), formats=[f for f in IMAGES if f in Image.OPEN]
        ) as image:
            image.load()
            return _to_rgb(_turn(image))


def _turn(image: Any) -> Any:
    try:
        turn = TURNS.get(int(image.getexif().get(ORIENTATION, 1)))
    except Exception:  # damaged EXIF data
        return image
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Any) -> Any:
    from PIL import Image

    if image.mode.startswith("I"):
        wide = image.mode != "I" or image.getextrema()[1] > 255
        most = 65535.0 if wide else 255.0
        image = image.convert("F").point(lambda value: value * (255.0 / most) + 0.0).convert("L")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def read_inputs(file: Path, predictor: Predictor) -> Iterator[tuple[str, Any]]:
    """Name and input of everything in a file."""
    columns = {column["name"]: column["modality"] for column in predictor.config["columns"]}
    if file.suffix.lower() not in (".csv", ".jsonl", ".txt"):
        yield str(file), file
    elif file.suffix.lower() == ".txt":
        for number, line in enumerate(file.read_text("utf-8-sig").split("\n"), 1):
            if line.strip():
                yield f"{file.name}:{number}", line.removesuffix("\r")
    else:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            table = file.suffix.lower() == ".csv"
            rows = csv.DictReader(stream) if table else map(json.loads, filter(str.strip, stream))
            for number, row in enumerate(rows, 1):
                values: dict[str, Any] = {name: row.get(name) or None for name in columns}
                for name, modality in columns.items():
                    if modality == "image" and values[name] is not None:
                        values[name] = file.parent / values[name]
                one = values if len(columns) > 1 else next(iter(values.values()))
                yield f"{file.name}:{number}", one


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the predictions for the files on the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument("--text", action="append", default=[], help="a text to predict")
    parser.add_argument("--model", help=f"the model in this folder; default: {MODELS[0]}")
    given = parser.parse_args(arguments)
    predictor = Predictor(model=given.model)
    inputs = [("text", text) for text in given.text]
    inputs += [pair for file in given.files for pair in read_inputs(file, predictor)]
    if not inputs:
        parser.error(f"expected files or --text with {', '.join(predictor.columns)}, got none")
    names = predictor.names if predictor.kind == "regression" else ["label", "probability"]
    writer = csv.DictWriter(sys.stdout, ["file", *names], lineterminator="\n")
    writer.writeheader()
    found = predictor.predict([value for _, value in inputs])
    writer.writerows({"file": name, **one} for (name, _), one in zip(inputs, found, strict=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
