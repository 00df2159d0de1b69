"""Classification heads: which one a checkpoint has, its classes, and what it says of a batch.

- ``...ForSequenceClassification`` and ``...ForAudioClassification``: logits of a whole recording;
  the embedding is what the last module, the classifier, reads.
- ``...ForXVector``: the embedding is the x-vector (transformers' ``embeddings``). transformers
  calls ``logits`` a further projection of it that has no classes; the class logits are those its
  loss computes, without the margin that training adds: ``scale * cos(projection, class weight)``
  (additive margin softmax, arXiv 1801.05599).
- ``...ForAudioFrameClassification``: logits of each frame.

Every other class (``...ForCTC``, ``...ForPreTraining``, ``...Model``) gives its encoder alone.
Where that leaves out a head nobody here knows, such as that of a class of the checkpoint's own, it
is said (``say_left_out``).

Shapes: B recordings, C classes, E embedding, F frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from audio_models.config import architecture_of
from audio_models.valid_frames import ValidFrames
from cache_schema.commands.console import say
from cache_schema.errors import ModelError

HEADS = {
    "ForSequenceClassification": "utterance",
    "ForAudioClassification": "utterance",
    "ForXVector": "xvector",
    "ForAudioFrameClassification": "frame",
}
"""End of a class's name -> kind of its head."""

HEADLESS = ("Model", "Encoder", "ForCTC", "ForPreTraining", "ForConditionalGeneration")
"""Ends of the names of classes known to have no classes."""

_NOT_READ = (
    "lm_head.", "quantizer.", "project_", "final_proj.", "label_embeddings_concat", "speaker_proj.",
    "ctc_proj.", "layer_norm_for_extract.", "decoder.", "proj_out.", "masked_spec_embed",
)  # fmt: skip
"""Weights of recognisers and of training, which are left out everywhere and lose no classes."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """What the head of a checkpoint gives.

    Attributes:
        kind: ``utterance``, ``xvector``, ``frame``, or ``none``.
        labels: its classes, in the order of the logits.
        multi_label: whether the classes are judged each by itself.
        embedding_width: size E of the embedding; 0 for none.
        min_frames: fewest frames it can use.
    """

    kind: str = "none"
    labels: tuple[str, ...] = ()
    multi_label: bool = False
    embedding_width: int = 0
    min_frames: int = 1


def read_head(model: str, config: Any) -> Head:
    """Return what a checkpoint's head gives, from its configuration alone.

    ``multi_label`` is ``config.problem_type``. Where that is absent, classes of a whole recording
    exclude each other (transformers' heads train them with cross-entropy), and classes of a frame
    do not: they take one binary label a class and are read through a sigmoid (several speakers at
    once, SUPERB diarization). transformers' own loss for frames reduces these labels to the first
    one that is set; a checkpoint trained that way should say ``single_label_classification``, and
    one of many sounds at once (AudioSet) ``multi_label_classification``.

    Raises:
        ModelError: a regression head, or labels that are not numbered from 0.
    """
    architecture = architecture_of(config)
    kind = next((kind for end, kind in HEADS.items() if architecture.endswith(end)), "none")
    if kind == "none":
        return Head()
    if config.problem_type == "regression":
        raise ModelError(
            f"model {model!r}: its head is a regression (config.problem_type), which has no "
            "classes; save the encoder alone, or use a classifier"
        )
    by_number = {int(number): str(label) for number, label in config.id2label.items()}
    if sorted(by_number) != list(range(len(by_number))) or not by_number:
        raise ModelError(
            f"model {model!r}: config.id2label numbers its classes {sorted(by_number)}, expected 0 "
            "to the number of classes - 1"
        )
    projected = hasattr(config, "classifier_proj_size")  # AST pools what its blocks have made
    widths = {
        "utterance": "classifier_proj_size" if projected else "hidden_size",
        "xvector": "xvector_output_dim",
    }
    width = widths.get(kind)
    problem = config.problem_type or (
        "multi_label_classification" if kind == "frame" else "single_label_classification"
    )
    return Head(
        kind=kind,
        labels=tuple(by_number[number] for number in range(len(by_number))),
        multi_label=problem == "multi_label_classification",
        embedding_width=int(getattr(config, width)) if width else 0,
        min_frames=_fewest_frames(config) if kind == "xvector" else 1,
    )


def say_left_out(model: str, config: Any, unexpected: Iterable[str]) -> None:
    """Say which head of a checkpoint is not read, if there is one that is not known.

    Args:
        model: the checkpoint.
        config: its configuration.
        unexpected: names of the weights that the class that was loaded has no place for.
    """
    architecture = architecture_of(config)
    names = [name.removeprefix("model.") for name in unexpected]
    left = sorted(name for name in names if not name.startswith(_NOT_READ))
    known = not architecture or architecture.endswith((*HEADS, *HEADLESS))
    if known and not left:
        return
    which = f"{len(left)} weights, such as {left[0]}, are" if left else "no weights are"
    say(
        f"{model}: its class {architecture or '(none named)'} has a head that is not known here "
        f"and is not read; {which} left out. Heads are read of classes that end in "
        f"{', '.join(HEADS)}"
    )


def count_tdnn_frames(network: Any) -> None:
    """Let an x-vector head count its frames with the dilation of its layers.

    transformers counts them without, so that the pooling of a short recording reaches into the
    padding of the batch; for a recording alone the counts come to the same.
    """
    context = _tdnn_context(network.config)

    def lengths(input_lengths: Tensor) -> Tensor:
        return input_lengths - context

    network._get_tdnn_output_lengths = lengths


class HeadReader:
    """Reads logits and embedding of a network's passes.

    Args:
        network: a transformers model whose class has the head.
        head: what it gives.
    """

    def __init__(self, network: Any, head: Head) -> None:
        self._network, self._head = network, head
        self._pooled: Tensor | None = None

    @contextmanager
    def listen(self) -> Iterator[None]:
        """Keep the embedding of the pass run inside."""
        if self._head.kind != "utterance":
            yield
            return

        def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._pooled = args[0]

        handle = self._network.classifier.register_forward_pre_hook(keep)
        try:
            yield
        finally:
            handle.remove()

    def utterance(self, output: Any) -> tuple[Tensor | None, Tensor | None]:
        """Return logits [B, C] and embedding [B, E] of a whole recording, where there are."""
        if self._head.kind == "xvector":
            objective = self._network.objective
            directions = nn.functional.normalize(objective.weight, dim=0)
            cosines = nn.functional.normalize(output.logits, dim=1) @ directions
            return objective.scale * cosines, output.embeddings
        if self._head.kind == "utterance":
            pooled, self._pooled = self._pooled, None
            return output.logits, pooled
        return None, None

    def frames(self, output: Any, valid: ValidFrames) -> Tensor | None:
        """Return logits [N, C] of all valid frames, where there are."""
        if self._head.kind != "frame":
            return None
        return valid.take(output.logits)


def _fewest_frames(config: Any) -> int:
    """Return the frames that leave an x-vector head two to take a standard deviation of."""
    fewest = _tdnn_context(config) + 2
    if getattr(config, "add_adapter", False):
        fewest *= config.adapter_stride**config.num_adapter_layers
    return int(fewest)


def _tdnn_context(config: Any) -> int:
    """Return the frames that the time-delay layers of an x-vector head use up."""
    layers = zip(config.tdnn_kernel, config.tdnn_dilation, strict=True)
    return sum((kernel - 1) * dilation for kernel, dilation in layers)
