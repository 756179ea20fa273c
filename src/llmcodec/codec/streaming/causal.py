"""A causal codec on a live stream: state instead of repeated context, so that every step costs the same.

Kept between steps: the state of each layer (`conformer.LayerState`), half an STFT window of samples in the
encoder, the frames whose inverse STFT still overlaps the future in the decoder. Shapes: B batch (1), T frames, D width.
Test: tests/codec/streaming/test_causal.py.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmcodec.codec.inputs import check_look_up
from llmcodec.codec.streaming.latency import Plan
from llmcodec.codec.streaming.sessions import DecoderSession, EncoderSession


class CausalEncoder(EncoderSession):
    """Encodes `plan.chunk_frames` frames per step as soon as half an STFT overlap after them has arrived."""

    def __init__(self, codec: Any, plan: Plan, audio_kind: str | None = None) -> None:
        super().__init__(codec, plan, audio_kind)
        self.states = codec.encoder.conformer.open_stream()
        self.partitions = codec.partitions_of(None if audio_kind is None else [audio_kind], 1)
        self.left_frames = -(-plan.lookahead_samples // self.hop)  # frames that see beyond the start of the samples

    def code(self, wav: Tensor, first: int, last: int | None) -> Tensor:
        features = self.codec.encoder.frontend(wav[None], torch.tensor([len(wav)], device=wav.device))[:, first:last]
        if features.shape[1] == 0:
            return self.empty()
        latent_BTD = self.codec.encoder.conformer(features, states=self.states)
        codes_BT, query_BTC, *_ = self.codec.quantizer(latent_BTD, self.partitions)
        check_look_up(codes_BT, query_BTC, self.codec.codebook_VC)
        return query_BTC[0].T.cpu() if self.queries else codes_BT.cpu()


class CausalDecoder(DecoderSession):
    """Decodes `plan.chunk_frames` frames per step; the last half overlap of samples waits for the next one."""

    def __init__(self, codec: Any, plan: Plan, length: int | None = None) -> None:
        super().__init__(codec, plan, length)
        self.states = codec.decoder.conformer.open_stream()
        self.kept = codec.config.n_fft // self.hop - 1  # frames that overlap the samples still to come
        self.hidden_BTD: Tensor | None = None

    def step(self, final: bool) -> Tensor:
        stop = self.tail.stop if final else self.next_frame + self.plan.chunk_frames
        done = max(0, self.next_frame * self.hop - self.plan.lookahead_samples)
        if stop > self.next_frame:
            codes = self.tail.view(self.next_frame, stop).to(self.device)
            new_BTD = self.codec.decoder.conformer(self.codec.quantizer.embed(codes), states=self.states)
            self.hidden_BTD = new_BTD if self.hidden_BTD is None else torch.cat((self.hidden_BTD, new_BTD), dim=1)
        assert self.hidden_BTD is not None
        first = stop - self.hidden_BTD.shape[1]
        end = stop * self.hop - (0 if final else self.plan.lookahead_samples)
        wav = self.empty()
        if end > done:
            wav = self.codec.decoder.head(self.hidden_BTD)[0].cpu()[done - first * self.hop : end - first * self.hop]
        self.hidden_BTD = self.hidden_BTD[:, max(0, self.hidden_BTD.shape[1] - self.kept) :].clone()
        self.next_frame = stop
        self.tail.drop(stop)
        return wav
