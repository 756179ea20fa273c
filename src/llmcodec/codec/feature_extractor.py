"""Feature extractor: waveforms of any length and rate -> `input_values (B, 1, S)` + `padding_mask (B, S)`.

    feature_extractor = AutoFeatureExtractor.from_pretrained(folder)   # after `import llmcodec.codec`
    inputs = feature_extractor(raw_audio=[wav_a, wav_b], sampling_rate=44100, return_tensors="pt")
    codes = codec.encode(**inputs).audio_codes

Arguments as in DacFeatureExtractor and EncodecFeatureExtractor of transformers. Two things differ on purpose: audio of
another rate is resampled (they refuse it), and nothing is padded to whole hops (the codec keeps every length).
Shapes: B batch, S samples. Test: tests/codec/test_feature_extractor.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.utils import logging

from llmcodec.io.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE, resample
from llmcodec.io.waveform import check_waveform, on_cpu

logger = logging.get_logger(__name__)

PADDINGS = (None, True, False, "longest", "max_length", "do_not_pad")


class LLMCodecFeatureExtractor(SequenceFeatureExtractor):
    """List of mono waveforms -> a padded batch for the codec; saved as preprocessor_config.json.

    Args:
        feature_size: channels; 1, the codec is mono.
        sampling_rate: samples per second that the codec reads.
        padding_value: value after the end of a clip.
        hop_length: samples per frame, for information.
    """

    model_input_names = ["input_values", "padding_mask"]

    def __init__(
        self,
        feature_size: int = 1,
        sampling_rate: int = 16000,
        padding_value: float = 0.0,
        hop_length: int = 320,
        **kwargs: Any,
    ):
        if feature_size != 1:
            raise ValueError(f"feature extractor: the codec is mono, feature_size must be 1, not {feature_size}")
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.hop_length = hop_length

    def __call__(
        self,
        raw_audio: Any,
        padding: bool | str | None = None,
        truncation: bool | None = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        sampling_rate: int | None = None,
    ) -> BatchFeature:
        """Waveforms -> batch.

        Args:
            raw_audio: one waveform (S,) or a list of them: numpy arrays, torch tensors or lists of floats in [-1, 1],
                or int16, int32 or uint8, which are scaled by their full range.
            padding: True, "longest" or None: to the longest clip. "max_length": to `max_length`. False or
                "do_not_pad": clips of their own lengths and no mask.
            truncation: cut clips at `max_length` samples.
            max_length: samples at the codec's rate.
            return_tensors: "np", "pt" or None (lists of arrays).
            sampling_rate: rate of `raw_audio` in Hz; if it differs from the codec's, the audio is resampled (soxr).
                None takes it to be the codec's rate, with a warning in the log.

        Returns:
            `input_values` (B, 1, S) float32 and `padding_mask` (B, S) int32, 1 at real samples.

        Raises:
            ValueError: several channels, another type, an empty clip, NaN or infinite samples, a rate or padding
                that makes no sense.
        """
        if sampling_rate is None:
            logger.warning(
                f"{type(self).__name__}: no `sampling_rate` given, the audio is taken to be at {self.sampling_rate} Hz"
            )
        elif not isinstance(sampling_rate, Real) or not MIN_SAMPLE_RATE <= sampling_rate <= MAX_SAMPLE_RATE:
            raise ValueError(f"feature extractor: sampling_rate {sampling_rate} Hz cannot be right")
        check_padding(padding, truncation, max_length)
        clips = self._waveforms(raw_audio, sampling_rate or self.sampling_rate)
        return self._batch(clips, padding, truncation, max_length, return_tensors)

    def pad(
        self,
        processed_features: Any,
        padding: bool | str | None = True,
        max_length: int | None = None,
        truncation: bool | None = False,
        pad_to_multiple_of: int | None = None,
        return_attention_mask: bool | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """What the extractor gave for several clips -> one batch, as data collators ask for it.

        Args:
            processed_features: a list of its outputs, or of `{"input_values": (S,) or (1, S)}` cut out of them, or one
                output; at the codec's rate. What their `padding_mask` leaves out is padding and goes. One dict with a
                list of flat clips (S,) is padded as transformers does it, to (B, S) with `attention_mask`.
            padding, max_length, truncation, return_tensors: as for a call.
            pad_to_multiple_of: samples of which the batch has a multiple.
            return_attention_mask: False leaves out `padding_mask`.

        Returns:
            As a call.

        Raises:
            ValueError: features without `input_values`, masks that do not fit them, and as a call.
        """
        if are_flat(processed_features):
            options: dict[str, Any] = {
                "max_length": max_length,
                "truncation": bool(truncation),
                "return_tensors": return_tensors,
            }
            options |= {"pad_to_multiple_of": pad_to_multiple_of, "return_attention_mask": return_attention_mask}
            return super().pad(processed_features, padding if padding is not None else False, **options)
        check_padding(padding, truncation, max_length)
        several = [processed_features] if isinstance(processed_features, Mapping) else list(processed_features)
        clips: list[np.ndarray] = []
        for features in several:
            if not isinstance(features, Mapping) or "input_values" not in features:
                raise ValueError("feature extractor: pad takes what a call returned, with input_values")
            found, mask = rows_of(features["input_values"]), features.get("padding_mask")
            if mask is not None:
                masks = rows_of(mask)
                if [len(row) for row in masks] != [len(row) for row in found]:
                    raise ValueError("feature extractor: padding_mask does not fit input_values; give both of one call")
                found = [row[real.astype(bool)] for row, real in zip(found, masks, strict=True)]
            clips += found
        if not clips:
            raise ValueError("feature extractor: nothing to pad, the list of features is empty")
        return self._batch(
            self._waveforms(clips, self.sampling_rate),
            padding,
            truncation,
            max_length,
            return_tensors,
            pad_to_multiple_of or 1,
            return_attention_mask is not False,
        )

    def _batch(
        self,
        clips: Sequence[np.ndarray],
        padding: bool | str | None,
        truncation: bool | None,
        max_length: int | None,
        return_tensors: str | None,
        multiple: int = 1,
        with_mask: bool = True,
    ) -> BatchFeature:
        """Checked clips (S,) as `__call__` returns them."""
        if truncation:
            clips = [clip[:max_length] for clip in clips]
        if padding is False or padding == "do_not_pad":
            return BatchFeature({"input_values": [clip[None] for clip in clips]}, tensor_type=return_tensors)
        samples = max(len(clip) for clip in clips)
        if padding == "max_length":
            assert max_length is not None
            samples = max(samples, max_length)
        samples = -(-samples // multiple) * multiple
        values = np.full((len(clips), 1, samples), self.padding_value, np.float32)
        mask = np.zeros((len(clips), samples), np.int32)
        for row, clip in enumerate(clips):
            values[row, 0, : len(clip)] = clip
            mask[row, : len(clip)] = 1
        # As lists unless tensors are requested, as in transformers.
        data = {"input_values": values} | ({"padding_mask": mask} if with_mask else {})
        return BatchFeature(
            data if return_tensors else {name: list(value) for name, value in data.items()}, tensor_type=return_tensors
        )

    def _waveforms(self, raw_audio: Any, rate: int) -> list[np.ndarray]:
        """Checked float32 (S,) clips at the codec's rate."""
        several = isinstance(raw_audio, (list, tuple)) and len(raw_audio) > 0 and np.ndim(raw_audio[0]) > 0
        items: Sequence[Any] = raw_audio if several else [raw_audio]
        clips = []
        for index, item in enumerate(items):
            where = f"feature extractor: clip {index}"
            clip = check_waveform(item, where)
            if len(clip) == 0:
                raise ValueError(f"{where} is empty; every clip needs at least one sample")
            clips.append(resample(clip, rate, self.sampling_rate))
        return clips


