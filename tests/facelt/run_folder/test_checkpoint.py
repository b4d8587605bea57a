"""Checkpoints: saved at some number of ranks, loaded at any other; whole or absent; damage answered in one line."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from engines import K, batch, build
from ranks import run_ranks
from safetensors import SafetensorError
from safetensors.torch import save_file

from facelt.config import FaceltConfig
from facelt.errors import UserError
from facelt.parallel import group
from facelt.parallel.partition import Partition
from facelt.run_folder import checkpoint
from recordio_tools import atomic

ROWS = torch.arange(K * 3, dtype=torch.float32).view(K, 3)


def state_of(stage: str, step: int, partition: Partition, finished: bool = False) -> checkpoint.CheckpointState:
    classes = {"num_classes": partition.num_classes, "starts": partition.starts()}
    return checkpoint.CheckpointState(
        stage=stage, step=step, finished=finished, global_batch=16, config=FaceltConfig(), **classes
    )


def save_rows(run: str, step: int, finished: bool = True) -> str:
    partition = Partition(K, group.rank(), group.world_size())
    rows = {"w": ROWS[slice(*partition.bounds())], "w.momentum_buffer": -ROWS[slice(*partition.bounds())]}
    state = state_of("plain", step, partition, finished)
    replicated = {"a": torch.ones(2), "tail": torch.arange(10.0)[7:]}  # a view into a larger buffer
    moments = {"a.momentum_buffer": torch.zeros(2)}
    return str(checkpoint.save(Path(run), state, weights=replicated, moments=moments, rows=rows))


def load_rows(folder: str) -> dict:
    return checkpoint.read_rows(Path(folder), Partition(K, group.rank(), group.world_size()))


@pytest.mark.parametrize("saved, loaded", [(1, 2), (2, 3), (3, 1), (3, 2), (2, 4)])
def test_rows_load_at_any_number_of_ranks(tmp_path, saved, loaded):
    folder = run_ranks(saved, save_rows, str(tmp_path), 5)[0]
    parts = run_ranks(loaded, load_rows, folder)
    np.testing.assert_array_equal(np.concatenate([p["w"] for p in parts]), ROWS)
    np.testing.assert_array_equal(np.concatenate([p["w.momentum_buffer"] for p in parts]), -ROWS)
    torch.testing.assert_close(checkpoint.read_weights(Path(folder))["tail"], torch.tensor([7.0, 8.0, 9.0]))


def train_on(run: str, first: int, last: int, zero: int) -> dict:
    """Ten steps in one go, or in two halves with a checkpoint between, perhaps at another number of ranks."""
    engine = build("meta", "synchronised", {"zero_optimization": {"stage": zero}})
    partition = engine.head.classifier.partition
    if first:
        folder = checkpoint.find(run)
        engine.embedder.load_state_dict(checkpoint.read_weights(folder))
        engine = rebuilt(engine, zero)
        engine.load_replicated_moments(checkpoint.read_moments(folder))
        engine.load_sharded_rows(checkpoint.read_rows(folder, partition))
    engine.embedder.train()
    for step in range(first, last):
        engine.forward_backward(*batch(step, group.rank(), group.world_size()))
        engine.step(0.001)
    weights, moments, rows = engine.replicated_weights(), engine.replicated_moments(), engine.sharded_rows()
    checkpoint.save(Path(run), state_of("meta", last, partition), weights=weights, moments=moments, rows=rows)
    return {"weights": {n: w.clone() for n, w in weights.items()}, "rows": {n: r.clone() for n, r in rows.items()}}


def rebuilt(engine, zero: int):
    """DeepSpeed copies the weights when it starts, so they are loaded before it does."""
    from facelt.training.engine import Engine

    ds = {"train_batch_size": 16, "steps_per_print": 10**9, "zero_optimization": {"stage": zero}}
    optimizer = {"type": "SGD", "params": {"lr": 0.001, "momentum": 0.9, "weight_decay": 5e-4}}
    return Engine(engine.embedder, engine.head, {**ds, "optimizer": optimizer})


@pytest.mark.parametrize("zero, first_ranks, then_ranks", [(0, 1, 2), (1, 2, 1), (1, 2, 4), (2, 2, 2)])
def test_a_run_taken_up_at_other_ranks_is_the_run_that_never_stopped(tmp_path, zero, first_ranks, then_ranks):
    straight = run_ranks(1, train_on, str(tmp_path / "straight"), 0, 10, 0)
    run_ranks(first_ranks, train_on, str(tmp_path / "halves"), 0, 5, zero)
    halves = run_ranks(then_ranks, train_on, str(tmp_path / "halves"), 5, 10, zero)
    for name, want in straight[0]["weights"].items():
        np.testing.assert_allclose(halves[0]["weights"][name], want, rtol=1e-5, atol=1e-5, err_msg=name)
    for name, want in straight[0]["rows"].items():
        got = np.concatenate([h["rows"][name] for h in halves])
        tolerance = 1e-3 if name.endswith("momentum_buffer") else 1e-5
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance, err_msg=name)


def test_the_last_two_of_a_stage_are_kept_and_no_draft_is_left(tmp_path):
    for step in (1, 2, 3):
        run_ranks(1, save_rows, str(tmp_path), step, step == 3)
    assert sorted(p.name for p in (tmp_path / "plain").iterdir()) == ["step-00000002", "step-00000003"]
    assert checkpoint.latest(tmp_path, "plain").name == "step-00000003"
    assert checkpoint.latest(tmp_path, "meta") is None


def test_find_takes_a_run_a_stage_or_a_step(tmp_path):
    folder = Path(run_ranks(1, save_rows, str(tmp_path), 4)[0])
    assert checkpoint.find(tmp_path) == checkpoint.find(tmp_path / "plain") == checkpoint.find(folder) == folder
    with pytest.raises(ValueError, match="no checkpoint there"):
        checkpoint.find(tmp_path / "nothing")


def test_a_draft_is_not_a_checkpoint(tmp_path):
    folder = Path(run_ranks(1, save_rows, str(tmp_path), 4)[0])
    folder.rename(folder.with_name(f".{folder.name}.draft"))
    assert checkpoint.latest(tmp_path, "plain") is None


def test_damage_is_named_in_one_line(tmp_path):
    folder = Path(run_ranks(1, save_rows, str(tmp_path), 4)[0])
    one = Partition(K)
    with pytest.raises(ValueError, match="trained on 7 classes, the data has 8"):
        checkpoint.read_rows(folder, Partition(K + 1))
    shard = folder / "classes-00000-of-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(ValueError, match=r"classes-00000-of-00001.safetensors: unreadable"):
        checkpoint.read_rows(folder, one)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model.safetensors: unreadable"):
        checkpoint.read_weights(folder)
    (folder / "state.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(ValueError, match="format 99; expected 2"):
        checkpoint.read_state(folder)
    (folder / "state.json").write_text("{")
    with pytest.raises(ValueError, match=r"unreadable state\.json"):
        checkpoint.read_state(folder)


def test_a_state_as_the_first_version_of_format_2_wrote_it(tmp_path):
    """Its keys by hand; a knob that was added since has its default."""
    config = FaceltConfig.model_validate({"seed": 3, "backbone": {"init": "imagenet.pth"}}).model_dump()
    for knob in ("loader_threads", "pixel_mean", "pixel_std"):
        del config[knob]
    state = {"format": 2, "stage": "meta", "step": 8, "finished": True, "global_batch": 8, "config": config}
    state |= {"scalars": {"norm_mean": 20.0, "norm_deviation": 100.0}, "num_classes": 5, "starts": [0, 3]}
    (tmp_path / "state.json").write_text(json.dumps(state))
    read = checkpoint.read_state(tmp_path)
    assert (read.stage, read.step, read.finished, read.global_batch) == ("meta", 8, True, 8)
    assert (read.config.seed, read.config.loader_threads) == (3, 2)
    assert read.config.pixel_mean == (127.5,) * 3, "as every run took them then, whatever it started from"
    assert (read.scalars["norm_mean"], read.num_classes, read.starts) == (20.0, 5, [0, 3])


@pytest.mark.parametrize(
    "change, said",
    [
        ({"step": "many"}, "state.json: step: "),
        ({"step": -1}, "state.json: step: "),
        ({"starts": []}, "state.json: starts: "),
        ({"starts": [-3]}, "state.json: starts: "),
        ({"starts": [0, 3, 3]}, "state.json: starts: "),
        ({"config": None}, "its configuration is not one of this version: facelt is None"),
        ({"config": {"head": {"memroy": 1}}}, "facelt.head.memroy is not a known key"),
    ],
)
def test_a_state_that_cannot_be_is_one_line(tmp_path, change, said):
    state = json.loads(state_of("plain", 4, Partition(K)).model_dump_json())
    (tmp_path / "state.json").write_text(json.dumps({**state, **change}))
    with pytest.raises(UserError) as caught:
        checkpoint.read_state(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_whole_names_of_folders_are_checkpoints(tmp_path):
    folder = Path(run_ranks(1, save_rows, str(tmp_path), 4)[0])
    (folder.parent / "step-00000030.bak").mkdir()
    (folder.parent / "step-00000099").write_text("a file")
    assert checkpoint.latest(tmp_path, "plain") == folder


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def zero(path: Path) -> None:
    """The end of a file, where the numbers are: what safetensors itself cannot see."""
    path.write_bytes(path.read_bytes()[:-4] + bytes(4))


def another_step(path: Path) -> None:
    path.write_text(path.read_text().replace('"step": 5', '"step": 7'))


DAMAGES = [
    ("classes-00001-of-00002.safetensors", zero, "its hash differs"),
    ("classes-00000-of-00002.safetensors", shorten, "were written"),
    ("model.safetensors", Path.unlink, "model.safetensors is missing"),
    ("moments.safetensors", lambda path: path.write_bytes(b""), "0 bytes"),
    ("state.json", lambda path: path.write_text("{"), "unreadable state.json"),
    ("state.json", another_step, "its seal differs"),
    ("state.json", Path.unlink, "unreadable state.json"),
]


def choose(run: str, mend: bool) -> str:
    """The checkpoint that training (which sets aside) or extraction (which does not) takes."""
    return str(checkpoint.recover(Path(run), "plain") if mend else checkpoint.find(run))


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    run = tmp_path_factory.mktemp("two")
    for step in (4, 5):
        run_ranks(2, save_rows, str(run), step)
    return run


@pytest.mark.parametrize("name, damage, said", DAMAGES)
def test_the_newest_whole_checkpoint_is_taken_and_a_damaged_one_set_aside(
    two_checkpoints, tmp_path, capsys, name, damage, said
):
    run = shutil.copytree(two_checkpoints, tmp_path / "run")
    damage(run / "plain" / "step-00000005" / name)
    assert choose(str(run), mend=False) == str(run / "plain" / "step-00000004")
    warning = capsys.readouterr().err
    assert said in warning
    assert warning.count("\n") == 1
    with pytest.raises(UserError, match="step-00000005 is damaged"):
        checkpoint.find(run / "plain" / "step-00000005")
    assert sorted(p.name for p in (run / "plain").iterdir()) == ["step-00000004", "step-00000005"]
    assert choose(str(run), mend=True) == str(run / "plain" / "step-00000004")
    assert said in capsys.readouterr().err
    assert sorted(p.name for p in (run / "plain").iterdir()) == ["step-00000004", "step-00000005.damaged"]
    assert checkpoint.was_damaged(run, "plain")
    assert choose(str(run), mend=False) == str(run / "plain" / "step-00000004")


def test_ranks_share_the_check_and_agree(two_checkpoints, tmp_path):
    run = shutil.copytree(two_checkpoints, tmp_path / "run")
    zero(run / "plain" / "step-00000005" / "classes-00001-of-00002.safetensors")
    assert run_ranks(3, choose, str(run), True) == [str(run / "plain" / "step-00000004")] * 3


def test_a_stage_without_a_whole_checkpoint(two_checkpoints, tmp_path):
    run = shutil.copytree(two_checkpoints, tmp_path / "run")
    for folder in (run / "plain").iterdir():
        (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="none of its 2 checkpoints is whole"):
        checkpoint.find(run)
    assert checkpoint.recover(run, "plain") is None
    with pytest.raises(UserError, match="no checkpoint there"):
        checkpoint.find(run)


def test_a_checkpoint_of_another_version_is_refused_not_set_aside(two_checkpoints, tmp_path):
    run = shutil.copytree(two_checkpoints, tmp_path / "run")
    (run / "plain" / "step-00000005" / "state.json").write_text(json.dumps({"format": 3}))
    with pytest.raises(UserError, match="of another version of facelt"):
        checkpoint.recover(run, "plain")
    assert not checkpoint.was_damaged(run, "plain")


def test_a_checkpoint_without_hashes_is_checked_by_its_lengths(two_checkpoints, tmp_path):
    """As versions before wrote it."""
    run = shutil.copytree(two_checkpoints, tmp_path / "run")
    folder = run / "plain" / "step-00000005"
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({k: v for k, v in state.items() if k not in ("files", "seal")}))
    assert checkpoint.find_damage(folder) is None
    shorten(folder / "classes-00001-of-00002.safetensors")
    assert "unreadable" in checkpoint.find_damage(folder)


def test_every_nth_checkpoint_stays_for_good_and_leftovers_go(two_checkpoints, tmp_path):
    run = shutil.copytree(two_checkpoints, tmp_path / "run")
    plain = run / "plain"
    for step in (6, 8, 10, 11, 12):  # as if killed again and again between rename and prune
        (plain / "step-00000005").rename(plain / f"step-{step:08d}")
        shutil.copytree(plain / f"step-{step:08d}", plain / "step-00000005")
    shutil.copytree(plain / "step-00000005", plain / ".step-00000003.old")
    (plain / "step-00000002.damaged").mkdir()
    checkpoint.tidy(plain, FaceltConfig(keep_last=1, keep_every=2, checkpoint_every=4))
    assert sorted(p.name for p in plain.iterdir()) == ["step-00000002.damaged", "step-00000008", "step-00000012"]


def test_files_are_flushed_before_the_rename_and_the_folders_after(tmp_path, monkeypatch):
    done: list[str] = []
    flush, replace = atomic.flush, os.replace
    for module in (atomic, checkpoint):
        monkeypatch.setattr(module, "flush", lambda path: (done.append(path.name), flush(path)))
    monkeypatch.setattr(os, "replace", lambda one, other: (done.append("rename"), replace(one, other)))
    save_rows(str(tmp_path), 3)
    at = done.index("rename")
    assert {"model.safetensors", "moments.safetensors", "classes-00000-of-00001.safetensors"} <= set(done[:at])
    assert "state.json" in done[:at]
    assert done[at + 1 :] == ["plain", tmp_path.name]


def save_without_space(run: str) -> str:
    """Rank 1's disk is full."""

    def full(*_: object) -> None:
        raise SafetensorError("I/O error: No space left on device")

    if group.rank() == 1:
        checkpoint.save_file = full
    try:
        save_rows(run, 9)
    except UserError as mistake:
        return str(mistake)
    finally:
        checkpoint.save_file = save_file
    return "saved"


