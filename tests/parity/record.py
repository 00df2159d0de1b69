"""Runs in a process of its own: what the vLLM teacher says of tiny models, saved for the tests.

``python record.py FOLDER``: FOLDER holds the models; one ``.npz`` is written there for each case.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from cache_schema.errors import ModelError
from pipeline.teachers import vllm_options
from pipeline.teachers.base import Sampling, TokenSignals
from pipeline.teachers.vllm_text import VllmTextTeacher

CASES = [("qwen3", "float32"), ("qwen3", "bfloat16"), ("llama", "float32")]
COMPILED = "llama"
"""Comes last. Only GPUs compile by default; the states must be those of the compiled model too."""

TOP_K = 8
LAYERS = {"qwen3": (0, 2, 4), "llama": (0, 1, 3)}
SEEDS = [11, 12, 13, 14, 15]
SAMPLING = Sampling(num_traces=2, max_new_tokens=20, temperature=1.0)


def prompts_of(teacher: VllmTextTeacher) -> list[np.ndarray]:
    """Ragged: from 20 to about 110 tokens."""
    texts = [f"what is {'three plus ' * repeats}four?" for repeats in (1, 6, 2, 15, 30)]
    return [teacher.encode([{"role": "user", "content": text}]) for text in texts]


def save_signals(out: dict[str, np.ndarray], name: str, signals: TokenSignals) -> None:
    out[f"{name}/target_ids"] = signals.target_ids
    out[f"{name}/topk_ids"] = signals.topk_ids
    out[f"{name}/topk_logprobs"] = signals.topk_logprobs
    out[f"{name}/tail"] = signals.tail
    out[f"{name}/target_logprobs"] = signals.target_logprobs
    for layer, states in signals.states.items():
        out[f"{name}/state{layer}"] = states


def record(folder: Path, family: str, dtype: str) -> None:
    teacher = VllmTextTeacher(model=str(folder / family), dtype=dtype)
    prompts = prompts_of(teacher)
    out: dict[str, np.ndarray] = {}
    traced = teacher.trace(prompts, SEEDS, SAMPLING, TOP_K, LAYERS[family])
    for row, many in enumerate(traced):
        out[f"prompt{row}"] = prompts[row]
        for index, (generated, signals) in enumerate(many):
            assert np.array_equal(generated.token_ids, signals.target_ids)
            save_signals(out, f"trace{row}.{index}", signals)
    # Given traces of ragged lengths, one of them a single token, and fewer layers than started.
    targets = [traced[row][0][0].token_ids[: 1 + 6 * row] for row in range(len(prompts))]
    some = LAYERS[family][1:]
    for row, signals in enumerate(teacher.score(prompts, targets, TOP_K, some)):
        save_signals(out, f"score{row}", signals)
    # The same seeds, in another order and alone.
    backwards = teacher.generate(prompts[::-1], SEEDS[::-1], SAMPLING)[::-1]
    (alone,) = teacher.generate(prompts[2:3], SEEDS[2:3], SAMPLING)
    out["same_backwards"] = np.array(
        [
            np.array_equal(ours.token_ids, theirs.token_ids)
            for many, other in zip(traced, backwards, strict=True)
            for (ours, _), theirs in zip(many, other, strict=True)
        ]
    )
    out["same_alone"] = np.array(
        [
            np.array_equal(ours.token_ids, theirs.token_ids)
            for (ours, _), theirs in zip(traced[2], alone, strict=True)
        ]
    )
    out["bare"] = np.array(len(teacher.score(prompts[:1], targets[:1], 3, ())[0].states))
    teacher.close()
    np.savez(folder / f"{family}-{dtype}.npz", **out)


def refusal(folder: Path) -> str:
    """Ask for layers of a class that reports none."""
    teacher = VllmTextTeacher(model=str(folder / "gpt2"))
    try:
        teacher.start((1,))
    except ModelError as error:
        return str(error)
    return "not refused"


def main() -> None:
    folder = Path(sys.argv[1])
    # As little as one longest prompt a step: some prompts are read while others are continued.
    vllm_options.PREFILL_TOKENS = 1
    (folder / "refusal.txt").write_text(refusal(folder), encoding="utf-8")
    for family, dtype in CASES:
        if family == COMPILED:
            vllm_options.compile_options = lambda on_cpu: {}
        record(folder, family, dtype)


if __name__ == "__main__":
    main()
