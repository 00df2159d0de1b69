"""``python -m examples.study.real_weights``: published teachers for the student of a seed.

After ``python -m examples.study`` has made a seed's world and base student (it may be stopped
then), a published language model and a published encoder of speech are recorded over its rows by
the command; the student learns for some steps from what they said, through the other tokenizer and
by learned projectors; before and after, it answers the ``dev`` rows. Every figure is kept in
``real.json``. Where a teacher's weights cannot be had, that is said and nothing is done.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What is asked for; every figure depends on it.

    Attributes:
        text_teacher: directory or hub id.
        acoustic_teacher: the same.
        rows: of the world's training rows, the first so many.
        steps: of training.
        prompt: that ships with the pipeline, or a file; those that ship are for larger teachers.
        max_new_tokens: of the textual teacher.
    """

    text_teacher: str = "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    acoustic_teacher: str = "openai/whisper-base"
    rows: int = 120
    steps: int = 40
    prompt: str = str(Path(__file__).with_name("small_teacher.toml"))
    max_new_tokens: int = 256


def main(arguments: list[str] | None = None) -> int:
    """Record, train and measure; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.study.real_weights", description=__doc__
    )
    parser.add_argument("folder", type=Path, help="of a seed, such as runs/study/seed-0")
    for field in dataclasses.fields(Plan):
        flag, kind = f"--{field.name.replace('_', '-')}", type(field.default)
        parser.add_argument(flag, type=kind, default=field.default, help=f"({field.default})")
    parser.add_argument("--threads", type=int, default=2, help="of arithmetic (2)")
    given = vars(parser.parse_args(arguments))
    folder: Path = given.pop("folder")
    # before torch is imported, and for the commands run later: see the quickstart
    os.environ["OMP_NUM_THREADS"] = str(given.pop("threads"))
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    plan = Plan(**given)
    if not (folder / "base" / "config.json").is_file():
        print(f"real_weights: {folder} has no base student of a study yet", file=sys.stderr)
        return 1
    for model in (plan.text_teacher, plan.acoustic_teacher):
        why = why_absent(model)
        if why:
            print(f"skipped: the weights of {model} cannot be had: {why}")
            return 0
    from cache_schema.errors import TeachertapeError
    from examples.quickstart.steps import FolderError

    try:
        run(folder, plan)
    except subprocess.CalledProcessError as error:
        words = " ".join(error.cmd[1:5])
        print(f"real_weights: {words} ... ended with {error.returncode}", file=sys.stderr)
        return 1
    except (FolderError, TeachertapeError) as error:
        print(f"real_weights: {error}", file=sys.stderr)
        return 1
    return 0


def why_absent(model: str) -> str:
    """Return why neither a folder nor the hub, or its cache here, has a model; empty if one has.

    A hub that answers and does not know the model, or refuses it, is an error as it stands.
    """
    if Path(model).expanduser().is_dir():
        return ""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        hf_hub_download(model, "config.json")
    except HFValidationError:
        return "there is no such folder"
    except LocalEntryNotFoundError:
        return "no hub answers, and it is not in the hub's cache here"
    return ""


def run(folder: Path, plan: Plan) -> dict[str, Any]:
    """Do what is not done yet; returns what ``real.json`` holds.

    Args:
        folder: of a seed.
        plan: what is asked for.

    Raises:
        FolderError: the folder holds figures of another plan.
        CalledProcessError: a command failed, and has said why.
        TeachertapeError: an evaluation failed.
    """
    from examples.quickstart.steps import say
    from examples.study import real_steps, seed, sizes

    one, size = json.loads((folder / "study.json").read_text())["seed"], sizes.of_seed(folder)
    kept = Kept(folder / "real.json", plan)
    words = real_steps.extract_words(folder, plan, size)
    for step in ("ingest", "textualize", "textual", "acoustic"):
        kept.once(step, partial(seed.command, *words, "--only", step))
    tape = kept.once("tape", partial(real_steps.about_tape, folder))
    # the student may say as much as the longest trace that it learns from, in its own tokens
    longest = max(size.max_new_tokens, tape["longest_trace"] + 1)
    answers = partial(real_steps.answers, folder, longest)
    kept.once("base", partial(answers, folder / "base", "base"))
    kept.once("training", partial(real_steps.train, folder, plan, size, one))
    kept.once("student", partial(answers, folder / "run-real" / "student", "student"))
    for line in real_steps.summary(kept.found):
        say(line)
    return kept.found


class Kept:
    """A file of what steps found and how long they took; each is done once.

    Args:
        file: ``real.json``.
        plan: that its figures depend on.

    Raises:
        FolderError: it is of another plan.
    """

    def __init__(self, file: Path, plan: Plan) -> None:
        from examples.quickstart.steps import FolderError

        self._file, asked = file, dataclasses.asdict(plan)
        self.found: dict[str, Any] = {"plan": asked, "seconds": {}}
        if file.is_file():
            self.found = json.loads(file.read_text())
        if self.found["plan"] != asked:
            raise FolderError(
                f"{file} is of {self.found['plan']}, and asked for is {asked}; repeat those "
                f"settings, or move it and {file.parent}/*-real* away"
            )

    def once(self, name: str, action: Callable[[], Any]) -> Any:
        """Do a step and keep what it found, as JSON values; or return what it found before."""
        if name not in self.found["seconds"]:
            started_s = time.perf_counter()
            self.found[name] = action()
            self.found["seconds"][name] = round(time.perf_counter() - started_s, 1)
            self._file.write_text(json.dumps(self.found, indent=1) + "\n")
        return self.found[name]


if __name__ == "__main__":
    sys.exit(main())
