#!/usr/bin/env python3
"""Write a trained codec in the precision it ships in (float16) with its model card.

    python scripts/ship_codec.py runs/base_tiny/codec src/llmcodec/assets/codec_tiny --card card.md

Figures that are published about a shipped codec come from the file written here. Refuses more than 8 MB.
"""

import argparse
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from llmcodec import LLMCodec

LIMIT_BYTES = 8_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("codec", help="folder of the trained codec (float32)")
    parser.add_argument("output", type=Path, help="folder to write")
    parser.add_argument("--audio-lm", type=Path, help="small audio LM of recipes/audio_lm.yaml to ship beside it")
    parser.add_argument("--card", type=Path, help="model card, copied as README.md")
    arguments = parser.parse_args()
    codec = LLMCodec.from_pretrained(arguments.codec).to(torch.float16)
    codec.save_pretrained(arguments.output)
    size = (arguments.output / "model.safetensors").stat().st_size
    if size > LIMIT_BYTES:
        raise SystemExit(f"{arguments.output}: {size:,} bytes of weights, more than {LIMIT_BYTES:,}")
    if arguments.audio_lm is not None:
        rows = {name: value.half() for name, value in load_file(arguments.audio_lm).items()}
        save_file(rows, arguments.output / "audio_lm.safetensors")
    if arguments.card is not None:
        shutil.copyfile(arguments.card, arguments.output / "README.md")
    print(f"{arguments.output}: {size:,} bytes")


if __name__ == "__main__":
    main()
