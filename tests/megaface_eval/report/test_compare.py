"""Reports side by side."""

from small_sets import report_in

from megaface_eval.report.stored import load_report
from megaface_eval.run import main


def test_reports_compared_are_the_methods_evaluated_together(made):
    together, compared = report_in(made / "together"), report_in(made / "compared")
    assert compared["differences"] == together["differences"]
    assert compared["statements"] == together["statements"]
    for one, other in zip(compared["methods"], together["methods"], strict=True):
        assert one["cells"] == other["cells"]
        assert one["verification"] == other["verification"]


def test_reports_of_different_tasks_are_not_compared(made, capsys):
    sets = ["--probes", f"{made}/good", "--distractors", f"{made}/d"]
    assert main(["--gallery", "100", *sets, "--output", f"{made}/small"]) == 0
    capsys.readouterr()
    for second, problem in (("small", "gallery differ"), ("good", "not a report"), ("report-good", "named twice")):
        assert main(["--compare", f"{made}/report-good", f"{made}/{second}", "--output", f"{made}/no"]) == 2
        error = capsys.readouterr().err
        assert problem in error
        assert len(error.splitlines()) == 1
    assert not (made / "no").exists()


def test_tallies_are_those_of_the_table(made):
    report, tallies = load_report(made / "together")
    for method, held in zip(report.methods, tallies, strict=True):
        for key, cell in method.cells.items():
            if cell.rate is not None:
                assert held[key].rate == cell.rate
                assert held[key].trials.sum() == cell.trials
