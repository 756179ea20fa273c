"""Export of a token LM as a plain Hugging Face folder that serving stacks load without llmcodec.

    export_token_lm("runs/lm_paper", "handover", dtype="bf16")      # LoRA and audio rows merged
    check_layout(Path("handover"))                                   # what vLLM and llama.cpp's converter expect

Test: `pytest tests/lm/test_export.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jinja2 import Environment, StrictUndefined

from llmcodec.io.atomic import atomic_folder
from llmcodec.io.structured import read_object
from llmcodec.io.tensor_check import renewed_digests
from llmcodec.io.token_text import BEGIN, END
from llmcodec.lm.token_lm import TokenLM, load_token_lm


def export_token_lm(place: str, output: str, dtype: str = "bf16") -> Path:
    """Write config, safetensors, tokenizer, generation config and a README, atomically.

    Args:
        place: as for `load_token_lm`. dtype: fp32 or bf16 of the written weights.

    Raises:
        ValueError: the folder exists, or the result is not what servers expect.
    """
    target = Path(output)
    if target.exists():
        raise ValueError(f"{output}: exists already; choose another folder")
    lm = load_token_lm(place, merge=True)
    model = lm.model.to(torch.bfloat16 if dtype == "bf16" else torch.float32)
    with atomic_folder(target) as folder:
        _stops(lm)
        with renewed_digests(folder, "model*.safetensors"):
            model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        lm.card.save(folder)
        (folder / "README.md").write_text(readme(lm), encoding="utf-8")
        check_layout(folder)
    return target


def _stops(lm: TokenLM) -> None:
    """Make generation stop at the end of audio; drop sampling settings."""
    generation = lm.model.generation_config
    generation.eos_token_id = lm.tokens.stop_ids(lm.tokenizer)
    if generation.pad_token_id is None:
        generation.pad_token_id = lm.tokenizer.pad_token_id
    if not generation.do_sample:
        generation.temperature = generation.top_p = generation.top_k = None
    lm.model.config.use_cache = True


def check_layout(folder: Path) -> dict[str, Any]:
    """Check and return facts that vLLM's loader and llama.cpp's converter rely on.

    Raises:
        ValueError: the first fact that is not as they expect.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    def need(condition: bool, what: str) -> None:
        if not condition:
            raise ValueError(f"{folder}: {what}")

    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        need((folder / name).is_file(), f"{name} is missing")
    config = read_object(folder / "config.json")
    need(len(config.get("architectures") or []) == 1, "config.json names no architecture")
    need("auto_map" not in config, "config.json needs custom code (auto_map)")
    weights = sorted(folder.glob("model*.safetensors"))
    need(bool(weights), "no safetensors weights")
    shapes: dict[str, list[int]] = {}
    for path in weights:
        with safe_open(path, framework="pt") as file:
            shapes |= {key: list(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    if len(weights) > 1:
        index = read_object(folder / "model.safetensors.index.json")
        need(set(index["weight_map"]) == set(shapes), "model.safetensors.index.json does not list the weights")
    need(not any("lora" in key or "frozen" in key for key in shapes), "adapters are not merged")
    vocabulary = config["vocab_size"]
    embedding = next(
        (shape for key, shape in shapes.items() if key.endswith(("embed_tokens.weight", "wte.weight"))), None
    )
    need(embedding is not None and embedding[0] == vocabulary, f"vocab_size {vocabulary} is not that of the rows")
    tied = bool(
        AutoConfig.from_pretrained(folder, trust_remote_code=False).tie_word_embeddings
    )  # missing fields have the family's default
    need(tied != ("lm_head.weight" in shapes), f"tie_word_embeddings is {tied}, lm_head.weight says otherwise")
    tokenizer = read_object(folder / "tokenizer.json")
    added = {token["content"]: token for token in tokenizer["added_tokens"]}
    top = max([*tokenizer["model"]["vocab"].values(), *(token["id"] for token in added.values())])
    need(top < vocabulary, f"token id {top} has no row")
    need(BEGIN in added and END in added, "the tokenizer has no begin or end of audio")
    need(not added["<CODEC_0>"]["special"], "codec tokens are special: servers would drop them from the text")
    need(added[END]["special"], "the end of audio is not special")
    stops = read_object(folder / "generation_config.json").get("eos_token_id")
    need(
        added[END]["id"] in (stops if isinstance(stops, list) else [stops]), "generation does not stop at end of audio"
    )
    return {"architecture": config["architectures"][0], "vocab_size": vocabulary, "tied": tied, "tensors": len(shapes)}


def readme(lm: TokenLM) -> str:
    """README on loading it and decoding its tokens: readme.md.jinja filled in."""
    card = lm.card
    aligned = card.units_ahead is not None
    text = "{text}" if aligned else "hello"
    prompt = card.text_template.format(text=text, speaker="SPEAKER", language="en")
    template = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return template.from_string(Path(__file__).with_name("readme.md.jinja").read_text(encoding="utf-8")).render(
        architecture=type(lm.model).__name__,
        card=card,
        codec=card.codec,
        tokens=lm.tokens,
        aligned=aligned,
        prompt=prompt + BEGIN if aligned or "tts" in card.formats else BEGIN,
        begin=BEGIN,
        end=END,
    )
