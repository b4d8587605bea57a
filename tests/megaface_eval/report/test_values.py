"""figures.csv and curves.csv beside report.json."""

import csv

import numpy as np
import pytest
from small_sets import report_in


def lines(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("name", ["together", "compared", "report-good"])
def test_every_figure_is_in_the_csv_at_full_precision(made, name):
    held = report_in(made / name)
    table = lines(made / name / "figures.csv")
    for method in held["methods"]:
        mine = [line for line in table if line["row"] == method["name"]]
        assert mine[: len(held["columns"])] == [
            {
                "table": "rank-1", "row": method["name"], "column": column["title"], "threshold": "",
                **{key: told(method["cells"][column["key"]][part]) for key, part in CELL.items()},
            }
            for column in held["columns"]
        ]  # fmt: skip
        tars = [line for line in mine if line["table"] == "TAR at FAR"]
        for line, level in zip(tars, method["verification"]["tar_at_far"], strict=True):
            assert (line["value"], line["threshold"]) == (told(level["tar"]), told(level["threshold"]))
        opened = [line for line in mine if line["table"] == "TPIR at FPIR, cosine, mean"]
        assert [line["value"] for line in opened] == [
            told(level["mean"]) for level in method["open_set"]["cosine"]["tpir_at_fpir"]
        ]
    assert len({line["row"] for line in table}) == len(held["methods"])


CELL = {"value": "rate", "low": "low", "high": "high"}


def told(value):
    return "" if value is None else str(value)


def test_rank_k_counts_ranks_below_k(made):
    method = report_in(made / "report-bad_one")["methods"][0]
    counts = np.diff([0.0, *method["cmc"]["recall"]])
    table = [line for line in lines(made / "report-bad_one/figures.csv") if line["table"] == "rank-k"]
    assert [int(line["column"]) for line in table] == [1, 5, 10, 100]
    shown = []
    for line in table:
        below = np.array(method["cmc"]["rank"]) < int(line["column"])
        assert float(line["value"]) == pytest.approx(counts[below].sum())
        shown.append(f"{100 * counts[below].sum():.2f}")
    text = (made / "report-bad_one/table.md").read_text(encoding="utf-8")
    row = text[text.index("Rank-k, %") :].splitlines()[2]
    assert [cell.strip() for cell in row.split("|")][2:-1] == shown


def test_det_is_the_rest_of_roc(made):
    method = report_in(made / "report-good")["methods"][0]
    table = lines(made / "report-good/curves.csv")
    det, roc = ([line for line in table if line["curve"] == curve] for curve in ("DET", "ROC"))
    assert len(det) == len(roc) == len(method["verification"]["roc"]["far"]) > 10
    for one, other in zip(det, roc, strict=True):
        assert (one["x"], one["threshold"]) == (other["x"], other["threshold"])
        assert float(one["y"]) == 1 - float(other["y"])
