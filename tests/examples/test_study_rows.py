import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from datasets import Dataset

from examples.quickstart import other_sources
from examples.quickstart.recordings import RecordingsError
from examples.quickstart.world import Voices
from examples.study import speech
from examples.study.__main__ import parse_arguments
from examples.study.hearing_questions import HEARING
from examples.study.questions import REASONING
from examples.study.rows import (
    HEARD_LEVEL,
    draw_rows,
    read_rows,
    speak,
    split_compositions,
    write_rows,
)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_sets_of_numbers_are_in_one_part_alone(seed):
    parts = split_compositions(seed)
    assert sum(map(len, parts.values())) == 10**2 + 10**3
    sets = {name: {tuple(sorted(n)) for n in numbers} for name, numbers in parts.items()}
    assert not sets["train"] & sets["test"]
    assert not sets["train"] & sets["dev"]
    assert not sets["dev"] & sets["test"]
    assert 0.15 < len(parts["test"]) / 1100 < 0.25
    assert {len(n) for n in parts["test"]} == {len(n) for n in parts["dev"]} == {2, 3}


def test_voices_and_takes_are_split(digit_folder):
    found = speech.load("fsdd", digit_folder, print)
    assert found.speakers == ("ann", "bob")
    by_split = {name: {r.speaker for r in part.recordings} for name, part in found.sets.items()}
    assert by_split == {
        "train": {"ann", "bob"},
        "dev": {"ann", "bob"},
        "test": {"ann", "bob"},
        "unseen": {"cid", "dan"},
    }
    waves = {name: {r.wave.tobytes() for r in part.recordings} for name, part in found.sets.items()}
    assert not waves["train"] & waves["test"]
    assert not waves["train"] & waves["dev"]
    assert not waves["dev"] & waves["test"]
    assert speech.load("fsdd", digit_folder / "recordings", print).speakers == found.speakers


def test_the_hub_has_the_recordings_of_the_folder(digit_folder, tmp_path, monkeypatch, capsys):
    """A data set as the hub keeps it, in two splits, loaded as from there."""
    files = sorted((digit_folder / "recordings").glob("*.wav"), reverse=True)
    for split, part in (("train", files[::2]), ("test", files[1::2])):
        audio = [{"bytes": file.read_bytes(), "path": file.name} for file in part]
        rows = Dataset.from_dict({"audio": audio, "label": [int(f.name[0]) for f in part]})
        rows.to_parquet(tmp_path / f"{split}.parquet")
    monkeypatch.setattr(other_sources, "HUB_DATASET", str(tmp_path))
    ours, theirs = (speech.load("fsdd", where, print) for where in (digit_folder, Path("hub")))
    assert "asking the hub" in capsys.readouterr().out
    for name, part in ours.sets.items():
        for one, other in zip(part.recordings, theirs.sets[name].recordings, strict=True):
            assert (one.number, one.speaker) == (other.number, other.speaker)
            assert one.wave.tobytes() == other.wave.tobytes()


def test_folders_that_will_not_do(tmp_path, digit_folder):
    with pytest.raises(RecordingsError, match="--fsdd is needed"):
        speech.load("fsdd", None, print)
    with pytest.raises(RecordingsError, match="NUMBER_SPEAKER_TAKE"):
        speech.load("fsdd", tmp_path, print)
    for path in (digit_folder / "recordings").glob("*_ann_*.wav"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(RecordingsError, match="found 1"):
        speech.load("fsdd", tmp_path, print)


@pytest.fixture
def drawn(tones):
    compositions = split_compositions(0)["train"]
    kinds = [*REASONING, *HEARING]
    return draw_rows("row", kinds, compositions, tones, ("high",), 90, np.random.default_rng(0))


def test_rows_come_back_as_they_were_written(tones, drawn, tmp_path):
    voices = Voices(tones)
    rng = np.random.default_rng(0)
    path = write_rows(tmp_path, "some", drawn[:12], lambda _: voices, True, rng)
    assert read_rows(path) == drawn[:12]
    for line in path.read_text().splitlines():
        values = json.loads(line)
        wave, rate_hz = soundfile.read(tmp_path / values["audio"])
        assert rate_hz == 16_000
        assert 0.2 < len(wave) / rate_hz < 5


def test_answers_of_yes_and_no_are_balanced(tones):
    compositions = split_compositions(0)["train"]
    for kind in ("sum parity", "rising"):
        rng = np.random.default_rng(0)
        rows = draw_rows("row", [kind], compositions, tones, ("high",), 400, rng)
        assert 0.4 < sum(row.answer == "yes" for row in rows) / 400 < 0.6


def test_unseen_voices_are_named(drawn):
    assert {(row.voices, row.heard.speaker) for row in drawn} == {
        ("seen", "high"),
        ("unseen", "low"),
    }


def test_every_clip_is_as_loud(tones, drawn):
    voices, rng = Voices(tones), np.random.default_rng(0)
    for row in drawn[:10]:
        for varied in (False, True):
            wave = speak(row.heard, row.language, voices, varied, rng).wave
            assert wave.dtype == np.float32
            # clipping at 1 takes a little away where peaks are twelve times the mean
            assert np.sqrt(np.mean(np.square(wave))) == pytest.approx(HEARD_LEVEL, rel=0.02)


def test_the_command():
    given = parse_arguments(["--fsdd", "there", "--seeds", "0,1,2"])
    assert (given.size, given.world, given.threads, given.fresh) == ("small", "fsdd", 2, False)
