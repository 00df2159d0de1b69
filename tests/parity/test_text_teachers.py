"""Both textual engines against a plain transformers pass on the same token ids, every row."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from record import CASES, FAMILIES, RANKS, SAMPLING, wanted_of
from reference_forward import Reference, assert_agrees, assert_record_agrees
from tiny_text_teachers import NUM_LAYERS, VOCAB_SIZE, save_teacher

from cache_schema.errors import ModelError, UsageError
from pipeline.teachers.base import EngineDiedError, Sampling, Wanted
from pipeline.teachers.hf_text import HfTextTeacher
from pipeline.teachers.vllm_options import changing_values
from pipeline.textual_recipe import TextualRecipe


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    for family in FAMILIES:
        save_teacher(folder / family, family)
    return folder


def run_record(models: Path, *arguments: str) -> Path:
    """Let vLLM speak in a process of its own: it leaves threads and settings behind."""
    script = Path(__file__).with_name("record.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(models), *arguments],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return models


@pytest.fixture(scope="module")
def recorded(models: Path) -> Path:
    return run_record(models)


@pytest.fixture(scope="module")
def on_ranks(models: Path) -> Path:
    return run_record(models, "ranks")


@pytest.mark.parametrize(("family", "dtype"), CASES)
def test_vllm_agrees_on_every_row(recorded: Path, family: str, dtype: str) -> None:
    reference = Reference(recorded / family, dtype)
    assert_record_agrees(recorded / f"{family}-{dtype}.npz", reference, family, dtype)


def test_vllm_on_two_ranks_agrees_and_its_death_has_a_name(on_ranks: Path) -> None:
    family, dtype = RANKS
    assert "vLLM failed" in (on_ranks / "death.txt").read_text(encoding="utf-8")
    reference = Reference(on_ranks / family, dtype)
    assert_record_agrees(on_ranks / f"{family}-{dtype}-ranks.npz", reference, family, dtype)


@pytest.mark.parametrize("family", FAMILIES)
def test_vllm_traces_depend_on_their_seed_alone(recorded: Path, family: str) -> None:
    # In float32: in bfloat16 a batch's sums may round a draw to its neighbour.
    with np.load(recorded / f"{family}-float32.npz") as data:
        assert data["same_backwards"].all()
        assert data["same_alone"].all()
        drawn = {data[f"trace0.{i}/target_ids"].tobytes() for i in range(SAMPLING.num_traces)}
    assert len(drawn) == SAMPLING.num_traces


def test_vllm_settings_are_its_own_or_refused(recorded: Path) -> None:
    unknown, reserved = (recorded / "refusals.txt").read_text(encoding="utf-8").splitlines()
    assert "textual.vllm.quantisation: vLLM" in unknown
    assert "no such engine setting; did you mean 'quantization'" in unknown
    assert reserved.startswith("textual.vllm.enable_prefix_caching: a prefix found in the cache")


def test_vllm_settings_of_resources_are_no_identity() -> None:
    settings = {"tensor_parallel_size": 2, "quantization": "fp8", "max_num_seqs": 8}
    assert changing_values(settings) == {"quantization": "fp8"}


@pytest.fixture(scope="module")
def teacher(models: Path) -> HfTextTeacher:
    return HfTextTeacher(TextualRecipe(teacher=str(models / "qwen3")), device="cpu")


def prompts_of(teacher: HfTextTeacher) -> list[np.ndarray]:
    texts = [f"what is {'three plus ' * repeats}four?" for repeats in (1, 6, 2)]
    return [teacher.encode([{"role": "user", "content": text}]) for text in texts]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_engine_agrees_on_every_row(models: Path, family: str, dtype: str) -> None:
    recipe = TextualRecipe(teacher=str(models / family), dtype=dtype)
    teacher = HfTextTeacher(recipe, device="cpu")
    reference = Reference(models / family, dtype)
    prompts = prompts_of(teacher)
    sampling = Sampling(num_traces=2, max_new_tokens=9, temperature=1.0)
    wanted = replace(wanted_of(family), layers=tuple(range(NUM_LAYERS[family] + 1)))
    traced = teacher.trace(prompts, [1, 2, 3], sampling, wanted)
    for prompt, many in zip(prompts, traced, strict=True):
        for generated, signals in many:
            assert set(signals.states) == set(wanted.layers)
            assert_agrees(signals, generated.token_ids, reference, prompt, dtype)


def test_transformers_reads_padded_batches_as_single_rows(teacher: HfTextTeacher) -> None:
    prompts = prompts_of(teacher)
    targets = [prompt[: 3 + 2 * row] for row, prompt in enumerate(prompts)]
    wanted = wanted_of("qwen3")
    rows = [np.concatenate(pair) for pair in zip(prompts, targets, strict=True)]
    alone = teacher.score(prompts, targets, [1, 2, 3], wanted)  # on a CPU, row by row
    together = teacher._read_batch(rows, targets, [1, 2, 3], wanted)
    for one, records in zip(alone, together, strict=True):
        assert one.topk is not None
        np.testing.assert_allclose(one.topk.logprobs, records["topk_logprobs"], atol=5e-5)
        for place, layer in enumerate(wanted.layers):
            np.testing.assert_allclose(one.states[layer], records["states"][:, place], atol=1e-4)


def test_transformers_greedy_traces_are_the_plain_argmax(
    teacher: HfTextTeacher, models: Path
) -> None:
    reference = Reference(models / "qwen3", "float32")
    prompts = prompts_of(teacher)
    for prompt, (trace,) in zip(
        prompts, teacher.generate(prompts, [0, 0, 0], Sampling(max_new_tokens=6)), strict=True
    ):
        logprobs, *_ = reference(prompt, trace.token_ids)
        assert np.array_equal(logprobs.argmax(axis=1), trace.token_ids)


def test_transformers_traces_depend_on_their_seed_alone(teacher: HfTextTeacher) -> None:
    prompts = prompts_of(teacher)
    sampling = Sampling(num_traces=2, max_new_tokens=12, temperature=1.0, top_p=0.9)
    together = teacher.generate(prompts, [1, 2, 3], sampling)
    backwards = teacher.generate(prompts[::-1], [3, 2, 1], sampling)[::-1]
    alone = teacher.generate(prompts[1:2], [2], sampling)
    for many, other in zip([*together, together[1]], [*backwards, *alone], strict=True):
        for one, same in zip(many, other, strict=True):
            assert np.array_equal(one.token_ids, same.token_ids)
    assert not np.array_equal(together[0][0].token_ids, together[0][1].token_ids)


@pytest.mark.parametrize("narrowed", [{"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}])
def test_narrowed_sampling_is_greedy_in_the_end(teacher: HfTextTeacher, narrowed: dict) -> None:
    prompts = prompts_of(teacher)
    greedy = teacher.generate(prompts, [0, 0, 0], Sampling(max_new_tokens=6))
    sampling = Sampling(max_new_tokens=6, temperature=1.0, **narrowed)
    for (one,), (other,) in zip(
        greedy, teacher.generate(prompts, [5, 6, 7], sampling), strict=True
    ):
        assert np.array_equal(one.token_ids, other.token_ids)


def test_a_repetition_penalty_forbids_in_the_end(teacher: HfTextTeacher) -> None:
    sampling = Sampling(max_new_tokens=12, repetition_penalty=1e9)
    prompts = prompts_of(teacher)
    for prompt, (trace,) in zip(
        prompts, teacher.generate(prompts, [0, 0, 0], sampling), strict=True
    ):
        seen = [*prompt.tolist(), *trace.token_ids.tolist()]
        assert len(set(seen[len(prompt) :])) == len(trace.token_ids)
        assert not set(prompt.tolist()) & set(trace.token_ids.tolist())


def test_what_does_not_fit_is_refused(teacher: HfTextTeacher) -> None:
    long = np.full(teacher.max_model_len, 5, np.int64)
    with pytest.raises(ModelError, match="max_model_len"):
        teacher.generate([long], [0], Sampling(max_new_tokens=1))
    with pytest.raises(UsageError, match=f"{VOCAB_SIZE} logits"):
        teacher.score([long[:4]], [long[:4]], [0], Wanted(top_k=VOCAB_SIZE + 1))
    with pytest.raises(UsageError, match="layers 0 to 4"):
        teacher.score([long[:4]], [long[:4]], [0], Wanted(layers=(5,)))
    with pytest.raises(UsageError, match="layers 0 to 4"):
        teacher.start(Wanted(lens=(5,)))


def test_memory_that_runs_out_has_a_name_and_the_model_is_loaded_again(
    teacher: HfTextTeacher, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, targets = prompts_of(teacher)[:1], [np.arange(5, 9)]
    before = teacher.score(prompts, targets, [1], Wanted(top_k=3))

    def run_out(*_: object) -> None:
        raise torch.OutOfMemoryError("out of memory")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.teachers.token_readout.logits_of", run_out)
        with pytest.raises(EngineDiedError, match="no memory for"):
            teacher.score(prompts, targets, [1], Wanted(top_k=3))
    (again,) = teacher.score(prompts, targets, [1], Wanted(top_k=3))
    assert np.array_equal(again.target_logprobs, before[0].target_logprobs)
