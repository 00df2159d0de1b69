"""The acoustic teacher as an encoder, a classifier or an audio tower: frames, and what heads say.

Shapes: F frames of a recording, N frames of a pass, B pieces of a pass, C classes, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audio_models.frames import FrameBatch, FrameModel, FrameOutputs
from audio_models.waveforms import window_edges
from cache_schema.errors import AudioError
from cache_schema.rows.classes import embedding_row, frame_logits_row, utterance_logits_row
from cache_schema.rows.values import hidden_row
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray, IntArray
from pipeline.teachers.acoustic import Item, Rows, Told
from pipeline.teachers.offload import Offload, pinned_for
from pipeline.token_rows import Recorded

HEAD, MEAN, NONE = "head", "mean", "none"
"""Where a pooled embedding comes from: a classifier's head, or the mean over the frames."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """Inputs of one pass: on the CPU, then on the device."""

    items: Sequence[Item]
    batch: FrameBatch


@dataclass(frozen=True, kw_only=True)
class Flight:
    """A pass that was launched, and what is on its way."""

    built: Built
    offload: Offload


class FrameTeacher:
    """An ``AcousticTeacher``.

    Args:
        model: the encoder or tower.
        layers: states kept of every frame.
        embedding: ``head``, ``mean`` or ``none``.
        chunk_s: longest piece heard at once, in seconds; 0 for whole recordings.
    """

    def __init__(
        self, model: FrameModel, layers: Sequence[int], embedding: str, chunk_s: float
    ) -> None:
        self._model, self._layers = model, tuple(layers)
        self._embedding, self._chunk_s = embedding, chunk_s
        self.same_length = not model.may_pad

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._model.device

    def items(
        self, audio: FloatArray, text: str, responses: Sequence[tuple[IntArray, int]]
    ) -> list[Item]:
        """Return the recording, or its pieces of equal length; it is asked nothing."""
        del text, responses
        self._check_length(len(audio) / SAMPLE_RATE_HZ)
        edges = window_edges(len(audio), self._chunk_s or float("inf"))
        return [
            Item(
                audio=audio[start:end],
                start_s=start / SAMPLE_RATE_HZ,
                is_first=start == 0,
                length_s=self._model.window_s or (end - start) / SAMPLE_RATE_HZ,
            )
            for start, end in pairwise(edges)
        ]

    def _check_length(self, seconds: float) -> None:
        most = self._model.max_audio_s
        if self._chunk_s or seconds <= most:
            return
        shape = self._model.shape
        whole = bool(shape.utterance_labels) or self._embedding == HEAD
        advice = "cut the recording" if whole else f"--set acoustic.chunk_s={most:g} cuts it"
        raise AudioError(
            f"{seconds:.3f} s of audio, and {self._model.path} hears {most:g} s at once; {advice}"
        )

    def build(self, items: Sequence[Item]) -> Built:
        """Build the inputs; see ``AcousticTeacher``."""
        batch = self._model.build([item.audio for item in items])
        tensors = {k: v for k, v in batch.inputs.items() if isinstance(v, Tensor)}
        inputs = {**batch.inputs, **pinned_for(self.device, tensors)}
        return Built(items=items, batch=replace(batch, inputs=inputs))

    @torch.no_grad()
    def launch(self, built: Built) -> Flight:
        """Run one pass."""
        batch = built.batch.to(self.device)
        last = self._model.shape.num_layers
        needs_last = self._embedding == MEAN
        layers = sorted({*self._layers, *([last] if needs_last else [])})
        output = self._model.forward(batch, layers)
        found: dict[Any, Tensor] = {layer: output.states[layer] for layer in self._layers}
        if output.utterance_logits_BC is not None:
            found["utterance"] = output.utterance_logits_BC.float()
        if output.frame_logits_NC is not None:
            found["frame"] = output.frame_logits_NC.float()
        if self._embedding != NONE:
            found["embedding"] = self._pooled(output, batch.num_frames)
        return Flight(built=built, offload=Offload(found))

    def _pooled(self, output: FrameOutputs, num_frames: Sequence[int]) -> Tensor:
        if self._embedding == HEAD:
            assert output.embedding_BE is not None, "the model was said to pool"
            return output.embedding_BE.float()
        states_ND = output.states[self._model.shape.num_layers].float()
        return torch.stack([part.mean(dim=0) for part in states_ND.split(list(num_frames))])

    def land(self, flight: Flight) -> list[Told]:
        """Cut the pass's results into those of its items; see ``AcousticTeacher``."""
        arrays = flight.offload.wait()
        batch = flight.built.batch
        ends = np.cumsum([0, *batch.num_frames]).tolist()
        told = []
        for index, (item, times_s) in enumerate(
            zip(flight.built.items, batch.times_s, strict=True)
        ):
            part = slice(ends[index], ends[index + 1])
            whole = {
                name: arrays[name][index] for name in ("utterance", "embedding") if name in arrays
            }
            told.append(
                Told(
                    times_s=times_s + np.float32(item.start_s),
                    states={layer: arrays[layer][part] for layer in self._layers},
                    utterance_logits=whole.get("utterance"),
                    frame_logits=arrays["frame"][part] if "frame" in arrays else None,
                    embedding=whole.get("embedding"),
                )
            )
        return told

    def rows(self, sample_id: str, told: Sequence[Told]) -> Rows:
        """Return a sample's rows; pieces are put one after the other."""
        recorded = Recorded()
        times_s = np.concatenate([one.times_s for one in told])
        if self._layers:
            place = hidden_row(sample_id, AUDIO_ROW, "frame", (0, 0), None, times_s)
            states = {
                layer: np.concatenate([one.states[layer] for one in told]) for layer in self._layers
            }
            recorded.hidden.append((place, states))
        first = told[0]
        if first.utterance_logits is not None:
            assert len(told) == 1, "an utterance's logits are of all of it"
            recorded.add(
                "utterance_logits", utterance_logits_row(sample_id, first.utterance_logits)
            )
        frame_logits = [one.frame_logits for one in told if one.frame_logits is not None]
        if frame_logits:
            logits = np.concatenate(frame_logits)
            recorded.add("frame_logits", frame_logits_row(sample_id, logits, times_s))
        if first.embedding is not None:
            weights = np.array([len(one.times_s) for one in told], dtype=np.float64)
            pooled = [one.embedding for one in told if one.embedding is not None]
            values = np.average(np.stack(pooled), axis=0, weights=weights).astype(np.float32)
            recorded.add("embedding", embedding_row(sample_id, values))
        return recorded.rows, recorded.hidden
