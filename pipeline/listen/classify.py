"""Audio classifiers as listeners: an emotion of the whole recording, speaker turns, activity.

A classifier of utterances names its most probable class, or, if its classes do not exclude each
other, every one that is probable enough, separated by semicolons: names hold commas. A classifier
of frames names what is on from when to when.

Shapes: B recordings, N frames of all, F of one, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_models.encoders.load import encoder_shape, load_audio_encoder
from audio_models.frames import FrameOutputs
from audio_models.waveforms import window_edges
from cache_schema.commands.console import printable
from cache_schema.errors import AudioError, UsageError, nearest
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray, Heard, Segment
from pipeline.describe.timed import timed_lines
from pipeline.listen.base import Hearing
from pipeline.listen.classes import check_labels, settle_multi_label
from pipeline.textualize_recipe import ListenRecipe

THRESHOLD = 0.5
MIN_S = 0.2
"""About a syllable: what is shorter is more often a classifier's doubt than an event."""

_ROUNDING_S = 1e-4
"""Frames end at multiples of 20 ms, which 32 bits hold to within this."""


def settle(column: str, listener: ListenRecipe) -> dict[str, Any]:
    """Return what a text depends on besides the model.

    Returns:
        JSON values: ``labels`` (the classes in the model's order), ``multi_label``, ``ignore``,
        ``of`` (``utterance`` or ``frames``), and where they count ``threshold``, ``min_s`` and
        ``chunk_s``.

    Raises:
        ModelError: the model cannot be read as a classifier, or its classes have no names of
            their own.
        UsageError: a setting does not go with this model, or ``multi_label`` must be given.
    """
    where = f"textualize.listen.{column}"
    listener.refuse_given(where, ("prompt", "language", "task", "max_new_tokens"), "a classifier")
    shape = encoder_shape(listener.model)
    labels = shape.utterance_labels or shape.frame_labels
    check_labels(labels, listener.model, where)
    multi_label = settle_multi_label(listener.model, shape, listener.multi_label, where)
    for label in listener.ignore:
        if label not in labels:
            raise UsageError(
                f"{where}: ignore names {label!r}, which {listener.model} does not tell"
                f"{nearest(label, labels)} (its classes: {printable(', '.join(labels))})"
            )
    settled: dict[str, Any] = {
        "of": "utterance" if shape.utterance_labels else "frames",
        "labels": list(labels),
        "multi_label": multi_label,
        "ignore": sorted(set(listener.ignore)),
    }
    if shape.utterance_labels:
        listener.refuse_given(where, ("min_s", "chunk_s"), "a classifier of whole recordings")
        if not multi_label:
            listener.refuse_given(where, ("threshold",), "a classifier that tells one class of all")
            return settled
    settled["threshold"] = THRESHOLD if listener.threshold is None else listener.threshold
    if shape.frame_labels:
        settled["min_s"] = float(MIN_S if listener.min_s is None else listener.min_s)
        settled["long_audio"] = "equal windows"
        settled["chunk_s"] = float(listener.chunk_s)
    return settled


