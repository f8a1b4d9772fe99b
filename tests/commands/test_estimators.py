"""Estimators follow scikit-learn's conventions, and predict as `aft train` and its student do."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas
import pytest
import sklearn
from PIL import Image
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import (
    check_estimator,
    estimator_checks_generator,
    parametrize_with_checks,
)

import aft
from aft.commands import estimators
from aft.config.commands import TrainConfig
from aft.errors import AftError, DataError
from helpers.errors import says

DOCS = Path(__file__).parents[2] / "docs" / "python.md"
QUICK: dict[str, Any] = {"student": "small:static?dim=8", "steps": 6, "device": "cpu"}
TEXTS = [f"a {word} film, number {i}" for i in range(30) for word in ("good", "bad")]
WORDS = ["good", "bad"] * 30


def as_texts(X: Any) -> Any:
    """A matrix of numbers as texts, one per row; anything else as it is."""
    matrix = X if hasattr(X, "tocsr") else np.asarray(X)
    if matrix.ndim != 2 or hasattr(X, "tocsr"):
        return X
    return [
        " ".join(f"{'abcdefghijklmnop'[i]}{100 * v:.0f}" for i, v in enumerate(row.astype(float)))
        for row in matrix
    ]


class _Matrices:
    """Lets scikit-learn's checks, which feed matrices, apply to an estimator of texts."""

    def fit(self, X: Any, y: Any) -> Any:
        return super().fit(as_texts(X), y)  # type: ignore[misc]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        for one in filter(None, (tags.classifier_tags, tags.regressor_tags)):
            one.poor_score = True  # of numbers as words
        return tags


class Classifier(_Matrices, aft.AFTClassifier):
    def predict_proba(self, X: Any) -> Any:
        return super().predict_proba(as_texts(X))


class Regressor(_Matrices, aft.AFTRegressor):
    def predict(self, X: Any) -> Any:
        return super().predict(as_texts(X))


CHECKED = [Classifier(**QUICK | {"steps": 2}), Regressor(**QUICK | {"steps": 2})]
CANNOT = {
    **dict.fromkeys(
        ("check_n_features_in_after_fitting", "check_n_features_in", "check_classifiers_train"),
        "texts have no number of features",
    ),
    "check_estimators_empty_data_messages": "texts have no number of features",
    "check_estimators_nan_inf": "`nan` and `inf` are words",
    "check_fit2d_predict1d": "the error asks for texts, not for a matrix",
    "check_fit2d_1sample": "the error is that no row can be held out for validation",
}
"""The checks of scikit-learn that cannot pass, and why."""


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aft.training.finish.bootstrap_intervals", lambda *_: {})
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(CHECKED, expected_failed_checks=lambda _: CANNOT)
def test_conventions_of_scikit_learn(estimator: Any, check: Callable[[Any], None]) -> None:
    check(estimator)


def names_of(estimator: Any) -> list[str]:
    """The name of each check that applies to an estimator."""
    checks = [check for _, check in estimator_checks_generator(estimator)]
    return [getattr(one, "func", one).__name__ for one in checks]


