"""What is used where Debian's recordings cannot be had: a hub data set, then synthetic speech."""

from __future__ import annotations

import ctypes
import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from examples.quickstart.questions import NUMBER_WORDS
from examples.quickstart.recordings import (
    TAKES_PER_WORD,
    Recording,
    RecordingsError,
    RecordingSet,
    checked,
    pick_takes,
    prepare,
)

HUB_DATASET = "mteb/free-spoken-digit-dataset"
HUB_REVISION = "c34455c99604d35cb8d27328c267be1478efc903"
SPEECH_WHEEL = "espeakng-loader==0.2.4"
VOICES = ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-us+f3", "en-gb-x-rp+f5")
_NAME = re.compile(r"(\d)_([a-z]+)_(\d+)")


def load_hub(say: Callable[[str], None]) -> RecordingSet:
    """Return recordings of the Free Spoken Digit Dataset from the hub.

    Raises:
        RecordingsError: the hub cannot be reached or its rows are not as expected.
    """
    rows = hub_rows("train", say)
    return checked(
        RecordingSet(
            name="the Free Spoken Digit Dataset (CC-BY-SA)",
            note=f"up to {TAKES_PER_WORD} takes of each number and speaker",
            recordings=pick_takes(map(_hub_candidate, rows)),
        )
    )


def hub_rows(split: str, say: Callable[[str], None]) -> Any:
    """Return rows of the Free Spoken Digit Dataset from the hub, recordings as they are stored.

    Raises:
        RecordingsError: the hub cannot be reached.
    """
    import datasets

    say(f"asking the hub for {HUB_DATASET}")
    try:
        rows = datasets.load_dataset(HUB_DATASET, split=split, revision=HUB_REVISION)
    except (OSError, ValueError, RuntimeError) as error:
        raise RecordingsError(f"{type(error).__name__} from the hub") from error
    return rows.cast_column("audio", datasets.Audio(decode=False))


def _hub_candidate(row: dict[str, Any]) -> tuple[int, str, Callable[[], bytes]]:
    name = _NAME.search(row["audio"]["path"] or "")
    speaker = name.group(2) if name else "several"
    return int(row["label"]), speaker, partial(bytes, row["audio"]["bytes"])


def load_synthetic(say: Callable[[str], None]) -> RecordingSet:
    """Return numbers spoken by eSpeak NG, whose library a wheel carries; installs it if need be.

    Raises:
        RecordingsError: the wheel cannot be installed, or its library does not start.
    """
    say("no recorded speech can be had: using SYNTHETIC speech")
    if importlib.util.find_spec("espeakng_loader") is None:
        say(f"installing {SPEECH_WHEEL} into {sys.prefix}")
        command = [sys.executable, "-m", "pip", "install", "--quiet", SPEECH_WHEEL]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            raise RecordingsError(f"pip cannot install {SPEECH_WHEEL}")
        importlib.invalidate_caches()
    import espeakng_loader

    speech = _ESpeak(espeakng_loader.get_library_path(), espeakng_loader.get_data_path())
    found = [
        Recording(
            number=number,
            speaker=voice,
            language="English",
            wave=prepare(speech.say(word, voice), speech.rate_hz),
        )
        for voice in VOICES
        for number, word in enumerate(NUMBER_WORDS)
    ]
    return checked(
        RecordingSet(
            name="SYNTHETIC speech (eSpeak NG)",
            note="no recorded speech: one rendering of each number and voice",
            recordings=tuple(found),
        )
    )


class _ESpeak:
    """The few calls of eSpeak NG's C interface that are needed (``speak_lib.h``)."""

    _SYNCHRONOUS = 2
    _UTF8 = 1

    def __init__(self, library: str, data: str) -> None:
        self._library = ctypes.CDLL(library)
        self.rate_hz: int = self._library.espeak_Initialize(self._SYNCHRONOUS, 0, data.encode(), 0)
        if self.rate_hz <= 0:
            raise RecordingsError("eSpeak NG does not start")
        self._samples: list[np.ndarray] = []
        kind = ctypes.CFUNCTYPE(
            ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
        )
        self._callback = kind(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, samples: Any, count: int, _: Any) -> int:
        if samples and count > 0:
            self._samples.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0

    def say(self, text: str, voice: str) -> np.ndarray:
        """Return the text as speech: float32 [num_samples] at ``rate_hz``."""
        self._samples.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise RecordingsError(f"eSpeak NG has no voice {voice}")
        data = text.encode()
        self._library.espeak_Synth(
            data, ctypes.c_size_t(len(data) + 1), 0, 1, 0, self._UTF8, None, None
        )
        self._library.espeak_Synchronize()
        return np.concatenate(self._samples).astype(np.float32) / 32768
