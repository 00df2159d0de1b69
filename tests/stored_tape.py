"""A tape of one group in any storage: every value made from its sample's number alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cache_schema.maker import GroupInfo
from cache_schema.rows.values import hidden_row, sample_rows, sampled_row, topk_row
from cache_schema.shard import Storage
from cache_schema.types import Sample, Sampled, TopK
from cache_schema.writer import TapeWriter

WIDTH, K, DRAWS = 64, 16, 20
SAMPLES = GroupInfo(group="samples", kind="samples")
TEXTUAL = GroupInfo(
    group="textual",
    kind="textual",
    signals={"topk": {"k": K}, "sampled": {"num_draws": DRAWS}, "hidden": {"layers": [0, 7]}},
)


def topk_of(index: int) -> TopK:
    rng = np.random.default_rng(index)
    tokens = 3 * index
    probabilities = -np.sort(
        -rng.dirichlet(np.full(2 * K, 0.3), tokens).reshape(tokens, 2 * K), axis=1
    )
    return TopK(
        target_ids=rng.integers(0, 1 << 20, tokens),
        token_ids=rng.permuted(np.tile(np.arange(K) * 65_000 + 9, (tokens, 1)), axis=1),
        logprobs=np.log(np.maximum(probabilities[:, :K], 1e-30)).astype(np.float32),
        tail=probabilities[:, K:].sum(axis=1).astype(np.float32),
    )


def drawn_of(index: int) -> Sampled:
    rng = np.random.default_rng(index)
    draws = [rng.integers(0, 30, DRAWS) * 30_000 for _ in range(3 * index)]
    unique = [np.unique(one, return_counts=True) for one in draws]
    empty = np.empty(0, np.int64)
    return Sampled(
        target_ids=topk_of(index).target_ids,
        token_ids=np.concatenate([empty, *(ids for ids, _ in unique)]),
        counts=np.concatenate([empty, *(counts for _, counts in unique)]),
        offsets=np.cumsum([0, *(len(ids) for ids, _ in unique)]),
        num_draws=DRAWS,
    )


def states_of(index: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(index)
    outlying = np.where(np.arange(WIDTH) % 16 == 0, 50.0, 1.0)
    shape = (3 * index, WIDTH)
    return {
        layer: (layer + rng.normal(0, 1, shape) * outlying).astype(np.float32) for layer in (0, 7)
    }


def make_tape(root: Path, storage: Storage, count: int = 9) -> Path:
    with TapeWriter(root, SAMPLES) as writer:
        for index in range(count):
            audio = np.zeros(100, np.float32)
            sample = Sample(sample_id=f"s{index}", row_index=index, audio=audio, question="?")
            writer.add(sample_rows(sample, "hash", 100))
    with TapeWriter(root, TEXTUAL, storage=storage, shard_samples=4) as writer:
        for index in range(count):
            topk = topk_of(index)
            writer.add(
                {
                    "topk": [topk_row(f"s{index}", 0, topk)],
                    "sampled": [sampled_row(f"s{index}", 0, drawn_of(index))],
                },
                [
                    (
                        hidden_row(f"s{index}", 0, "token", (0, 0), topk.target_ids, None),
                        states_of(index),
                    )
                ],
            )
    return root
