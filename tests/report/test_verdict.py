"""The verdict in words: only paired differences are called better or worse."""

from __future__ import annotations

from dataclasses import replace

from llmcodec.evaluation.results import SystemRow
from llmcodec.report.verdict import verdict, verdict_sentence

from .made_up import NUM, made_up_row


def texts(control: SystemRow, adapted: SystemRow, kind: str) -> str:
    return "\n".join(s.text for s in verdict(control, adapted) if s.kind == kind)


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
    assert "One training run" in verdict(made_up_row("a"), made_up_row("b"))[-1].text


def test_without_rows_there_is_only_the_caveat() -> None:
    assert verdict(SystemRow("bare", 500.0), made_up_row("full"))[0].kind == "same"


def test_a_change_that_is_neither_good_nor_bad() -> None:
    control, adapted = made_up_row("control"), made_up_row("ours", num_codes=8)
    statement = verdict(control, adapted, keys=["within_utterance_bits"])[0]
    assert statement.kind == "same" and "ours differs from control, -4" in statement.text


def test_one_short_sentence_names_gain_and_price() -> None:
    control = made_up_row("control", bits=300)
    ours = made_up_row("ours", bits=270, mel=0.8)
    sentence = verdict_sentence([ours, control], "control").replace("\N{NO-BREAK SPACE}", " ")
    assert sentence.startswith("Against control: ours is better in LM bits per second (-10.")
    assert "%) and worse in Mel distance (+14." in sentence and sentence.endswith(" %).") and "PESQ" not in sentence
    poor = made_up_row("poor", num_codes=8)
    assert verdict_sentence([control, poor]) == "Against control: nothing shown for poor, which uses fewer codes."
    gain = verdict_sentence([control, made_up_row("poor", bits=270, num_codes=8)])
    assert gain.startswith("Against control: poor is better in LM") and gain.endswith("%), and it uses fewer codes.")
    assert poor.codes is not None and control.codes is not None
    uneven = replace(poor, codes=replace(poor.codes, used_codes=control.codes.used_codes))
    assert verdict_sentence([control, uneven]).endswith("nothing shown for poor, which uses its codes less evenly.")
    assert verdict_sentence([control]) == ""
    assert verdict_sentence([control, SystemRow("bare", 500.0)]) == "Against control: bare is not compared."
    many = verdict_sentence([control, *(made_up_row(f"{n}", bits=250 + n) for n in range(5))])
    assert many.count("is better in") == 3 and many.endswith("; 2 more stand in the tables below.")
