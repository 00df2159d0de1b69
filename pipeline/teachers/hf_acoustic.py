"""The acoustic teacher as an audio language model of transformers, one forward pass a batch.

Shapes: T response tokens, A audio positions, D width; M kept and N predicting positions of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio_models.families import UNLISTED
from audio_models.forward import forward_with_states
from audio_models.front_end import window_s as window_s_of
from audio_models.inputs import AudioBatch, Request, build_inputs
from audio_models.load import AudioLM
from audio_models.padding import hears_padding
from audio_models.valid_frames import sent
from cache_schema.commands.console import say
from cache_schema.rows.values import hidden_row
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import SAMPLE_RATE_HZ, FloatArray, IntArray
from pipeline.teachers.acoustic import Item, Rows, Told
from pipeline.teachers.base import Entries, TokenSignals, Wanted
from pipeline.teachers.offload import Offload, pinned_for
from pipeline.teachers.readout import uniforms
from pipeline.teachers.token_readout import read_tokens
from pipeline.token_rows import Recorded, add_signals

TOKENS_A_SECOND = 25.0
"""Tokens of text that take as much of a pass as a second of audio, about."""


CHARACTERS_A_TOKEN = 4.0
"""Of a question, about."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """Inputs of one pass: on the CPU, then on the device."""

    items: Sequence[Item]
    batch: AudioBatch


@dataclass(frozen=True, kw_only=True)
class Flight:
    """A pass that was launched: its items, where things stand in it, and what is on its way."""

    built: Built
    offload: Offload


class AudioLMTeacher:
    """An ``AcousticTeacher``.

    Args:
        lm: the model.
        audio_layers: states kept at audio positions.
        wanted: signals of each response token; its ``layers`` are ``audio_layers`` or none.
    """

    def __init__(self, lm: AudioLM, audio_layers: Sequence[int], wanted: Wanted) -> None:
        self._lm, self._audio_layers, self._wanted = lm, tuple(audio_layers), wanted
        self.same_length = lm.family is UNLISTED and hears_padding(lm)
        if self.same_length:
            say(f"{lm.path} hears padding, so only recordings of equal length are heard together")
        self._reads_tokens = bool(wanted.top_k or wanted.lens or wanted.draws)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._lm.device

    def items(
        self, audio: FloatArray, text: str, responses: Sequence[tuple[IntArray, int]]
    ) -> list[Item]:
        """Return one item a response; see ``AcousticTeacher``."""
        seconds = len(audio) / SAMPLE_RATE_HZ
        window_s = window_s_of(self._lm)
        if window_s:  # what the tower computes, silence included
            seconds = math.ceil(seconds / window_s) * window_s
        asked = len(text) / CHARACTERS_A_TOKEN
        return [
            Item(
                audio=audio,
                is_first=index == 0,
                text=text,
                response_ids=ids,
                seed=seed,
                length_s=seconds + (asked + len(ids)) / TOKENS_A_SECOND,
            )
            for index, (ids, seed) in enumerate(responses)
        ]

    def build(self, items: Sequence[Item]) -> Built:
        """Build the inputs; see ``AcousticTeacher`` and ``build_inputs``."""
        requests = [
            Request(audio=item.audio, text=item.text, response_ids=item.response_ids)
            for item in items
        ]
        batch = build_inputs(self._lm, requests)
        inputs = pinned_for(self.device, batch.inputs)
        return Built(items=items, batch=replace(batch, inputs=inputs))

    @torch.no_grad()
    def launch(self, built: Built) -> Flight:
        """Run one pass over audio, question and response together."""
        batch, wanted = built.batch.to(self.device), self._wanted
        at_audio = [
            positions if item.is_first and self._audio_layers else positions[:0]
            for item, positions in zip(built.items, batch.audio_positions, strict=True)
        ]
        at_tokens = batch.predict_positions
        if not (wanted.layers or wanted.lens):
            at_tokens = [positions[:0] for positions in at_tokens]
        is_audio_M = _which(at_audio, at_tokens)
        audio_A, tokens_N = (  # as numbers, and sent before the pass: a mask would be waited for
            sent(mask.nonzero().flatten(), self.device) for mask in (is_audio_M, ~is_audio_M)
        )
        forward = forward_with_states(
            self._lm.model,
            batch.inputs,
            sorted({*self._audio_layers, *wanted.layers, *wanted.lens}),
            batch.predict_positions,
            unembed_now=False,
            state_positions=[torch.cat(pair) for pair in zip(at_audio, at_tokens, strict=True)],
        )
        found: dict[Any, Tensor] = {}
        for layer in self._audio_layers:
            found["audio", layer] = forward.states[layer][audio_A]
        of_tokens = {
            layer: forward.states[layer][tokens_N] for layer in {*wanted.layers, *wanted.lens}
        }
        for layer in wanted.layers:
            found["token", layer] = of_tokens[layer]
        if self._reads_tokens and len(forward.readout_ND):
            found |= self._read(built.items, forward.readout_ND, of_tokens)
        return Flight(built=replace(built, batch=batch), offload=Offload(found))

    def _read(
        self, items: Sequence[Item], readout_ND: Tensor, states: Mapping[int, Tensor]
    ) -> dict[Any, Tensor]:
        ids = [_ids_of(item) for item in items]
        numbers = [uniforms(item.seed, 0, len(i)) for item, i in zip(items, ids, strict=True)]
        target_N = sent(torch.from_numpy(np.concatenate(ids)), self.device)
        uniforms_N = torch.from_numpy(np.concatenate(numbers))
        if self.device.type == "cuda":
            uniforms_N = sent(uniforms_N, self.device)
        return dict(
            read_tokens(self._lm.model, readout_ND, states, target_N, uniforms_N, self._wanted)
        )

    def land(self, flight: Flight) -> list[Told]:
        """Cut the pass's results into those of its items; see ``AcousticTeacher``."""
        items, batch = flight.built.items, flight.built.batch
        arrays = flight.offload.wait()
        audio = _cuts(
            len(t) if i.is_first else 0 for i, t in zip(items, batch.audio_times_s, strict=True)
        )
        tokens = _cuts(len(_ids_of(item)) for item in items)
        return [
            Told(
                times_s=times_s,
                states={layer: arrays["audio", layer][heard] for layer in self._audio_layers},
                response=self._signals(item, arrays, read),
            )
            for item, times_s, heard, read in zip(
                items, batch.audio_times_s, audio, tokens, strict=True
            )
        ]

    def _signals(
        self, item: Item, arrays: Mapping[Any, NDArray[Any]], part: slice
    ) -> TokenSignals | None:
        ids, wanted = _ids_of(item), self._wanted
        if len(ids) == 0 or not (self._reads_tokens or wanted.layers):
            return None

        def entries(*names: str) -> Entries:
            token_ids, logprobs, tail = (arrays[name][part] for name in names)
            return Entries(token_ids=token_ids.astype(np.int64), logprobs=logprobs, tail=tail)

        unread = np.full(len(ids), np.nan, np.float32)
        drawn = arrays["drawn_ids"][part].astype(np.int64) if wanted.draws else None
        return TokenSignals(
            target_ids=ids,
            target_logprobs=arrays["target_logprob"][part] if self._reads_tokens else unread,
            topk=entries("topk_ids", "topk_logprobs", "tail") if wanted.top_k else None,
            states={layer: arrays["token", layer][part] for layer in wanted.layers},
            lens=entries("lens_ids", "lens_logprobs", "lens_tail") if wanted.lens else None,
            drawn_ids=drawn,
        )

    def rows(self, sample_id: str, told: Sequence[Told]) -> Rows:
        """Return a sample's rows: states at audio positions once, the rest a response."""
        recorded = Recorded()
        first = told[0]
        if self._audio_layers:  # they do not see the response, which comes after
            place = hidden_row(sample_id, AUDIO_ROW, "audio", (0, 0), None, first.times_s)
            recorded.hidden.append((place, first.states))
        for index, one in enumerate(told):
            if one.response is not None:
                add_signals(recorded, sample_id, index, one.response, self._wanted.lens)
        return recorded.rows, recorded.hidden


def _ids_of(item: Item) -> IntArray:
    ids = item.response_ids
    return np.empty(0, np.int64) if ids is None else np.asarray(ids, np.int64)


def _which(at_audio: Sequence[Tensor], at_tokens: Sequence[Tensor]) -> Tensor:
    """Return bool [M]: whether a kept position is of the audio; audio first, row by row."""
    marks = [
        torch.arange(len(audio) + len(tokens)) < len(audio)
        for audio, tokens in zip(at_audio, at_tokens, strict=True)
    ]
    return torch.cat(marks)


def _cuts(counts: Iterator[int]) -> list[slice]:
    ends = np.cumsum([0, *counts]).tolist()
    return [slice(start, end) for start, end in pairwise(ends)]
