"""How the golden tapes of a version were made: ``write_tapes.py FOLDER [NAME...]``, here.

It is kept to show what is in them, and for the first tape of a new version. Tapes that are there
are never made again: what they hold is what a later reader must still read.
"""

from __future__ import annotations

import json
import sys
from contextlib import chdir, nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import soundfile
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from golden.golden_rows import (
    DRAWS,
    LABELS,
    LAYERS,
    LENS_LAYERS,
    WIDTH,
    K,
    classified,
    heard,
    lens,
    sample,
    spoken,
    told_apart,
)
from golden.tape_values import values_of

from cache_schema.codecs.pcm import audio_sha256
from cache_schema.maker import GroupInfo
from cache_schema.parts.part import Selection
from cache_schema.rows.classes import embedding_row
from cache_schema.rows.values import heard_row, hidden_row, lens_row, sample_rows
from cache_schema.shard import Storage
from cache_schema.signals import AUDIO_ROW
from cache_schema.types import Heard, Segment
from cache_schema.writer import TapeWriter
from pipeline.recipe import DatasetRecipe
from pipeline.share.attach import attach
from pipeline.share.owned import open_owned
from pipeline.share.pull import pull
from pipeline.share.pull_plan import plan_pull
from pipeline.signing.make import seal_tape

TAPES = {
    "hot": Storage(),
    "archive": Storage(profile="archive", states_dtype="float16"),
    "lossy2x": Storage(profile="lossy2x", topk="compact"),
}


MORE = "more"
"""The tape of what was added to version 1 after its first release."""

CLASSES = "classes"
"""The tape of what came then: classifiers, embeddings, two acoustic sources, states side by side.
"""

SEALED = "sealed"
"""A tape with a signed seal, which was added then; the key is beside it."""

SHARED = "shared"
"""A part of a tape as it was pulled, and its recordings, attached; both were added then."""


