"""Paths go with their images, whatever rewrites the set."""

import pytest
import sets

from recordio_tools.dataset import RecordDataset
from recordio_tools.format.recordio import RecordError
from recordio_tools.rewrite.curate import curate, curate_pareto
from recordio_tools.rewrite.merge import merge
from recordio_tools.rewrite.shard import shard
from recordio_tools.rewrite.shuffle import shuffle
from recordio_tools.rewrite.subset import subset

LABELS = [0, 0, 0, 1, 2, 2, 4]


def with_paths(folder, prefix: str = "") -> RecordDataset:
    """LABELS in a file whose order is not that of the keys; image k has the path `<prefix>k.jpg`."""
    sets.write(folder, sets.insightface(LABELS)[::-1], "5,8,8\n", list("abcde"))
    (folder / "paths.txt").write_text("".join(f"{prefix}{key}.jpg\n" for key in range(1, len(LABELS) + 1)))
    return RecordDataset(folder)


@pytest.fixture
def source(tmp_path):
    return with_paths(tmp_path / "source", "x/")


def pairs(*datasets: RecordDataset) -> list[tuple[str, bytes]]:
    """(path, encoded image) of every image."""
    return [(ds.paths[i], ds.jpeg(i).tobytes()) for ds in datasets for i in range(len(ds))]


@pytest.mark.parametrize(
    "rewrite, images",
    [
        (lambda source, out: curate(source, out, images=4, reading="uniform", seed=1), 4),
        (lambda source, out: curate_pareto(source, out, alpha=1.0, most=2, least=1, seed=0), 5),
        (lambda source, out: subset(source, out, min_images=2, max_per_identity=2), 4),
        (lambda source, out: shuffle(source, out, seed=3), 7),
        (lambda source, out: merge([source], out), 7),
    ],
)
def test_paths_stay_with_their_images(tmp_path, source, rewrite, images):
    rewrite(source, tmp_path / "out")
    out = RecordDataset(tmp_path / "out")
    assert len(out) == images
    assert set(pairs(out)) <= set(pairs(source))
    assert (tmp_path / "out" / "paths.txt").read_text().splitlines() == out.paths


@pytest.mark.parametrize("whole_identities", [False, True])
def test_shards_have_the_paths_of_their_images(tmp_path, source, whole_identities):
    shard(source, tmp_path / "out", 3, whole_identities=whole_identities)
    shards = [RecordDataset(folder) for folder in sorted((tmp_path / "out").iterdir())]
    assert sorted(pairs(*shards)) == sorted(pairs(source))


def test_merged_sets_keep_paths_where_all_have_them(tmp_path, source):
    other = with_paths(tmp_path / "other", "y/")
    merge([source, other], tmp_path / "both", by_name=True)
    assert sorted(pairs(RecordDataset(tmp_path / "both"))) == sorted(pairs(source, other))
    (tmp_path / "other" / "paths.txt").unlink()
    merge([source, RecordDataset(tmp_path / "other")], tmp_path / "without")
    assert RecordDataset(tmp_path / "without").paths is None
    assert not (tmp_path / "without" / "paths.txt").exists()


def test_a_set_without_paths_stays_without(tmp_path, source):
    (tmp_path / "source" / "paths.txt").unlink()
    subset(source, tmp_path / "out")
    assert RecordDataset(tmp_path / "out").paths is None


def test_paths_that_do_not_fit_the_images_are_refused(tmp_path, source):
    (tmp_path / "source" / "paths.txt").write_text("a\nb\n")
    with pytest.raises(RecordError, match=r"paths\.txt: 2 paths for 7 images; expected one line for each"):
        subset(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
