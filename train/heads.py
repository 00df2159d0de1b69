"""Light heads on the student's audio tower: classes of recordings and frames, and embeddings.

Not heads of the language model (those are ``train.losses.heads``). A head reads what the tower's
last block leaves, before the tower's final norm and before what projects it to the language model:
the one place that all families have, at the tower's own frame rate. Each frame is normalised,
without weights to learn, pooled with the others of its recording or not, and goes through one
linear layer: what is learned is left to the tower.

A trained student has its heads beside it, in a folder of their own: what loads weights may take
every ``.safetensors`` beside a model for its own (vLLM does where there is no index).

```python
from audio_models.tower import load_audio_tower
from train.heads import load_heads

tower, heads = load_audio_tower("run/student"), load_heads("run/student")
batch = tower.build([audio]).to(tower.device)                # float32, mono, 16 kHz
top = tower.shape.num_layers
frames = tower.forward(batch, [top]).states[top]
head = heads["acoustic_utterance"]                           # by the term's name
dict(zip(head.spec.labels, head(frames, batch.num_frames).softmax(-1)[0].tolist()))
```

Shapes: B recordings, N frames of all of them in order, D width of the tower, O outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from cache_schema.commands.recipes import build
from cache_schema.errors import ModelError, UsageError
from train.losses.precision import wide
from train.pooling import AttentiveStatistics, row_means
from train.terms.resolve import Term
from train.terms.settings import EmbeddingTerm, UtteranceTerm

FOLDER = "heads"
"""Beside the student; holds the two files below."""

WEIGHTS, ABOUT = "heads.safetensors", "heads.json"

FRAMES = "frames"
"""Pooling of a head that judges each frame."""


@dataclass(frozen=True, kw_only=True)
class HeadSpec:
    """What a head computes.

    Attributes:
        source: the teacher it learned from, by its name on the tape.
        signal: ``utterance_logits``, ``frame_logits`` or ``embedding``.
        layer: the tower's layer it reads, the top one.
        width: D.
        pooling: ``mean``, ``statistics``, or ``frames`` for none.
        outputs: O.
        labels: the classes, in order; empty for an embedding.
        multi_label: whether each class is judged by itself (sigmoid), not against the others.
    """

    source: str
    signal: str
    layer: int
    width: int
    pooling: str
    outputs: int
    labels: tuple[str, ...] = ()
    multi_label: bool = False


class AudioHead(nn.Module):
    """A light head on the audio tower.

    Args:
        spec: what it computes.
    """

    def __init__(self, spec: HeadSpec) -> None:
        super().__init__()
        self.spec = spec
        pooled = 2 * spec.width if spec.pooling == "statistics" else spec.width
        self.attention = AttentiveStatistics(spec.width) if spec.pooling == "statistics" else None
        self.linear = nn.Linear(pooled, spec.outputs)

    def forward(self, frames_ND: Tensor, counts: Sequence[int]) -> Tensor:
        """Return raw logits, or embeddings: [B, O] of recordings, or [N, O] of frames.

        Args:
            frames_ND: the tower's top layer at its frames, recording after recording.
            counts: frames of each recording.
        """
        # it is small, and a matrix product of autocast would round to bfloat16
        with torch.autocast(frames_ND.device.type, enabled=False):
            frames_ND = F.layer_norm(wide(frames_ND), (self.spec.width,))
            if self.attention is not None:
                frames_ND = self.attention(frames_ND, counts)
            elif self.spec.pooling != FRAMES:
                frames_ND = row_means(frames_ND, counts)
            outputs: Tensor = self.linear(frames_ND)
        return outputs


def head_of(term: Term, layer: int, width: int) -> AudioHead:
    """Return a new head for a term on the audio tower.

    Args:
        term: what it learns from.
        layer: the tower's top layer.
        width: its width.
    """
    settings = term.settings
    return AudioHead(
        HeadSpec(
            source=term.source,
            signal=term.spec.signal,
            layer=layer,
            width=width,
            pooling=(
                settings.pooling if isinstance(settings, UtteranceTerm | EmbeddingTerm) else FRAMES
            ),
            outputs=len(term.labels) or term.teacher_width,
            labels=term.labels,
            multi_label=term.multi_label,
        )
    )


def save_heads(modules: Mapping[str, nn.Module], student: Path) -> None:
    """Write the heads among some modules beside a student; nothing if there is none.

    Args:
        modules: by name.
        student: its directory.
    """
    heads = {name: module for name, module in modules.items() if isinstance(module, AudioHead)}
    if not heads:
        return
    folder = student / FOLDER
    folder.mkdir(exist_ok=True)
    tensors = {
        f"{name}.{key}": tensor.detach().cpu().contiguous()
        for name, head in heads.items()
        for key, tensor in head.state_dict().items()
    }
    save_file(tensors, folder / WEIGHTS)
    about = {name: asdict(head.spec) for name, head in heads.items()}
    (folder / ABOUT).write_text(json.dumps(about, indent=2, ensure_ascii=False) + "\n", "utf-8")


def load_heads(student: str | Path) -> dict[str, AudioHead]:
    """Load the heads beside a trained student, by the names of their terms, in evaluation mode.

    Args:
        student: its directory, as ``RUN/student``.

    Raises:
        ModelError: there are none, or the two files do not belong together.
    """
    folder = Path(student) / FOLDER
    if not (folder / ABOUT).is_file():
        raise ModelError(
            f"{student}: no {FOLDER}/{ABOUT} beside it: a student gets heads from a run with "
            "acoustic_utterance, acoustic_frames or acoustic_embedding among its terms"
        )
    try:
        about = json.loads((folder / ABOUT).read_text("utf-8"))
        heads = {name: AudioHead(build(HeadSpec, spec, name)) for name, spec in about.items()}
        tensors = load_file(folder / WEIGHTS)
        for name, head in heads.items():
            head.load_state_dict(_of(name, tensors))
    except (OSError, ValueError, AttributeError, UsageError) as error:
        raise ModelError(f"{folder}: {error}") from error
    except (RuntimeError, SafetensorError) as error:
        raise ModelError(f"{folder}: {WEIGHTS} is not what {ABOUT} says: {error}") from error
    return {name: head.eval() for name, head in heads.items()}


def _of(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    prefix = f"{name}."
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