def test_a_full_disk_of_one_rank_is_one_line_on_all_and_leaves_the_checkpoint_before(tmp_path):
    run_ranks(2, save_rows, str(tmp_path), 4)
    said = run_ranks(2, save_without_space, str(tmp_path))
    assert said[0] == said[1]
    assert "cannot be written (I/O error: No space left on device); make room" in said[0]
    assert "; a checkpoint takes 196 bytes" in said[0]
    assert [path.name for path in (tmp_path / "plain").iterdir()] == ["step-00000004"]


VALIDATED = {"packs": ["lfw.bin"], "strangers": ["held"]}


def save_measured(run: Path, stage: str, step: int, figures: dict, keep_last: int = 1, **knobs) -> None:
    config = FaceltConfig.model_validate({"keep_last": keep_last, "validation": {**VALIDATED, **knobs}})
    state = state_of(stage, step, Partition(K)).model_copy(update={"config": config, "figures": figures})
    checkpoint.save(run, state, weights={"a": torch.ones(1)}, moments={}, rows={"w": ROWS})


def steps_of(run: Path, stage: str = "plain") -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in (run / stage).iterdir())


def test_the_best_stays_however_many_follow_and_of_equals_the_first(tmp_path):
    for step, value in enumerate([0.5, 0.9, 0.7, 0.9, None, 0.2], 1):
        save_measured(
            tmp_path, "plain", step, {} if value is None else {"lfw.accuracy": value, "held.rank_1": 1 - value}
        )
        if step >= 2:
            assert steps_of(tmp_path) == sorted({2, step})
    best = checkpoint.best(tmp_path, "plain")
    assert best == (tmp_path / "plain" / "step-00000002", 2, "lfw.accuracy", 0.9)
    assert checkpoint.best(tmp_path, "plain", "held.rank_1").step == 6
    assert checkpoint.best(tmp_path, "plain", "held.tar_1e-3") is None
    assert checkpoint.best(tmp_path, "meta") is None


