"""What a stage is fed: every rank's share of the sampler's batches, with the labels of all, from any step on."""

import numpy as np
import pytest
import torch
from faces import write_faces
from hypothesis import given
from hypothesis import strategies as st
from ranks import run_ranks
from tiny import TINY

from facelt.config import FaceltConfig, StageConfig
from facelt.images.dali import DRAWS
from facelt.images.feed import Feed, RankPlan, make_sampler
from facelt.images.sampling import UniformSampler, augmentation_seeds, step_seed, uniforms
from facelt.parallel import group
from recordio_tools.dataset import RecordDataset

SEED = 3


@given(ranks=st.integers(1, 4), parts=st.integers(1, 3), each=st.integers(1, 3), first=st.integers(0, 5))
def test_shares_of_all_ranks_are_the_global_batches(ranks, parts, each, first):
    G, steps = ranks * parts * each, first + 3
    labels = np.zeros(17, np.int64)
    sampler = UniformSampler(labels, G, SEED)
    same = {"sampler": sampler, "labels": labels, "seed": SEED, "ranks": ranks}
    same |= {"micro_batches": parts, "first_step": first, "steps": steps}
    shares = [RankPlan(rank=rank, **same) for rank in range(ranks)]
    assert {len(share) for share in shares} == {3 * parts}
    for step in range(first, steps):
        micro = range((step - first) * parts, (step - first + 1) * parts)
        indices = np.concatenate([share.indices(i) for i in micro for share in shares])
        np.testing.assert_array_equal(indices, sampler.indices(step))
        draws = np.concatenate([share.draws(i) for i in micro for share in shares])
        np.testing.assert_array_equal(draws, uniforms(augmentation_seeds(SEED, step, G), DRAWS))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return RecordDataset(write_faces(tmp_path_factory.mktemp("feed") / "data"))


def fed(dataset, first: int, steps: int, parts: int = 2) -> list[list]:
    config = FaceltConfig.model_validate(TINY["facelt"])
    sampler = make_sampler(config.meta, dataset, 8, SEED)
    share = RankPlan(
        sampler=sampler,
        labels=dataset.labels,
        seed=SEED,
        rank=0,
        ranks=1,
        micro_batches=parts,
        first_step=first,
        steps=steps,
    )
    feed = Feed(dataset, share, config, torch.device("cpu"))
    return [list(feed.step(step)) for step in range(first, steps)]


def test_micro_batches_have_their_labels_and_seeds_and_are_the_same_from_any_step_on(dataset):
    whole = fed(dataset, 0, 4)
    sampler = make_sampler(FaceltConfig.model_validate(TINY["facelt"]).meta, dataset, 8, SEED)
    for step, batches in enumerate(whole):
        labels = torch.cat([batch.labels_G for batch in batches])
        assert labels.tolist() == dataset.labels[sampler.indices(step)].tolist()
        assert [batch.seed for batch in batches] == [step_seed(SEED, step, part) for part in (0, 1)]
        assert all(batch.images_B3SS.shape == (4, 3, 32, 32) for batch in batches)
    for batches, late in zip(whole[2:], fed(dataset, 2, 4), strict=True):
        for one, other in zip(batches, late, strict=True):
            assert torch.equal(one.images_B3SS, other.images_B3SS)


def test_an_image_that_does_not_decode_is_said_by_this_rank_in_one_line(dataset, tmp_path, capsys, monkeypatch):
    jpeg = dataset.jpeg
    broken = np.frombuffer(b"not a picture " * 10, np.uint8)
    monkeypatch.setattr(dataset, "jpeg", lambda i: broken if i == 7 else jpeg(i), raising=False)
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as left:
        fed(dataset, 0, 20)
    assert left.value.code == 2
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0
    assert "does not decode" in said


class Noted:
    """Where images that do not decode are noted."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}

    def note(self, image: int, reason: str) -> None:
        self.reasons[image] = reason


def labels_of_all_ranks(data: str) -> list[list[int]]:
    """The labels of six steps of 12 images, as each rank is told them."""
    dataset, config = RecordDataset(data), FaceltConfig.model_validate(TINY["facelt"])
    place = {"rank": group.rank(), "ranks": group.world_size(), "micro_batches": 2, "first_step": 0, "steps": 6}
    share = RankPlan(sampler=make_sampler(config.plain, dataset, 12, SEED), labels=dataset.labels, seed=SEED, **place)
    feed = Feed(dataset, share, config, torch.device("cpu"), Noted())
    return [torch.cat([batch.labels_G for batch in feed.step(step)]).tolist() for step in range(6)]


def test_labels_are_those_of_the_images_that_were_taken_on_all_ranks(tmp_path):
    """None of class 2's images decodes: those of other classes stand in, with their own labels."""
    folder = write_faces(tmp_path / "data")
    whole, content = RecordDataset(folder), bytearray((folder / "train.rec").read_bytes())
    for row in np.flatnonzero(whole.labels == 2).tolist():
        at = content.index(whole.jpeg(row).tobytes())
        content[at : at + 40] = bytes(40)
    (folder / "train.rec").write_bytes(content)
    wanted = [whole.labels[UniformSampler(whole.labels, 12, SEED).indices(step)].tolist() for step in range(6)]
    (alone,) = run_ranks(1, labels_of_all_ranks, str(folder))
    for want, got in zip(wanted, alone, strict=True):
        assert 2 not in got
        assert all(one == other for one, other in zip(want, got, strict=True) if one != 2)
    for ranks in (2, 3):
        # Micro-batches are cut from the global batch, so that their order is the same at any number of ranks.
        assert run_ranks(ranks, labels_of_all_ranks, str(folder)) == [alone] * ranks


def test_samplers_by_their_knobs(dataset):
    assert make_sampler(StageConfig(sampler="uniform"), dataset, 8, 0).group == 1
    assert make_sampler(StageConfig(sampler="class_aware", images_per_class=2), dataset, 8, 0).group == 2


def test_class_aware_from_an_epoch_on(dataset):
    knobs = {"sampler": "class_aware", "images_per_class": 2}
    uniform, by_class = make_sampler(StageConfig(), dataset, 8, 0), make_sampler(StageConfig(**knobs), dataset, 8, 0)
    deferred = make_sampler(StageConfig(**knobs, class_aware_from=1.5), dataset, 8, 0)
    assert (deferred.group, deferred.global_batch) == (2, 8)
    turn = next(step for step in range(99) if step * 8 >= 1.5 * len(dataset))  # steps before it are of earlier epochs
    for step in reversed(range(turn + 4)):
        want = uniform.indices(step) if step < turn else by_class.indices(step - turn)
        np.testing.assert_array_equal(deferred.indices(step), want)
