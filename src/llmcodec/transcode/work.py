"""What encode, decode and reconstruct do with one file: the three `Work`s of pipeline.py. Imports no torch.

Shapes: S samples at the codec's rate, C coded channels, Q codebooks, T frames.
Test: tests/transcode/test_work.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmcodec.io import audio
from llmcodec.io.token_file import TokenClip, load_token_file, read_token_facts, save_token_file
from llmcodec.io.token_shards import TokenRow, TokenShardWriter
from llmcodec.runtime.base import Runtime
from llmcodec.transcode.freshness import audio_of
from llmcodec.transcode.pipeline import CannotWrite, Item

Advance = Callable[[float], None]


@dataclass
class Recording:
    """One short file in memory: a waveform (S,) at the codec's rate per coded channel, and facts about the file."""

    wavs: list[np.ndarray]
    original_sample_rate: int
    original_num_samples: int
    original_channels: int

    def clip(self, codes: Sequence[np.ndarray]) -> TokenClip:
        """Its tokens, codes (Q, T) per channel."""
        return TokenClip(
            np.stack(codes),
            len(self.wavs[0]),
            self.original_sample_rate,
            self.original_num_samples,
            self.original_channels,
        )


class _FromAudio:
    """Reading of audio, shared by encode and reconstruct. split: every channel is coded, else their mean."""

    def __init__(self, runtime: Runtime, split: bool) -> None:
        self.runtime, self.split = runtime, split

    def measure(self, item: Item) -> float:
        item.header = header = audio.info(item.source)
        return header.seconds * (header.num_channels if self.split else 1)

    def read(self, item: Item) -> Recording:
        wav, rate = audio.read(item.source, mono=not self.split)
        channels = [wav] if wav.ndim == 1 else list(wav.T)
        item.seconds_read = len(wav) / rate * len(channels)
        wavs = [audio.resample(np.ascontiguousarray(one), rate, self.runtime.identity.sample_rate) for one in channels]
        return Recording(wavs, rate, len(wav), item.header.num_channels)

    def encode(self, recordings: Sequence[Recording]) -> list[TokenClip]:
        codes = iter(self.runtime.encode_batch([wav for one in recordings for wav in one.wavs]))
        return [one.clip([next(codes) for _ in one.wavs]) for one in recordings]

    def channels(self, item: Item) -> list[int | None]:
        """Channels to code: their numbers, or None for the mean."""
        return list(range(item.header.num_channels)) if self.split and item.header.num_channels > 1 else [None]

    def blocks(self, item: Item, channel: int | None, counted: Counted) -> Iterator[np.ndarray]:
        """A long file as blocks at the codec's rate; its own samples are counted."""
        source = counted.passing(audio.iterate(item.source, channel=channel))
        return audio.resample_blocks(source, item.header.sample_rate, self.runtime.identity.sample_rate)


class EncodeWork(_FromAudio):
    """Audio files -> token files, or rows of shards."""

    def __init__(self, runtime: Runtime, split: bool, shards: TokenShardWriter | None = None) -> None:
        super().__init__(runtime, split)
        self.shards, self.write_in_threads = shards, shards is None

    def code(self, payloads: Sequence[Recording]) -> list[TokenClip]:
        return self.encode(payloads)

    def write(self, item: Item, result: TokenClip) -> None:
        if self.shards is not None:
            try:
                self.shards.add(TokenRow(**vars(result), id=item.name))
            except OSError as error:  # of a shard, which holds other clips as well
                why = error.strerror or str(error)
                raise CannotWrite(error.errno, why, str(error.filename or self.shards.folder)) from error
        else:
            assert item.target is not None
            save_token_file(item.target, result, self.runtime.identity, durable=False)

    def stream(self, item: Item, advance: Advance) -> None:
        rows, counted, coded = [], Counted(item.header.sample_rate, advance), Counted(1)
        for channel in self.channels(item):
            counted.samples = coded.samples = 0
            blocks = coded.passing(self.blocks(item, channel, counted))
            rows.append(np.concatenate(list(self.runtime.encode_stream(blocks)), axis=1))
        header = item.header
        item.seconds_read = counted.samples / header.sample_rate * len(rows)
        clip = TokenClip(np.stack(rows), coded.samples, header.sample_rate, counted.samples, header.num_channels)
        self.write(item, clip)


