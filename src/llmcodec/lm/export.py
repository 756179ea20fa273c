"""Hand-over: a token LM as a plain Hugging Face folder that other serving stacks load, with nothing of ours in it.

    export_token_lm("runs/lm_paper", "handover", dtype="bf16")      # LoRA and audio rows merged
    check_layout(Path("handover"))                                   # what vLLM and llama.cpp's converter look for

Test: `pytest tests/lm/test_export.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from llmcodec.io.atomic import atomic_folder
from llmcodec.io.structured import read_object
from llmcodec.io.token_text import BEGIN, END
from llmcodec.lm.token_lm import TokenLM, load_token_lm


def export_token_lm(place: str, output: str, dtype: str = "bf16") -> Path:
    """Write config, safetensors, tokenizer, generation config and a README; whole or not at all.

    Args:
        place: what `load_token_lm` reads. dtype: fp32 or bf16 of the written weights.

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
        model.save_pretrained(folder)
        lm.tokenizer.save_pretrained(folder)
        lm.card.save(folder)
        (folder / "README.md").write_text(readme(lm), encoding="utf-8")
        check_layout(folder)
    return target


def _stops(lm: TokenLM) -> None:
    """Generation stops at the end of audio; settings that only a sampler may have are dropped."""
    eos = lm.tokenizer.eos_token_id
    generation = lm.model.generation_config
    generation.eos_token_id = [lm.tokens.end] + ([] if eos is None else [eos])
    if generation.pad_token_id is None:
        generation.pad_token_id = lm.tokenizer.pad_token_id
    if not generation.do_sample:
        generation.temperature = generation.top_p = generation.top_k = None
    lm.model.config.use_cache = True


def check_layout(folder: Path) -> dict[str, Any]:
    """Facts that vLLM's loader and llama.cpp's converter rely on; returns them.

    Raises:
        ValueError: the first thing that is not as they expect.
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
    need("auto_map" not in config, "config.json wants code of its own (auto_map)")
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
    tied = bool(AutoConfig.from_pretrained(folder).tie_word_embeddings)  # what is not written has the family's default
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


PLAIN_EXAMPLE = """from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
inputs = tokenizer("{prompt}", return_tensors="pt", add_special_tokens=False)
ids = model.generate(**inputs, do_sample=True, temperature=0.9, top_p=0.98, max_new_tokens=300)
text = tokenizer.decode(ids[0])          # ...<CODEC_17><CODEC_4>..."""
ALIGNED_EXAMPLE = """import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("FOLDER")
model = AutoModelForCausalLM.from_pretrained("FOLDER")
units = "{units}".split()
ids = torch.zeros(1, 0, dtype=torch.long)
for place in range(len(units)):  # each unit is read with those behind it, then spoken
    text = " ".join(units[place : place + 1 + {ahead}])
    if place == 0:
        text = "{template}".replace("{{text}}", text)
    read = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
    ids = model.generate(torch.cat([ids, read], 1), do_sample=True, temperature=1.0, max_new_tokens={longest})
    if ids[0, -1] != tokenizer.convert_tokens_to_ids("{end}"):
        ids = torch.cat([ids, torch.tensor([[tokenizer.convert_tokens_to_ids("{end}")]])], 1)
text = tokenizer.decode(ids[0])          # ...<CODEC_17><CODEC_4>..."""
"""What an exported folder's README shows."""


def readme(lm: TokenLM) -> str:
    """How to load it, and how its tokens become sound."""
    card, tokens, last = lm.card, lm.tokens, lm.tokens.num_codes - 1
    speaks = "tts" in card.formats
    prompt = f"{card.text_template.format(text='hello', speaker='SPEAKER', language='en')}{BEGIN}" if speaks else BEGIN
    example = PLAIN_EXAMPLE.format(prompt=prompt)
    codec = card.codec
    turns = ""
    if card.turns is not None:
        turns = (
            f"\n- reads text while it speaks: {card.turns[0]} text tokens, `{BEGIN}`, {card.turns[1]} codes, "
            f"{card.turns[0]} text tokens, {card.turns[1]} codes, .. (`llmcodec lm sample` does that)"
        )
    if card.units_ahead is not None:
        turns += (
            f"\n- reads phoneme after phoneme: the phoneme to speak and the next {card.units_ahead}, `{BEGIN}`, codes "
            f"up to `{END}`, the same one phoneme later (without `{BEGIN}`), .. (`llmcodec lm sample` does that)"
        )
        if card.units:
            turns += f"; it knows `{' '.join(card.units)}`"
        template = card.text_template.format(text="{text}", speaker="SPEAKER", language="en")
        example = ALIGNED_EXAMPLE.format(
            units=" ".join((card.units or ["a", "b"])[:4]),
            template=template + BEGIN,
            ahead=card.units_ahead,
            longest=card.longest_unit or 50,
            end=END,
        )
    which = (
        f"`{codec.codec}` (weights sha256 `{codec.weights_sha256[:16]}...`, {codec.sample_rate} Hz, "
        f"{codec.frame_rate:g} frames a second, {codec.num_codebooks} x {codec.codebook_size} codes)"
        if codec
        else "not recorded"
    )
    name = codec.codec if codec else "CODEC"
    return f"""---
library_name: transformers
pipeline_tag: text-to-speech
tags: [audio, speech, codec-tokens]
---
# A language model that speaks codec tokens

A plain `{type(lm.model).__name__}`: nothing but transformers is needed to load it. Beside its text tokens it has
`{BEGIN}`, `{END}` and `<CODEC_0>` .. `<CODEC_{last}>` (ids {tokens.first} .. {tokens.first + last}).

- codec: {which}
- trained on: {", ".join(card.formats) or "not recorded"}; started from {card.base or "scratch"}
- loss: {card.loss or "not recorded"}{turns}

```python
{example}
```

Sound: `llmcodec decode --codec {name} --text "<CODEC_17><CODEC_4>..." --output speech.wav`. Without llmcodec: read the
numbers out of the text (`re.findall(r"<CODEC_(\\d+)>", text)`) and give them to the codec's `decode`.

Servers: the codes are ordinary tokens, so that they stay in the returned text; `{END}` is special and in
`generation_config.json` as an end token. vLLM: `vllm serve FOLDER`, with `"add_special_tokens": false` in the request.
llama.cpp: `convert_hf_to_gguf.py FOLDER`; it knows the tokenizers of published models, so a model from scratch with the
byte tokenizer cannot be converted.
"""
