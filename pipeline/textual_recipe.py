"""The textual teacher: everything a recipe can say of it, with its defaults."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import dataclass, field
from typing import Any

from cache_schema.answers.questions import JUDGES
from cache_schema.codecs.sampled import MAX_DRAWS
from cache_schema.commands.recipes import one_of
from cache_schema.errors import UsageError
from cache_schema.index.arrays import MAX_TRACES

ENGINES = ("vllm", "transformers", "encoder")
SELECTIONS = ("all", "first-correct", "best-logprob", "majority")
RATIONALES = ("none", "wrong", "all")

LEAST_TEMPERATURE = 0.01
"""vLLM takes a lower one for this one, unless it is 0."""


@dataclass(frozen=True, kw_only=True)
class TextualRecipe:
    """The textual teacher.

    Attributes:
        teacher: model directory or hub id; empty for none.
        engine: ``vllm``, ``transformers``, or ``encoder``: a model such as BERT, which has states
            of the description and writes no trace.
        layers: which hidden states to record (see ``cache_schema.layers``).
        top_k: logits kept a token; 0 for none.
        lens: layers to read through the final norm and the unembedding, in the form of ``layers``.
        lens_top_k: logits kept a token and lens layer.
        draws: tokens drawn at each position, the unbiased form of its distribution; 0 for none.
        prompt: what the teacher is asked: a prompt that ships (``pipeline/prompts``) or the path
            of a TOML file of that form.
        chat: how the prompt becomes text: ``model`` (the tokenizer's own template), ``none`` (as it
            stands, for base models), or the path of a Jinja template.
        template_args: what the chat template is told besides, such as ``enable_thinking``.
        date: what a template that asks for today's date is told (many do), as ``2026-01-31``; a
            fixed one, so that prompts stay the same from day to day.
        traces: traces drawn a sample.
        select: which of them are kept: ``all``, ``first-correct``, ``best-logprob``, ``majority``.
        judge: how an answer is compared: ``auto``, ``exact``, ``choice`` or ``numeric``.
        rationales: ``none``; ``wrong``: ask again with the answer told where no trace was right;
            ``all``: tell it always.
        given: column that holds the traces (a text, or a list of texts); nothing is generated.
        max_new_tokens: a longer trace is cut and marked.
        temperature: 0 is greedy.
        top_p: nucleus threshold.
        sample_top_k: draw from so many most probable tokens only; 0 draws from all.
        min_p: draw only from tokens at least this much as probable as the most probable one.
        repetition_penalty: divides the logits of tokens that were there before; 1 for none.
        dtype: ``auto`` (the model's own), ``float32``, ``bfloat16`` or ``float16``.
        max_model_len: context the engine reserves; the model's own by default.
        batch_samples: samples generated, judged and recorded together.
        vllm: further settings of vLLM's engine, by its own names (``tensor_parallel_size``,
            ``quantization``, ``gpu_memory_utilization``, ...).
    """

    teacher: str = ""
    engine: str = "vllm"
    layers: str = "proportional:4"
    top_k: int = 64
    lens: str = "none"
    lens_top_k: int = 64
    draws: int = 0
    prompt: str = "cota.v1"
    chat: str = "model"
    template_args: dict[str, Any] = field(default_factory=dict)
    date: str = "2026-01-01"
    traces: int = 1
    select: str = "all"
    judge: str = "auto"
    rationales: str = "none"
    given: str = ""
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0
    sample_top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    dtype: str = "auto"
    max_model_len: int | None = None
    batch_samples: int = 256
    vllm: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        one_of("--engine", self.engine, ENGINES)
        one_of("textual.select", self.select, SELECTIONS)
        one_of("textual.judge", self.judge, JUDGES)
        one_of("textual.rationales", self.rationales, RATIONALES)
        self._check_counts()
        self._check_sampling()
        _check_date(self.date)
        if self.vllm and self.engine != "vllm":
            raise UsageError(
                f"textual.vllm ({', '.join(self.vllm)}): means nothing with --engine "
                f"{self.engine}; leave it out"
            )

    def _check_counts(self) -> None:
        for name in ("lens_top_k", "traces", "max_new_tokens", "batch_samples"):
            if getattr(self, name) < 1:
                raise UsageError(f"textual.{name}: expected at least 1, got {getattr(self, name)}")
        for name in ("top_k", "draws", "sample_top_k"):
            if getattr(self, name) < 0:
                raise UsageError(f"textual.{name}: expected 0 or more, got {getattr(self, name)}")
        if self.max_model_len is not None and self.max_model_len < 1:
            raise UsageError(
                f"textual.max_model_len: expected at least 1, got {self.max_model_len}; "
                "leave it out for the model's own"
            )
        if self.draws > MAX_DRAWS:
            raise UsageError(f"textual.draws: a tape keeps at most {MAX_DRAWS}, got {self.draws}")
        most = MAX_TRACES // (2 if self.rationales == "wrong" else 1)  # free and told ones
        if self.traces > most:
            raise UsageError(f"--traces: a tape keeps at most {most} a sample, got {self.traces}")

    def _check_sampling(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise UsageError(f"--temperature: expected a number, 0 or more, got {self.temperature}")
        if 0 < self.temperature < LEAST_TEMPERATURE:
            raise UsageError(
                f"--temperature: expected 0 (greedy) or {LEAST_TEMPERATURE} and above, got "
                f"{self.temperature}: vLLM raises what is between"
            )
        if not 0 < self.top_p <= 1:
            raise UsageError(f"textual.top_p: expected above 0 up to 1, got {self.top_p}")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"textual.min_p: expected 0 to 1, got {self.min_p}")
        if not 0 < self.repetition_penalty < math.inf:
            raise UsageError(
                f"textual.repetition_penalty: expected above 0, got {self.repetition_penalty}"
            )
        if self.traces > 1 and self.temperature == 0 and not self.given:
            raise UsageError(
                "--traces above 1 needs --temperature above 0: greedy traces are equal"
            )


def _check_date(text: str) -> None:
    try:
        if dt.date.fromisoformat(text).isoformat() == text:
            return
    except ValueError:
        pass
    raise UsageError(f"textual.date: expected a day such as 2026-01-31, got {text!r}")
