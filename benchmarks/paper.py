"""The experiments of the AFT paper: every student of a recipe in paper/, with `aft compare`.

Needs a model hub and a GPU. Run the same command again to resume an interrupted run. See
docs/paper.md.

    python benchmarks/paper.py --list
    python benchmarks/paper.py cifar100 --students 1 --steps 500
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import aft
from aft.backbones.specs import short_name, split_column
from aft.config.commands import CompareConfig, resolve
from aft.errors import AftError, ConfigError, DataError
from aft.hub import why_unreachable

FOLDER = Path(__file__).parent / "paper"


@dataclass(frozen=True)
class Recipe:
    """A file in paper/.

    Attributes:
        students: The model of each student, or its models, one per column.
        compare: Options of `aft compare`, except student and out.
        splits: Names of the hub data set's splits to use as train and test; several are joined
            with +; empty: unchanged.
        template: The template for texts of every hf: model, see docs/models.md.
        truncate: The side on which its texts are cut, see docs/models.md.
    """

    students: list[str | list[str]]
    compare: dict[str, Any]
    splits: dict[str, str]
    template: str | None
    truncate: str

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Read a file; ConfigError if `aft compare` does not accept its options."""
        values = {"splits": {}, "template": None, "truncate": "end"}
        values |= yaml.safe_load(path.read_text("utf-8"))
        if unknown := values.keys() - cls.__dataclass_fields__.keys():
            raise ConfigError(f"{path} has unknown keys: {', '.join(sorted(unknown))}")
        recipe = cls(**values)
        for student in recipe.students:
            recipe.config(student)
        return recipe

    def config(self, student: str | list[str], **options: Any) -> CompareConfig:
        """The options of the comparison with one student."""
        config = resolve(CompareConfig, None, {**self.compare, "student": student, **options})
        models = {
            name: tuple(self._with_template(model) for model in getattr(config, name))
            for name in ("student", "teachers")
        }
        return config.model_copy(update=models)

    def _with_template(self, model: str) -> str:
        if self.template is None or not split_column(model)[1].startswith("hf:"):
            return model
        side = "" if self.truncate == "end" else f"&truncate={self.truncate}"
        return f"{model}{'&' if '?' in model else '?'}template={self.template}{side}"


def fetch_splits(data: str, splits: dict[str, str], folder: Path) -> Path:
    """Save splits of a hub data set under the names that `aft` expects."""
    if not folder.exists():
        import datasets

        if reason := why_unreachable():
            raise DataError(f"cannot get {data}: the hub cannot be reached ({reason})")
        repository, _, configuration = data.partition(":")
        loaded = datasets.load_dataset(repository, configuration or None)
        parts = datasets.DatasetDict(
            {
                name: datasets.concatenate_datasets([loaded[one] for one in there.split("+")])
                for name, there in splits.items()
            }
        )
        unfinished = folder.with_name(folder.name + ".part")
        parts.save_to_disk(unfinished)
        unfinished.rename(folder)
    return folder


def run(recipe: Recipe, out: Path, students: int | None = None, **options: Any) -> None:
    """Run the comparison for each student, and print each result in a sentence."""
    if recipe.splits:
        options["data"] = str(fetch_splits(recipe.compare["data"], recipe.splits, out / "data"))
    for student in recipe.students[:students]:
        models = [student] if isinstance(student, str) else student
        name = "+".join(short_name(model) for model in models)
        found = aft.compare(recipe.config(student, out=out / name, **options))
        print(f"{name}: {found['sentence']}", flush=True)


def main() -> None:
    known = {path.stem: path for path in sorted(FOLDER.glob("*.yaml"))}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", nargs="?", choices=known, metavar="RECIPE")
    parser.add_argument("--list", action="store_true", help="list the recipes")
    parser.add_argument("--students", type=int, help="only the first INT students", metavar="INT")
    parser.add_argument("--steps", type=int, help="number of steps (default: the recipe's)")
    parser.add_argument("--out", type=Path, help="default: runs/paper/RECIPE")
    asked = parser.parse_args()
    if asked.list or asked.recipe is None:
        for name, path in known.items():
            print(f"{name:18} {path.read_text('utf-8').splitlines()[0].lstrip('# ')}")
        return
    steps = {} if asked.steps is None else {"steps": asked.steps}
    out = asked.out or Path("runs/paper", asked.recipe)
    try:
        run(Recipe.read(known[asked.recipe]), out, asked.students, **steps)
    except AftError as error:
        raise SystemExit(f"{asked.recipe}: {error}") from None


if __name__ == "__main__":
    main()
