"""Names of the classes that a listener tells: told apart, quoted, and exclusive or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_audio_encoders as tiny
from heard_classes import heard, planned, reference, save

from cache_schema.errors import ModelError, UsageError
from cache_schema.types import Heard
from pipeline.listen.classify import settle
from pipeline.textualize_recipe import ListenRecipe


@pytest.mark.parametrize("family", ["wav2vec2", "wavlm-large", "whisper"])
def test_the_most_probable_class(family: str, tmp_path: Path) -> None:
    name = "ForAudioClassification" if family == "whisper" else "ForSequenceClassification"
    model = save(tmp_path, family, name)
    audios = tiny.recordings(0.7, 2.0, 1.3, 0.7)
    kind = tiny.FAMILIES[family][0] + name
    best = [int(reference(model, kind, audio).argmax()) for audio in audios]
    one = planned(model)
    assert one.kind == "classify"
    found = heard(model, audios)
    assert found == [Heard(text=tiny.LABELS[number]) for number in best]
    assert heard(model, audios[::-1]) == found[::-1]
    assert [heard(model, [audio])[0] for audio in audios] == found


def test_an_x_vector_classifier(tmp_path: Path) -> None:
    model = save(tmp_path, "wavlm", "ForXVector")
    audios = tiny.recordings(1.0, 2.0)
    found = heard(model, audios)
    assert {one.text for one in found} <= set(tiny.LABELS)
    assert heard(model, audios[::-1]) == found[::-1]


def test_classes_that_do_not_exclude_each_other(tmp_path: Path) -> None:
    """Every one that is probable enough, most probable first; sigmoid(1) = 0.73."""
    several = {"problem_type": "multi_label_classification"}
    model = save(tmp_path, "wav2vec2", "ForSequenceClassification", [1.0, -1.0, 2.0], **several)
    audios = tiny.recordings(0.5)
    for settings, text in (
        ({}, "sad; angry"),
        ({"threshold": 0.8}, "sad"),
        ({"threshold": 0.1}, "sad; angry; glad"),
        ({"threshold": 0.95}, ""),
        ({"ignore": ("sad",)}, "angry"),
    ):
        assert heard(model, audios, **settings) == [Heard(text=text)]


def relabelled(path: Path, labels: list[str], **settings: Any) -> Path:
    """Save a classifier of recordings of which only the configuration is read."""
    tiny.save_encoder(path, "wav2vec2", "ForSequenceClassification")
    config = json.loads((path / "config.json").read_text())
    config["id2label"] = dict(enumerate(labels))
    config["label2id"] = {label: number for number, label in enumerate(labels)}
    (path / "config.json").write_text(json.dumps({**config, **settings}))
    return path


@pytest.mark.parametrize("labels", [["a", "b", "a"], ["a", "\ud83d", "b"], ["a", " ", "b"]])
def test_classes_that_cannot_be_told_apart(labels: list[str], tmp_path: Path) -> None:
    model = relabelled(tmp_path, labels)
    with pytest.raises(ModelError, match=r"different names in its config\.json \(id2label\)"):
        settle("heard", ListenRecipe(model=str(model)))


def test_names_with_commas_and_line_ends(tmp_path: Path) -> None:
    several = {"problem_type": "multi_label_classification"}
    save(tmp_path, "wav2vec2", "ForSequenceClassification", [1.0, -1.0, 2.0], **several)
    config = json.loads((tmp_path / "config.json").read_text())
    names = ["Male speech, man\n speaking", "Dog", "Music"]
    config["id2label"] = dict(enumerate(names))
    config["label2id"] = {label: number for number, label in enumerate(names)}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert heard(tmp_path, tiny.recordings(0.5)) == [Heard(text="Music; Male speech, man speaking")]


def test_many_classes_of_which_nobody_says_whether_they_exclude_each_other(tmp_path: Path) -> None:
    model = relabelled(tmp_path, [f"sound {number}" for number in range(101)])
    with pytest.raises(UsageError, match=r"--set textualize\.listen\.heard\.multi_label=true"):
        settle("heard", ListenRecipe(model=str(model)))
    for asked in (True, False):
        settled = settle("heard", ListenRecipe(model=str(model), multi_label=asked))
        assert settled["multi_label"] is asked
    config = json.loads((model / "config.json").read_text())
    config["problem_type"] = "multi_label_classification"
    (model / "config.json").write_text(json.dumps(config))
    assert settle("heard", ListenRecipe(model=str(model)))["multi_label"] is True
