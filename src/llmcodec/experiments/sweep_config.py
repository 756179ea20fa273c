"""What a sweep file may say: rows, seeds, the parts of a manifest, and the protocol that all rows share.

Test: tests/integration/test_sweep.py, tests/experiments/test_protocol.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from llmcodec.evaluation.system import MeasurementConfig
from llmcodec.io.bad_rows import MaxBad, read_max_bad
from llmcodec.lm.small_lm_training import LikelihoodConfig

MAIN_LM = "LM"
"""The LM of `measurement.likelihood`, beside those of `lm_sizes`."""


@dataclass(frozen=True)
class RowConfig:
    """One row of the table."""

    codec: str | None = None
    """An existing codec (`bundled`, folder, hub id), measured as it is; null trains one."""
    of: str | None = None
    """Another row, whose codec of the same seed is measured in another way; null trains one."""
    search: float | None = None
    """Encode by search (codec/search.py) with this weight of the rate; null takes the nearest codes."""
    search_effort: Literal["thorough", "balanced", "fast", "path"] = "thorough"
    """How much the search tries."""
    search_lm: bool = False
    """A small LM, trained on the nearest codes of `parts.priors`, prices the trials (codec/neural_prior.py)."""
    search_rounds: int = 1
    """How often the pairs are counted: once on nearest codes, then on those that search finds (in two folds)."""
    configs: list[str] = field(default_factory=list)
    """Recipes to stack, paths relative to the sweep file."""
    options: list[str] = field(default_factory=list)
    """Further options of `llmcodec train`, such as --weights.rate=0.3."""
    seeds: list[int] | None = None
    """Seeds of this row; null takes those of the sweep."""


@dataclass(frozen=True)
class PartsConfig:
    """What each part of the manifest is for: a split, or a share of one by a hash of the id (`train[25%:60%]`)."""

    priors: str
    """Counted for rows that search."""
    codec: str
    """Trains the codecs of all rows."""
    lm: str
    """Trains the LM that measures."""
    tuning: str
    """Measured with `stage: tuning`; in the stage of reporting it chooses the checkpoint of the measuring LM."""
    reporting: str
    """Measured with `stage: reporting`, and used for nothing else."""
    speaker_disjoint: bool = False
    """Share a split by speakers, and refuse a speaker who stands in two parts."""


@dataclass(frozen=True)
class LMSizeConfig:
    """A further LM that measures the first seed of some rows."""

    rows: list[str]
    """Rows that it measures."""
    likelihood: LikelihoodConfig = field(default_factory=LikelihoodConfig)
    """The LM and its budget."""


@dataclass(frozen=True)
class SweepConfig:
    """Rows, seeds and the protocol that all of them share."""

    folder: str
    """Where runs and results go."""
    manifest: str
    """JSONL manifest with splits train, valid, test, for training and for measuring."""
    rows: dict[str, RowConfig]
    """Name -> row."""
    reference: str = "control"
    """The row that the others are compared with."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds: of training, and of the token LM that measures."""
    options: list[str] = field(default_factory=list)
    """Options of `llmcodec train` for every trained row."""
    parts: PartsConfig | None = None
    """Disjoint parts of the manifest; null takes train for everything that learns, and valid and test for the table."""
    stage: Literal["tuning", "reporting"] = "reporting"
    """Which part is measured. Rows may change while tuning; what reporting starts with is what the table shows."""
    only_parts: bool = False
    """Write the parts and their table, and nothing else."""
    line: list[str] = field(default_factory=list)
    """Rows with ever smaller codebooks, reference first: other rows are compared with the line between their points."""
    lm_sizes: dict[str, LMSizeConfig] = field(default_factory=dict)
    """Name -> a further LM that measures the named rows, first seed only."""
    budgets: list[float] = field(default_factory=list)
    """Seconds of audio that measuring LMs are tried with on the reference row, ascending; with `stage: tuning` only."""
    flat: float = 0.01
    """A budget is large enough when the next one of `budgets` saves a smaller share of the bits than this."""
    effort_clips: int = 0
    """Time the encoder on this many clips, one by one, on one thread; 0 leaves it out."""
    languages: list[str] | None = None
    """Measure on these languages only; null takes all."""
    sources: list[str] | None = None
    """Measure on these sources only; null takes all."""
    train_clips: int | None = None
    """Clips that the measuring LM and the probe train on, evenly spread over the train split; null takes all."""
    only_train: bool = False
    """Train every row and measure nothing yet: a later call measures."""
    max_bad: MaxBad = 0
    """Clips that may turn out unreadable, 20 or 1%: nothing is measured on them, and training replaces them."""
    device: str = "auto"
    """Where codecs and the measuring LM run: auto, cpu, cuda, cuda:1; training takes accelerate's device."""
    measurement: MeasurementConfig = field(default_factory=MeasurementConfig)
    """What is measured; the matched probe and SALMon, which take longest, on the first seed of a row only."""

    def __post_init__(self) -> None:
        read_max_bad(self.max_bad)
        if self.parts is None and (self.stage == "tuning" or self.only_parts):
            raise ValueError("sweep: stage: tuning and only_parts need `parts:`, which name the tuning clips")
        if self.budgets != sorted(set(self.budgets)):
            raise ValueError(f"sweep: budgets must ascend, not {self.budgets}")
        named = [*self.line, *(row for size in self.lm_sizes.values() for row in size.rows)]
        if unknown := sorted(set(named) - set(self.rows)):
            raise ValueError(f"sweep: line and lm_sizes name no rows of this sweep: {', '.join(unknown)}")
        for name, row in self.rows.items():
            if row.search is None and (row.search_lm or row.search_rounds != 1 or row.search_effort != "thorough"):
                raise ValueError(
                    f"sweep: row {name}: search_effort, search_lm and search_rounds need a weight in `search`"
                )
            if row.search_rounds < 1 or (row.search_lm and row.search_effort == "path"):
                raise ValueError(
                    f"sweep: row {name}: search_rounds is at least 1, and a path goes by pairs, not search_lm"
                )

    def seeds_of(self, row: RowConfig) -> list[int]:
        return row.seeds or self.seeds

    @property
    def results(self) -> Path:
        """Where the results of this stage go; runs are in `folder` for both stages."""
        return Path(self.folder) / "tuning" if self.stage == "tuning" else Path(self.folder)
