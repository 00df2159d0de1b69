"""What is known of a textual teacher's model before it is loaded: prompts, digests, sizes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tiny_text_teachers import MAX_POSITIONS, VOCAB_SIZE, save_teacher
from transformers import FalconMambaConfig, GPT2Config, MptConfig

from audio_models.config import load_config
from cache_schema.errors import ModelError, UsageError
from pipeline.teachers.chat import ChatTokenizer
from pipeline.teachers.describe import (
    describe_model,
    load_tokenizer,
    resolve_dtype,
    text_shape,
)
from pipeline.teachers.text_model import TextModel
from pipeline.textual_recipe import TextualRecipe

MESSAGES = [{"role": "user", "content": "what is four?"}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teachers")
    save_teacher(folder / "qwen3", "qwen3")
    return folder


@pytest.fixture
def recipe(models: Path) -> TextualRecipe:
    return TextualRecipe(teacher=str(models / "qwen3"))


def test_prompts_follow_the_template(recipe: TextualRecipe) -> None:
    model = TextModel(recipe)
    expected = "<|im_start|>user\nwhat is four?<|im_end|>\n<|im_start|>assistant\n"
    ids = model.encode(MESSAGES)
    assert model.chat.tokenizer.decode(ids.tolist()) == expected
    assert model.decode(np.append(ids, 2)) == expected.replace("<|im_end|>", "")


def test_given_traces_end_as_a_turn_does(recipe: TextualRecipe, tmp_path: Path) -> None:
    model = TextModel(recipe)
    ids = model.encode_trace("<think>four</think> seven")
    assert model.chat.tokenizer.decode(ids.tolist()) == "<think>four</think> seven<|im_end|>"
    # A template may end turns with another of the model's stop tokens than the tokenizer's.
    template = tmp_path / "other.jinja"
    template.write_text("{% for m in messages %}{{ m['content'] }}<|endoftext|>{% endfor %}")
    shutil.copytree(recipe.teacher, tmp_path / "two")
    (tmp_path / "two" / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    other = replace(recipe, teacher=str(tmp_path / "two"), chat=str(template))
    assert TextModel(other).encode_trace("x")[-1] == 0


def test_a_prompt_may_be_put_as_it_stands(recipe: TextualRecipe) -> None:
    model = TextModel(replace(recipe, chat="none"))
    assert model.chat.tokenizer.decode(model.encode(MESSAGES).tolist()) == "what is four?"
    with pytest.raises(UsageError, match="has no template"):
        TextModel(replace(recipe, chat="none", template_args={"enable_thinking": False}))


def test_templates_are_told_arguments_and_may_be_given(
    recipe: TextualRecipe, tmp_path: Path
) -> None:
    template = tmp_path / "thinking.jinja"
    template.write_text(
        "{{ messages[0]['content'] }}{% if not enable_thinking %} briefly{% endif %}"
    )
    given = replace(recipe, chat=str(template), template_args={"enable_thinking": True})
    model = TextModel(given)
    assert model.chat.tokenizer.decode(model.encode(MESSAGES).tolist()) == "what is four?"
    model = TextModel(replace(given, template_args={"enable_thinking": False}))
    assert model.chat.tokenizer.decode(model.encode(MESSAGES).tolist()) == "what is four? briefly"
    described = model.described("vllm", "1", {})
    assert described["template_args"] == {"enable_thinking": False}
    own = TextModel(recipe).described("vllm", "1", {})
    assert described["chat_template_digest"] != own["chat_template_digest"]
    template.write_text("{{ raise_exception('no system role') }}")
    with pytest.raises(UsageError, match="refuses the prompt: no system role"):
        TextModel(given).encode(MESSAGES)
    with pytest.raises(UsageError, match=r"expected model, none or the path"):
        TextModel(replace(recipe, chat=str(tmp_path / "missing.jinja")))


def test_the_day_of_the_run_is_in_no_prompt(recipe: TextualRecipe, tmp_path: Path) -> None:
    """As Llama 3's template has it: a day of its own, or else the clock's."""
    template = tmp_path / "dated.jinja"
    template.write_text(
        "{% if date_string is not defined %}{% set date_string = strftime_now('%d %m %Y %H') %}"
        "{% endif %}{% macro today() %}{{ strftime_now('%Y') }}{% endmacro %}"
        "{{ date_string }} in {{ today() }}"
    )
    dated = replace(recipe, chat=str(template))

    def prompt(recipe: TextualRecipe) -> str:
        model = TextModel(recipe)
        return str(model.chat.tokenizer.decode(model.encode(MESSAGES).tolist()))

    assert prompt(dated) == "01 01 2026 00 in 2026"
    assert prompt(replace(dated, date="1999-12-31")) == "31 12 1999 00 in 1999"
    told = replace(dated, template_args={"date_string": "May"})
    assert prompt(told) == "May in 2026"
    for wrong in ("today", "2026-1-1", "20260101", ""):
        with pytest.raises(UsageError, match=r"textual\.date: expected a day such as"):
            replace(recipe, date=wrong)


def test_tags_that_are_special_tokens_are_said(recipe: TextualRecipe, tmp_path: Path) -> None:
    folder = shutil.copytree(recipe.teacher, tmp_path / "tags")
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"additional_special_tokens": ["<THINK>", "<RESPONSE>"]})
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.save_pretrained(folder)
    model = TextModel(replace(recipe, teacher=str(folder)))
    text = "<THINK>three\n<RESPONSE>seven"
    assert model.decode(model.encode_trace(text)) == text
    assert model.decode(model.encode_trace(f"<|im_start|>{text}<|endoftext|>")) == text


def test_stop_tokens_without_a_generation_configuration(
    recipe: TextualRecipe, tmp_path: Path
) -> None:
    """Both engines then stop where the model's configuration says."""
    folder = Path(shutil.copytree(recipe.teacher, tmp_path / "plain"))
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": [7, 5]}))
    model = TextModel(replace(recipe, teacher=str(folder)))
    assert model.described("vllm", "1", {})["stop_ids"] == [2, 5, 7]
    assert TextModel(recipe).described("vllm", "1", {})["stop_ids"] == [2]


def test_sizes_under_other_names_or_none() -> None:
    assert text_shape(MptConfig(max_seq_len=77, n_layers=2)).max_positions == 77
    assert text_shape(GPT2Config(n_positions=88)).max_positions == 88
    with pytest.raises(ModelError, match="its configuration has no 'num_attention_heads'"):
        text_shape(FalconMambaConfig())


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
        ChatTokenizer(str(copy), "model", {}, "2026-01-01")
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
