"""Evaluations on disk without a model: a tape of tones, made-up responses, real rules."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cache_schema.codecs.pcm import audio_sha256
from cache_schema.maker import GroupInfo
from cache_schema.rows.values import sample_rows
from cache_schema.types import Sample
from cache_schema.writer import TapeWriter
from train.evaluate.benchmarks import BENCHMARKS, item_of
from train.evaluate.directory import FORMAT, EvaluationDir, write_about
from train.evaluate.outcome import judge
from train.evaluate.responses import rewrite
from train.evaluate.types import Item, Response

EMOTIONS = ("anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise")
WORDS = ("one", "two", "three", "four", "five", "six", "old", "man", "walked", "over", "hills")
MakeAudio = Callable[[int], np.ndarray]


def tone(index: int, duration_s: float = 0.3) -> np.ndarray:
    times_s = np.arange(int(16_000 * duration_s)) / 16_000
    return (0.3 * np.sin(2 * np.pi * (220 + 30 * (index % 20)) * times_s)).astype(np.float32)


def sample(benchmark: str, index: int, audio: np.ndarray) -> Sample:
    """A question of a benchmark's kind, a third each of sound, music and speech."""
    draw = random.Random(f"{benchmark} {index}")
    metadata: dict[str, Any] = {
        "task": ("sound", "music", "speech")[index % 3],
        "difficulty": ("easy", "medium", "hard")[index % 5 % 3],
        "category": ("counting", "order of events", "source", "speaker")[index % 4],
        "sentiment": ("positive", "neutral", "negative")[index % 3],
        "language": "en",
    }
    if benchmark == "asr":
        question, choices = "Transcribe the speech.", ()
        answer = " ".join(draw.choices(WORDS, k=draw.randint(4, 14)))
    elif benchmark == "meld":
        question, choices = "Which emotion does the speaker show?", EMOTIONS
        answer = draw.choices(EMOTIONS, weights=(3, 1, 1, 4, 9, 2, 3))[0]
    else:
        question = f"How many tones are there, and which comes last in recording {index}?"
        choices = ("a dog barks twice", "a bell", "rain on a roof", "a train passes")
        answer = draw.choice(choices)
    return Sample(
        sample_id=f"{benchmark}-{index:04d}",
        row_index=index,
        audio=audio,
        question=question,
        choices=choices,
        answer=answer,
        metadata=metadata,
    )


def response(item: Item, skill: float, seed: int) -> Response:
    """Right with a chance of about ``skill``; now and then cut, failed, or without an answer."""
    hard = random.Random(f"{item.sample_id} hard").random()
    draw = random.Random(f"{item.sample_id} {seed} {skill}")
    tokens = int(draw.lognormvariate(4.6, 0.7)) + 5
    trace = "First I listen to what is there. " * (tokens // 8 + 1)
    made = Response(sample_id=item.sample_id, text="", num_tokens=tokens, finish="stop")
    fate = draw.random()
    if fate < 0.02:
        return replace(made, finish="error", num_tokens=0, error="out of memory")
    if fate < 0.06 or tokens > 512:
        return replace(made, text=f"<think>{trace}", trace=trace, num_tokens=512, finish="length")
    if fate < 0.09:
        return replace(made, text="I am not sure.")
    right = 0.6 * hard + 0.4 * draw.random() < skill
    answer = item.answer if right else draw.choice(item.choices or ("nothing was said",))
    if not item.choices:
        words = item.answer.split()
        kept = [word if draw.random() < skill else draw.choice(WORDS) for word in words]
        answer = " ".join(kept)
    text = f"<think>{trace}</think>{answer}"
    return replace(made, text=text, trace=trace, answer=answer)


def write_tape(root: Path, samples: Sequence[Sample]) -> Path:
    with TapeWriter(root, GroupInfo(group="samples", kind="samples")) as writer:
        for one in samples:
            assert one.audio is not None
            writer.add(sample_rows(one, audio_sha256(one.audio), len(one.audio)))
    return root


def write_evaluation(
    root: Path,
    benchmark: str = "mmau",
    count: int = 24,
    *,
    skill: float = 0.6,
    seed: int = 0,
    model: str = "students/tiny",
    changes: Mapping[int, Mapping[str, Any]] | None = None,
    audio: MakeAudio = tone,
    tape: bool = True,
) -> Path:
    """Write an evaluation as the command does; ``changes`` replace fields of responses."""
    samples = [sample(benchmark, index, audio(index)) for index in range(count)]
    items = [item_of(one, BENCHMARKS[benchmark]) for one in samples]
    responses = [
        replace(response(item, skill, seed), **(changes or {}).get(index, {}))
        for index, item in enumerate(items)
    ]
    place = EvaluationDir(root=root)
    root.mkdir(parents=True)
    if tape:
        write_tape(place.data, samples)
    about = {
        "format": FORMAT,
        "version": 1,
        "benchmark": benchmark,
        "ability": BENCHMARKS[benchmark].ability,
        "model": model,
        "model_digest": "sha256:" + "5e" * 32,
        "endpoint": "",
        "dtype": "auto",
        "data": str(root / "gone.json"),
        "limit": 0,
        "instruction": "",
        "decoding": {"max_new_tokens": 512, "temperature": 0.0, "top_p": 1.0, "seed": seed},
        "started": "2026-01-01T10:00:00+00:00",
        "items": count,
        "unreadable": 0,
        "versions": {"python": "3.11.9", "teachertape": "0.1.0"},
    }
    write_about(place, about)
    rewrite(place.responses, responses)
    judge(place, BENCHMARKS[benchmark], items, responses)
    return root


def write_run(root: Path, steps: int = 80, held_every: int = 20) -> Path:
    """Write the metrics of a training run with one term, 3 / step."""
    root.mkdir()
    lines = []
    for step in range(1, steps + 1):
        terms = {"ce": {"value": 3 / step, "weight": 1.0, "count": 9}}
        lines.append({"step": step, "loss": 3 / step, "terms": terms})
        if held_every and step % held_every == 0:
            lines.append({**lines[-1], "kind": "held_out"})
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root