class _ToAudio:
    """Writing of audio, shared by decode and reconstruct. sample_rate: of the result; None: that of the original."""

    write_in_threads = True

    def __init__(self, runtime: Runtime, sample_rate: int | None) -> None:
        self.runtime, self.sample_rate = runtime, sample_rate

    def decode(self, clips: Sequence[TokenClip]) -> list[np.ndarray]:
        """Decode to waveforms (S, C) at the codec's rate."""
        flat = [(codes, clip.num_samples) for clip in clips for codes in clip.codes]
        wavs = iter(self.runtime.decode_batch([codes for codes, _ in flat], [length for _, length in flat]))
        return [np.stack([next(wavs) for _ in clip.codes], axis=1) for clip in clips]

    def place(self, clip: TokenClip) -> tuple[int, int]:
        """Sample rate and number of samples of the result."""
        return audio_of(clip, self.runtime.identity.sample_rate, self.sample_rate)

    def save(self, item: Item, clip: TokenClip, wav_SC: np.ndarray) -> None:
        rate, length = self.place(clip)
        out = audio.resample(wav_SC, self.runtime.identity.sample_rate, rate)[:length]
        if len(out) < length:
            out = np.pad(out, ((0, length - len(out)), (0, 0)))
        assert item.target is not None
        audio.write(item.target, out[:, 0] if out.shape[1] == 1 else out, rate, durable=False)

    def save_blocks(
        self, item: Item, rate: int, channels: Sequence[Iterable[np.ndarray]], length: Callable[[], int]
    ) -> Iterator[int]:
        """Blocks (S,) per channel at the codec's rate, in step with each other -> the file; yields samples written.

        length: of the result. It may be known only at the end, so the last second is held back, then cut or padded.
        """
        assert item.target is not None
        own = self.runtime.identity.sample_rate
        resampled = [audio.resample_blocks(blocks, own, rate) for blocks in channels]
        with audio.AudioWriter(item.target, rate, num_channels=len(channels)) as writer:
            written, held = 0, np.zeros((0, len(channels)), np.float32)
            for parts in zip(*resampled, strict=True):
                held = np.concatenate([held, np.stack(parts, axis=1)])
                if len(held) > 2 * rate:
                    writer.write(held[:-rate])
                    yield len(held) - rate
                    written, held = written + len(held) - rate, held[-rate:]
            rest = held[: length() - written]
            writer.write(np.pad(rest, ((0, length() - written - len(rest)), (0, 0))))


class DecodeWork(_ToAudio):
    """Token files, or rows of shards, -> audio files. Tokens of another codec are refused."""

    def measure(self, item: Item) -> float:
        if item.header is not None:  # a row of a shard is in memory already
            row, provenance = item.header
            self.runtime.identity.refuse_others(provenance, item.source)
            item.header = row
            return float(len(row.codes) * row.num_samples / provenance.sample_rate)
        facts, provenance = read_token_facts(item.source)
        self.runtime.identity.refuse_others(provenance, item.source)
        return float(facts["channels"] * facts["num_samples"] / provenance.sample_rate)

    def read(self, item: Item) -> TokenClip:
        if item.header is not None:
            row: TokenClip = item.header
            return row
        clip, provenance = load_token_file(item.source)
        self.runtime.identity.refuse_others(provenance, item.source)
        return clip

    def code(self, payloads: Sequence[TokenClip]) -> list[tuple[TokenClip, np.ndarray]]:
        return list(zip(payloads, self.decode(payloads), strict=True))

    def write(self, item: Item, result: tuple[TokenClip, np.ndarray]) -> None:
        self.save(item, *result)

    def stream(self, item: Item, advance: Advance) -> None:
        clip = self.read(item)
        rate, length = self.place(clip)
        channels = [self.runtime.decode_stream([codes], clip.num_samples) for codes in clip.codes]
        for samples in self.save_blocks(item, rate, channels, lambda: length):
            advance(len(channels) * samples / rate)


class ReconstructWork(_FromAudio, _ToAudio):
    """Audio files through the codec and back; tokens are not written."""

    def __init__(self, runtime: Runtime, split: bool, sample_rate: int | None) -> None:
        _FromAudio.__init__(self, runtime, split)
        _ToAudio.__init__(self, runtime, sample_rate)

    def code(self, payloads: Sequence[Recording]) -> list[tuple[TokenClip, np.ndarray]]:
        clips = self.encode(payloads)
        return list(zip(clips, self.decode(clips), strict=True))

    def write(self, item: Item, result: tuple[TokenClip, np.ndarray]) -> None:
        self.save(item, *result)

    def stream(self, item: Item, advance: Advance) -> None:
        counted = Counted(item.header.sample_rate, advance)
        codec = self.runtime.identity

        def length() -> int:
            return audio.num_resampled(counted.samples, counted.sample_rate, codec.sample_rate)

        channels = []
        for number, channel in enumerate(self.channels(item)):
            # The other channels are as long as the first: one count is enough for the length.
            own_count = Counted(item.header.sample_rate, advance) if number else counted
            codes = self.runtime.encode_stream(self.blocks(item, channel, own_count))
            channels.append(cut_at_end(self.runtime.decode_stream(codes), codec.hop_samples, length))
        rate = self.sample_rate or item.header.sample_rate
        for _ in self.save_blocks(
            item, rate, channels, lambda: audio.num_resampled(counted.samples, counted.sample_rate, rate)
        ):
            pass


def cut_at_end(blocks: Iterable[np.ndarray], hold: int, length: Callable[[], int]) -> Iterator[np.ndarray]:
    """Cut blocks to a length that is known only at the end; at most `hold` samples lie beyond it.

    A decoder gives whole frames. Samples after the recording's end must not leak into the resampled result, just as
    when tokens are stored with their length.
    """
    pending, given = np.zeros(0, np.float32), 0
    for block in blocks:
        pending = np.concatenate([pending, block])
        if len(pending) > hold:
            yield pending[:-hold]
            given, pending = given + len(pending) - hold, pending[-hold:]
    if (rest := length() - given) > 0:
        yield pending[:rest]


class Counted:
    """Counts the samples that pass, and reports them as seconds."""

    def __init__(self, sample_rate: int, advance: Advance | None = None) -> None:
        self.sample_rate, self.advance, self.samples = sample_rate, advance, 0

    def count(self, samples: int) -> None:
        self.samples += samples
        if self.advance is not None:
            self.advance(samples / self.sample_rate)

    def passing(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for block in blocks:
            self.count(len(block))
            yield block
