"""Whether a recording is all there, told by what its container says of itself."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from encoded_audio import encoded, sound, streamed_wav, without_first_frame
from torchaudio.functional import resample as resample_by_torchaudio
from typer.testing import CliRunner

from cache_schema import open_tape
from cache_schema.codecs.pcm import audio_sha256
from cache_schema.errors import AudioError
from cache_schema.maker import GroupInfo
from pipeline.audio import encoded as encoded_module
from pipeline.audio.encoded import decode_file
from pipeline.audio.mp3_frames import measure_mp3
from pipeline.audio.recordings import load_audio
from pipeline.audio.resample import resample
from pipeline.cli import app
from pipeline.dataset.rows import open_rows
from pipeline.ingest import _as_recorded
from pipeline.listen.recordings import Recordings
from pipeline.recipe import DatasetRecipe


def mp3(rate_hz: int, mode: str, quiet_first: bool = False) -> bytes:
    wave = np.random.default_rng(0).normal(0, 0.2, 4 * rate_hz)
    if quiet_first:
        wave[: 2 * rate_hz] = 0
    buffer = io.BytesIO()
    with soundfile.SoundFile(
        buffer, "w", rate_hz, 1, format="MP3", bitrate_mode=mode, compression_level=0.5
    ) as file:
        file.write(wave)
    return buffer.getvalue()


def cover_art(num_bytes: int) -> bytes:
    size = bytes(num_bytes >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\0\0" + size + bytes(num_bytes)


@pytest.mark.parametrize("rate_hz", [22_050, 44_100])
@pytest.mark.parametrize(("mode", "quiet"), [("CONSTANT", False), ("VARIABLE", True)])
def test_an_mp3_without_a_header_is_not_cut_off(rate_hz: int, mode: str, quiet: bool) -> None:
    """libsndfile then guesses its length from the size of the file, cover art and all."""
    whole = mp3(rate_hz, mode, quiet)
    assert measure_mp3(whole).told == measure_mp3(whole).samples
    bare = without_first_frame(whole)
    assert measure_mp3(bare).told is None
    for data in (bare, cover_art(300_000) + bare, cover_art(5_000) + bare + b"TAG" + bytes(125)):
        seconds = load_audio(data, None).size / 16_000
        assert seconds == pytest.approx(measure_mp3(bare).samples / rate_hz, abs=1e-3)
    for data in (whole[:-1_000], cover_art(5_000) + whole[: len(whole) // 2]):
        with pytest.raises(AudioError, match="is cut off or damaged: it should have"):
            load_audio(data, None)


def test_a_vbri_header_tells_the_length() -> None:
    bare = without_first_frame(mp3(16_000, "CONSTANT"))
    samples = measure_mp3(bare).samples
    head = bare[: 4 + 32] + b"VBRI" + bytes(10) + (samples // 576).to_bytes(4, "big")
    first = head + bytes(len(bare) - len(without_first_frame(bare)) - len(head))
    assert measure_mp3(first + bare).told == measure_mp3(first + bare).samples == samples
    load_audio(first + bare, None)
    with pytest.raises(AudioError, match="it should have"):
        load_audio(first + bare[: len(bare) // 2], None)


def test_padding_of_an_mp3_costs_no_search() -> None:
    """Every byte of it looks like the first of a frame."""
    assert measure_mp3(b"\xff" * 20_000_000).samples == 0


def pages_of(ogg: bytes) -> list[bytes]:
    pages = []
    at = 0
    while at < len(ogg):
        count = ogg[at + 26]
        end = at + 27 + count + sum(ogg[at + 27 : at + 27 + count])
        pages.append(ogg[at:end])
        at = end
    return pages


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_the_pages_of_an_ogg_file(subtype: str, tmp_path: Path) -> None:
    if subtype not in soundfile.available_subtypes("OGG"):
        pytest.skip("this libsndfile has no Opus")
    whole = encoded(sound(16_000, 20.0), 16_000, "OGG", subtype)
    pages = pages_of(whole)
    other = encoded(sound(16_000), 16_000, "OGG", subtype)
    assert len(pages) > 6
    assert load_audio(whole + b"TAG" + bytes(125), None).size == pytest.approx(320_000, abs=1)
    picture = b"OggS\0\2" + bytes(8) + b"pict" + bytes(8) + b"\1\x08fishead\0"
    load_audio(pages[0] + picture + b"".join(pages[1:]), None)
    for data, why in (
        (b"".join(pages[:-1]), "no last page"),
        (b"".join(pages[: len(pages) // 2]), "no last page"),
        (b"".join(pages[:4] + pages[5:]), "page 5 follows page 3"),
        (whole[:-1], "its last page is not all there"),
        (whole + other, "a second stream of sound"),
        (whole + whole, "a second stream of sound"),
    ):
        (tmp_path / "a.ogg").write_bytes(data)
        with pytest.raises(AudioError, match=rf"a\.ogg is cut off or damaged: .*{why}"):
            load_audio("a.ogg", tmp_path)
        assert load_audio("a.ogg", tmp_path, whole=False).size


@pytest.mark.parametrize(("num_samples", "subtype"), [(100, "PCM_16"), (48_001, "PCM_24")])
def test_a_flac_that_was_written_into_a_pipe(
    num_samples: int, subtype: str, tmp_path: Path
) -> None:
    """Its header counts no samples; its last frame tells how many there are."""
    wave = np.random.default_rng(0).normal(0, 0.1, (num_samples, 2))
    whole = encoded(wave, 16_000, "FLAC", subtype)
    piped = bytearray(whole)
    piped[21] &= 0xF0
    piped[22:26] = bytes(4)
    for data in (bytes(piped), bytes(piped) + b"TAG" + bytes(125)):
        np.testing.assert_array_equal(decode_file(data, "x")[0], decode_file(whole, "x")[0])
    (tmp_path / "a.flac").write_bytes(piped[: len(piped) // 2])
    with pytest.raises(AudioError, match=r"a\.flac: .* does not end with a whole frame"):
        load_audio("a.flac", tmp_path)


def test_a_header_that_tells_of_too_much_names_its_file(tmp_path: Path) -> None:
    flac = bytearray(encoded(sound(16_000), 16_000, "FLAC", "PCM_16"))
    flac[21] |= 0x0F
    flac[22:26] = b"\xff" * 4
    (tmp_path / "a.flac").write_bytes(flac)
    with pytest.raises(AudioError, match=r"a\.flac"):
        load_audio("a.flac", tmp_path)


@pytest.mark.parametrize("declared", [0x40000000, 0x7FFEFFFF, 0x7FFFF000, 0x80000000])
def test_lengths_that_programs_write_into_a_pipe(declared: int) -> None:
    assert load_audio(streamed_wav(declared), None).size == 24_000
    with pytest.raises(AudioError, match="should have"):
        load_audio(streamed_wav(0x3FFFFFFF), None)


@pytest.mark.parametrize("rate_hz", [1_234, 22_255, 44_056])
def test_odd_rates_have_the_bits_of_torchaudio(rate_hz: int) -> None:
    """Hashes on older tapes were made of them."""
    wave = sound(rate_hz)
    theirs = resample_by_torchaudio(torch.from_numpy(wave), rate_hz, 16_000).numpy()
    assert audio_sha256(resample(wave, rate_hz)) == audio_sha256(theirs)


def test_a_reference_to_what_was_taken_before_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older software took what was cut off; the hash on the tape tells that it is the same."""
    whole = encoded(sound(22_255), 22_255, "WAV", "PCM_16")
    (tmp_path / "cut.wav").write_bytes(whole[:-5_000])
    rows = [{"id": "a", "audio": "cut.wav", "question": "?"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = ["--dataset", str(tmp_path / "rows.jsonl"), "--out", str(tmp_path / "t")]
    with monkeypatch.context() as patched:
        patched.setattr(encoded_module, "_missing", lambda source, decoded: "")
        done = CliRunner().invoke(app, ["ingest", *told, "--audio", "reference"])
    assert done.exit_code == 0, done.stderr
    tape = open_tape(tmp_path / "t")
    recordings = Recordings(tape, DatasetRecipe(path=str(tmp_path / "rows.jsonl")))
    for row in tape:
        assert len(recordings.read(row)) == row.num_audio_samples
    with pytest.raises(AudioError, match="cut off"):
        load_audio("cut.wav", tmp_path)


def test_recordings_within_structures_stay_encoded(tmp_path: Path) -> None:
    """In a column that nobody asked for, too: `datasets` would need a decoder of its own."""
    clip = {"bytes": encoded(sound(16_000), 16_000, "WAV", "PCM_16"), "path": None}
    features = datasets.Features(
        {
            "audio": datasets.Audio(),
            "question": datasets.Value("string"),
            "extra": {"clip": datasets.Audio(), "note": datasets.Value("string")},
            "two": datasets.List(datasets.Audio(), length=2),
        }
    )
    stored = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}
    as_stored = datasets.Features(
        {
            **features,
            "audio": stored,
            "extra": {**features["extra"], "clip": stored},
            "two": datasets.List(stored, length=2),
        }
    )
    row = {
        "audio": clip,
        "question": "?",
        "extra": {"clip": clip, "note": "hi"},
        "two": [clip, clip],
    }
    made = datasets.Dataset.from_list([row], features=as_stored).cast(features)
    made.save_to_disk(str(tmp_path / "saved"))
    opened = open_rows(DatasetRecipe(path=str(tmp_path / "saved")))
    sample = opened.sample(0)
    assert sample.audio is not None
    assert len(sample.audio) == 24_000
    assert sample.metadata["extra"]["note"] == "hi"


def test_a_split_that_is_not_named_is_the_one_that_is_read(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", sound(16_000), 16_000)
    (tmp_path / "rows.csv").write_text("audio,question\na.wav,?\n")

    def ingested(out: str, *settings: str) -> str:
        told = ["--dataset", str(tmp_path / "rows.csv"), "--out", str(tmp_path / out)]
        done = CliRunner().invoke(app, ["ingest", *told, *settings])
        assert done.exit_code == 0, done.stderr
        return open_tape(tmp_path / out).groups["samples"].fingerprint

    assert ingested("plain") == ingested("named", "--split", "train")
    offered = GroupInfo(group="samples", kind="samples", identity={"split": "train", "a": 1})
    older = replace(offered, identity={"split": "", "a": 1})
    assert _as_recorded(older, offered, "") == older
    assert _as_recorded(older, offered, "train") == offered
    assert _as_recorded(offered, offered, "") == offered