def main(folder: Path, names: list[str]) -> None:
    """Write these tapes, all by default, and what they hold."""
    for name in names or [*TAPES, MORE, CLASSES, SEALED, SHARED]:
        root = folder / name
        if root.exists():
            raise SystemExit(f"{root} is there; a golden tape is never made again")
        if name == MORE:
            write_more(root)
        elif name == CLASSES:
            write_classes(root)
        elif name == SEALED:
            write_sealed(root)
        elif name == SHARED:
            write_shared(root)
        else:
            write(root, TAPES[name])
        text = json.dumps(values_of(root), indent=1, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def write_sealed(root: Path) -> None:
    """Write the first tape again, and sign it with a key that nobody else should use."""
    write(root, TAPES["hot"])
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    seal_tape(root, key, lambda _title, _total: nullcontext(lambda _count: None))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    root.with_suffix(".pub").write_bytes(public)


def write_shared(root: Path) -> None:
    """Pull a part of the first tape, without recordings, and attach them."""
    count = nullcontext(lambda _count: None)
    root = root.resolve()
    with TemporaryDirectory() as folder, chdir(folder):
        write(Path("whole"), TAPES["hot"])
        chosen = Selection(
            signals=("textual/trace", "textual/hidden"), layers={"": (12,)}, audio=False
        )
        pull(plan_pull("whole", root, chosen), root, lambda _title, _total: count)
        Path("owned").mkdir()
        for index in range(3):
            audio = sample(index).audio
            soundfile.write(f"owned/{9 - index}.wav", audio, 16_000, subtype="FLOAT")
        recipe = DatasetRecipe(path="owned")
        attach(str(root), partial(open_owned, recipe), lambda _title, _total: count)


def write(root: Path, storage: Storage) -> None:
    """Write one tape: three samples, the last without a trace, and one quarantined."""
    write_samples(root)
    facts = {"layers": list(LAYERS), "width": WIDTH, "dtype": storage.states_dtype}
    hidden = {**facts, "profile": storage.profile}
    textual = GroupInfo(
        group="textual",
        kind="textual",
        signals={
            "trace": {},
            "topk": {"k": K, "codec": storage.topk},
            "sampled": {"num_draws": DRAWS},
            "hidden": hidden,
        },
        identity={"model_digest": "golden text"},
        notes={"model": "golden"},
    )
    with TapeWriter(root, textual, storage=storage, shard_samples=1) as writer:
        for index in range(2):
            writer.add(*spoken(index))
    acoustic = GroupInfo(
        group="acoustic", kind="acoustic", signals={"hidden": hidden}, identity={"model": "ear"}
    )
    with TapeWriter(root, acoustic, storage=storage, writer="w1") as writer:
        for index in range(3):
            writer.add({}, [heard(index)])


def write_samples(root: Path) -> None:
    """Write the samples and their descriptions."""
    samples = GroupInfo(group="samples", kind="samples", identity={"dataset_digest": "golden"})
    with TapeWriter(root, samples, licence="CC0-1.0", shard_samples=2) as writer:
        for index in range(3):
            audio = sample(index).audio
            writer.add(sample_rows(sample(index), audio_sha256(audio), audio.size))
        writer.quarantine("broken", 3, "audio", "no sound in it")
    descriptions = GroupInfo(group="descriptions", kind="descriptions", identity={"method": "hand"})
    with TapeWriter(root, descriptions) as writer:
        for index in range(3):
            row = {"sample_id": f"golden-{index}", "description": f"Sprecher sagt: „{index}“"}
            writer.add({"descriptions": [row]})


def write_more(root: Path) -> None:
    """Write the lens in both codecs, text states, rejected traces, origins and what was heard."""
    write_samples(root)
    kept = {"layers": list(LENS_LAYERS), "k": K}
    ear = GroupInfo(group="heard_transcript", kind="heard", identity={"model_digest": "ear"})
    with TapeWriter(root, ear) as writer:
        for index in range(3):
            parts = [(0.0, 0.0125, "„eins“"), (0.0125, 0.03, "two")][:index]
            segments = tuple(Segment(start_s=a, end_s=b, text=text) for a, b, text in parts)
            heard = Heard(text=" ".join(part[2] for part in parts), segments=segments)
            writer.add({"heard": [heard_row(f"golden-{index}", heard)]})
    textual = GroupInfo(
        group="textual",
        kind="textual",
        signals={"trace": {}, "lens": {**kept, "codec": "compact"}},
        identity={"model_digest": "golden text"},
    )
    with TapeWriter(root, textual, shard_samples=2) as writer:
        for index in range(3):
            writer.add(told_apart(index))
    states = {"layers": [2], "width": WIDTH, "dtype": "float32", "profile": "hot"}
    encoder = GroupInfo(
        group="encoder", kind="textual", signals={"hidden": states}, identity={"model": "bert"}
    )
    with TapeWriter(root, encoder) as writer:
        for index in range(3):
            ids = np.array([101, 7592, 131_071, 102])[: 2 + index]
            rng = np.random.default_rng(200 + index)
            values = {2: rng.normal(0, 3, (len(ids), WIDTH)).astype(np.float32)}
            place = hidden_row(f"golden-{index}", AUDIO_ROW, "text", (0, 0), ids, None)
            writer.add({}, [(place, values)])
    acoustic = GroupInfo(
        group="acoustic",
        kind="acoustic",
        signals={"lens": {**kept, "codec": "hot"}},
        identity={"model": "ear"},
    )
    with TapeWriter(root, acoustic, writer="w1") as writer:
        for index in range(3):
            row = lens_row(f"golden-{index}", 0, lens(np.array([5, 6, 7])[: 1 + index]))
            writer.add({"lens": [row]})


def write_classes(root: Path) -> None:
    """Write two acoustic sources: one classifies and has states of two kinds, one embeds."""
    write_samples(root)
    states = {"layers": [2], "width": WIDTH, "dtype": "float32", "profile": "hot"}
    classifier = GroupInfo(
        group="acoustic",
        kind="acoustic",
        signals={
            "hidden": states,
            "utterance_logits": {"labels": LABELS, "multi_label": False},
            "frame_logits": {"labels": LABELS[:2], "multi_label": True},
        },
        identity={"model": "ear"},
    )
    with TapeWriter(root, classifier, shard_samples=2) as writer:
        for index in range(3):
            writer.add(*classified(index))
    pooled = {"width": 3, "pooling": "x-vector"}
    speaker = GroupInfo(
        group="wavlm_sv",
        kind="acoustic",
        signals={"hidden": {**states, "layers": [0], "width": 4}, "embedding": pooled},
        identity={"model": "wavlm"},
    )
    with TapeWriter(root, speaker, writer="w1") as writer:
        for index in range(3):
            name, vector = f"golden-{index}", np.array([index, -0.0, 3.4e38])
            place = hidden_row(name, AUDIO_ROW, "frame", (0, 0), None, np.zeros((1, 2)))
            rows = {"embedding": [embedding_row(name, vector)]}
            writer.add(rows, [(place, {0: np.full((1, 4), index / 8, np.float32)})])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
