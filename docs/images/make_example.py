"""The picture and the sound of README.md: a held-out recording, its tokens, and what the codec makes of them.

    python docs/images/make_example.py      # writes example.png and example.mp3 beside this file; a few seconds

The colour of a token is its cost in bits under the bundled bigram prior, the simplest language model that the package
has: bright tokens are those that were hard to predict.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from llmcodec import LLMCodec, assets
from llmcodec.codec.token_prior import PRIOR_FILE, load_prior
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio

CLIP = "ast_en/conf-now-recording"
FOLDER = Path(__file__).parent


def main() -> None:
    codec = LLMCodec.from_pretrained(assets.codec_folder()).eval()
    rate = codec.sample_rate
    clip = next(clip for clip in read_manifest(assets.speech_manifest("test")) if clip.id == CLIP)
    wav_S = audio.load(clip.path, rate)
    with torch.no_grad():
        codes_T = codec.encode(torch.from_numpy(wav_S)[None, None]).audio_codes[0, 0]
        again_S = codec.decode(codes_T[None, None], length=len(wav_S)).audio_values[0, 0].numpy()
    prior = load_prior(Path(assets.codec_folder()) / PRIOR_FILE, codec)
    before_T = torch.cat([torch.tensor([-1]), codes_T[:-1]])  # nothing stands before the first
    bits_T = (prior.leave_out(torch.from_numpy(wav_S)).nats(before_T, codes_T) / np.log(2)).numpy()
    seconds, hop = len(wav_S) / rate, 1 / codec.frame_rate
    figure, (above, middle, below) = plt.subplots(
        3, 1, figsize=(9, 4.2), sharex=True, height_ratios=[3, 1.3, 3], layout="constrained"
    )
    for axes, sound_S, title in (
        (above, wav_S, f"recording: “{clip.text}”"),
        (below, again_S, "decoded from the tokens"),
    ):
        axes.specgram(sound_S, NFFT=512, Fs=rate, noverlap=384, cmap="magma", vmin=-130, vmax=-40)
        axes.set(title=title, ylabel="Hz", yticks=[0, 4000, 8000], xlim=(0, seconds))
    edges = np.arange(len(codes_T) + 1) * hop
    cells = middle.pcolormesh(edges, [0, 1], bits_T[None], cmap="viridis", vmin=0)
    figure.colorbar(cells, ax=middle, label="bits", aspect=6)
    middle.set(title=f"{len(codes_T)} tokens of {codec.codebook_size:,} codes; colour: bits to predict each", yticks=[])
    below.set_xlabel("seconds")
    for axes in (above, middle, below):
        axes.title.set_fontsize(10)
    figure.savefig(FOLDER / "example.png", dpi=90)
    Image.open(FOLDER / "example.png").convert("RGB").quantize(64).save(FOLDER / "example.png", optimize=True)
    pause_S = np.zeros(rate // 2, np.float32)
    audio.write(FOLDER / "example.mp3", np.concatenate([wav_S, pause_S, again_S]), rate)


if __name__ == "__main__":
    main()
