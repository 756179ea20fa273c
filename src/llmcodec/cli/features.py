"""`llmcodec evaluate phones`, and `units`: frozen speech encoders measured beside codecs, and made into tokens.

Test: tests/cli/test_features.py.
"""

from __future__ import annotations

from dataclasses import asdict

from llmcodec.adapters.features.load import load_encoder
from llmcodec.cli.options import ClipOptions, DeviceOptions, OutputOptions
from llmcodec.cli.output import name_files, open_console, show
from llmcodec.cli.summary import FilesBar
from llmcodec.data.alignments import read_alignments
from llmcodec.evaluation.phones import PAUSES, Context, PhoneConfig, PhoneResult, measure_encoder, measure_phones
from llmcodec.experiments.comparison import named_systems, open_systems
from llmcodec.io.progress import ProgressBar
from llmcodec.report import phones as phone_report
from llmcodec.report.files import provenance, write_results
from llmcodec.transcode.units import write_units


def evaluate_phones(
    codec: list[str] | None = None,
    features: tuple[str, ...] = (),
    alignments: str | None = None,
    corpus: ClipOptions = ClipOptions(),
    codebook: int = 1,
    context: Context = "any",
    items: int = 10,
    pauses: tuple[str, ...] = PAUSES,
    seed: int = 0,
    clips: int | None = None,
    output: OutputOptions = OutputOptions(),
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """What tokens and features know of phones: phone purity, mutual information, ABX, on labelled speech.

      llmcodec evaluate phones --manifest corpus.jsonl --alignments lab --codec bundled --codec units=hubert500
      llmcodec evaluate phones --manifest aligned.jsonl --features whisper-ct2:whisper-base?seconds=4 -o phones

    Purity and mutual information grow with the number of codes; their values by chance stand beside them, and the
    accuracy on clips that the names of the codes were not learnt from can be compared between vocabularies.

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is the reference.
        features: speech encoders whose frames take part in ABX, joined by commas: hubert:PLACE:LAYER, wavlm:,
            wav2vec2:, whisper:, whisper-ct2:FOLDER.
        alignments: folder with ID.TextGrid or ID.lab (Festival, HTK), or a CTM file; null takes texts that say when, as
            examples/align.py writes them.
        codebook: of codecs with several, the one that is measured, from 1.
        context: ABX between phones in any context, or `within` the same two neighbours.
        items: renditions of a phone by one speaker (and in one context) for ABX, drawn by the seed.
        pauses: labels that are no phones.
        split: splits joined by commas; default: valid, dev, test and the like, else everything.
        clips: measure this many clips, evenly spread; null takes all.
        output: write NAME.md (table) and NAME.json (everything); NAME.html also a page.
    """
    if codec is None and not features:
        raise ValueError("name something to measure: --codec bundled, or --features hubert:PLACE:LAYER")
    systems = named_systems(codec) if codec else []
    config = PhoneConfig(codebook - 1, context, items, pauses, seed)
    held_out = corpus.held_out_clips()
    spoken = read_alignments(alignments, held_out)
    chosen, bad = corpus.measured_clips(clips, [one for one in held_out if one.id in spoken])
    console = open_console()
    results: dict[str, PhoneResult] = {}
    for name, encoded in open_systems(systems, device.torch_device()):
        with ProgressBar(name, console=console) as bar:
            results[name] = measure_phones(encoded, chosen, spoken, config, bar.update)
    for name in features:
        encoder = load_encoder(name, device.torch_device())
        with ProgressBar(name, console=console) as bar:
            results[name] = measure_encoder(encoder, chosen, spoken, config, bar.update)
    table, said = phone_report.phone_table(results), phone_report.sentences(results)
    show(console, [table], said)
    if output.output is not None:
        told = {"settings": {**provenance(chosen, bad), **asdict(config)}}
        told["systems"] = {name: phone_report.to_json(result) for name, result in results.items()}
        name_files(console, write_results(output.output, [table], said, told))


def units(
    encoder: str,
    output: str,
    corpus: ClipOptions = ClipOptions(split=("train",)),
    codes: int = 500,
    rounds: int = 20,
    max_frames: int = 200_000,
    seed: int = 0,
    overwrite: bool = False,
    device: DeviceOptions = DeviceOptions(),
) -> str:
    """Fit k-means units on the frames of a speech encoder: a codec that encodes only, for every command.

      llmcodec units hubert:facebook/hubert-base-ls960:9 -o hubert500 --manifest corpus.jsonl
      llmcodec evaluate predictability --codec bundled --codec hubert500 --codec dedup=hubert500?deduplicate

    The folder holds the units and the encoder's name; the encoder has to be on the machine wherever they are used.
    `?deduplicate` behind its name measures runs of one unit as one token (predictability and compare).

    Args:
        encoder: hubert:PLACE:LAYER, wavlm:, wav2vec2:, whisper: (a hub id or folder), or whisper-ct2:FOLDER.
        output: folder to write; it appears under this name when it is complete.
        corpus: whose frames are clustered.
        split: cluster these splits, joined by commas; null takes all clips.
        codes: number of units.
        rounds: of k-means.
        max_frames: that k-means sees, evenly from all clips.
        seed: of the initial units and of which frames are seen.
        overwrite: write into a folder that is not empty.
    """
    with FilesBar("hearing") as bar:
        found = write_units(
            encoder,
            output,
            corpus.clips(),
            num_codes=codes,
            rounds=rounds,
            max_frames=max_frames,
            seed=seed,
            device=device.torch_device(),
            overwrite=overwrite,
            watcher=bar,
            max_bad=corpus.max_bad,
        )
    lines = [f"left out: {line}" for line in found.left_out]
    fitted = f"{found.used_codes:,} of {codes:,} units used by {found.num_frames:,} frames"
    return "\n".join([*lines, f"{output}: {fitted}; {1 - found.distortion:.0%} of the variance is explained"])
