"""The study's step with published teachers, on tiny ones of their classes; and without any."""

import json
import re

import numpy as np
import pytest
import torch
from tiny_audio_encoders import save_encoder
from transformers import Qwen2Config, Qwen2ForCausalLM

from cache_schema import open_tape
from examples.quickstart import tokens
from examples.quickstart.audio_lm import make_audio_lm
from examples.quickstart.world import Voices
from examples.study import rows, seed
from examples.study.questions import REASONING
from examples.study.real_weights import main
from pipeline.cli import app as pipeline_app
from train.cli import app as train_app

ROWS, ASKED, LAYERS, WIDTH = 6, 2, 2, 48
MAX_NEW_TOKENS = 8


@pytest.fixture
def commands(monkeypatch):
    """Runs commands in this process: starting one takes longer than what it does here."""
    given = []

    def command(*words):
        module, *arguments = map(str, words)
        given.append(arguments[-1] if module == "pipeline" else arguments[0])
        app = {"pipeline": pipeline_app, "train": train_app}[module]
        app(arguments, standalone_mode=False)

    monkeypatch.setattr(seed, "command", command)
    return given


@pytest.fixture(scope="module")
def text_teacher(tmp_path_factory):
    """A random Qwen2, the class of Qwen2.5-Coder, that says words the student has no token for."""
    path = tmp_path_factory.mktemp("qwen2")
    torch.manual_seed(0)
    tokenizer = tokens.make_tokenizer(["because therefore however although perhaps"], 290)
    tokenizer.chat_template += "{% if not enable_thinking %}<think></think>{% endif %}"
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=2048,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model = Qwen2ForCausalLM(config)
    # any other byte alone is no text, and a trace that is none cannot be told in other tokens
    said = [i for i in range(290) if re.fullmatch(r"[!-~]+", tokenizer.convert_ids_to_tokens(i))]
    with torch.no_grad():
        weight = torch.zeros_like(model.lm_head.weight)
        weight[said] = torch.randn(len(said), WIDTH)
        model.lm_head.weight.copy_(weight)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def seed_folder(tones, tokenizer, processor, tmp_path, commands):
    """What a study leaves behind of a seed, as far as it is read here."""
    folder = tmp_path / "seed-0"
    compositions, rng = rows.split_compositions(0), np.random.default_rng(0)
    voices, speakers = Voices(tones), ("low", "high")
    parts = {"train": (list(REASONING), ROWS + 2), "dev": (["digits", "largest"], 2 * ASKED)}
    for part, (kinds, count) in parts.items():
        drawn = rows.draw_rows(part, kinds, compositions[part], tones, speakers, count, rng)
        rows.write_rows(folder / "world", part, drawn, lambda _: voices, False, rng)
    dev = folder / "world" / "dev.jsonl"
    seed.command("pipeline", "ingest", "--dataset", dev, "--out", folder / "heldout-dev")
    torch.manual_seed(0)
    make_audio_lm(tokenizer, LAYERS).save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    (folder / "study.json").write_text(json.dumps({"seed": 0, "size": "tiny"}))
    commands.clear()
    return folder


def test_tiny_teachers_of_the_same_classes(seed_folder, text_teacher, tmp_path, commands, capsys):
    encoder = save_encoder(tmp_path / "whisper", "whisper", "ForConditionalGeneration")
    words = [str(seed_folder), "--text-teacher", str(text_teacher)]
    words += ["--acoustic-teacher", str(encoder), "--rows", str(ROWS), "--steps", "2"]
    words += ["--max-new-tokens", str(MAX_NEW_TOKENS), "--threads", "1"]
    assert main(words) == 0
    assert commands == ["ingest", "textualize", "textual", "acoustic", "student"]

    tape = open_tape(str(seed_folder / "tape-real"))
    assert len(tape) == ROWS
    assert tape.sources["textual"]["template_args"] == {"enable_thinking": False}
    row = tape["train-00000"]
    assert row["textual/hidden"].layers == (2, 4)
    assert (row["acoustic/hidden"].kind, row["acoustic/hidden"].layers) == ("frame", (2, 3))

    found = json.loads((seed_folder / "real.json").read_text())
    about, training = found["tape"], found["training"]
    written = ROWS * MAX_NEW_TOKENS
    assert (about["traces"], about["trace_tokens"], about["traces_cut"]) == (ROWS, written, ROWS)
    # 64 kept of each token, 8 bytes an entry; two layers of 48 in bfloat16; two of 32 every 20 ms
    assert 512 < about["bytes_each"]["textual/topk"] < 1200
    assert 192 < about["bytes_each"]["textual/hidden"] < 1500
    assert 50 * 2 * 32 * 2 <= about["bytes_each"]["acoustic/hidden"] < 20_000
    assert training["steps"] == 2
    assert training["terms"].keys() == {"ce", "text_jsd", "text_hidden", "acoustic_hidden"}
    for term in training["terms"].values():
        for one in term.values():
            assert one["count"] > 0
            assert np.isfinite(one["value"])
    assert 0 < training["terms"]["text_jsd"]["first"]["unknown"] < 1
    for name in ("base", "student"):
        assert {ability: asked for ability, (_, asked) in found[name].items()} == {
            "hearing": ASKED,
            "reasoning": ASKED,
        }
    told = capsys.readouterr().out
    assert f"0 of {ROWS} traces are right, {ROWS} are cut" in told
    assert "student: hearing" in told

    commands.clear()
    assert main(words) == 0
    assert not commands, "what is done is not done again"
    assert main([*words, "--steps", "3"]) == 1
    assert "repeat those settings" in capsys.readouterr().err


def test_absent_weights_are_skipped_with_a_word(
    seed_folder, text_teacher, tmp_path, commands, monkeypatch, capsys
):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    nowhere = str(tmp_path / "nowhere")
    words = [str(seed_folder), "--threads", "1"]
    assert main([*words, "--text-teacher", nowhere]) == 0
    assert capsys.readouterr().out == (
        f"skipped: the weights of {nowhere} cannot be had: there is no such folder\n"
    )
    there = ["--text-teacher", str(text_teacher)]
    assert main([*words, *there, "--acoustic-teacher", "nobody/nothing"]) == 0
    assert "skipped: the weights of nobody/nothing cannot be had: no hub" in capsys.readouterr().out
    assert not commands
    assert not (seed_folder / "real.json").exists()

    assert main([str(tmp_path), "--threads", "1"]) == 1
    assert "no base student of a study yet" in capsys.readouterr().err