def check_padding(padding: bool | str | None, truncation: bool | None, max_length: int | None) -> None:
    """Raise ValueError for a padding that makes no sense."""
    if padding not in PADDINGS:
        raise ValueError(f"feature extractor: padding must be one of {PADDINGS}, not {padding!r}")
    if max_length is None and (truncation or padding == "max_length"):
        raise ValueError("feature extractor: truncation and padding='max_length' need max_length (samples)")
    if max_length is not None and max_length < 1:
        raise ValueError(f"feature extractor: max_length must be at least 1 sample, got {max_length}")


def are_flat(features: Any) -> bool:
    """Whether features are one dict with a list of clips (S,), which the extractor never gives."""
    values = features.get("input_values") if isinstance(features, Mapping) else None
    return isinstance(values, (list, tuple)) and len(values) > 0 and all(np.ndim(on_cpu(one)) == 1 for one in values)


def rows_of(values: Any) -> list[np.ndarray]:
    """Arrays, tensors and lists (..., S), also of different S -> their rows (S,)."""
    if isinstance(values, (list, tuple)) and len(values) and np.ndim(values[0]) > 0:
        return [row for value in values for row in rows_of(value)]
    array = np.asarray(on_cpu(values))
    return list(array.reshape(-1, array.shape[-1])) if array.ndim > 1 else [array]
