"""Positions of two models: where they meet in seconds, in characters, and which words are one."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_audio_lm import build_tokenizer
from tiny_tape import MakeTape
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AddedToken, PreTrainedTokenizerFast

from audio_models.load import AudioLM
from cache_schema import open_tape
from cache_schema.errors import TokenizerMismatchError
from train.alignment.seconds import Resampling, by_seconds
from train.alignment.spans import meeting, starts_of
from train.alignment.token_ids import align_tokenizers
from train.alignment.words import NO_ID, bytes_of_tokens, map_vocabulary
from train.data import Example

CORPUS = [
    "the sum of three and four is seven, so the answer is odd",
    "the second number is larger than the first: say 'larger'",
    "größer als drei, señor; число 7 больше 三 und 🙂 lacht",
] * 3
END = "<|end|>"


def byte_level() -> PreTrainedTokenizerFast:
    """A BPE over bytes, as GPT-2's, Llama 3's and Qwen's."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS[:2], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)


def sentencepiece() -> PreTrainedTokenizerFast:
    """A BPE with spaces written out and bytes to fall back on, as Llama 2's and Gemma's."""
    core = Tokenizer(models.BPE(unk_token="<unk>"))
    core.normalizer = normalizers.Replace(" ", "▁")
    core.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=160, special_tokens=["<unk>", END], show_progress=False
    )
    core.train_from_iterator(CORPUS[:2], trainer)
    trained = json.loads(core.to_str())["model"]
    vocabulary = trained["vocab"]
    vocabulary |= {f"<0x{byte:02X}>": len(vocabulary) + byte for byte in range(256)}
    merges = [tuple(pair) for pair in trained["merges"]]
    core.model = models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>")
    core.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    core.add_special_tokens(["<unk>", END])
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token=END, pad_token=END)


TOKENIZERS = {"byte-level": byte_level, "sentencepiece": sentencepiece, "bytes": build_tokenizer}


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> np.ndarray:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    return np.asarray([*ids, tokenizer.eos_token_id], dtype=np.int64)


TEXT = st.text(st.sampled_from("thesumofthreeandfour  ,'7größñúжд三🙂\n"), max_size=40)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(text=st.one_of(TEXT, st.sampled_from(CORPUS)))
def test_tokens_begin_where_their_bytes_do(name: str, text: str) -> None:
    tokenizer = _cached(name)
    words = bytes_of_tokens(tokenizer, name)
    ids = ids_of(tokenizer, text)
    starts = starts_of(words, ids, text)
    assert starts is not None
    written = text.encode()
    for index, start in zip(ids[:-1], starts[:-1], strict=True):
        word = words[index]
        assert written[start : start + len(word)] == word
    assert starts[-1] == len(written)


_MADE: dict[str, PreTrainedTokenizerFast] = {}


def _cached(name: str) -> PreTrainedTokenizerFast:
    if name not in _MADE:
        _MADE[name] = TOKENIZERS[name]()
    return _MADE[name]


@given(text=st.one_of(TEXT, st.sampled_from(CORPUS)))
def test_both_have_read_the_same_where_they_meet(text: str) -> None:
    one, two = _cached("byte-level"), _cached("sentencepiece")
    ids = [ids_of(one, text), ids_of(two, text)]
    starts = [
        starts_of(bytes_of_tokens(tokenizer, ""), i, text)
        for tokenizer, i in zip((one, two), ids, strict=True)
    ]
    theirs, ours = meeting(*starts)
    assert theirs[-1] == len(ids[0]) - 1
    assert ours[-1] == len(ids[1]) - 1
    assert (np.diff(theirs) > 0).all()
    assert (np.diff(ours) > 0).all()
    np.testing.assert_array_equal(starts[0][theirs], starts[1][ours])
    missed = set(starts[0].tolist()) & set(starts[1].tolist())
    assert len(theirs) == len(missed)


def test_words_are_matched_by_their_bytes() -> None:
    one, two = _cached("byte-level"), _cached("sentencepiece")
    teacher, student = bytes_of_tokens(one, ""), bytes_of_tokens(two, "")
    stops = {one.eos_token_id: two.eos_token_id}
    mapped = map_vocabulary(teacher, student, stops)
    assert mapped[one.eos_token_id] == two.eos_token_id
    (the,) = one(" the")["input_ids"]
    assert two.convert_ids_to_tokens(int(mapped[the])) == "▁the"
    for index, ours in enumerate(mapped):
        if ours != NO_ID and index != one.eos_token_id:
            assert teacher[index] == student[ours]
    used = mapped[mapped != NO_ID]
    assert len(set(used.tolist())) == len(used), "two words became one"
    assert (mapped == NO_ID).any(), "nothing is made up for what the student lacks"
    assert mapped[one.convert_tokens_to_ids("Ã")] == two.convert_tokens_to_ids("<0xC3>")


