"""Sections of the training recipe beside its terms: rows, student, optimizer, loop, logging."""

from __future__ import annotations

from dataclasses import dataclass

from cache_schema.signals import ORIGINS

SCHEDULES = ("cosine", "linear", "constant", "wsd")
TRACKERS = ("tensorboard", "trackio", "wandb")
SAVED = ("last", "best")
SHARDINGS = ("none", "full")
LARGEST_SEED = 2**32 - 1


def require(holds: bool, message: str) -> None:
    """Raise ``ValueError`` with a message, which recipes name with their line, unless it holds."""
    if not holds:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Which rows are trained on.

    Attributes:
        wrong_traces: also use traces judged wrong.
        truncated_traces: also use traces cut at the teacher's length limit.
        origins: where traces may come from: ``free``, ``label`` (the teacher was told the right
            answer; so were all its signals, and the student is not) or ``given`` (a column's).
        max_tokens: rows longer than this (prompt, audio and trace) are left out.
        teacher_tokenizer: directory or hub id of the textual teacher's tokenizer, where the
            student has another one: the traces are then written in the student's tokens, and what
            the teacher said is compared where both begin a token.
    """

    wrong_traces: bool = False
    truncated_traces: bool = False
    origins: tuple[str, ...] = ORIGINS
    max_tokens: int = 4096
    teacher_tokenizer: str = ""

    def __post_init__(self) -> None:
        require(bool(self.origins), f"origins: expected one or more of {ORIGINS}, got none")
        for origin in self.origins:
            require(origin in ORIGINS, f"origins: {origin!r}: one of {ORIGINS}")


@dataclass(frozen=True, kw_only=True)
class StudentRecipe:
    """What of the student is trained, and how it is held.

    Attributes:
        freeze: parts that stay as they are: ``audio_tower``, ``projector``, ``language_model``.
        activation_checkpointing: recompute blocks in the backward pass, for less memory.
        autocast: ``auto`` (bfloat16 on CUDA, none elsewhere), ``bfloat16`` or ``none``; weights
            are held in float32 and saved in the dtype they came in.
        lora_rank: 0 trains the weights themselves, otherwise adapters of this rank (peft).
        lora_alpha: scale of the adapters, ``alpha / rank``.
        lora_targets: names of the linear layers of the language model that get an adapter.
        sharding: ``none`` holds the whole student in every process; ``full`` a part of each weight,
            gradient and moment, gathered block by block (FSDP2); it changes no result.
    """

    freeze: tuple[str, ...] = ()
    activation_checkpointing: bool = False
    autocast: str = "auto"
    lora_rank: int = 0
    lora_alpha: int = 16
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    sharding: str = "none"

    def __post_init__(self) -> None:
        require(self.sharding in SHARDINGS, f"sharding {self.sharding!r}: one of {SHARDINGS}")
        choices = ("auto", "bfloat16", "none")
        require(self.autocast in choices, f"autocast {self.autocast!r}: one of {choices}")
        require(self.lora_rank >= 0, f"lora_rank {self.lora_rank}: expected 0 or more")


@dataclass(frozen=True, kw_only=True)
class OptimRecipe:
    """AdamW, warmed up linearly, decayed along a curve.

    Attributes:
        lr: peak learning rate of the student.
        projector_lr: peak learning rate of the projectors, which start from scratch.
        weight_decay: on matrices; vectors (norms, biases) have none.
        betas: the two moments' decay.
        eps: the denominator's floor.
        schedule: ``cosine``, ``linear``, ``constant`` or ``wsd``; formulas: ``train.schedule``.
        warmup_fraction: share of the steps with a rising learning rate.
        final_lr_fraction: learning rate at the end, as a share of the peak; not of ``constant``.
        decay_fraction: share of the steps after the warm-up in which ``wsd`` decays.
        clip_norm: gradients are scaled down to this norm; 0 leaves them.
    """

    lr: float = 1e-5
    projector_lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, ...] = (0.9, 0.95)
    eps: float = 1e-8
    schedule: str = "cosine"
    warmup_fraction: float = 0.03
    final_lr_fraction: float = 0.1
    decay_fraction: float = 0.2
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "projector_lr", "weight_decay", "eps", "clip_norm"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)}: expected 0 or more")
        require(self.schedule in SCHEDULES, f"schedule {self.schedule!r}: one of {SCHEDULES}")
        require(
            0 < self.decay_fraction <= 1,
            f"decay_fraction {self.decay_fraction}: expected more than 0, at most 1",
        )
        for name in ("warmup_fraction", "final_lr_fraction"):
            require(0 <= getattr(self, name) <= 1, f"{name} {getattr(self, name)}: expected 0 to 1")
        valid = len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas)
        require(valid, f"betas {self.betas}: expected two numbers, each from 0 to below 1")


@dataclass(frozen=True, kw_only=True)
class LoopRecipe:
    """How long, and in what portions.

    Attributes:
        epochs: passes over the tape.
        max_steps: stop after this many steps, however many epochs that is; 0 goes by epochs.
        batch_tokens: tokens of one step over all processes (prompt, audio and trace).
        micro_tokens: padded tokens of one forward pass; smaller needs less memory, and what does
            not fit is made smaller while training. 0 finds it (``--batch-tokens auto``): on CUDA
            the largest that fits, elsewhere 8192.
        vocab_chunk: tokens whose logits exist at one time.
        seed: of the order of rows, of new weights and of dropout.
    """

    epochs: int = 3
    max_steps: int = 0
    batch_tokens: int = 8192
    micro_tokens: int = 8192
    vocab_chunk: int = 1024
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_tokens", "vocab_chunk"):
            require(getattr(self, name) > 0, f"{name} {getattr(self, name)}: expected 1 or more")
        for name in ("max_steps", "micro_tokens"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)}: expected 0 or more")
        valid = 0 <= self.seed <= LARGEST_SEED
        require(valid, f"seed {self.seed}: expected 0 to {LARGEST_SEED}")


@dataclass(frozen=True, kw_only=True)
class EvalRecipe:
    """Evaluation on rows that are not trained on: the objective's own terms.

    Attributes:
        every: evaluate after so many steps, and after the last one; 0: never, nothing is held out.
        fraction: about this share of the samples is held out, chosen by a hash of their ids: the
            same samples whatever their order, the seed or the rest of the tape.
        patience: stop after so many evaluations in a row without a lower weighted total; 0: never.
        save: which weights become ``RUN/student``: of the ``last`` step, or the ``best`` of those
            evaluated, whose checkpoint is kept.
        generate: let the student answer so many of those samples too, greedily, and count right
            answers; 0: none.
        max_new_tokens: its longest response to one.
    """

    every: int = 0
    fraction: float = 0.05
    patience: int = 0
    save: str = "last"
    generate: int = 0
    max_new_tokens: int = 512

    def __post_init__(self) -> None:
        for name in ("every", "patience", "generate"):
            require(getattr(self, name) >= 0, f"{name} {getattr(self, name)}: expected 0 or more")
        valid = 0 < self.fraction < 1
        require(valid, f"fraction {self.fraction}: expected more than 0, less than 1")
        require(self.save in SAVED, f"save {self.save!r}: one of {SAVED}")
        asked = self.patience > 0 or self.save == "best"
        require(self.every > 0 or not asked, "patience and save = 'best' need every above 0")
        require(self.every > 0 or not self.generate, "generate needs every above 0")
        require(
            self.max_new_tokens > 0, f"max_new_tokens {self.max_new_tokens}: expected 1 or more"
        )


@dataclass(frozen=True, kw_only=True)
class CheckpointRecipe:
    """A checkpoint every ``every`` steps, of which the last ``keep`` stay."""

    every: int = 200
    keep: int = 2

    def __post_init__(self) -> None:
        require(self.every > 0 and self.keep > 0, "every and keep: expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class LoggingRecipe:
    """What is said while training, beside ``metrics.jsonl``.

    Attributes:
        every: a progress line every so many steps.
        gradient_norms_every: each term's gradient norm at a stage's first step and every so many
            after it; 0: never. It takes a backward pass a term, and memory for another copy of the
            gradients: where that is not there, it is said and left out.
        trackers: where metrics go too: ``tensorboard``, ``trackio``, ``wandb``.
    """

    every: int = 10
    gradient_norms_every: int = 100
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require(self.every > 0, f"every {self.every}: expected 1 or more")
        for tracker in self.trackers:
            require(tracker in TRACKERS, f"trackers: {tracker!r}: one of {TRACKERS}")
