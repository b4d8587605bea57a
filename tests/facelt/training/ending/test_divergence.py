"""Bad steps in a row, by hand; what is not finite is not saved; a run that diverges ends, and the advice works."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from faces import write_faces
from launching import command
from ranks import run_ranks
from safetensors.torch import load_file
from tiny import TINY

from facelt import train
from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.parallel import group
from facelt.run_folder import checkpoint
from facelt.training.ending.divergence import Divergence, check_finite, set_aside

BUDGET = FaceltConfig(max_skipped=3, max_loss_growth=10)


def test_steps_in_a_row_are_counted_said_once_and_forgotten_after_a_good_one():
    watch = Divergence(BUDGET, {})
    losses = [2.0, 21.0, 19.0, math.nan, 21.0, 22.0]
    said = [watch.after_step(step, loss, False, False) for step, loss in enumerate(losses[:3])]
    assert said[0] is said[2] is None
    assert "the loss is 21, more than 10 times its start, 2" in said[1]
    assert (watch.bad, watch.sound) == (0, True)
    said = [watch.after_step(3 + i, loss, True, False) for i, loss in enumerate(losses[3:])]
    assert "the loss is nan" in said[0]
    assert said[1] is said[2] is None
    assert (watch.over, watch.sound, watch.unsound_from) == (True, False, 3)
    assert watch.scalars() == {"loss_start": 2.0}
    words = watch.ending("stage plain, step 5", np.arange(20), "neck.weight", None)
    assert "keys 0, 1, 2, 3, 4, 5, 6, 7 and 12 more; largest gradient: neck.weight" in words
    assert "\n" not in words


def test_a_loss_scale_skips_steps_without_a_word_and_its_state_is_sound():
    watch = Divergence(BUDGET, {"loss_start": 2.0})
    assert [watch.after_step(step, 2.0, True, True) is None for step in range(3)] == [True, True, False]
    assert (watch.sound, watch.over) == (True, True)
    assert watch.after_step(3, 2.0, False, True) is None
    assert watch.bad == 0


def test_a_small_start_is_no_bound():
    watch = Divergence(BUDGET, {"loss_start": 1e-4})
    assert watch.after_step(0, 9.0, False, False) is None


def test_only_checkpoints_of_bad_weights_are_set_aside(tmp_path):
    for name in ("step-00000002", "step-00000004", "step-00000005", "step-00000004.bak"):
        (tmp_path / name).mkdir()
    set_aside(tmp_path, None)
    set_aside(tmp_path, 4)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["diverged-00000004", "diverged-00000005", "step-00000002", "step-00000004.bak"]


def unfinished(bad: float) -> str:
    tensors = {"fine": torch.ones(3), "counter": torch.tensor(3), "bn1.running_var": torch.ones(4)}
    if group.rank() == group.world_size() - 1:
        tensors["bn1.running_var"][2] = bad
    try:
        group.together(check_finite, tensors, "stage plain, after 7 steps")
    except UserError as mistake:
        return str(mistake)
    return ""


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_tensor_of_one_rank_that_is_not_finite_is_refused_on_all(ranks):
    assert run_ranks(ranks, unfinished, 1.0) == [""] * ranks
    answers = run_ranks(ranks, unfinished, math.nan)
    assert answers[0].startswith("stage plain, after 7 steps: bn1.running_var is not finite")
    assert answers == [answers[0]] * ranks


def diverge(folder: str, zero: int, micro: int) -> list[str]:
    """A stage at a rate of 1e6 that begins at one of 0.05: saved, gone wrong, ended; then again at a lower rate."""
    run, config = f"{folder}/run", f"{folder}/ds.json"
    base = [*command(config, f"{folder}/data", run, "--stage", "plain")[1:]]
    base += ["--set", "checkpoint_every=2", "--set", "max_skipped=4", "--set", f"ds.zero_optimization.stage={zero}"]
    base += ["--set", f"ds.gradient_accumulation_steps={micro}", "--set", "log_every=100"]
    said = []
    try:
        train.main([*base, "--set", "ds.optimizer.params.lr=1e6", "--set", "plain.warmup=0"])
    except SystemExit as left:
        said.append(str(left.code))
    train.main([*base, "--set", "ds.optimizer.params.lr=0.05"])
    return said


@pytest.mark.parametrize("ranks, zero, micro", [(1, 0, 1), (2, 0, 1), (2, 2, 2)])
def test_a_run_that_diverges_ends_and_its_advice_works(tmp_path, ranks, zero, micro, capfd):
    write_faces(tmp_path / "data")
    (tmp_path / "ds.json").write_text(json.dumps(TINY))
    if ranks == 1:
        answers = [diverge(str(tmp_path), zero, micro)]
    else:
        answers = run_ranks(ranks, diverge, str(tmp_path), zero, micro)
    assert answers == [["2"]] * ranks
    end = checkpoint.latest(tmp_path / "run", "plain")
    assert checkpoint.read_state(end).finished
    for file in end.glob("*.safetensors"):
        assert all(torch.isfinite(tensor).all() for tensor in load_file(file).values())
    if ranks == 1:  # the others' standard error is not this test's
        (line,) = [line for line in capfd.readouterr().err.splitlines() if "diverged:" in line]
        assert "largest gradient: " in line
        assert "largest gradient: unknown" not in line
        assert "lower optimizer.params.lr, the stage then begins anew" in line
    shutil.rmtree(tmp_path / "run")


def test_the_last_good_checkpoint_stays_and_is_gone_on_from(tmp_path, capsys):
    """Seven good steps, then a rate that breaks it; the checkpoints of the broken steps are put aside."""
    data = write_faces(tmp_path / "data")
    (tmp_path / "ds.json").write_text(json.dumps(TINY))
    base = command(tmp_path / "ds.json", data, tmp_path / "run", "--stage", "plain", "--set", "max_skipped=3")[1:]
    assert train.main([*base, "--set", "plain.epochs=1.8"]) == 0
    with pytest.raises(SystemExit) as left:
        train.main([*base, "--set", "ds.optimizer.params.lr=1e6", "--set", "checkpoint_every=1"])
    assert left.value.code == 2
    good = tmp_path / "run" / "plain" / "step-00000007"
    assert f"it then goes on from {good}" in capsys.readouterr().err
    assert [p.name for p in (tmp_path / "run" / "plain").glob("step-*")] == [good.name]
    assert train.main(base) == 0
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(15))
