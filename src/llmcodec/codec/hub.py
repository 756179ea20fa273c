"""What the codec adds to transformers' model class: feature extractor and model card beside the weights, publishing.

    codec.save_pretrained("folder")  # config.json, model.safetensors, digests.json, preprocessor_config.json, README.md
    codec.push_to_hub("name/my-codec", private=True)
    codec = LLMCodec.from_pretrained("name/my-codec")

Test: tests/codec/test_hub.py.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers.modeling_utils import PreTrainedAudioTokenizerBase

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.feature_extractor import LLMCodecFeatureExtractor
from llmcodec.codec.model_card import CARD, model_card, write_card
from llmcodec.io.tensor_check import DIGESTS, SETTINGS, renewed_digests
from llmcodec.precision import SIDES, graph_file


class HubCodec(PreTrainedAudioTokenizerBase):
    """Saving and publishing; `LLMCodec` is built on it."""

    config: LLMCodecConfig

    def feature_extractor(self) -> LLMCodecFeatureExtractor:
        """The feature extractor that fits this codec."""
        return LLMCodecFeatureExtractor(
            sampling_rate=self.config.sample_rate, hop_length=self.config.hop_samples, padding_side="right"
        )

    def card(self, name: str, licence: str | None = None, measured: str | None = None, usage: str | None = None) -> str:
        """Text of the model card, see `model_card.model_card`."""
        return model_card(self.config, name, self.num_parameters(), licence, measured, usage)

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        *,
        push_to_hub: bool = False,
        card: str | None = None,
        repo_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        """As in transformers, with digests, preprocessor_config.json and a model card beside the weights.

        Args:
            save_directory: folder to write; made if it is not there.
            is_main_process: False on the other ranks of a distributed run: nothing is written there.
            push_to_hub: publish the folder afterwards, as `push_to_hub(repo_id)` does.
            card: text of README.md, written in any case; None writes a standard card where there is none yet.
            repo_id: hub id for `push_to_hub`; default: the folder's name.
            kwargs: what transformers' `save_pretrained` and, with `push_to_hub`, `push_to_hub` take.

        Raises:
            ValueError: the place is a file.

        ONNX graphs in the folder go, because they are of other weights.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"{folder}: is a file; name a folder to save the codec in")
        hub = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        if not is_main_process:
            super().save_pretrained(folder, is_main_process, **kwargs)
            return
        remove_graphs(folder)
        with renewed_digests(folder, "model*.safetensors", "config.json", *GRAPHS):
            super().save_pretrained(folder, is_main_process, **kwargs)
        self.feature_extractor().save_pretrained(folder)
        place = folder.resolve()
        title = f"{place.parent.name}/codec" if place.name == "codec" else place.name  # runs keep theirs in RUN/codec
        write_card(folder, card or self.card(repo_id or title), replace=card is not None)
        if push_to_hub:
            self.push_to_hub(repo_id or folder.resolve().name, card=card, **hub)

    def push_to_hub(  # type: ignore[override]
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload codec",
        commit_description: str | None = None,
        private: bool | None = None,
        token: bool | str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        max_shard_size: int | str = "50GB",
        card: str | None = None,
    ) -> Any:
        """Publish weights, configuration, feature extractor and model card as one commit.

        The card of the repository stays where there is one, unless `card` gives a text. Arguments as in transformers;
        `private=None` follows the account's default.

        Returns:
            huggingface_hub's `CommitInfo` (its `commit_url` is where to look).
        """
        from huggingface_hub import HfApi

        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/pr"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, max_shard_size=max_shard_size, card=card or self.card(repo_id))
            keep = card is None and api.file_exists(repo_id, CARD, revision=revision)
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
                ignore_patterns=[CARD] if keep else None,
            )


DOWNLOAD_ARGUMENTS = ("cache_dir", "local_files_only", "proxies", "revision", "subfolder", "token")
GRAPHS = (SETTINGS[1], *(graph_file(side, precision) for side in SIDES for precision in ("fp32", "int8")))
"""Files of an ONNX export."""
HUB_ARGUMENTS = ("commit_message", "commit_description", "private", "token", "revision", "create_pr")


def downloaded_folder(repo_id: str, options: Mapping[str, Any]) -> Path:
    """The local copy of a repository that transformers has just loaded with these options, digests included."""
    from transformers.utils.hub import cached_file

    chosen = {name: options[name] for name in DOWNLOAD_ARGUMENTS if name in options}
    cached_file(
        repo_id,
        DIGESTS,
        **chosen,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return Path(str(cached_file(repo_id, "config.json", **chosen))).parent


def register(config: type[LLMCodecConfig], model: type[HubCodec]) -> None:
    """Make AutoConfig, AutoModel, AutoModelForAudioTokenization and AutoFeatureExtractor know the codec.

    Happens when `llmcodec.codec` is imported (`from llmcodec import LLMCodec` does that), not at `import llmcodec`,
    which loads neither torch nor transformers.
    """
    from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, AutoModelForAudioTokenization

    AutoConfig.register(config.model_type, config, exist_ok=True)
    AutoModel.register(config, model, exist_ok=True)
    AutoModelForAudioTokenization.register(config, model, exist_ok=True)
    AutoFeatureExtractor.register(config, LLMCodecFeatureExtractor, exist_ok=True)


def remove_graphs(folder: str | os.PathLike[str]) -> None:
    """Delete the ONNX graphs of a folder that gets new weights: commands would run them instead."""
    for name in GRAPHS:
        Path(folder, name).unlink(missing_ok=True)
