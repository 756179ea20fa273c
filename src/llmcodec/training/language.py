"""The language side of the objective (being written)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LanguageConfig:
    """LM."""


class LanguageObjective:
    pass
