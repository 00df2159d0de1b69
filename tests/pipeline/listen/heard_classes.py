"""Tiny audio classifiers that listen, and what transformers hears with them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import tiny_audio_encoders as tiny
import torch
import transformers

from cache_schema.types import FloatArray, Heard
from pipeline.listen.plan import Listening, load, plan
from pipeline.textualize_recipe import ListenRecipe


def planned(model: Path, **settings: Any) -> Listening:
    return plan("heard", ListenRecipe(model=str(model), device="cpu", **settings))


def heard(model: Path, audios: list[FloatArray], **settings: Any) -> list[Heard]:
    return [hearing.heard for hearing in load(planned(model, **settings)).hear(audios)]


def save(
    path: Path, family: str, ending: str, biases: list[float] | None = None, **settings: Any
) -> Path:
    """Save a classifier; with ``biases`` its head gives these logits, whatever it hears."""
    tiny.save_encoder(path, family, ending, **settings)
    if biases is not None:
        model = getattr(transformers, tiny.FAMILIES[family][0] + ending).from_pretrained(path)
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.bias.copy_(torch.tensor(biases))
        model.save_pretrained(path)
    return path


@torch.inference_mode()
def reference(model: Path, kind: str, audio: FloatArray) -> np.ndarray:
    """Return the logits that transformers gives for one recording."""
    network = getattr(transformers, kind).from_pretrained(model).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(model)
    inputs = extractor(audio, sampling_rate=16_000, return_tensors="pt")
    logits: np.ndarray = network(**inputs).logits[0].numpy()
    return logits
