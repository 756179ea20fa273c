"""A small language model that prices the trials of rate-aware encoding: `search:DIR?lm`.

    prior = load_neural_prior(find_audio_lm(folder), load_prior(folder / PRIOR_FILE, codec))
    codec = SearchingCodec(codec, prior)

A pair of codes knows 2.2 of the 3.9 bits that context is worth to the language model, so the model prices a trial after
all codes before it. The code behind the trial stays with the pairs: to ask the model would take a pass per trial.
The weights are those of `lm.small_lm.SmallLM` as runs write them (`audio_lm.safetensors`): transformer blocks as in
Qwen3 (RMSNorm, normalised queries and keys, rotary positions, SwiGLU). They are computed here, because search must not
need the packages of training; tests/codec/test_neural_prior.py holds them against Hugging Face's.
Shapes: B windows, T frames, H width, V codes, P frames tried at once, X codes tried at each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.io.tensor_check import check_tensors
from llmcodec.io.tensor_file import read_arrays
from llmcodec.protocol import PairScorer, RateScorer

AUDIO_LM = "audio_lm.safetensors"
MAX_LM_BYTES = 1 << 31
WINDOW = 500
"""Codes that the model reads at most: 10 s, about as long as the clips it learns from."""
EPSILON, ROPE_BASE = 1e-6, 10_000.0


def find_audio_lm(folder: Path) -> Path | None:
    """File of the small LM that was trained along with a codec: beside it, or in the run whose `codec` folder it is."""
    places = (folder, folder.parent) if folder.name == "codec" else (folder,)
    return next((place / AUDIO_LM for place in places if (place / AUDIO_LM).is_file()), None)


class NeuralPrior:
    """A small LM and pairs of codes as one `protocol.RateScorer`.

    Folds protect counted clips from their own pairs. The LM has none: it must not have been trained on the clips that
    are searched.

    Args:
        tensors: by the names of `audio_lm.safetensors`, float32.
        pairs: usually a `token_prior.FoldedPrior`.
        window: longest context; later codes are read in windows that overlap by half.

    Raises:
        ValueError: the tensors are not those of such a model, or it has another number of codes than the pairs.
    """

    def __init__(self, tensors: Mapping[str, Tensor], pairs: RateScorer, window: int = WINDOW):
        self.tensors, self.pairs, self.window = dict(tensors), pairs, window
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        layers = {name.split(".")[2] for name in shapes if name.startswith("model.layers.")}
        self.num_layers = len(layers)
        try:
            size, width = shapes["embedding_VH"]
            heads, inner = (
                shapes["model.layers.0.self_attn.q_proj.weight"][0],
                shapes["model.layers.0.mlp.gate_proj.weight"][0],
            )
            self.head_dim = shapes["model.layers.0.self_attn.k_norm.weight"][0]
        except (KeyError, ValueError, IndexError) as error:
            raise ValueError(f"not a small language model of a run (no {error}, or of another shape)") from error
        wanted = {"embedding_VH": (size, width), "bias_V": (size,)}
        wanted |= dict.fromkeys(("start_H", "gain_H", "model.norm.weight"), (width,))
        for layer in range(self.num_layers):
            at = f"model.layers.{layer}."
            wanted |= {f"{at}self_attn.{one}_proj.weight": (heads, width) for one in "qkv"}
            wanted |= {f"{at}self_attn.o_proj.weight": (width, heads)}
            wanted |= {f"{at}self_attn.{one}_norm.weight": (self.head_dim,) for one in "qk"}
            wanted |= {f"{at}{one}_layernorm.weight": (width,) for one in ("input", "post_attention")}
            wanted |= {f"{at}mlp.{one}_proj.weight": (inner, width) for one in ("gate", "up")}
            wanted |= {f"{at}mlp.down_proj.weight": (width, inner)}
        if shapes != wanted or self.head_dim % 2 or heads % self.head_dim:
            wrong = sorted({name for name, shape in (shapes.items() ^ wanted.items())}) or ["head sizes"]
            raise ValueError(f"not a small language model of a run ({wrong[0]})")
        if size != pairs.codebook_size:
            raise ValueError(f"a language model of {size} codes, a prior of {pairs.codebook_size}")
        self._asked: tuple[Tensor, Tensor, Tensor] | None = None

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.pairs.codebook_size

    def leave_out(self, wav_S: Tensor) -> NeuralPrior:
        """With the pairs of other clips; see `protocol.RateScorer`."""
        return NeuralPrior(self.tensors, self.pairs.leave_out(wav_S), self.window)

    def to(self, device: torch.device) -> NeuralPrior:
        """The same on another device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return NeuralPrior(tensors, self.pairs.to(device), self.window)

    def state_dict(self) -> Mapping[str, Tensor]:
        """What decides its answers, by name."""
        return {**self.pairs.state_dict(), **{f"lm.{name}": tensor for name, tensor in self.tensors.items()}}

    def trial_nats(self, codes_T: Tensor, places_P: Tensor, trials_XP: Tensor) -> Tensor:
        """Nats (X, P) of a trial and of the code behind it; see `protocol.RateScorer`.

        Raises:
            ValueError: the other prior is not one of pairs.
        """
        pairs = getattr(self.pairs, "pooled", self.pairs)
        if not isinstance(pairs, PairScorer):
            raise ValueError("search: a language model needs a prior of pairs beside it; `llmcodec prior` counts one")
        if self._asked is None or not (torch.equal(self._asked[0], codes_T) and torch.equal(self._asked[1], places_P)):
            self._asked = codes_T.clone(), places_P, self.own_nats(codes_T, places_P)
        after_P = F.pad(codes_T, (0, 1), value=-1)[places_P + 1]
        return self._asked[2].gather(0, trials_XP) + pairs.nats(trials_XP, after_P)

    @torch.no_grad()
    def own_nats(self, codes_T: Tensor, places_P: Tensor) -> Tensor:
        """-ln p (V, P) of every code in every place, after the codes before it."""
        half = max(1, self.window // 2)
        windows_P = places_P // half  # window w reads from half * (w - 1) to half * (w + 1)
        used = windows_P.unique()
        start_B = half * (used - 1).clamp_min(0)
        read_BT = start_B[:, None] + torch.arange(2 * half, device=codes_T.device)
        rows_BTH = self.tensors["embedding_VH"][codes_T[read_BT.clamp_max(len(codes_T) - 1)]]
        start_BH = self.tensors["start_H"].expand(len(used), 1, -1)
        hidden_BTH = self._read(torch.cat([start_BH, rows_BTH[:, :-1]], 1))
        row_P = torch.searchsorted(used, windows_P)
        hidden_PH = hidden_BTH[row_P, places_P - start_B[row_P]] * self.tensors["gain_H"]
        return -(F.linear(hidden_PH, self.tensors["embedding_VH"]) + self.tensors["bias_V"]).log_softmax(-1).T

    def _read(self, x_BTH: Tensor) -> Tensor:
        """Inputs -> last hidden states; no frame sees later ones, nor what is read beyond a clip's end."""
        steps = torch.arange(x_BTH.shape[1], device=x_BTH.device).float()
        turns = ROPE_BASE ** -(torch.arange(0, self.head_dim, 2, device=x_BTH.device).float() / self.head_dim)
        angle_TD = (steps[:, None] * turns).repeat(1, 2)
        cos_TD, sin_TD = angle_TD.cos(), angle_TD.sin()

        def norm(x: Tensor, name: str) -> Tensor:
            return F.rms_norm(x, x.shape[-1:], self.tensors[name], EPSILON)

        def rotate(x: Tensor) -> Tensor:
            low, high = x.chunk(2, -1)
            return x * cos_TD + torch.cat([-high, low], -1) * sin_TD

        for layer in range(self.num_layers):
            at = f"model.layers.{layer}."

            def project(x: Tensor, name: str, at: str = at) -> Tensor:
                return F.linear(x, self.tensors[f"{at}{name}_proj.weight"])

            inner_BTH = norm(x_BTH, f"{at}input_layernorm.weight")
            q, k, v = (
                project(inner_BTH, f"self_attn.{one}").unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
                for one in "qkv"
            )
            q, k = rotate(norm(q, f"{at}self_attn.q_norm.weight")), rotate(norm(k, f"{at}self_attn.k_norm.weight"))
            mixed_BTH = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            x_BTH = x_BTH + project(mixed_BTH, "self_attn.o")
            inner_BTH = norm(x_BTH, f"{at}post_attention_layernorm.weight")
            gated = F.silu(project(inner_BTH, "mlp.gate")) * project(inner_BTH, "mlp.up")
            x_BTH = x_BTH + project(gated, "mlp.down")
        return norm(x_BTH, "model.norm.weight")


def load_neural_prior(path: Path, pairs: RateScorer) -> NeuralPrior:
    """Read the small LM of a run.

    Raises:
        ValueError: it cannot be read, is damaged or no such model, or has other codes than the pairs.
    """
    try:
        arrays, _ = read_arrays(check_tensors(path), max_bytes=MAX_LM_BYTES)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    tensors = {name: torch.from_numpy(array.astype(np.float32)) for name, array in arrays.items()}
    try:
        return NeuralPrior(tensors, pairs)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
