"""The acoustic step against bare forward passes: the same batches, the same model, in turns.

``bare`` is the model's own forward pass over inputs that lie ready, unembedding the response alone:
no front end, no states kept, no top-k, nothing written. ``step`` is all the step does once its
model is loaded: it reads recordings from a tape, runs the front end, the passes, the read-out of
the responses, and writes and commits a tape. The limit is 1. Freed memory stays with the process,
as it does on a GPU: handing it back and forth would cost both jobs more than what is measured.

Two teachers, an audio language model (Qwen2.5-Omni's thinker, 154 M parameters) and an
encoder (HuBERT, 94 M), random weights, and a small one of each, where all that is no arithmetic
shows.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from figures import Figure, interleaved, ratio

SAMPLES, BATCH, ROUNDS = 16, 4, 5
SECONDS = (2.0, 4.0)
TOP_K = 64
SIZES = {"large": (768, 12, 32_000), "small": (64, 2, 1000)}
BAR = 1.10


def save_language_model(folder: Path, width: int, layers: int, vocabulary: int) -> None:
    """Write a Qwen2.5-Omni thinker and its processor."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5OmniThinkerConfig,
        Qwen2_5OmniThinkerForConditionalGeneration,
        Qwen2AudioProcessor,
        WhisperFeatureExtractor,
    )

    specials = ("<pad>", "<end>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
    words = {name: index for index, name in enumerate((*specials, "<unk>"))}
    words |= {f"w{n}": len(words) + n for n in range(vocabulary - len(words))}
    core = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens(list(specials))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<end>")
    template = "<|audio_bos|><|AUDIO|><|audio_eos|> {{ messages[0]['content'][1]['text'] }} w1 "
    torch.manual_seed(0)
    config = Qwen2_5OmniThinkerConfig(
        audio_config={
            "num_mel_bins": 80, "d_model": width // 2, "encoder_layers": layers,
            "encoder_attention_heads": width // 64 or 1, "encoder_ffn_dim": 2 * width,
            "output_dim": width, "n_window": 50,
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2,
            "out_hidden_size": width, "fullatt_block_indexes": [0],
        },
        text_config={
            "vocab_size": vocabulary, "hidden_size": width, "intermediate_size": 3 * width,
            "num_hidden_layers": layers, "num_attention_heads": max(1, width // 64),
            "num_key_value_heads": max(1, width // 192), "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 10000.0, "mrope_section": [8, 12, 12],
            },
        },
        audio_token_index=2, audio_start_token_id=3, audio_end_token_id=4,
        vision_start_token_id=5,
    )  # fmt: skip
    Qwen2_5OmniThinkerForConditionalGeneration(config).save_pretrained(folder)
    Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(
            feature_size=80, chunk_length=300, return_attention_mask=True
        ),
        tokenizer=tokenizer,
        chat_template=template,
        audio_token="<|AUDIO|>",
        audio_bos_token="<|audio_bos|>",
        audio_eos_token="<|audio_eos|>",
    ).save_pretrained(folder)


def save_encoder(folder: Path, width: int, layers: int, _vocabulary: int) -> None:
    """Write a HuBERT of the base layout and its feature extractor."""
    import torch
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    channels = min(512, 4 * width)
    config = HubertConfig(
        hidden_size=width, num_hidden_layers=layers, intermediate_size=4 * width,
        num_attention_heads=max(1, width // 64), conv_dim=(channels,) * 7,
    )  # fmt: skip
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def ingested(folder: Path, teacher: Path) -> Any:
    """Return a recipe whose samples, noise with an answer of 24 words, are on a tape."""
    import json

    import soundfile

    from pipeline.acoustic_recipe import AcousticRecipe
    from pipeline.extract import run_step
    from pipeline.recipe import DatasetRecipe, ExtractRecipe, TapeRecipe

    rng = np.random.default_rng(0)
    lines = []
    for number, seconds in enumerate(np.linspace(*SECONDS, SAMPLES)):
        noise = 0.1 * rng.standard_normal(round(seconds * 16_000))
        soundfile.write(folder / f"{number}.wav", noise, 16_000)
        answer = " ".join(f"w{n}" for n in rng.integers(0, 900, 24))
        row = {"audio": f"{number}.wav", "question": f"w{number}", "answer": answer}
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")
    recipe = ExtractRecipe(
        dataset=DatasetRecipe(path=str(folder / "rows.jsonl")),
        tape=TapeRecipe(out=str(folder / "tape")),
        acoustic=AcousticRecipe(
            teacher=str(teacher), top_k=TOP_K, batch_size=BATCH, dtype="float32", device="cpu"
        ),
    )
    run_step("ingest", recipe)
    return recipe


def jobs_of(recipe: Any) -> dict[str, Callable[[], None]]:
    """Return the step with its model loaded, and bare passes over the same batches."""
    import torch

    from audio_models.forward import forward_with_states
    from audio_models.inputs import AudioBatch
    from cache_schema import open_tape
    from cache_schema.commands.progress import Counter
    from pipeline.hearing.batches import Capacity, cut
    from pipeline.hearing.plan import plan
    from pipeline.hearing.recorder import Recorder
    from pipeline.listen.recordings import Recordings
    from pipeline.step import failures_of, pending, writer_for

    tape = open_tape(recipe.tape.out)
    planned = plan(recipe, tape)
    todo = pending(tape, planned.info, recipe)
    teacher = planned.load()
    model = teacher._model if planned.responses is None else teacher._lm
    network = model.module if planned.responses is None else model.model

    def recorder(writer: Any, progress: Any) -> Recorder:
        return Recorder(
            title="acoustic", teacher=teacher, recordings=Recordings(tape, recipe.dataset),
            responses=planned.responses, seed=0, capacity=Capacity.of(BATCH), writer=writer,
            failures=failures_of("acoustic", "acoustic", tape, recipe), progress=progress,
        )  # fmt: skip

    def step() -> None:
        with tempfile.TemporaryDirectory(dir=Path(recipe.tape.out).parent) as out:
            other = replace(recipe, tape=replace(recipe.tape, out=out))
            with (
                contextlib.redirect_stderr(io.StringIO()),
                writer_for(other, planned.info) as writer,
                Counter("acoustic", len(todo)) as progress,
            ):
                recorder(writer, progress).record(todo)
                writer.seal()

    heard = recorder(None, None)
    batches = [
        teacher.build([item for _, item in batch]).batch
        for batch in cut(heard._items(todo), Capacity.of(BATCH), teacher.same_length)
    ]

    @torch.no_grad()
    def bare() -> None:
        for batch in batches:
            if isinstance(batch, AudioBatch):
                forward_with_states(network, batch.inputs, (), batch.predict_positions)
            else:
                network(**model.cast(batch))

    return {"bare": bare, "step": step}


def keep_memory() -> None:
    """Let the allocator keep what is freed (glibc's M_MMAP_THRESHOLD and M_TRIM_THRESHOLD)."""
    libc = ctypes.CDLL(None)
    libc.mallopt(-3, 1 << 30)
    libc.mallopt(-1, 1 << 30)


def measure() -> Iterator[Figure]:
    """Both teachers in both sizes."""
    keep_memory()
    kinds = {"audio LM": save_language_model, "encoder": save_encoder}
    for kind, save in kinds.items():
        for size, sizes in SIZES.items():
            with tempfile.TemporaryDirectory() as name, contextlib.redirect_stderr(io.StringIO()):
                folder = Path(name)
                save(folder / "teacher", *sizes)
                taken_s = interleaved(jobs_of(ingested(folder, folder / "teacher")), ROUNDS)
            audio_s = sum(np.linspace(*SECONDS, SAMPLES))
            yield Figure(
                name=f"acoustic step, {kind}, {size}",
                value=1 / ratio(taken_s["bare"], taken_s["step"]),
                unit="x the time of bare passes",
                bar=BAR if size == "large" else None,
                at_least=False,
                note=f"bare: {audio_s / np.median(taken_s['bare']):.0f} s of audio a second",
            )
