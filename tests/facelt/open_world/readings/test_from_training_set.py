"""Memory and nearest class mean against dense twins in float64, at 1, 2 and 3 ranks; the last batch is filled up."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from ranks import run_ranks
from torch.nn.functional import normalize

from facelt.errors import UserError
from facelt.features.recognisers import Recognised
from facelt.features.stored import FeatureSet
from facelt.images.one_pass import Batch
from facelt.images.sampling import SequentialSampler, local
from facelt.open_world.readings.from_training_set import make_readings
from facelt.open_world.readings.plda import ByLikelihood
from facelt.open_world.readings.reading import ByPrototypes, Knobs
from facelt.open_world.scoring import Prototypes
from facelt.open_world.sets import Given
from facelt.parallel import group
from facelt.parallel.partition import Partition

K, D, N = 7, 5, 40


def training() -> FeatureSet:
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(K), rng.integers(0, K, N - K)])
    return FeatureSet(rng.normal(size=(N, D)) + labels[:, None], labels, None)


def asked() -> torch.Tensor:
    return 4 * torch.randn(20, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Float64Batches:
    """The rows as they are."""

    embeddings = ("direct",)

    def each(self, given: Given, title: str) -> Iterator[Batch[Recognised]]:
        sampler = SequentialSampler(N, 6 * group.world_size())
        for i in range(sampler.steps):
            mine = local(sampler.indices(i), group.rank(), group.world_size())
            rows = torch.from_numpy(given.content.rows_ND[mine])
            yield Batch(sampler.indices(i), sampler.positions(i) < N, Recognised([rows], {}))


def sharded(name: str) -> dict[str, torch.Tensor]:
    train = Given("--train-features", "train", training())
    return make_readings([name], Float64Batches(), train, None, Knobs(temperature=9))[name]({"direct": asked()})


def classifier(cosine: bool) -> ByPrototypes:
    partition = Partition(K, group.rank(), group.world_size())
    weight, bias = classifier_rows()
    mine = slice(*partition.bounds())
    rows = Prototypes(partition, weight[mine], None if cosine else bias[mine], cosine, block=2)
    return ByPrototypes(rows, lambda v: 3 * v["direct"])


def classifier_rows() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    return torch.randn(K, D, generator=g, dtype=torch.float64), torch.randn(K, generator=g, dtype=torch.float64)


def both(cosine: bool) -> dict[str, torch.Tensor]:
    train = Given("--train-features", "train", training())
    readings = make_readings(["both"], Float64Batches(), train, classifier(cosine), Knobs(temperature=9))
    return readings["both"]({"direct": asked()})


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("cosine", [False, True])
def test_both_is_the_sum_of_the_logits(ranks, cosine):
    weight, bias = classifier_rows()
    by_classifier = 3 * asked() @ (normalize(weight) if cosine else weight).T + (0 if cosine else bias)
    want = by_classifier + dense("memory")
    for got in run_ranks(ranks, both, cosine):
        np.testing.assert_array_equal(got["class"], want.argmax(1))
        np.testing.assert_allclose(got["score"], want.amax(1), rtol=1e-9)
        np.testing.assert_allclose(got["probability"], torch.softmax(want, 1).amax(1), rtol=1e-9)


def dense(name: str) -> torch.Tensor:
    train, x = training(), asked()
    rows, labels = torch.from_numpy(train.rows_ND), torch.from_numpy(train.labels)
    rows = normalize(rows) if name == "memory" else rows
    means = torch.stack([rows[labels == k].mean(0) for k in range(K)])
    if name == "memory":
        return 9 * normalize(x) @ normalize(means).T
    return -(x[:, None] - means).square().sum(2) / 2


@pytest.mark.parametrize("ranks", [1, 2, 3])
@pytest.mark.parametrize("name", ["memory", "ncm"])
def test_sharded_is_dense(ranks, name):
    want = dense(name)
    for got in run_ranks(ranks, sharded, name):
        np.testing.assert_array_equal(got["class"], want.argmax(1))
        np.testing.assert_allclose(got["probability"], torch.softmax(want, 1).amax(1), rtol=1e-9)


def test_plda_takes_every_image_of_the_training_set_once():
    """The filled up last batch, and shares of ranks: as the reading made of all rows at once."""
    train = training()
    rows, labels = normalize(torch.from_numpy(train.rows_ND)), torch.from_numpy(train.labels)
    means = torch.stack([rows[labels == k].mean(0) for k in range(K)])
    apart = rows - means[labels]
    reading = ByLikelihood.of(means, torch.bincount(labels), apart.T @ apart / (N - K), Knobs.ridge, Partition(K))
    want = reading({"direct": asked()})
    for ranks in (1, 2, 3):
        for got in run_ranks(ranks, sharded, "plda"):
            np.testing.assert_array_equal(got["class"], want["class"])
            for name in ("score", "probability"):
                np.testing.assert_allclose(got[name], want[name], rtol=1e-8)


def test_a_class_without_images_is_refused():
    features = training()
    gap = FeatureSet(features.rows_ND, np.where(features.labels == 3, 2, features.labels), None)
    with pytest.raises(UserError, match="class 3 has no image"):
        make_readings(["ncm"], Float64Batches(), Given("--train-features", "t", gap), None, Knobs())
