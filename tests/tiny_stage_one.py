"""A tiny dataset and a tiny textual teacher on disk, and the command that records them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile
import torch
from tiny_audio_lm import CHAT_TEMPLATE, build_tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

NUM_ROWS = 9


def run_pipeline(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the command as a user would, in a process of its own."""
    command = [sys.executable, "-m", "pipeline", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def save_dataset(folder: Path, rows: int = NUM_ROWS) -> Path:
    """Write chirps of different lengths and rates as wav, flac, ogg and stereo, with a JSONL."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(rows):
        rate_hz = (16_000, 8_000, 44_100)[index % 3]
        times_s = np.arange(int(rate_hz * (0.4 + 0.13 * index))) / rate_hz
        wave = 0.4 * np.sin(2 * np.pi * (200 + 300 * times_s) * times_s)
        if index % 4 == 3:
            wave = np.stack([wave, 0.5 * wave], axis=1)
        name = f"clip-{index}.{('wav', 'flac', 'ogg')[index % 3]}"
        soundfile.write(folder / name, wave, rate_hz)
        row = {
            "id": f"row-{index}",
            "audio": name,
            "question": "Does it rise?" if index % 2 else "Is it a very long sound, would you say?",
            "choices": ["yes", "no"],
            "answer": "yes",
            "transcript": "beep " * (index + 1),
            "speaker": "machine",
        }
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "rows.jsonl"


def save_text_teacher(path: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Save a random Qwen3 whose logits are not flat; its tokenizer is the tiny audio models'."""
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=270,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        bos_token_id=None,
        eos_token_id=258,
        pad_token_id=256,
    )
    model = Qwen3ForCausalLM(config)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            scale = 1.0 if "embed" in name else 0.7 / parameter.shape[1] ** 0.5
            torch.nn.init.normal_(parameter, std=2.0 * scale if "lm_head" in name else scale)
    with torch.no_grad():
        model.lm_head.weight[256:] = 0  # a random model should hardly ever say a special token
    model.to(dtype).save_pretrained(path)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(path)
    return path


def extraction(
    dataset: Path, text_teacher: Path, acoustic_teacher: Path, out: Path, dtype: str
) -> list[str | Path]:
    """Arguments of the full stage one on the tiny teachers, under the real vLLM."""
    return [
        "extract-teachers", "--dataset", dataset, "--text-teacher", text_teacher,
        "--acoustic-teacher", acoustic_teacher, "--out", out, "--text-layers", "all",
        "--acoustic-layers", "0,1,2", "--top-k", "16", "--max-new-tokens", "12",
        "--set", f"textual.dtype={dtype}", "--set", f"acoustic.dtype={dtype}",
        "--set", f"tape.states_dtype={dtype}", "--set", "acoustic.batch_size=4",
        "--set", "tape.shard_samples=4",
    ]  # fmt: skip