class ClassifyListener:
    """A ``Listener``.

    Args:
        model: directory or hub id.
        dtype: what to compute in.
        device: ``auto`` or a torch device.
        settled: what ``settle`` returned.

    Raises:
        ModelError: it cannot be loaded.
    """

    def __init__(self, model: str, dtype: str, device: str, settled: Mapping[str, Any]) -> None:
        self._model = load_audio_encoder(model, dtype, device)
        self._settled = settled

    def hear(self, audios: Sequence[FloatArray]) -> list[Hearing]:
        """Classify a batch; see ``Listener``.

        Raises:
            AudioError: a recording is too short, or longer than a classifier of whole ones hears.
            ArithmeticError: the model gives no finite numbers.
        """
        if self._settled["of"] == "utterance":
            self._refuse_long(audios)
            found = [self._utterance(probabilities) for probabilities, _ in self._run(audios)]
        else:
            found = self._frames(audios)
        return [Hearing(heard=heard, is_cut=False) for heard in found]

    def _refuse_long(self, audios: Sequence[FloatArray]) -> None:
        for audio in audios:
            seconds = len(audio) / SAMPLE_RATE_HZ
            if seconds > self._model.max_audio_s:
                raise AudioError(
                    f"{seconds:.1f} s of audio, and {self._model.path} judges a whole recording of "
                    f"at most {self._model.max_audio_s:g} s, which cannot be put together from "
                    "pieces"
                )

    def _utterance(self, probabilities_1C: NDArray[np.float32]) -> Heard:
        probabilities_C = probabilities_1C[0]
        order = np.argsort(-probabilities_C, kind="stable")
        if self._settled["multi_label"]:
            order = order[probabilities_C[order] >= self._settled["threshold"]]
        else:
            order = order[:1]
        told = [self._settled["labels"][number] for number in order]
        return Heard(text="; ".join(_one_line(label) for label in told if self._is_told(label)))

    def _is_told(self, label: str) -> bool:
        return label not in self._settled["ignore"]

    def _frames(self, audios: Sequence[FloatArray]) -> list[Heard]:
        """Hear recordings in equal windows, and read the windows of each as one."""
        window_s = min(self._model.max_audio_s, self._settled["chunk_s"] or math.inf)
        many = [window_edges(len(audio), window_s) for audio in audios]
        windows = [
            audio[start:end]
            for audio, edges in zip(audios, many, strict=True)
            for start, end in pairwise(edges)
        ]
        size = len(audios)
        heard = iter(
            [
                one
                for at in range(0, len(windows), size)
                for one in self._run(windows[at : at + size])
            ]
        )
        found = []
        for edges in many:
            parts = [(*next(heard), start / SAMPLE_RATE_HZ) for start in edges[:-1]]
            probabilities_FC = np.concatenate([probabilities for probabilities, _, _ in parts])
            times_s = np.concatenate([times + start_s for _, times, start_s in parts])
            found.append(self._turns(probabilities_FC, times_s))
        return found

    def _turns(self, probabilities_FC: NDArray[np.float32], times_s: NDArray[Any]) -> Heard:
        is_on_FC = probabilities_FC >= self._settled["threshold"]
        segments = sorted(
            (
                Segment(start_s=start_s, end_s=end_s, text=_one_line(label))
                for number, label in enumerate(self._settled["labels"])
                if self._is_told(label)
                for start_s, end_s in spans(is_on_FC[:, number], times_s, self._settled["min_s"])
            ),
            key=lambda segment: (segment.start_s, segment.end_s),
        )
        entries = [
            {"start": segment.start_s, "end": segment.end_s, "text": segment.text}
            for segment in segments
        ]
        return Heard(
            text="\n".join(timed_lines(entries, "heard", tenths=True)), segments=tuple(segments)
        )

    def _run(
        self, audios: Sequence[FloatArray]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """Return each recording's probabilities, [1, C] or [F, C], and its frames' times [F, 2].

        Recordings that would hear the padding beside them are run with those of their length.
        """
        found: list[Any] = [None] * len(audios)
        order = sorted(range(len(audios)), key=lambda index: len(audios[index]))
        lengths = groupby(order, key=lambda index: 0 if self._model.may_pad else len(audios[index]))
        for _, group in lengths:
            together = list(group)
            ran = self._run_together([audios[index] for index in together])
            for index, one in zip(together, ran, strict=True):
                found[index] = one
        return found

    @torch.inference_mode()
    def _run_together(
        self, audios: Sequence[FloatArray]
    ) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
        batch = self._model.build(audios)
        probabilities = self._probabilities(self._model.forward(batch.to(self._model.device), ()))
        of_utterance = self._settled["of"] == "utterance"
        counts = [1] * len(audios) if of_utterance else batch.num_frames
        parts = np.split(probabilities, np.cumsum(counts)[:-1])
        return list(zip(parts, batch.times_s, strict=True))

    def _probabilities(self, outputs: FrameOutputs) -> NDArray[np.float32]:
        logits = outputs.utterance_logits_BC
        if logits is None:
            logits = outputs.frame_logits_NC
        assert logits is not None, "the configuration has a head"
        logits = logits.float()
        if not bool(torch.isfinite(logits).all()):
            raise ArithmeticError("the classifier gives NaN or infinite logits")
        chosen: Tensor = logits.sigmoid() if self._settled["multi_label"] else logits.softmax(-1)
        return np.asarray(chosen.cpu().numpy(), dtype=np.float32)


def _one_line(label: str) -> str:
    return " ".join(label.split())


def spans(
    is_on: NDArray[np.bool_], times_s: NDArray[Any], min_s: float
) -> list[tuple[float, float]]:
    """Return start and end in seconds of each run of frames that are on.

    Gaps shorter than ``min_s`` are closed first, and runs that are shorter then are left out.

    Args:
        is_on: bool [F].
        times_s: [F, 2], start and end of each frame, ascending.
        min_s: in seconds.
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], is_on, [False]])))
    found: list[tuple[float, float]] = []
    for first, behind in edges.reshape(-1, 2).tolist():
        start_s, end_s = float(times_s[first, 0]), float(times_s[behind - 1, 1])
        if found and start_s - found[-1][1] < min_s - _ROUNDING_S:
            found[-1] = (found[-1][0], end_s)
        else:
            found.append((start_s, end_s))
    kept = [(start_s, end_s) for start_s, end_s in found if end_s - start_s >= min_s - _ROUNDING_S]
    return [(round(start_s, 3), round(end_s, 3)) for start_s, end_s in kept]
