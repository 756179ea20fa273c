"""The model card (README.md) saved with the weights: what it is, rates, usage, licence, evaluation.

It contains properties of the model and only measured figures; an existing card is not changed unless requested.
Test: tests/codec/test_hub.py.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.io.atomic import write_text

CARD = "README.md"

TEMPLATE = Path(__file__).with_name("model_card.md")
USAGE = """\
```python
import llmcodec.codec  # registers the codec with transformers' Auto classes
from transformers import AutoFeatureExtractor, AutoModel

codec = AutoModel.from_pretrained("{name}", trust_remote_code=False).eval()
feature_extractor = AutoFeatureExtractor.from_pretrained("{name}")
inputs = feature_extractor(raw_audio=wav, sampling_rate=rate, return_tensors="pt")  # resamples where needed
codes = codec.encode(**inputs).audio_codes  # (batch, 1, frames)
audio = codec.decode(codes, padding_mask=inputs["padding_mask"]).audio_values  # (batch, 1, samples)
```

From the command line, any length, any sample rate: `llmcodec reconstruct speech.wav --codec {name}`."""
NO_LICENCE = """\
Not stated yet. Weights follow the terms of the audio they were trained on: name that audio here and set `license` at
the top of this file before you publish them."""
NOT_MEASURED = """\
None stated. Fidelity, token health and language-model bits per second against another codec, on clips that training did
not see:

```
llmcodec compare this={name} bundled --manifest test.jsonl
```"""


def model_card(
    config: LLMCodecConfig,
    name: str,
    num_parameters: int | None = None,
    licence: str | None = None,
    measured: str | None = None,
    usage: str | None = None,
) -> str:
    """Text of a model card.

    Args:
        config: the codec's architecture.
        name: hub id or folder as a reader would type it.
        num_parameters: of encoder, quantiser and decoder together.
        licence: identifier as the hub knows it (`cc-by-4.0`); None says that it is not stated.
        measured: Markdown with figures and the command that made them; None names the command.
        usage: Markdown with code; None shows transformers and the command line.
    """
    window = config.attention_window
    seen = "the whole clip" if window is None else f"{window} frames to each side per layer"
    seen = f"{window} frames back per layer, none ahead" if config.causal else seen
    return TEMPLATE.read_text(encoding="utf-8").format(
        licence=licence or "unknown",
        name=name,
        sample_rate=config.sample_rate,
        frame_rate=config.frame_rate,
        hop=config.hop_samples,
        codes=config.codebook_size,
        code_dim=config.codebook_dim,
        bitrate=config.frame_rate * math.log2(config.codebook_size),
        encoder_layers=config.encoder_layers,
        decoder_layers=config.decoder_layers,
        width=config.hidden_size,
        attention=seen,
        parameters="not counted" if num_parameters is None else f"{num_parameters / 1e6:.1f} M",
        about_licence=NO_LICENCE if licence is None else f"Weights: {licence}.",
        usage=usage or USAGE.format(name=name),
        measured=(measured or NOT_MEASURED.format(name=name)).strip(),
    )


def write_card(folder: str | os.PathLike[str], text: str, replace: bool = False) -> bool:
    """Write README.md into `folder`, atomically; an existing one stays unless `replace`. Says whether it wrote."""
    place = Path(folder) / CARD
    if place.exists() and not replace:
        return False
    write_text(place, text)
    return True
