"""Tables and the verdict in words: only paired differences are called better or worse."""

from __future__ import annotations

import json
import math

from llmcodec.evaluation.results import MEASURES, SystemRow, used_measures
from llmcodec.report import tables as summary

from .made_up import NUM, made_up_row


def texts(control: SystemRow, adapted: SystemRow, kind: str) -> str:
    return "\n".join(s.text for s in summary.verdict(control, adapted) if s.kind == kind)


def test_fewer_bits_at_the_same_distance_is_said_so() -> None:
    control, adapted = made_up_row("control", bits=300), made_up_row("ours", bits=270)
    better = texts(control, adapted, "better")
    assert "LM bits per second: ours is better than control" in better
    assert f"{NUM} files" in better and "-10." in better or "-9." in better
    assert "Mel" not in better and "Mel distance: no difference shown" in texts(control, adapted, "same")
    assert "2 language-model seeds" in texts(control, adapted, "same")


def test_the_price_is_named() -> None:
    worse = texts(made_up_row("control"), made_up_row("ours", bits=270, mel=0.8), "worse")
    assert "Mel distance: ours is worse than control, +14" in worse


def test_noise_is_not_called_a_difference() -> None:
    control, adapted = made_up_row("control", bits=300), made_up_row("ours", bits=300.6)
    assert texts(control, adapted, "better") == "" and texts(control, adapted, "worse") == ""


def test_poorer_tokens_are_warned_about() -> None:
    warning = texts(made_up_row("control"), made_up_row("ours", num_codes=8), "warning")
    assert "used codes 12%" in warning and "within-utterance entropy" in warning
    assert "Tokens stay rich" in texts(made_up_row("control"), made_up_row("ours"), "same")


def test_the_number_of_training_runs_is_named() -> None:
    statements = summary.verdict(made_up_row("a"), made_up_row("b"), num_training_seeds=3)
    assert statements[-1].text.startswith("3 training runs of each system")
    assert "One training run" in summary.verdict(made_up_row("a"), made_up_row("b"))[-1].text


def test_markdown_and_rich_show_every_measure() -> None:
    rows = [made_up_row("a|b"), made_up_row("ours")]
    table = summary.markdown_table(rows)
    lines = table.strip().split("\n")
    measures = used_measures(rows)
    assert len(lines) == 2 + len(measures) and lines[0] == "| | a\\|b | ours |"
    assert all(line.replace("\\|", "").count("|") == 4 for line in lines)
    absent = ["stft", "stoi", "f0corr", "sdr", "logmel", "dnsmos", "speaker", "probe_bits_per_second"]
    absent += ["ngram_1", "ngram_2", "ngram_3", "ngram_4", "zipf_exponent", "entropy_bits_per_second"]
    assert [m.key for m in measures] == [m.key for m in MEASURES if m.key not in absent]
    assert summary.rich_table(rows, "title").row_count == len(measures)
    assert "[" in table and "[" not in summary.markdown_table(rows, with_interval=False)


def test_missing_parts_are_dashes_not_numbers() -> None:
    rows = [SystemRow("bare", 500.0), made_up_row("full")]
    assert "| LM bits per second ↓ (bit/s) | - |" in summary.markdown_table(rows)
    assert summary.verdict(rows[0], rows[1])[0].kind == "same"


def test_json_is_strict_and_complete() -> None:
    out = summary.to_json([made_up_row("a", fail=True)])
    assert json.loads(json.dumps(out, allow_nan=False)) == out
    assert out["a"]["files"][0]["pesq"] is None and len(out["a"]["lm_clips"]) == NUM
    assert out["a"]["measures"]["used_codes"]["low"] is None
    assert not math.isnan(out["a"]["measures"]["mel"]["low"])
