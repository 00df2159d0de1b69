"""Recording traces and signals under vLLM against plain generation: same prompts, seeds and traces.

Each job is an engine in a process of its own, all started before anything is measured; they take
turns, round by round. ``plain`` is vLLM as it comes: its own worker, no log-probabilities. The
limit is 1: every job runs the same forward passes and draws the same tokens.

Two models: one of 117 M parameters, where arithmetic takes the time, and one of 2 M, where the
engine's own steps do. A job that writes commits its shard in every round.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from figures import Figure, ratio

ROUNDS = 5
PROMPTS, PROMPT_TOKENS, TRACE_TOKENS = 32, 48, 32
LAYERS = (3, 6, 9, 12)
SIZES = {
    "117 M": {
        "vocab_size": 32_000, "hidden_size": 768, "intermediate_size": 2304,
        "num_attention_heads": 12, "num_key_value_heads": 4,
    },
    "2 M": {
        "vocab_size": 1000, "hidden_size": 128, "intermediate_size": 256,
        "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
JOBS = {
    "plain": {},
    "top-64": {"top_k": 64},
    "top-64 + 4 layers": {"top_k": 64, "layers": LAYERS},
    "the same, written": {"top_k": 64, "layers": LAYERS},
    "the same in two passes": {"top_k": 64, "layers": LAYERS},
    "top-64 + lens of 4 layers": {"top_k": 64, "lens": LAYERS},
}
BARS = {"top-64": 0.9, "top-64 + 4 layers": 0.8}


def save_model(folder: Path, sizes: dict[str, int]) -> None:
    """Write a Qwen3 with random weights, and a tokenizer that is never asked."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        num_hidden_layers=12, head_dim=sizes["hidden_size"] // sizes["num_attention_heads"],
        max_position_embeddings=512, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
        **sizes,
    )  # fmt: skip
    Qwen3ForCausalLM(config).save_pretrained(folder)
    words = {f"<{i}>": i for i in range(sizes["vocab_size"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<0>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<1>")
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(folder)


def generate_plainly(folder: Path, prompts: list[Any], seeds: list[int]) -> Callable[[], Any]:
    """Return what generates with vLLM as it comes."""
    from pipeline.teachers import vllm_options as options

    options.quiet()
    from vllm import LLM, SamplingParams

    options.place_cpu_engine({})
    llm = LLM(
        str(folder), dtype="float32", enable_prefix_caching=False, use_tqdm_on_load=False,
        max_model_len=512, enforce_eager=True, kv_cache_memory_bytes=1 << 30,
    )  # fmt: skip
    params = [
        SamplingParams(temperature=1.0, max_tokens=TRACE_TOKENS, seed=seed, detokenize=False)
        for seed in seeds
    ]
    asked = [{"prompt_token_ids": prompt.tolist()} for prompt in prompts]

    def job() -> list[list[int]]:
        outputs = llm.generate(asked, params, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    return job


def record_signals(
    folder: Path, name: str, prompts: list[Any], seeds: list[int]
) -> Callable[[], Any]:
    """Return what generates and reports signals, and writes them if the job says so."""
    from cache_schema.maker import GroupInfo
    from cache_schema.types import TEXT_SOURCE
    from cache_schema.writer import TapeWriter
    from pipeline.teachers.base import Sampling, Wanted
    from pipeline.teachers.vllm_text import VllmTextTeacher
    from pipeline.textual_recipe import TextualRecipe
    from pipeline.traces.candidate import Candidate
    from pipeline.traces.outcome import Outcome, record

    recipe = TextualRecipe(teacher=str(folder), dtype="float32", max_model_len=511)
    teacher = VllmTextTeacher(recipe, 0)
    wanted = Wanted(**JOBS[name])  # type: ignore[arg-type]
    sampling = Sampling(max_new_tokens=TRACE_TOKENS, temperature=1.0)
    teacher.start(wanted)

    def trace() -> Any:
        return teacher.trace(prompts, seeds, sampling, wanted)

    def two_passes() -> Any:
        generated = [many[0] for many in teacher.generate(prompts, seeds, sampling)]
        targets = [trace.token_ids for trace in generated]
        signals = teacher.score(prompts, targets, seeds, wanted)
        return [[pair] for pair in zip(generated, signals, strict=True)]

    def write(traced: Any) -> None:
        facts = {"layers": list(LAYERS), "width": SIZES[folder.name]["hidden_size"]}
        info = GroupInfo(
            group=TEXT_SOURCE, kind=TEXT_SOURCE,
            signals={"trace": {}, "topk": {"k": 64}, "hidden": facts},
        )  # fmt: skip
        with (
            tempfile.TemporaryDirectory(dir=folder) as out,
            TapeWriter(Path(out), info, licence="none", writer="w") as writer,
        ):
            for number, many in enumerate(traced):
                kept = [
                    Candidate(
                        text="", token_ids=generated.token_ids, prompt_token_ids=prompts[number],
                        finish_reason=generated.finish_reason, answer="", correct=None,
                        in_form=True, origin="free", draw=0, seed=0,
                    ).with_signals(signals)
                    for generated, signals in many
                ]  # fmt: skip
                row: Any = SimpleNamespace(sample_id=f"s{number}", row_index=number)
                record(Outcome(row=row, kept=kept), wanted, writer)
            writer.seal()

    def job() -> list[list[int]]:
        traced = two_passes() if "two passes" in name else trace()
        if "written" in name:
            write(traced)
        return [generated.token_ids.tolist() for many in traced for generated, _ in many]

    return job


def serve(folder: Path, name: str) -> None:
    """Start an engine; for every line on stdin run the job and say what it took."""
    rng = np.random.default_rng(0)
    vocabulary = SIZES[folder.name]["vocab_size"]
    prompts = list(rng.integers(2, vocabulary, (PROMPTS, PROMPT_TOKENS)))
    seeds = list(range(100, 100 + PROMPTS))
    if name == "plain":
        job = generate_plainly(folder, prompts, seeds)
    else:
        job = record_signals(folder, name, prompts, seeds)
    job()
    print("ready", flush=True)
    for _ in sys.stdin:
        began_s, used_s = time.perf_counter(), time.process_time()
        traces = job()
        took = [time.perf_counter() - began_s, time.process_time() - used_s]
        print(json.dumps([*took, sum(map(len, traces)), hash(str(traces))]), flush=True)


class Engine:
    """A job's process."""

    def __init__(self, folder: Path, name: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "OMP_WAIT_POLICY": "passive",  # idle engines must not spin
            "PYTHONHASHSEED": "0",
        }
        command = [sys.executable, __file__, str(folder), name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True, env=environment,
        )  # fmt: skip

    def read(self, mark: str) -> str:
        """Return the next line that begins so."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(mark):
                return line
        raise RuntimeError(f"{self._process.args} ended")

    def run(self) -> list[float]:
        """Return seconds, CPU seconds, tokens and a hash of the traces."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        found: list[float] = json.loads(self.read("["))
        return found

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


def measure_size(folder: Path) -> list[Figure]:
    """Every job in turn, and each against plain generation."""
    engines: dict[str, Engine] = {}
    try:
        for name in JOBS:
            engines[name] = Engine(folder, name)
            engines[name].read("ready")
        rounds = [{name: engine.run() for name, engine in engines.items()} for _ in range(ROUNDS)]
    finally:
        for engine in engines.values():
            engine.close()
    wall_s = {name: [r[name][0] for r in rounds] for name in JOBS}
    cpu_s = {name: [r[name][1] for r in rounds] for name in JOBS}
    same = {name: len({r[n][3] for r in rounds for n in ("plain", name)}) == 1 for name in JOBS}
    tokens = rounds[0]["plain"][2]
    compute_bound = folder.name != "2 M"
    figures = [
        Figure(
            name=f"plain generation, {folder.name} parameters",
            value=tokens / statistics.median(wall_s["plain"]),
            unit="tokens/s",
        )
    ]
    for name in list(JOBS)[1:]:
        baseline, bar = "plain", BARS.get(name) if compute_bound else None
        if "written" in name:
            baseline, bar = "top-64 + 4 layers", 0.95 if compute_bound else None
        figures.append(
            Figure(
                name=f"{name}, {folder.name}",
                value=ratio(wall_s[baseline], wall_s[name]),
                unit="x of unwritten" if "written" in name else "x of plain generation",
                bar=bar,
                note=f"{ratio(cpu_s[baseline], cpu_s[name]):.2f} by CPU time; "
                f"{'the same' if same[name] else 'OTHER'} traces as plain",
            )
        )
    return figures


def measure() -> Iterator[Figure]:
    """Both models."""
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in SIZES.items():
            save_model(Path(folder) / name, sizes)
            yield from measure_size(Path(folder) / name)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2])
