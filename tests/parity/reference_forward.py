"""A plain transformers forward pass, and how far an engine's signals may be from it.

Tolerances. The reference runs in the teacher's dtype, one row at a time, unpadded.

- float32: engines order sums differently. Seen: log-probabilities (down to -18) within 3e-6, states
  within 3e-7 of a row's norm. Ten to twenty times that is allowed.
- bfloat16: 8 bits of mantissa, rounded after every operation, by kernels that fuse other
  operations. Seen: states within 1 % of a row's norm, log-probabilities within 0.07 (the last step
  of a logit near 10 alone rounds by up to 0.03). Twice to three times that is allowed; ids may
  swap where two are that close, so log-probabilities are compared id by id and in order of size.

The layer before or after differs by over 14 %.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from record import FAMILIES, LAYERS, LENS, SAMPLING, SEEDS
from tiny_text_teachers import VOCAB_SIZE
from transformers import AutoModelForCausalLM

from pipeline.teachers.base import Entries, TokenSignals

LOGPROB_ATOL = {"float32": 5e-5, "bfloat16": 0.15}
STATES_RTOL = {"float32": 5e-6, "bfloat16": 0.03}
TAIL_RTOL = {"float32": 5e-5, "bfloat16": 0.15}


class Reference:
    """A plain forward pass, and what is read off it."""

    def __init__(self, path: Path, dtype: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
        self.model = model.eval()
        self.num_layers = model.config.num_hidden_layers
        decoder = model.get_decoder()
        self.norm = decoder.ln_f if hasattr(decoder, "ln_f") else decoder.norm

    @torch.no_grad()
    def __call__(self, prompt: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, dict, dict]:
        """Return log-probabilities [T, V], layer -> states [T, D], layer -> lens [T, V]."""
        before_norm: list[torch.Tensor] = []
        handle = self.norm.register_forward_pre_hook(
            lambda _module, arguments: before_norm.append(arguments[0])
        )
        ids = torch.from_numpy(np.concatenate([prompt, target]))[None]
        output = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
        handle.remove()
        # transformers' last entry is after the final norm.
        layers = [*output.hidden_states[: self.num_layers], before_norm[0]]
        rows = slice(len(prompt) - 1, len(prompt) + len(target) - 1)
        logprobs = output.logits[0, rows].float().log_softmax(-1).numpy()
        read = [self.model.lm_head(self.norm(states[0, rows])) for states in layers]
        lens = {n: logits.float().log_softmax(-1).numpy() for n, logits in enumerate(read)}
        return logprobs, {n: s[0, rows].float().numpy() for n, s in enumerate(layers)}, lens


def as_float32(states: np.ndarray) -> np.ndarray:
    if states.dtype == np.uint16:  # bfloat16 bits
        return (states.astype(np.uint32) << 16).view(np.float32)
    return states


def assert_entries(entries: Entries, logprobs: np.ndarray, dtype: str) -> None:
    """Exactly the k largest, id by id, none larger left out, and the rest in the tail."""
    k = entries.token_ids.shape[1]
    atol = LOGPROB_ATOL[dtype]
    rows = np.arange(len(logprobs))
    np.testing.assert_allclose(
        entries.logprobs, logprobs[rows[:, None], entries.token_ids], atol=atol
    )
    ordered = np.sort(logprobs.astype(np.float64), axis=1)[:, ::-1]
    np.testing.assert_allclose(entries.logprobs, ordered[:, :k], atol=atol)
    assert (np.diff(entries.logprobs, axis=1) <= 0).all()
    assert all(len(set(ids)) == k for ids in entries.token_ids.tolist())
    tail = np.exp(ordered[:, k:]).sum(axis=1)
    np.testing.assert_allclose(entries.tail, tail, rtol=TAIL_RTOL[dtype])


def assert_agrees(
    signals: TokenSignals, target: np.ndarray, reference: Reference, prompt: np.ndarray, dtype: str
) -> None:
    logprobs, states, lens = reference(prompt, target)
    assert np.array_equal(signals.target_ids, target)
    rows = np.arange(len(target))
    np.testing.assert_allclose(
        signals.target_logprobs, logprobs[rows, target], atol=LOGPROB_ATOL[dtype]
    )
    assert signals.topk is not None
    assert_entries(signals.topk, logprobs, dtype)
    for layer, ours in signals.states.items():
        assert ours.shape == states[layer].shape
        assert ours.dtype == (np.uint16 if dtype == "bfloat16" else np.float32)
        error = np.linalg.norm(as_float32(ours) - states[layer], axis=1)
        relative = error / np.linalg.norm(states[layer], axis=1)
        assert relative.max() <= STATES_RTOL[dtype], f"layer {layer}: {relative.max():.1e}"
    family = next(name for name in FAMILIES if name in str(reference.model.config.model_type))
    assert signals.lens is not None
    for place, layer in enumerate(LENS[family]):
        entries = {name: values[:, place] for name, values in vars(signals.lens).items()}
        assert_entries(Entries(**entries), lens[layer], dtype)
    drawn = signals.drawn_ids
    assert drawn is not None
    assert (np.diff(drawn, axis=1) >= 0).all()
    # Of n draws, a token of probability p comes n p times, give or take one.
    for row, ids in enumerate(drawn):
        counts = np.bincount(ids, minlength=VOCAB_SIZE)
        expected = len(ids) * np.exp(logprobs[row].astype(np.float64))
        assert np.abs(counts - expected).max() <= 1 + (0.2 if dtype == "bfloat16" else 1e-3)


def signals_from(data: dict[str, np.ndarray], name: str) -> TokenSignals:
    prefix = f"{name}/state"
    states = {int(k.removeprefix(prefix)): v for k, v in data.items() if k.startswith(prefix)}
    fields = Entries.__dataclass_fields__
    entries = {
        part: Entries(**{field: data[f"{name}/{part}/{field}"] for field in fields})
        for part in ("topk", "lens")
    }
    plain = {n: data[f"{name}/{n}"] for n in ("target_ids", "target_logprobs", "drawn_ids")}
    return TokenSignals(states=states, **entries, **plain)


def assert_record_agrees(path: Path, reference: Reference, family: str, dtype: str) -> None:
    with np.load(path) as saved:
        data = dict(saved)
    lengths = set()
    for row in range(len(SEEDS)):
        prompt = data[f"prompt{row}"]
        for index in range(SAMPLING.num_traces):
            signals = signals_from(data, f"trace{row}.{index}")
            assert set(signals.states) == set(LAYERS[family])
            assert_agrees(signals, signals.target_ids, reference, prompt, dtype)
            lengths.add(len(signals.target_ids))
        target = data[f"trace{row}.0/target_ids"][: 1 + 6 * row]
        assert len(target) == 1 or row > 0
        scored = signals_from(data, f"score{row}")
        assert_agrees(scored, target, reference, prompt, dtype)
        if dtype == "float32":  # a given trace draws what the trace itself drew
            drawn = data[f"trace{row}.0/drawn_ids"][: len(target)]
            assert np.array_equal(scored.drawn_ids, drawn)
    assert lengths <= set(range(1, SAMPLING.max_new_tokens + 1))
