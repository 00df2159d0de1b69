"""Steps that run no model start without a model framework."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import soundfile

RUN = """
import sys
from pipeline.cli import app
try:
    app(sys.argv[1:])
except SystemExit as done:
    assert not done.code, done.code
print("loaded:", *(name for name in ("torch", "transformers", "vllm") if name in sys.modules))
"""


def test_steps_without_a_model(tmp_path: Path) -> None:
    wave = 0.4 * np.sin(np.arange(8000) / 9)
    soundfile.write(tmp_path / "clip.wav", wave, 16_000)  # other rates are resampled by torchaudio
    row = {"audio": "clip.wav", "question": "Is it long?", "answer": "no", "transcript": "beep"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    flags = ["--dataset", f"{tmp_path}/rows.jsonl", "--out", f"{tmp_path}/tape"]
    for step in ("ingest", "textualize"):
        command = [sys.executable, "-c", RUN, "extract-teachers", *flags, "--only", step]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "loaded:", step