def test_special_tokens_match_by_no_number() -> None:
    """Both have an id 0; to one it ends a turn, to the other it is unknown."""
    one, two = _cached("byte-level"), _cached("sentencepiece")
    mapped = map_vocabulary(bytes_of_tokens(one, ""), bytes_of_tokens(two, ""), {})
    assert one.eos_token_id == 0
    assert mapped[0] == NO_ID


def test_text_that_is_not_the_tokens(tmp_path: object) -> None:
    tokenizer = _cached("byte-level")
    words = bytes_of_tokens(tokenizer, "")
    ids = ids_of(tokenizer, "three")
    assert starts_of(words, ids, "four") is None
    assert starts_of(words, np.array([len(words)]), "") is None
    half = tokenizer("三", add_special_tokens=False)["input_ids"][:2]
    text = tokenizer.decode(half)
    assert text == "\N{REPLACEMENT CHARACTER}"
    assert starts_of(words, np.asarray(half), text) is not None


def test_a_vocabulary_of_words_is_refused() -> None:
    core = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    with pytest.raises(TokenizerMismatchError, match="the teacher: its tokens cannot be read"):
        bytes_of_tokens(PreTrainedTokenizerFast(tokenizer_object=core), "the teacher")


def mixed(found: Resampling, states: torch.Tensor) -> torch.Tensor:
    """Return what covered positions hear, through a dense matrix."""
    matrix = torch.zeros(int(found.students.max()) + 1, len(states), dtype=states.dtype)
    weights = torch.from_numpy(found.weights).to(states.dtype)
    matrix[torch.from_numpy(found.students), torch.from_numpy(found.teachers)] = weights
    return (matrix @ states)[torch.from_numpy(found.covered)]


def even(duration_s: float, count: int) -> np.ndarray:
    edges = np.linspace(0.0, duration_s, count + 1, dtype=np.float32)
    return np.stack([edges[:-1], edges[1:]], axis=1)


def test_equal_positions_are_taken_as_they_are() -> None:
    states = torch.randn(7, 3)
    found = by_seconds(even(2.0, 7), even(2.0, 7))
    np.testing.assert_array_equal(found.covered, np.arange(7))
    torch.testing.assert_close(mixed(found, states), states, atol=1e-5, rtol=0)


def test_a_position_hears_the_mean_of_what_it_overlaps() -> None:
    """Two frames of 20 ms to a position of 40 ms, and one that begins in the middle of a frame."""
    states = torch.arange(8.0)[:, None]
    found = by_seconds(even(0.16, 8), even(0.16, 4))
    torch.testing.assert_close(mixed(found, states)[:, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
    shifted = np.array([[0.03, 0.06]], dtype=np.float32)  # 10 ms of frame 1, 20 of 2
    apart = mixed(by_seconds(even(0.16, 8), shifted), states)
    torch.testing.assert_close(apart[0, 0], torch.tensor(5 / 3), atol=1e-5, rtol=0)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.1, 30.0), st.floats(0.2, 1.0))
def test_the_fast_way_equals_the_plain_one(
    frames: int, positions: int, seconds: float, part: float
) -> None:
    teacher, student = even(seconds * part, frames), even(seconds, positions)
    student[-1] = seconds  # silence behind the recording
    states = torch.randn(frames, 2, dtype=torch.float64)
    found = by_seconds(teacher, student)
    rows = []
    for place, (start, end) in enumerate(student.astype(np.float64)):
        common = np.minimum(teacher[:, 1], end) - np.maximum(teacher[:, 0], start)
        common = np.maximum(common.astype(np.float64), 0)
        if common.sum() > 0:
            assert place in found.covered
            rows.append((torch.from_numpy(common / common.sum())[:, None] * states).sum(0))
        else:
            assert place not in found.covered
    if rows:
        expected = torch.stack(rows)
        torch.testing.assert_close(mixed(found, states), expected, atol=1e-4, rtol=1e-4)


def test_special_tokens_without_a_role_are_not_trusted_by_number(
    make_tape: MakeTape, student: AudioLM
) -> None:
    """A teacher of other special tokens may mean anything by their ids."""
    tokenizer = build_tokenizer()
    tokenizer.add_tokens([AddedToken("<|vision|>", special=True), AddedToken("<tag>")])
    vision, tag = tokenizer.convert_tokens_to_ids(["<|vision|>", "<tag>"])
    assert vision not in tokenizer.all_special_ids
    tape = open_tape(make_tape(digest="of another"))
    rows = [Example(sample_id="s0", trace_index=0, num_tokens=9)]
    lm = replace(student, tokenizer=tokenizer)
    found = align_tokenizers(lm, tape, "textual", rows)
    ids = np.array([vision, tag, tokenizer.eos_token_id, tokenizer.pad_token_id, 5])
    assert found.known(ids).tolist() == [False, True, True, False, True]
