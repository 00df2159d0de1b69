"""One small tokenizer for the teacher and the student, and the student's processor.

A byte-level BPE in the form of Qwen's, trained on the quickstart's own texts: every text can be
written with it, frequent words are one token, each tag of a trace is one token. ChatML, and the
audio placeholders of Qwen2.5-Omni.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2AudioProcessor, WhisperFeatureExtractor

from examples.quickstart.recordings import SAMPLE_RATE_HZ

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
AUDIO, AUDIO_START, AUDIO_END = "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>"
IMAGE, VIDEO = "<|IMAGE|>", "<|VIDEO|>"
SPECIAL = (PAD, TURN_START, TURN_END, AUDIO, AUDIO_START, AUDIO_END, IMAGE, VIDEO)
TAGS = tuple(
    f"<{slash}{name}>"
    for name in ("THINK", "PLANNING", "CAPTION", "REASONING", "SUMMARY", "RESPONSE")
    for slash in ("", "/")
)
NUM_MEL_BINS = 40
HOP_SAMPLES = 320
FFT_SAMPLES = 512
LONGEST_CLIP_S = 5
MERGED_VOCABULARY = 480

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(
    texts: Iterable[str], merged_vocabulary: int = MERGED_VOCABULARY
) -> PreTrainedTokenizerFast:
    """Train the tokenizer on some texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=merged_vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL])
    # The tags are ordinary text: they must survive `skip_special_tokens=True`.
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL[1:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def make_processor(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioProcessor:
    """Return the student's processor.

    ``Qwen2AudioProcessor`` counts audio tokens exactly as the audio tower of Qwen2.5-Omni does and
    names its outputs the same; unlike ``Qwen2_5OmniProcessor`` it asks for no image processor.
    """
    return Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(
            feature_size=NUM_MEL_BINS,
            sampling_rate=SAMPLE_RATE_HZ,
            # 50 mel frames a second, half of Whisper's: half the work, and the tower's
            # convolutions see twice the time, which a tower trained in a minute needs.
            hop_length=HOP_SAMPLES,
            n_fft=FFT_SAMPLES,
            chunk_length=LONGEST_CLIP_S,
        ),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
        audio_token=AUDIO,
        audio_bos_token=AUDIO_START,
        audio_eos_token=AUDIO_END,
    )
