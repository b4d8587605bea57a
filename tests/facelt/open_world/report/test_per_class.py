"""Per-class F1 by hand, and the file read back."""

import numpy as np
import pytest
from trials import make_trial

from facelt.errors import UserError
from facelt.open_world.report import per_class
from facelt.open_world.report.per_class import PerClass
from facelt.open_world.report.trial import Trial


def at_threshold(trial: Trial, threshold: float) -> Trial:
    return Trial(**{**{name: getattr(trial, name) for name in trial.__dataclass_fields__}, "thresholds": [threshold]})


@pytest.mark.parametrize("strangers", [0, 12])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 1.0])
def test_f1_by_hand(strangers, threshold):
    trial = at_threshold(make_trial(strangers), threshold)
    for name, results in PerClass.of(trial).results.items():
        a = trial.answers[name]
        pairs = [*zip(trial.labels_N, a.classes_N, a.probabilities_N, strict=True)]
        pairs += [(-1, k, p) for k, p in zip(a.open_classes_M, a.open_probabilities_M, strict=True)]
        pairs = [(truth, said if p >= threshold else -1) for truth, said, p in pairs]
        want = {}
        for k in [-1, *trial.classes_C]:
            correct = sum(truth == said == k for truth, said in pairs)
            whole = sum(int(truth == k) + int(said == k) for truth, said in pairs)
            want[k] = (correct, 2 * correct / whole if whole else None)
        for k, correct, f1 in zip(trial.classes_C, results.correct_C, results.f1_C, strict=True):
            assert (correct, f1) == (want[k][0], pytest.approx(want[k][1]))
        expected = want[-1] if strangers else (None, None)
        assert (results.strangers_correct, results.strangers_f1) == pytest.approx(expected)


@pytest.mark.parametrize("strangers", [0, 12])
def test_what_is_read_is_what_was_written(tmp_path, strangers):
    written = PerClass.of(make_trial(strangers))
    written.write(tmp_path)
    got = per_class.read(tmp_path)
    assert got.strangers == strangers
    for part in ("labels_C", "training_C", "tests_C"):
        np.testing.assert_array_equal(getattr(got, part), getattr(written, part))
    assert got.results.keys() == written.results.keys()
    for name, results in written.results.items():
        np.testing.assert_array_equal(got.results[name].f1_C, results.f1_C)
        np.testing.assert_array_equal(got.results[name].correct_C, results.correct_C)
        assert got.results[name].strangers_f1 == results.strangers_f1


@pytest.mark.parametrize(
    "text", ["", "label\n", "label,training_images,test_images,a_correct,a_f1\n0,1,2,x,0.5\n", "\0"]
)
def test_a_file_that_is_none_is_refused(tmp_path, text):
    (tmp_path / "per_class.csv").write_text(text)
    with pytest.raises(UserError, match=r"no readable per_class\.csv"):
        per_class.read(tmp_path)
    with pytest.raises(UserError, match=r"no readable per_class\.csv"):
        per_class.read(tmp_path / "none")
