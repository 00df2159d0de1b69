"""Benchmarks from their own published files: one file each, one line in this table."""

from __future__ import annotations

from collections.abc import Mapping

from train.evaluate.benchmarks.air_bench import AIR_BENCH
from train.evaluate.benchmarks.asr import ASR
from train.evaluate.benchmarks.big_bench_audio import BIG_BENCH_AUDIO
from train.evaluate.benchmarks.iemocap import IEMOCAP
from train.evaluate.benchmarks.items import item_of
from train.evaluate.benchmarks.meld import MELD
from train.evaluate.benchmarks.mmar import MMAR
from train.evaluate.benchmarks.mmau import MMAU
from train.evaluate.benchmarks.mmau_pro import MMAU_PRO
from train.evaluate.benchmarks.mmsu import MMSU
from train.evaluate.benchmarks.own import OWN
from train.evaluate.benchmarks.ser import SER
from train.evaluate.types import Benchmark

__all__ = ["BENCHMARKS", "item_of"]

BENCHMARKS: Mapping[str, Benchmark] = {
    "own": OWN,
    "mmau": MMAU,
    "mmar": MMAR,
    "mmsu": MMSU,
    "mmau_pro": MMAU_PRO,
    "big_bench_audio": BIG_BENCH_AUDIO,
    "air_bench": AIR_BENCH,
    "ser": SER,
    "meld": MELD,
    "iemocap": IEMOCAP,
    "asr": ASR,
}
"""Name on the command line -> benchmark."""
