"""Responses of a model loaded here, in batches of similar length within a budget of tokens.

The longest come first, so that what does not fit the memory shows at once; then batches are halved.
No response depends on the batch it was made in, nor on the order (``audio_models.drawing``); in
bfloat16 and float16 a tie within rounding may still fall the other way in another batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from audio_models.families import UNLISTED
from audio_models.generate import Decoding, Generation, generate_batch
from audio_models.inputs import Request
from audio_models.load import AudioLM
from audio_models.memory import free_memory, is_out_of_memory
from audio_models.padding import hears_padding
from audio_models.prompt import render_prompt
from cache_schema import TapeRow
from cache_schema.commands.console import say
from cache_schema.errors import AudioError, ModelError, TapeError, TokenizerMismatchError
from cache_schema.types import SAMPLE_RATE_HZ
from train.data import audio_tokens
from train.evaluate.prompting import failed, prompt_text, take_apart
from train.evaluate.types import Item, Response

_ROW_ERRORS = (AudioError, TapeError, TokenizerMismatchError)
"""What is one row's fault; every other error ends the evaluation."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One item on its way into the model; ``num_tokens`` are its prompt's, about."""

    row: TapeRow
    text: str
    num_tokens: int


class Generator:
    """Asks a model.

    Args:
        lm: the model.
        decoding: how tokens are chosen.
        instruction: a line below every question; may be empty.
        batch_tokens: tokens of prompts and responses of one batch, padding included.
    """

    def __init__(
        self, lm: AudioLM, decoding: Decoding, instruction: str = "", batch_tokens: int = 16_384
    ) -> None:
        self._lm, self._decoding, self._instruction = lm, decoding, instruction
        self._budget = batch_tokens
        if lm.family is UNLISTED and hears_padding(lm):
            say(f"{lm.path}: a recording sounds different to it beside a longer one: one at a time")
            self._budget = 1

    def answer(self, asked: Sequence[tuple[Item, TapeRow]]) -> Iterator[list[Response]]:
        """Yield the responses batch by batch, each item's once.

        Raises:
            ModelError: the model cannot be asked, or a single row does not fit the memory.
        """
        questions = [self._question(item, row) for item, row in asked]
        failures = [refused for one in questions if (refused := self._refused(one))]
        if failures:
            yield failures
        left = [one for one in questions if not self._refused(one)]
        left.sort(key=lambda one: (-one.num_tokens, one.row.sample_id))
        while left:
            count = self._fitting(left)
            try:
                responses = self._answer(left[:count])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                responses = []
            if responses:
                yield responses
                left = left[count:]
            else:
                self._halve(count, left[0])

    def _question(self, item: Item, row: TapeRow) -> Question:
        text = prompt_text(item, self._instruction)
        audio = audio_tokens(self._lm, row.num_audio_samples / SAMPLE_RATE_HZ)
        return Question(
            row=row, text=text, num_tokens=audio + len(self._lm.tokenizer(text)["input_ids"])
        )

    def _refused(self, question: Question) -> Response | None:
        """Return what stands for the response to a question that would be cut, if it would."""
        duration_s = question.row.num_audio_samples / SAMPLE_RATE_HZ
        if duration_s > self._lm.max_audio_s:
            why = f"{duration_s:.1f} s of audio, and the model hears {self._lm.max_audio_s:g} s"
            return failed(question.row.sample_id, why)
        config = self._lm.model.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        new = self._decoding.max_new_tokens
        if limit is not None and question.num_tokens + new > limit:
            why = f"{question.num_tokens} tokens and {new} new ones; the model takes {limit}: "
            why += "lower --max-new-tokens"
            return failed(question.row.sample_id, why)
        return None

    def _fitting(self, left: Sequence[Question]) -> int:
        """Return how many of the questions, the longest first, make up the next batch."""
        width = left[0].num_tokens + self._decoding.max_new_tokens
        return max(1, min(len(left), self._budget // width))

    def _halve(self, count: int, longest: Question) -> None:
        """Take half of what did not fit, from now on.

        Raises:
            ModelError: it was a single row.
        """
        width = longest.num_tokens + self._decoding.max_new_tokens
        if count == 1:
            raise ModelError(
                f"out of memory with a single row of {longest.num_tokens} tokens and "
                f"{self._decoding.max_new_tokens} new ones (sample {longest.row.sample_id!r}): use "
                "fewer --max-new-tokens, --dtype bfloat16 or a larger device"
            )
        free_memory()
        self._budget = count * width // 2
        say(
            f"out of memory with {count} rows, {count * width} tokens with responses; at most "
            f"{self._budget} from here on. Responses do not depend on it"
        )

    def _answer(self, batch: Sequence[Question]) -> list[Response]:
        """Answer a batch; where a row of it cannot be heard, each by itself."""
        try:
            requests = [Request(audio=one.row.audio, text=one.text) for one in batch]
            ids = [one.row.sample_id for one in batch]
            made = generate_batch(self._lm, requests, self._decoding, ids)
        except _ROW_ERRORS as error:
            if len(batch) == 1:
                return [failed(batch[0].row.sample_id, str(error))]
            return [response for one in batch for response in self._answer([one])]
        return [self._response(one, text) for one, text in zip(batch, made, strict=True)]

    def _response(self, question: Question, made: Generation) -> Response:
        if not made.finite:
            return failed(question.row.sample_id, "the model's logits are not numbers (NaN)")
        prompt = "" if self._lm.family.chat_ids else render_prompt(self._lm, question.text)
        return take_apart(
            question.row.sample_id,
            made.text,
            len(made.token_ids),
            made.finish_reason,
            prompt,
        )
