"""Everything stage one can be told, with its defaults; flags and ``--set`` fill the same fields."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cache_schema.codecs.bfloat16 import STORED_DTYPES
from cache_schema.codecs.topk_compact import MAX_K
from cache_schema.commands.recipes import one_of
from cache_schema.errors import UsageError
from cache_schema.signals import STATES_PROFILES, TOPK_CODECS
from pipeline.acoustic_recipe import AcousticRecipe
from pipeline.cluster.recipe import AUTO, ClusterRecipe
from pipeline.textual_recipe import TextualRecipe
from pipeline.textualize_recipe import TextualizeRecipe

AUDIO_POLICIES = ("store", "reference")
MAX_GAP_S = 60.0


@dataclass(frozen=True, kw_only=True)
class DatasetRecipe:
    """Where samples come from.

    A row without a recording (null, an empty text, an empty list) is quarantined as ``no audio``,
    one with several as ``several recordings``, unless they are joined. A row without a question
    gets ``question``, and where that is empty too it is kept: teachers and student are then asked
    nothing but its choices, if it has any, beside what they read or hear.

    Attributes:
        path: hub id, directory or file; empty where teachers are added to a tape that is there.
        config: configuration of a hub data set that has several.
        split: split to read; needed where there are several.
        limit: only the first rows.
        columns: our name (``audio``, ``id``, ``question``, ``choices``, ``answer``) -> dataset's.
        question: asked of every sample without one of its own, so of all where there is no
            question column.
        audio: ``store`` the recordings in the tape, or keep their hash as a ``reference``.
        several: what becomes of a row whose audio is a list of recordings: ``refuse`` it, or
            ``join`` them in order; ``recordings_s`` in the metadata of every sample then has the
            start and end of each in seconds.
        gap_s: seconds of silence between two that are joined.
    """

    path: str = ""
    config: str = ""
    split: str = ""
    limit: int | None = None
    columns: dict[str, str] = field(default_factory=dict)
    question: str = ""
    audio: str = "store"
    several: str = "refuse"
    gap_s: float = 0.5

    def __post_init__(self) -> None:
        one_of("--audio", self.audio, AUDIO_POLICIES)
        one_of("dataset.several", self.several, ("refuse", "join"))
        if not 0 <= self.gap_s <= MAX_GAP_S:
            raise UsageError(f"dataset.gap_s: expected 0 to {MAX_GAP_S} seconds, got {self.gap_s}")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit: expected a positive number, got {self.limit}")


@dataclass(frozen=True, kw_only=True)
class TapeRecipe:
    """The tape to write.

    Attributes:
        out: its directory.
        profile: how hidden states are stored: ``hot`` (as they are, read at memory speed),
            ``archive`` (lossless, smaller) or ``lossy2x`` (8 bits, the error measured and kept).
        topk: how top-k is stored: ``hot`` (8 bytes an entry), ``compact`` (about 2.3, ids exact,
            log-probabilities within 1e-4 nats of KL), or ``auto``: compact with ``lossy2x``.
        states_dtype: stored type of hidden states.
        licence: what the recordings and signals may be used for, kept in the tape.
        shard_mb: a shard is committed at this size,
        shard_samples: or at this many samples.
    """

    out: str = ""
    profile: str = "hot"
    topk: str = "auto"
    states_dtype: str = "bfloat16"
    licence: str = "unspecified"
    shard_mb: int = 256
    shard_samples: int = 512

    def __post_init__(self) -> None:
        one_of("--profile", self.profile, STATES_PROFILES)
        one_of("tape.topk", self.topk, ("auto", *TOPK_CODECS))
        one_of("tape.states_dtype", self.states_dtype, tuple(STORED_DTYPES))
        for name in ("shard_mb", "shard_samples"):
            if getattr(self, name) < 1:
                raise UsageError(f"tape.{name}: expected at least 1, got {getattr(self, name)}")

    @property
    def topk_codec(self) -> str:
        """How top-k is stored, ``auto`` resolved."""
        if self.topk != "auto":
            return self.topk
        return "compact" if self.profile == "lossy2x" else "hot"


@dataclass(frozen=True, kw_only=True)
class FailureRecipe:
    """How many samples may fail: above this part of a step's samples, the step fails."""

    max_fraction: float = 0.01

    def __post_init__(self) -> None:
        if not 0 <= self.max_fraction <= 1:
            raise UsageError(f"failures.max_fraction: expected 0 to 1, got {self.max_fraction}")


@dataclass(frozen=True, kw_only=True)
class ExtractRecipe:
    """All of stage one."""

    dataset: DatasetRecipe = field(default_factory=DatasetRecipe)
    textualize: TextualizeRecipe = field(default_factory=TextualizeRecipe)
    textual: TextualRecipe = field(default_factory=TextualRecipe)
    acoustic: AcousticRecipe = field(default_factory=AcousticRecipe)
    tape: TapeRecipe = field(default_factory=TapeRecipe)
    failures: FailureRecipe = field(default_factory=FailureRecipe)
    cluster: ClusterRecipe = field(default_factory=ClusterRecipe)
    seed: int = 0
    worker: str = "0/1"

    def __post_init__(self) -> None:
        match = re.fullmatch(r"(\d+)/(\d+)", self.worker)
        if self.worker != AUTO and (not match or int(match[1]) >= int(match[2])):
            raise UsageError(
                f"--worker: expected I/N with 0 <= I < N, or {AUTO}, got {self.worker!r}"
            )
        if not self.tape.out:
            raise UsageError("--out is needed; see 'pipeline extract-teachers --help'")
        if "://" in self.tape.out:
            raise UsageError(f"--out {self.tape.out!r}: a tape is written to a local folder")
        if self.tape.topk_codec == "compact":
            self._check_compact()

    def _check_compact(self) -> None:
        """Refuse more logits a token than the compact form can count."""
        kept = {
            "textual.top_k": self.textual.top_k,
            "textual.lens_top_k": self.textual.lens_top_k,
            "acoustic.top_k": self.acoustic.top_k,
            "acoustic.lens_top_k": self.acoustic.lens_top_k,
        }
        for name, k in kept.items():
            if k > MAX_K:
                raise UsageError(
                    f"{name}: compact top-k keeps at most {MAX_K} logits a token, got {k}; "
                    "keep fewer, or --set tape.topk=hot"
                )

    @property
    def is_leased(self) -> bool:
        """Whether this worker leases its rows, portion by portion."""
        return self.worker == AUTO

    @property
    def worker_index(self) -> int:
        """I of ``--worker I/N``; a worker that leases its rows may get any."""
        return 0 if self.is_leased else int(self.worker.partition("/")[0])

    @property
    def num_workers(self) -> int:
        """N of ``--worker I/N``."""
        return 1 if self.is_leased else int(self.worker.partition("/")[2])

    @property
    def portion_rows(self) -> int:
        """Rows that are leased at a time."""
        return self.cluster.portion_rows or self.tape.shard_samples

    @property
    def writer(self) -> str:
        """Name under which this worker writes; one that leases its rows takes a free one."""
        return f"w{self.worker_index}of{self.num_workers}"

    def is_mine(self, row_index: int) -> bool:
        """Whether this worker handles a row."""
        return bool(self.mine(np.array([row_index]))[0])

    def mine(self, row_indices: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which of these rows this worker handles, bool [n]."""
        mine: NDArray[np.bool_] = row_indices % self.num_workers == self.worker_index
        return mine
