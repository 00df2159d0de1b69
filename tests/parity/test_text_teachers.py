"""Both textual engines against a plain transformers forward pass on the same token ids, every row.

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

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from record import CASES, LAYERS, SAMPLING, SEEDS, TOP_K
from tiny_text_teachers import MAX_POSITIONS, NUM_LAYERS, VOCAB_SIZE, save_teacher
from transformers import AutoModelForCausalLM

from cache_schema.errors import ModelError, UsageError
from pipeline.teachers.base import Sampling, TokenSignals
from pipeline.teachers.chat import ChatTokenizer
from pipeline.teachers.describe import (
    describe_model,
    load_config,
    load_tokenizer,
    resolve_dtype,
    text_shape,
)
from pipeline.teachers.hf_text import HfTextTeacher

LOGPROB_ATOL = {"float32": 5e-5, "bfloat16": 0.15}
STATES_RTOL = {"float32": 5e-6, "bfloat16": 0.03}
TAIL_ATOL = {"float32": 1e-5, "bfloat16": 0.02}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    for family in ("qwen3", "llama", "gpt2"):
        save_teacher(folder / family, family)
    return folder


@pytest.fixture(scope="module")
def recorded(models: Path) -> Path:
    """What vLLM says, from a process of its own: it leaves threads and settings behind."""
    script = Path(__file__).with_name("record.py")
    environment = {**os.environ, "PYTHONPATH": str(script.parents[2])}
    done = subprocess.run(
        [sys.executable, str(script), str(models)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return models


class Reference:
    """A plain forward pass, and what is read off it."""

    def __init__(self, path: Path, dtype: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, dtype))
        self.model = model.eval()
        self.num_layers = model.config.num_hidden_layers

    @torch.no_grad()
    def __call__(self, prompt: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, dict]:
        """Return log-probabilities [T, V] and layer -> states [T, D] at the predicting rows."""
        before_norm: list[torch.Tensor] = []
        handle = self.model.get_decoder().norm.register_forward_pre_hook(
            lambda _module, arguments: before_norm.append(arguments[0])
        )
        ids = torch.from_numpy(np.concatenate([prompt, target]))[None]
        output = self.model(input_ids=ids, output_hidden_states=True, use_cache=False)
        handle.remove()
        # transformers' last entry is after the final norm.
        layers = [*output.hidden_states[: self.num_layers], before_norm[0]]
        rows = slice(len(prompt) - 1, len(prompt) + len(target) - 1)
        logprobs = output.logits[0, rows].float().log_softmax(-1).numpy()
        return logprobs, {n: states[0, rows].float().numpy() for n, states in enumerate(layers)}


def as_float32(states: np.ndarray) -> np.ndarray:
    if states.dtype == np.uint16:  # bfloat16 bits
        return (states.astype(np.uint32) << 16).view(np.float32)
    return states


def assert_agrees(
    signals: TokenSignals, target: np.ndarray, logprobs: np.ndarray, states: dict, dtype: str
) -> None:
    atol = LOGPROB_ATOL[dtype]
    assert np.array_equal(signals.target_ids, target)
    rows = np.arange(len(target))
    np.testing.assert_allclose(signals.target_logprobs, logprobs[rows, target], atol=atol)
    # Exactly the k largest, the target not squeezed in: id by id, and none larger left out.
    top_k = signals.topk_ids.shape[1]
    np.testing.assert_allclose(
        signals.topk_logprobs, logprobs[rows[:, None], signals.topk_ids], atol=atol
    )
    largest = np.sort(logprobs, axis=1)[:, ::-1][:, :top_k]
    np.testing.assert_allclose(signals.topk_logprobs, largest, atol=atol)
    assert (np.diff(signals.topk_logprobs, axis=1) <= 0).all()
    assert all(len(set(ids)) == top_k for ids in signals.topk_ids.tolist())
    np.testing.assert_allclose(
        signals.tail, 1 - np.exp(largest.astype(np.float64)).sum(axis=1), atol=TAIL_ATOL[dtype]
    )
    for layer, ours in signals.states.items():
        assert ours.shape == states[layer].shape
        assert ours.dtype == (np.uint16 if dtype == "bfloat16" else np.float32)
        error = np.linalg.norm(as_float32(ours) - states[layer], axis=1)
        relative = error / np.linalg.norm(states[layer], axis=1)
        assert relative.max() <= STATES_RTOL[dtype], f"layer {layer}: {relative.max():.1e}"


def signals_from(data: dict[str, np.ndarray], name: str) -> TokenSignals:
    prefix = f"{name}/state"
    states = {int(k.removeprefix(prefix)): v for k, v in data.items() if k.startswith(prefix)}
    fields = ("target_ids", "topk_ids", "topk_logprobs", "tail", "target_logprobs")
    return TokenSignals(**{field: data[f"{name}/{field}"] for field in fields}, states=states)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(
    request: pytest.FixtureRequest, recorded: Path
) -> tuple[dict[str, np.ndarray], Reference, str, str]:
    family, dtype = request.param
    with np.load(recorded / f"{family}-{dtype}.npz") as saved:
        data = dict(saved)
    return data, Reference(recorded / family, dtype), family, dtype


def test_vllm_traces_agree_on_every_row(case: tuple) -> None:
    data, reference, family, dtype = case
    lengths = set()
    for row in range(len(SEEDS)):
        for index in range(SAMPLING.num_traces):
            signals = signals_from(data, f"trace{row}.{index}")
            assert set(signals.states) == set(LAYERS[family])
            logprobs, states = reference(data[f"prompt{row}"], signals.target_ids)
            assert_agrees(signals, signals.target_ids, logprobs, states, dtype)
            lengths.add(len(signals.target_ids))
    assert lengths <= set(range(1, SAMPLING.max_new_tokens + 1))


def test_vllm_scores_of_given_traces_agree_on_every_row(case: tuple) -> None:
    data, reference, family, dtype = case
    for row in range(len(SEEDS)):
        signals = signals_from(data, f"score{row}")
        target = data[f"trace{row}.0/target_ids"][: 1 + 6 * row]
        assert len(target) == 1 or row > 0
        assert set(signals.states) == set(LAYERS[family][1:])
        logprobs, states = reference(data[f"prompt{row}"], target)
        assert_agrees(signals, target, logprobs, states, dtype)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_vllm_traces_depend_on_their_seed_alone(recorded: Path, family: str) -> None:
    # In float32: in bfloat16 a batch's sums may round a draw to its neighbour.
    with np.load(recorded / f"{family}-float32.npz") as data:
        assert data["same_backwards"].all()
        assert data["same_alone"].all()
        drawn = {data[f"trace0.{i}/target_ids"].tobytes() for i in range(SAMPLING.num_traces)}
    assert len(drawn) == SAMPLING.num_traces


def test_vllm_scores_without_states(case: tuple) -> None:
    data, *_ = case
    assert data["bare"] == 0


def test_vllm_names_a_class_without_states(recorded: Path) -> None:
    message = (recorded / "refusal.txt").read_text(encoding="utf-8")
    assert "GPT2LMHeadModel" in message
    assert "--engine transformers" in message


@pytest.fixture(scope="module")
def teacher(models: Path) -> HfTextTeacher:
    return HfTextTeacher(model=str(models / "qwen3"), device="cpu")


def prompts_of(teacher: HfTextTeacher) -> list[np.ndarray]:
    texts = [f"what is {'three plus ' * repeats}four?" for repeats in (1, 6, 2)]
    return [teacher.encode([{"role": "user", "content": text}]) for text in texts]


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_transformers_engine_agrees_on_every_row(models: Path, family: str, dtype: str) -> None:
    teacher = HfTextTeacher(model=str(models / family), dtype=dtype, device="cpu")
    reference = Reference(models / family, dtype)
    prompts = prompts_of(teacher)
    layers = range(NUM_LAYERS[family] + 1)
    sampling = Sampling(num_traces=2, max_new_tokens=9, temperature=1.0)
    for prompt, many in zip(
        prompts, teacher.trace(prompts, [1, 2, 3], sampling, TOP_K, layers), strict=True
    ):
        for generated, signals in many:
            logprobs, states = reference(prompt, generated.token_ids)
            assert set(signals.states) == set(layers)
            assert_agrees(signals, generated.token_ids, logprobs, states, dtype)


def test_transformers_greedy_traces_are_the_plain_argmax(
    teacher: HfTextTeacher, models: Path
) -> None:
    reference = Reference(models / "qwen3", "float32")
    prompts = prompts_of(teacher)
    for prompt, (trace,) in zip(
        prompts, teacher.generate(prompts, [0, 0, 0], Sampling(max_new_tokens=6)), strict=True
    ):
        logprobs, _ = reference(prompt, trace.token_ids)
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


def test_prompts_follow_the_template(teacher: HfTextTeacher) -> None:
    messages = [{"role": "user", "content": "what is four?"}]
    expected = "<|im_start|>user\nwhat is four?<|im_end|>\n<|im_start|>assistant\n"
    ids = teacher.encode(messages)
    assert teacher._chat.tokenizer.decode(ids.tolist()) == expected
    assert teacher.decode(np.append(ids, 2)) == "user\nwhat is four?\nassistant\n"


def test_what_does_not_fit_is_refused(teacher: HfTextTeacher) -> None:
    assert teacher.max_model_len == MAX_POSITIONS - 1
    long = np.full(teacher.max_model_len, 5, np.int64)
    with pytest.raises(ModelError, match="max_model_len"):
        teacher.generate([long], [0], Sampling(max_new_tokens=1))
    with pytest.raises(UsageError, match=f"{VOCAB_SIZE} logits"):
        teacher.score([long[:4]], [long[:4]], VOCAB_SIZE + 1, ())
    with pytest.raises(UsageError, match="layers 0 to 4"):
        teacher.score([long[:4]], [long[:4]], 4, (5,))


@pytest.fixture
def copy(models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(models / "qwen3", tmp_path / "elsewhere"))


def test_a_description_is_of_contents(models: Path, copy: Path) -> None:
    original = describe_model(str(models / "qwen3"), load_tokenizer(str(models / "qwen3")))
    copied = describe_model(str(copy), load_tokenizer(str(copy)))
    assert {**copied, "model": ""} == {**original, "model": ""}
    # Other bytes, the same tokenizer.
    tokenizer_file = copy / "tokenizer.json"
    tokenizer_file.write_text(tokenizer_file.read_text(encoding="utf-8") + "\n\n")
    assert describe_model(str(copy), load_tokenizer(str(copy))) == copied
    tokenizer = load_tokenizer(str(copy))
    tokenizer.add_tokens(["<seven>"])
    assert describe_model(str(copy), tokenizer)["tokenizer_digest"] != copied["tokenizer_digest"]
    tokenizer = load_tokenizer(str(copy))
    tokenizer.chat_template += " "
    other = describe_model(str(copy), tokenizer)
    assert {k for k in copied if copied[k] != other[k]} == {"chat_template_digest"}
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    other = describe_model(str(copy), load_tokenizer(str(copy)))
    assert {k for k in copied if copied[k] != other[k]} == {"model_digest"}


def test_broken_model_directories_are_named(copy: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        load_config(str(copy / "nothing"))
    (copy / "chat_template.jinja").unlink()
    with pytest.raises(ModelError, match=r"elsewhere.*no chat template"):
        ChatTokenizer(str(copy))
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="holds no weights"):
        describe_model(str(copy), load_tokenizer(str(copy)))
    for file in copy.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match=r"elsewhere.*tokenizer"):
        load_tokenizer(str(copy))
    (copy / "config.json").write_text("{}")
    with pytest.raises(ModelError, match="configuration"):
        load_config(str(copy))
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_config(str(copy))


def test_dtypes_and_lengths_are_settled_once(models: Path) -> None:
    shape = text_shape(load_config(str(models / "qwen3")))
    assert (shape.num_layers, shape.width, shape.vocab_size) == (4, 64, VOCAB_SIZE)
    assert resolve_dtype("auto", shape) == "float32"
    assert resolve_dtype("bfloat16", shape) == "bfloat16"
    with pytest.raises(ModelError, match="expected auto"):
        resolve_dtype("int4", shape)
    assert shape.max_len(None, 8192) == MAX_POSITIONS - 1
    assert shape.max_len(None, 100) == 100
    assert shape.max_len(200, 100) == 200
    with pytest.raises(ModelError, match=f"1 to {MAX_POSITIONS - 1} tokens"):
        shape.max_len(MAX_POSITIONS, 100)