def test_the_docs_list_what_cannot_pass() -> None:
    text = DOCS.read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(check_\w+)` \| (.+) \|$", text, re.M))
    assert rows == CANNOT
    sentence = r"scikit-learn (\S+) has (\d+) checks for the classifier and (\d+) for"
    ((version, *counts),) = re.findall(sentence, " ".join(text.split()))
    for estimator, count in zip(CHECKED, map(int, counts), strict=True):
        names = names_of(estimator)
        if sklearn.__version__ == version:
            assert len(names) == count
        assert len([one for one in names if one not in CANNOT]) > 40


@pytest.mark.parametrize("kind", [aft.AFTClassifier, aft.AFTRegressor])
def test_parameters_are_the_options_of_train(kind: Any) -> None:
    parameters = inspect.signature(kind).parameters
    left = {"random_state"}
    for name, field in TrainConfig.model_fields.items():
        if name in estimators._SET_BY_FIT:
            assert name not in parameters
        elif name in estimators._DEFAULTS or name in ("student", "progress"):
            left.add(name)
        else:
            assert parameters[name].default == field.default, name
            left.add(name)
    assert set(parameters) == left
    made = kind("small:cnn", patience=3)
    assert made.get_params() == {n: one.default for n, one in parameters.items()} | {
        "student": "small:cnn",
        "patience": 3,
    }
    assert made.set_params(beta=2.0).beta == clone(made).beta == 2.0
    with pytest.raises(TypeError) as error:
        kind(stepz=3)
    assert says(error.value, "stepz", "steps")
    with pytest.raises(AftError, match="steps"):
        kind(steps="many").fit(TEXTS, WORDS if is_classifier(made) else range(60))
    with pytest.warns(SkipTestWarning):  # of estimators that take no matrices
        results = check_estimator(made)
    assert {one["status"] for one in results} == {"passed"}
    tags = get_tags(made)
    assert (
        tags.input_tags.string
        and not tags.input_tags.two_d_array
        and is_regressor(made) == (kind is aft.AFTRegressor)
    )


def test_a_classifier_is_the_student_of_train(tmp_path: Path) -> None:
    made = aft.AFTClassifier(**QUICK, random_state=3, num_workers=0).fit(TEXTS, WORDS)
    same = {**QUICK, "seed": 3, "num_workers": 0, "progress": False, "out": tmp_path / "run"}
    student = aft.train(data=(TEXTS, WORDS), **same).student()
    assert made.classes_.tolist() == list(student.task.names) == ["bad", "good"]
    found = made.predict_proba(TEXTS)
    assert np.array_equal(found, student.predict_proba(TEXTS))
    assert made.predict(TEXTS).tolist() == [one["label"] for one in student.predict(TEXTS)]
    assert made.score(TEXTS, WORDS) == np.mean(made.predict(TEXTS) == np.array(WORDS))
    assert made.summary_["metrics"].keys() >= {"accuracy"} and not hasattr(made, "n_features_in_")

    joblib.dump(made, tmp_path / "made.joblib")
    for copied in (
        pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(made)))),
        joblib.load(tmp_path / "made.joblib"),
        copy.deepcopy(made),
    ):
        assert np.array_equal(copied.predict_proba(TEXTS), found)
    made.student_.save(tmp_path / "student")
    assert np.array_equal(aft.load_student(tmp_path / "student").predict_proba(TEXTS), found)
    with pytest.raises(NotFittedError):
        clone(made).predict(TEXTS)


@pytest.mark.parametrize(
    ("classes", "names"),
    [
        ([10, 9], ["10", "9"]),
        (np.array([1.0, 0.0]), ["1", "0"]),
        ([True, False], ["True", "False"]),
        (["NA", "007"], ["NA", "007"]),
        (pandas.array(["yes", "no"], dtype="string"), ["yes", "no"]),
        (pandas.Categorical(["b", "a"]), ["b", "a"]),
    ],
)
def test_classes_of_every_kind(classes: Any, names: list[str]) -> None:
    y = pandas.Series(list(classes) * 30, dtype=getattr(classes, "dtype", None), name="y")
    made = aft.AFTClassifier(**QUICK).fit(pandas.Series(TEXTS), y)
    assert made.classes_.tolist() == sorted(classes)
    assert set(made.student_.task.names) == set(names)
    row = made.predict_proba(TEXTS[:1])[0]
    for one, name in zip(classes, names, strict=True):
        place = made.student_.task.names.index(name)
        wanted = made.student_.predict_proba(TEXTS[:1])[0, place]
        assert row[made.classes_.tolist().index(one)] == wanted
    assert made.predict(TEXTS[:1])[0] in list(classes)


def test_several_labels_and_targets() -> None:
    labels = np.array([[1, 0, 1], [0, 1, 0]] * 30)
    frame = pandas.DataFrame(labels, columns=["long", "bad", "good"])
    for y, names in ((labels, ("label_0", "label_1", "label_2")), (frame, tuple(frame))):
        made = aft.AFTClassifier(**QUICK).fit(TEXTS, y)
        assert made.student_.task.kind == "multilabel" and made.student_.task.names == names
        assert made.classes_.tolist() == [0, 1, 2] and made.predict_proba(TEXTS).shape == (60, 3)
        assert set(np.unique(made.predict(TEXTS))) <= {0, 1} and 0 <= made.score(TEXTS, y) <= 1
    targets = np.stack([np.linspace(0, 1, 60), np.linspace(5, 3, 60)], axis=1)
    for y, shape in ((targets, (60, 2)), (targets[:, :1], (60, 1)), (targets[:, 0], (60,))):
        several = aft.AFTRegressor(**QUICK).fit(TEXTS, y)
        assert several.predict(TEXTS).shape == shape and np.isfinite(several.score(TEXTS, y))
    price = pandas.Series(range(60), name="price")
    assert aft.AFTRegressor(**QUICK).fit(TEXTS, price).student_.task.names == ("price",)


def test_data_frames_have_feature_names() -> None:
    table = pandas.DataFrame({"text": TEXTS, "label": WORDS, "more": 1.0})
    made = aft.AFTClassifier(**QUICK).fit(table[["text", "more"]], table["label"])
    assert made.n_features_in_ == 2 and made.feature_names_in_.tolist() == ["text", "more"]
    assert np.array_equal(
        made.predict_proba(table[["text", "more"]]), made.student_.predict_proba(TEXTS)
    )
    with pytest.raises(ValueError, match="names"):
        made.predict(table[["more", "text"]])
    other = aft.AFTClassifier(**QUICK, text_column="review")
    other.fit(table[["text"]].rename(columns={"text": "review"}), WORDS)
    assert other.student_.columns[0].name == "review"
    with pytest.raises(DataError, match="label"):
        made.fit(table, table["label"])


def test_pictures(picture_folder: Callable[..., Path]) -> None:
    paths = sorted(picture_folder(train=8, test=0, size=16).glob("*/*/*.png"))
    images = [Image.open(path).convert("RGB") for path in paths]
    y = [path.parent.name for path in paths]
    made = aft.AFTClassifier("small:cnn-tiny?size=16", steps=2, device="cpu").fit(images, y)
    arrays = np.stack([np.asarray(image) for image in images])
    assert np.array_equal(made.predict_proba(images), made.predict_proba(arrays))
    assert not hasattr(made, "n_features_in_")
    found = pickle.loads(pickle.dumps(made)).predict_proba(paths)
    assert np.allclose(found, made.predict_proba(images))


def test_wrong_calls_are_refused() -> None:
    made = aft.AFTClassifier(**QUICK)
    for X, y, words in (
        (TEXTS, WORDS[:-1], ("60", "59")),
        (TEXTS, None, ("None",)),
        (TEXTS, np.linspace(0, 1, 60), ("continuous",)),
        (TEXTS, ["a ", "a"] * 30, ("'a '",)),
        (TEXTS, [["a", "b"], ["b"]] * 30, ("MultiLabelBinarizer",)),
        (np.zeros((60, 4)), WORDS, ("(60, 4)",)),
        (np.array(TEXTS, dtype=object)[:, None], WORDS, ("(60, 1)", "data frame")),
        ([*TEXTS[:-1], ""], WORDS, ("input[59]",)),
        (TEXTS, ["one"] * 60, ("one",)),
        ([], [], ("rows",)),
    ):
        with pytest.raises(ValueError, match=re.escape(words[0])) as error:
            made.fit(X, y)
        assert says(error.value, *words), X
        with pytest.raises(NotFittedError):
            made.predict(TEXTS)
    for y, word in ((["a"] * 60, "'a'"), (None, "None"), ([np.nan] * 60, "NaN")):
        with pytest.raises(ValueError, match=word):
            aft.AFTRegressor(**QUICK).fit(TEXTS, y)
    made.set_params(on_bad_input="skip").fit([*TEXTS, ""], [*WORDS, "bad"])
    with pytest.raises(DataError, match=r"input\[1\]"):
        made.predict(["a", ""])


def test_messages_are_shown_with_progress(capfd: pytest.CaptureFixture[str]) -> None:
    aft.AFTClassifier(**QUICK).fit(TEXTS, WORDS)
    assert capfd.readouterr() == ("", "")
    aft.AFTClassifier(**QUICK, progress=True).fit(TEXTS, WORDS)
    assert "small:static" in capfd.readouterr().err


def test_random_states() -> None:
    def fitted(state: Any) -> Any:
        return aft.AFTClassifier(**QUICK, random_state=state).fit(TEXTS, WORDS).predict_proba(TEXTS)

    drawn = fitted(np.random.RandomState(5))
    assert np.array_equal(drawn, fitted(np.random.RandomState(5)))
    assert np.array_equal(fitted(np.int64(0)), fitted(0)) and not np.array_equal(drawn, fitted(0))
    assert not np.array_equal(fitted(None), fitted(None))


COUNTED = """
import torch
from torch import nn


class Lengths(nn.Module):
    def forward(self, tokens):
        with open({file!r}, "a") as file:
            for row in dict.fromkeys(map(tuple, tokens.tolist())):  # small batches repeat rows
                file.write(f"{{[token for token in row if token >= 0]}}\\n")
        there = (tokens >= 0).float()
        return torch.stack([there.sum(1), (tokens.clamp(min=0) * there).sum(1)], 1)


def lengths():
    from aft import Tokenization
    from tokenizers import Tokenizer, models, pre_tokenizers
    tokenizer = Tokenizer(models.WordLevel({{w: i for i, w in enumerate({words!r})}}, "?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return Lengths(), Tokenization(tokenizer.to_str(), 16), 2
"""


def test_folds_share_the_features_of_the_teacher(tmp_path: Path) -> None:
    words = ["?", *sorted({word for text in TEXTS for word in text.replace(",", " ,").split()})]
    (tmp_path / "teacher.py").write_text(
        COUNTED.format(file=str(tmp_path / "seen"), words=words), encoding="utf-8"
    )
    made = aft.AFTClassifier(
        **QUICK,
        views="clean",
        teachers=f"python:{tmp_path / 'teacher.py'}:lengths",
        features=tmp_path / "features",
        num_workers=0,
    )
    with joblib.parallel_config("threading"):
        scores = cross_val_score(made, TEXTS, WORDS, cv=3, n_jobs=2)
    assert scores.shape == (3,)

    def rows() -> list[str]:
        """The rows that the teacher has seen, without the text that each extraction tries first."""
        lines = (tmp_path / "seen").read_text().splitlines()
        return [line for line in lines if line != lines[0]]

    seen = rows()
    assert len(seen) == len(set(seen)) >= 55  # the others were held out in every fold
    search = GridSearchCV(made, {"beta": [0.5, 1.0], "loss": ["aft"]}, cv=2).fit(TEXTS, WORDS)
    assert set(search.cv_results_["param_beta"]) == {0.5, 1.0}
    assert search.best_estimator_.summary_["teachers"][0]["dim"] == 2
    seen = rows()
    assert len(seen) == len(set(seen)) <= len(TEXTS)
    assert search.predict(TEXTS).shape == (60,)


def test_pipelines_and_scores() -> None:
    upper = [text.upper() for text in TEXTS]
    lower = FunctionTransformer(lambda texts: [text.lower() for text in texts])
    pipe = make_pipeline(lower, aft.AFTClassifier(**QUICK))
    assert np.array_equal(pipe.fit(TEXTS, WORDS).predict(upper), pipe.predict(TEXTS))
    pipe.set_params(aftclassifier__steps=2)
    table = pandas.DataFrame({"text": TEXTS})
    found = cross_val_predict(pipe[1:], table, WORDS, cv=3, method="predict_proba")
    assert found.shape == (60, 2)
    scores = cross_val_score(
        aft.AFTRegressor(**QUICK), np.array(TEXTS), np.arange(60.0), cv=3, scoring="r2"
    )
    assert np.isfinite(scores).all()
    losses = cross_val_score(pipe[1:], TEXTS, WORDS, cv=3, scoring="neg_log_loss")
    assert (losses < 0).all()


def test_a_column_split_holds_out_no_rows_unseen() -> None:
    table = pandas.DataFrame({"text": TEXTS, "Split": ["train", "train", "test", "test"] * 15})
    with pytest.raises(DataError):
        aft.AFTClassifier("small:static?dim=8", steps=1).fit(table, WORDS)
    options = {"steps": 1, "split_column": "Split"}
    made = aft.AFTClassifier("small:static?dim=8", **options).fit(table, WORDS)
    assert made.summary_["rows"]["test"] == 30
