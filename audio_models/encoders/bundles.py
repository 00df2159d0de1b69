"""The pipelines of torchaudio, by name: ``torchaudio:WAV2VEC2_BASE``, ``torchaudio:WAVLM_LARGE``.

The weights come from torchaudio's own server into torch's hub cache, or are put there by hand.
Pipelines fine-tuned to recognise speech give their encoder, as ``...ForCTC`` checkpoints do.

Shapes: B recordings, S samples, C channels, F frames, D width.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torchaudio
from torch import Tensor, nn
from torchaudio.models.wav2vec2.wavlm_attention import WavLMSelfAttention

from audio_models.blocks import Blocks
from audio_models.encoders.alone import RowsAlone
from audio_models.encoders.encoder import AudioEncoder
from audio_models.encoders.fronts import Convolutions, WaveformFront
from audio_models.encoders.heads import Head, HeadReader
from audio_models.frames import FrameShape
from cache_schema.errors import ModelError, first_line
from cache_schema.types import FloatArray

PREFIX = "torchaudio:"
"""What the name of one of torchaudio's pipelines begins with."""


def bundles() -> Mapping[str, Any]:
    """Return torchaudio's pipelines of self-supervised encoders by name."""
    kind = torchaudio.pipelines.Wav2Vec2Bundle
    return {
        name: bundle
        for name, bundle in vars(torchaudio.pipelines).items()
        if isinstance(bundle, kind)
    }


def find_bundle(model: str) -> Any:
    """Return the pipeline named ``torchaudio:NAME``.

    Raises:
        ModelError: there is none; the nearest names are listed.
    """
    name, known = model.removeprefix(PREFIX), bundles()
    if name not in known:
        near = difflib.get_close_matches(name.upper(), known, n=4, cutoff=0.4)
        raise ModelError(
            f"model {model!r}: torchaudio has no such encoder; the nearest are "
            f"{', '.join(PREFIX + one for one in near or sorted(known))}"
        )
    return known[name]


def weights_file(model: str) -> Path:
    """Return the file with the weights of a pipeline, fetched where torch's hub cache lacks it.

    Raises:
        ModelError: there is no such pipeline, or its weights are neither cached nor to be had.
    """
    bundle = find_bundle(model)
    if not _cached(bundle).is_file():
        _fetching(model, lambda: bundle._get_state_dict(None))
    return _cached(bundle)


def bundle_shape(model: str) -> FrameShape:
    """Return what a pipeline's encoder has to give; nothing is downloaded.

    Raises:
        ModelError: there is no such pipeline.
    """
    sizes = find_bundle(model)._params
    return FrameShape(
        num_layers=sizes["encoder_num_layers"], width=sizes["encoder_embed_dim"], dtype="float32"
    )


def front_end_settings(model: str) -> dict[str, Any]:
    """Return what turns recordings into the inputs of a pipeline: JSON values.

    Raises:
        ModelError: there is no such pipeline.
    """
    bundle = find_bundle(model)
    return {
        "sample_rate_hz": int(bundle.sample_rate),
        "normalize": bool(bundle._normalize_waveform),
        "convolutions": [list(layer) for layer in bundle._params["extractor_conv_layer_config"]],
    }


def load_bundle(model: str, dtype: torch.dtype) -> AudioEncoder:
    """Load a pipeline on the CPU, in evaluation mode.

    Raises:
        ModelError: there is no such pipeline, or its weights are neither cached nor to be had.
    """
    bundle, shape = find_bundle(model), bundle_shape(model)
    loaded = _fetching(model, bundle.get_model)
    # The wrapper of some normalises over a whole batch; here every recording is, by itself.
    settings = front_end_settings(model)
    _, kernels, strides = zip(*settings["convolutions"], strict=True)
    convolutions = Convolutions(kernels=kernels, strides=strides)
    network = BundleNetwork(getattr(loaded, "model", loaded), convolutions).to(dtype).eval()
    grouped = any(isinstance(module, nn.GroupNorm) for module in network.front.modules())
    return AudioEncoder(
        path=model,
        shape=shape,
        module=network,
        front=WaveformFront(
            model=model,
            prepare=_normalized if settings["normalize"] else _as_it_is,
            sample_rate_hz=settings["sample_rate_hz"],
            convolutions=convolutions,
            min_frames=1,
        ),
        blocks=Blocks(network.encoder.transformer, shape.num_layers),
        head=HeadReader(network, Head()),
        alone=RowsAlone(network.front, []) if grouped else None,
    )