def test_another_figure_to_keep_the_best_by(tmp_path):
    for step, value in enumerate([0.5, 0.9, 0.7], 1):
        figures = {"lfw.accuracy": value, "held.rank_1": 1 - value}
        save_measured(tmp_path, "plain", step, figures, keep_best="held.rank_1")
    assert steps_of(tmp_path) == [1, 3]


def test_best_behind_a_run_or_a_stage_is_its_best_checkpoint(tmp_path):
    for stage, values in (("plain", (0.9, 0.8)), ("meta", (0.6, 0.7, 0.5))):
        for step, value in enumerate(values, 1):
            save_measured(tmp_path, stage, step, {"lfw.accuracy": value})
    assert checkpoint.find(tmp_path) == tmp_path / "meta" / "step-00000003"
    assert checkpoint.find(tmp_path / "best") == checkpoint.find(tmp_path / "meta" / "best")
    assert checkpoint.find(tmp_path / "best") == tmp_path / "meta" / "step-00000002"
    assert checkpoint.find(tmp_path / "plain" / "best") == tmp_path / "plain" / "step-00000001"
    zero(tmp_path / "meta" / "step-00000002" / "model.safetensors")
    with pytest.raises(UserError, match="step-00000002 is damaged"):
        checkpoint.find(tmp_path / "best")


def test_the_best_of_a_run_that_was_not_validated_is_refused(tmp_path):
    save_measured(tmp_path, "plain", 1, {"lfw.accuracy": 0.5})
    save_measured(tmp_path, "meta", 1, {})
    with pytest.raises(UserError, match=r"no checkpoint in .*meta was measured on validation images"):
        checkpoint.find(tmp_path / "best")
    with pytest.raises(UserError, match="measured on validation images"):
        checkpoint.find(tmp_path / "nowhere" / "best")


def test_a_damaged_state_is_no_best(tmp_path):
    for step, value in enumerate([0.9, 0.5], 1):
        save_measured(tmp_path, "plain", step, {"lfw.accuracy": value}, keep_last=2)
    (tmp_path / "plain" / "step-00000001" / "state.json").write_text("{")
    assert checkpoint.best(tmp_path, "plain").step == 2
