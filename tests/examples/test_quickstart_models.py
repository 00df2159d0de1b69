import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer

from audio_models.generate import generate
from audio_models.inputs import Request
from audio_models.load import load_audio_lm
from examples.quickstart import hearing, teacher, tokens
from examples.quickstart.audio_lm import make_audio_lm
from examples.quickstart.world import Voices, split_compositions


def quiet(_):
    pass


@pytest.fixture(scope="module")
def clips(tones):
    training, _ = split_compositions(0)
    rng = np.random.default_rng(0)
    voice = ("low", "Whistle")
    return [Voices(tones).render(numbers, voice, rng) for numbers in training[:12]]


def test_texts_survive_the_tokenizer(tokenizer, rows, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for row in rows[:20]:
        text = teacher.teacher_prompt(row, loaded) + row.solution.trace + tokens.TURN_END
        ids = loaded(text).input_ids
        assert ids == tokenizer(text).input_ids
        assert loaded.decode(ids) == text
        assert row.solution.trace in loaded.decode(ids, skip_special_tokens=True)
    for tag in tokens.TAGS:
        assert len(loaded(tag).input_ids) == 1
    anything = "naïve — 数 \t 42?"
    assert loaded.decode(loaded(anything).input_ids) == anything


def test_a_number_is_one_token_and_always_the_same(tokenizer, rows):
    for row in rows:
        ids = tokenizer(f"I hear {row.transcript}").input_ids
        assert len(ids) == 2 + len(row.numbers)
        assert set(tokenizer(f"<RESPONSE> {row.transcript}").input_ids[1:]) <= set(ids)


def test_the_chat_template(processor):
    text = processor.apply_chat_template(
        [
            {"role": "system", "content": "Listen."},
            {"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": "Well?"}]},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    assert text == (
        "<|im_start|>system\nListen.<|im_end|>\n"
        "<|im_start|>user\n<|audio_bos|><|AUDIO|><|audio_eos|>Well?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_placeholders_equal_the_towers_output(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = AutoProcessor.from_pretrained(tmp_path)
    torch.manual_seed(0)
    tower = make_audio_lm(loaded.tokenizer).audio_tower
    for num_samples in (*range(4_000, 8_000, 333), 16_000, 79_999):
        inputs = loaded(
            text=[tokens.AUDIO],
            audio=[np.ones(num_samples, np.float32)],
            sampling_rate=16_000,
            return_tensors="pt",
        )
        num_frames = inputs["feature_attention_mask"].sum(-1)
        output = tower(inputs["input_features"][0][:, : num_frames[0]], feature_lens=num_frames)
        placeholders = int((inputs["input_ids"] == loaded.audio_token_id).sum())
        assert placeholders == len(output.last_hidden_state)


def test_labels_of_audio_tokens(clips, processor):
    for clip, heard in zip(clips, hearing.prepare_clips(clips, processor), strict=True):
        spoken = torch.unique_consecutive(heard.labels)
        in_order = [int(label) - 1 for label in spoken if label > 0]
        merged = [n for i, n in enumerate(clip.numbers) if i == 0 or n != clip.numbers[i - 1]]
        assert in_order in (list(clip.numbers), merged)


def test_hearing_questions_are_answered_right():
    rng = np.random.default_rng(0)
    for _ in range(300):
        numbers = tuple(rng.integers(10, size=int(rng.integers(2, 4))).tolist())
        question, answer = hearing.hearing_turn(numbers, rng)
        words = [hearing.NUMBER_WORDS[number] for number in numbers]
        asked_about = words[0 if "first" in question else -1]
        if question.startswith("Which"):
            assert answer == asked_about
        elif " of the numbers " in question:
            assert answer == ("yes" if question.split("?")[0].endswith(asked_about) else "no")
        elif "spoken?" in question and question.startswith("Is"):
            assert answer == ("yes" if question.split()[3] in words else "no")
        elif question.startswith("How many"):
            assert answer == hearing.NUMBER_WORDS[len(words)]
        else:
            assert answer == " ".join(words)
        if "Choices" in question:
            assert answer in question.split("Choices: ")[1].split(", ")


def test_training_is_deterministic_and_the_model_loads(clips, processor, tmp_path):
    heard = hearing.prepare_clips(clips, processor)

    def trained():
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        model = make_audio_lm(processor.tokenizer)
        hearing.train_tower(model, heard, rng, quiet, num_steps=2)
        hearing.train_hearing(model, processor, heard, rng, quiet, num_steps=2)
        return model

    first, second = trained(), trained()
    for (name, one), two in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(one, two), name
    first.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    lm = load_audio_lm(str(tmp_path), device="cpu")
    requests = [Request(audio=clip.wave, text="Well?") for clip in clips[:2]]
    assert len(generate(lm, requests, 4, 2)) == 2


def test_the_teacher_is_deterministic_and_answers(tokenizer, rows, tmp_path):
    def trained():
        torch.manual_seed(0)
        model = teacher.make_teacher(tokenizer)
        teacher.train_teacher(model, tokenizer, rows, np.random.default_rng(0), quiet, num_steps=2)
        return model

    first, second = trained(), trained()
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    first.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert len(teacher.answer_by_reading(tmp_path, rows[:3])) == 3