def _cached(bundle: Any) -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(bundle._path).name


def _fetching(model: str, fetch: Callable[[], Any]) -> Any:
    """Run what reads weights; where that fails, say which file is to be put where."""
    try:
        return fetch()
    except (OSError, RuntimeError, EOFError, KeyError) as error:
        bundle = find_bundle(model)
        path = bundle._path
        url = path if "://" in path else f"https://download.pytorch.org/torchaudio/models/{path}"
        raise ModelError(
            f"model {model!r}: its weights could not be loaded ({first_line(error)}); put the "
            f"file of {url} at {_cached(bundle)}"
        ) from error


class BundleNetwork(nn.Module):
    """A torchaudio encoder, called like one of transformers.

    Args:
        model: a ``torchaudio.models.Wav2Vec2Model``; its recogniser (``aux``) is left out.
        convolutions: of its front end.
    """

    def __init__(self, model: Any, convolutions: Convolutions) -> None:
        super().__init__()
        self.front = _Front(model.feature_extractor)
        self.encoder = model.encoder
        self._convolutions = convolutions

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> SimpleNamespace:
        """Run on waveforms [B, S] with a mask [B, S].

        Returns:
            ``last_hidden_state`` [B, F, D] and, where asked for, ``hidden_states``, of each layer.
        """
        transformer = self.encoder.transformer
        features_BFC = self.front(input_values).transpose(1, 2)
        inputs_BFD = self.encoder.feature_projection(features_BFC)
        padding_BF = self._padding(attention_mask, inputs_BFD.shape[1])
        if padding_BF is not None:
            inputs_BFD = inputs_BFD.masked_fill(padding_BF[..., None], 0.0)
        with _masked(transformer.layers, padding_BF):
            outputs = transformer.get_intermediate_outputs(inputs_BFD)
        # its loop does not report what it starts from
        first = [transformer._preprocess(inputs_BFD)] if output_hidden_states else []
        return SimpleNamespace(last_hidden_state=outputs[-1], hidden_states=(*first, *outputs))

    def _padding(self, mask_BS: Tensor | None, num_frames: int) -> Tensor | None:
        """Return bool [B, F], true for frames behind a recording."""
        if mask_BS is None:
            return None
        counts_B = mask_BS.sum(-1)  # counted where it is: the host does not wait for it
        for kernel, stride in zip(
            self._convolutions.kernels, self._convolutions.strides, strict=True
        ):
            counts_B = (counts_B - kernel) // stride + 1
        return torch.arange(num_frames, device=mask_BS.device)[None] >= counts_B[:, None]


@contextmanager
def _masked(blocks: Iterable[Any], padding_BF: Tensor | None) -> Iterator[None]:
    """Let the attention of every block leave out padding in the pass run inside.

    torchaudio's own way (``lengths``) gives WavLM a mask that its attention refuses; that one wants
    a mask of keys, which its encoder never hands on.
    """
    if padding_BF is None:
        yield
        return

    def add_mask(attention: Any, args: Any, settings: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        if isinstance(attention, WavLMSelfAttention):  # its mask has the type of its bias
            weights = attention.attention.in_proj_weight
            keys_BF = torch.zeros(padding_BF.shape, dtype=weights.dtype, device=weights.device)
            keys_BF = keys_BF.masked_fill(padding_BF, float("-inf"))
            return args, {**settings, "key_padding_mask": keys_BF}
        size = padding_BF.shape[-1]
        heard = ~padding_BF[:, None, None, :].expand(-1, 1, size, size)
        return args, {**settings, "attention_mask": heard}

    handles = [
        block.attention.register_forward_pre_hook(add_mask, with_kwargs=True) for block in blocks
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Front(nn.Module):
    """The convolutions alone: samples [B, S] -> features [B, C, F]."""

    def __init__(self, extractor: Any) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, values: Tensor) -> Tensor:
        features: Tensor = self.extractor(values, None)[0]
        return features.transpose(1, 2)


def _normalized(wave: FloatArray) -> FloatArray:
    """Return samples with mean 0 and variance 1, as torchaudio's wrapper does for one recording."""
    samples = torch.from_numpy(wave)
    normalized: FloatArray = nn.functional.layer_norm(samples, samples.shape).numpy()
    return normalized


def _as_it_is(wave: FloatArray) -> FloatArray:
    return wave
