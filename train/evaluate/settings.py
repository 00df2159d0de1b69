"""What an evaluation is asked for: the model, the data, and how responses are made."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from audio_models.generate import Decoding
from audio_models.load import check_dtype, resolve_device
from cache_schema.errors import UsageError

LEAST_TEMPERATURE = 0.01


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """An OpenAI-compatible server that answers instead of a model loaded here.

    Attributes:
        url: up to and without ``/chat/completions``, such as ``http://localhost:8000/v1``.
        model: the model's name there.
        concurrency: requests under way at a time.
        attempts: how often one is sent in all, where the server fails and not the request.
        pause_s: seconds before the second attempt; every further pause is twice the one before.
        timeout_s: seconds without a byte after which an attempt has failed.
    """

    url: str
    model: str
    concurrency: int = 8
    attempts: int = 5
    pause_s: float = 1.0
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"--endpoint {self.url!r}: expected http://HOST:PORT/v1")
        if not self.model:
            raise UsageError("--endpoint needs --endpoint-model, the model's name there")
        if self.concurrency < 1:
            raise UsageError(f"--concurrency {self.concurrency}: expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the command line says.

    Attributes:
        model: directory or hub id; empty where an endpoint answers.
        data: a tape, a dataset, or a benchmark's published files.
        out: where the evaluation is written.
        benchmark: name of the benchmark.
        limit: only the first rows; 0: all.
        decoding: how tokens are chosen.
        instruction: a line put below every question; may be empty.
        batch_tokens: tokens of prompts and responses of one batch, padding included.
        dtype: ``auto`` or what to compute in.
        device: ``auto`` or a torch device.
        endpoint: a server that answers instead.
        baseline: another evaluation to compare with.
    """

    model: str
    data: str
    out: Path
    benchmark: str = "own"
    limit: int = 0
    decoding: Decoding
    instruction: str = ""
    batch_tokens: int = 16_384
    dtype: str = "auto"
    device: str = "auto"
    endpoint: Endpoint | None = None
    baseline: Path | None = None

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            UsageError: naming the flag.
        """
        if bool(self.model) == (self.endpoint is not None):
            raise UsageError("give either --model, or --endpoint and --endpoint-model")
        decoding = self.decoding
        for flag, value, least in (
            ("--max-new-tokens", decoding.max_new_tokens, 1),
            ("--batch-tokens", self.batch_tokens, 1),
            ("--limit", self.limit, 0),
            ("--temperature", decoding.temperature, 0),
            ("--seed", decoding.seed, 0),
        ):
            if not least <= value < math.inf:
                raise UsageError(f"{flag} {value:g}: expected {least} or more")
        if 0 < decoding.temperature < LEAST_TEMPERATURE:
            raise UsageError(
                f"--temperature {decoding.temperature:g}: expected 0 (greedy), or "
                f"{LEAST_TEMPERATURE} or more; below it logits leave the range of numbers"
            )
        if not 0 < decoding.top_p <= 1:
            raise UsageError(f"--top-p {decoding.top_p:g}: expected more than 0, at most 1")
        check_dtype(self.dtype)
        if self.endpoint is None:
            resolve_device(self.device)

    @property
    def answerer(self) -> str:
        """The model's name, wherever it runs."""
        return self.model if self.endpoint is None else self.endpoint.model


def endpoint_of(url: str, model: str, concurrency: int) -> Endpoint | None:
    """Return the endpoint that flags name, ``None`` where they name none.

    Raises:
        UsageError: one of them is missing or wrong.
    """
    if model and not url:
        raise UsageError("--endpoint-model needs --endpoint, where the model is served")
    return Endpoint(url=url, model=model, concurrency=concurrency) if url else None
