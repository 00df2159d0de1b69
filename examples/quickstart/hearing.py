"""Train the base audio language model to hear, and to hear only.

Two phases. First the audio tower alone learns which number is spoken at each audio token, from the
times at which the clips were put together; a layer thrown away afterwards reads it out. Then the
whole model answers questions about what is heard: the numbers, whether one occurs, which is first
or last, how many there are. Nothing is asked that has to be worked out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen2_5OmniThinkerForConditionalGeneration, Qwen2AudioProcessor

from audio_models.families import whisper_pooled_tokens
from cache_schema.answers.questions import question_text
from examples.quickstart.questions import HEARING_QUESTION, NUMBER_WORDS, four_numbers, transcript
from examples.quickstart.recordings import SAMPLE_RATE_HZ
from examples.quickstart.tokens import AUDIO, HOP_SAMPLES, TURN_END
from examples.quickstart.training import shuffled, train
from examples.quickstart.world import Clip

TOWER_STEPS = 220
TOWER_BATCH = 24
LM_STEPS = 250
LM_BATCH = 32
LM_LR_SCALE = 0.5
TRANSCRIPTION_SHARE = 0.4
_IGNORED = -100


@dataclass(frozen=True, kw_only=True)
class HeardClip:
    """A clip ready for training.

    Attributes:
        numbers: what is spoken.
        mel: float32 [mel bins, frames].
        labels: int64 [audio tokens]: 0 for silence, number + 1 where one is spoken.
    """

    numbers: tuple[int, ...]
    mel: Tensor
    labels: Tensor


def prepare_clips(clips: Sequence[Clip], processor: Qwen2AudioProcessor) -> list[HeardClip]:
    """Compute features and labels of all clips."""
    heard = []
    for start in range(0, len(clips), 64):
        batch = clips[start : start + 64]
        features = processor.feature_extractor(
            [clip.wave for clip in batch],
            sampling_rate=SAMPLE_RATE_HZ,
            return_attention_mask=True,
            return_tensors="pt",
        )
        num_frames = features.attention_mask.sum(-1).tolist()
        for clip, mel_MF, count in zip(batch, features.input_features, num_frames, strict=True):
            heard.append(
                HeardClip(
                    numbers=clip.numbers,
                    mel=mel_MF[:, :count].clone(),
                    labels=_token_labels(clip, whisper_pooled_tokens(count)),
                )
            )
    return heard


def _token_labels(clip: Clip, num_tokens: int) -> Tensor:
    """An audio token spans four mel frames; its label is what is spoken at its middle."""
    middle_s = (torch.arange(num_tokens) + 0.5) * 4 * HOP_SAMPLES / SAMPLE_RATE_HZ
    labels_A = torch.zeros(num_tokens, dtype=torch.long)
    for number, (start_s, end_s) in zip(clip.numbers, clip.spans_s, strict=True):
        labels_A[(middle_s >= start_s) & (middle_s < end_s)] = number + 1
    return labels_A


def train_tower(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    clips: Sequence[HeardClip],
    rng: np.random.Generator,
    say: Callable[[str], None],
    num_steps: int = TOWER_STEPS,
) -> None:
    """Phase one: the audio tower learns what is spoken when."""
    readout = torch.nn.Linear(model.config.audio_config.output_dim, len(NUMBER_WORDS) + 1)
    batches = shuffled(len(clips), TOWER_BATCH, rng)

    def loss_of_step(_: int) -> Tensor:
        chosen = [clips[place] for place in next(batches)]
        states_AD = model.audio_tower(
            torch.cat([clip.mel for clip in chosen], dim=1),
            feature_lens=torch.tensor([clip.mel.shape[1] for clip in chosen]),
        ).last_hidden_state
        return F.cross_entropy(readout(states_AD), torch.cat([clip.labels for clip in chosen]))

    parameters = [*model.audio_tower.named_parameters(), *readout.named_parameters()]
    train(
        [(name, parameter) for name, parameter in parameters if "bos_eos" not in name],
        loss_of_step,
        num_steps,
        say,
    )


def hearing_turn(numbers: Sequence[int], rng: np.random.Generator) -> tuple[str, str]:
    """Draw a question that hearing alone answers; returns (question with choices, answer)."""
    if rng.random() < TRANSCRIPTION_SHARE:
        return HEARING_QUESTION, transcript(numbers)
    kind = int(rng.integers(4))
    if kind == 0:
        answer = NUMBER_WORDS[len(numbers)]
        return question_text("How many numbers are spoken?", NUMBER_WORDS[:4]), answer
    place, name = ((0, "first"), (-1, "last"))[int(rng.integers(2))]
    if kind == 1:
        answer = NUMBER_WORDS[numbers[place]]
        return question_text(f"Which number is the {name}?", four_numbers(numbers, rng)), answer
    # Half of the questions with yes or no are drawn so that yes is likely.
    asked = int(rng.choice(numbers) if rng.random() < 0.5 else rng.integers(10))
    word = NUMBER_WORDS[asked]
    if kind == 2:
        question, holds = f"Is the number {word} spoken?", asked in numbers
    else:
        question, holds = f"Is the {name} of the numbers {word}?", asked == numbers[place]
    return question_text(question, ("yes", "no")), "yes" if holds else "no"


def train_hearing(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    clips: Sequence[HeardClip],
    rng: np.random.Generator,
    say: Callable[[str], None],
    num_steps: int = LM_STEPS,
) -> None:
    """Phase two: the whole model answers questions about what it hears."""
    batches = shuffled(len(clips), LM_BATCH, rng)

    def loss_of_step(_: int) -> Tensor:
        chosen = [clips[place] for place in next(batches)]
        turns = [hearing_turn(clip.numbers, rng) for clip in chosen]
        # the space makes it the same token as among the choices
        spoken = [(question, f" {answer}") for question, answer in turns]
        return response_loss(model, processor, chosen, spoken)

    train(heard_parameters(model), loss_of_step, num_steps, say, lr_scale=LM_LR_SCALE)


def heard_parameters(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
) -> list[tuple[str, torch.nn.Parameter]]:
    """Return the named parameters that audio and text reach."""
    unused = ("visual.", "audio_tower.audio_bos_eos_token.")
    return [(name, p) for name, p in model.named_parameters() if not name.startswith(unused)]


def response_loss(
    model: Qwen2_5OmniThinkerForConditionalGeneration,
    processor: Qwen2AudioProcessor,
    clips: Sequence[HeardClip],
    turns: Sequence[tuple[str, str]],
) -> Tensor:
    """Mean cross-entropy on the answers' tokens, the end of the turn included.

    Args:
        model: the audio language model.
        processor: its processor.
        clips: what is heard.
        turns: (question with choices, answer as it is to be written) for each clip.
    """
    tokenizer = processor.tokenizer
    rows, labels = [], []
    for clip, (question, answer) in zip(clips, turns, strict=True):
        messages = [
            {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": question}]}
        ]
        prompt = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt_ids = tokenizer(prompt.replace(AUDIO, AUDIO * len(clip.labels))).input_ids
        answer_ids = tokenizer(f"{answer}{TURN_END}").input_ids
        rows.append(torch.tensor(prompt_ids + answer_ids))
        labels.append(torch.tensor([_IGNORED] * len(prompt_ids) + answer_ids))
    ids_BT = pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    labels_BT = pad_sequence(labels, batch_first=True, padding_value=_IGNORED)
    mels = [clip.mel.T for clip in clips]
    logits_BTV = model(
        input_ids=ids_BT,
        attention_mask=(
            torch.arange(ids_BT.shape[1]) < torch.tensor([[len(r)] for r in rows])
        ).long(),
        input_features=pad_sequence(mels, batch_first=True).transpose(1, 2),
        feature_attention_mask=pad_sequence(
            [torch.ones(len(mel), dtype=torch.long) for mel in mels], batch_first=True
        ),
        use_cache=False,
    ).logits
    return F.cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1), labels_BT[:, 1:].flatten(), ignore_index=_IGNORED
    )
