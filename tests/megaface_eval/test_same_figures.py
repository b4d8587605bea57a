"""Every figure of a whole report against counts written plainly from the definitions, in float64."""

import numpy as np
import pytest
from scipy.stats import t as student
from small_sets import report_in

from megaface_eval import run
from megaface_eval.features.feature_set import normalise, write_features
from megaface_eval.protocols.identification import IMPOSTORS, PROTOCOLS, TIES
from megaface_eval.protocols.open_set import split_galleries
from megaface_eval.report import plots
from megaface_eval.run import main

PEOPLE, IMAGES, STRANGERS, SIMILARITY, SEED = 7, 4, 120, 0.6, 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Probes p of seven people and one without a mate; strangers d, some of them copies of probes; training set t."""
    root, rng = tmp_path_factory.mktemp("figures"), np.random.default_rng(0)
    labels = np.append(np.repeat(np.arange(PEOPLE), IMAGES), PEOPLE)
    rows = rng.standard_normal((PEOPLE + 1, 8))[labels] + 0.7 * rng.standard_normal((len(labels), 8))
    strangers = rng.standard_normal((STRANGERS, 8))
    strangers[5:8], strangers[60:64] = rows[1:4], rows[20:24]
    train = np.concatenate([np.repeat(rows[:12], np.arange(12) % 6, axis=0), rng.standard_normal((40, 8))])
    train += 0.1 * rng.standard_normal(train.shape)
    for name, held, numbers in (("p", rows, labels), ("d", strangers, None), ("t", train, None)):
        write_features(root / name, held.astype(np.float32), np.zeros(len(held), int) if numbers is None else numbers)
    (root / "groups.tsv").write_text("".join(f"{i}\t{'odd' if i % 2 else 'even'}\n" for i in range(PEOPLE)))
    return root


def unit(folder):
    return normalise(np.load(folder / "features.npy")).astype(np.float64)


def table(one, other):
    return np.array([[(a * b).sum() for b in other] for a in one])


def trials_of(protocol, labels, among_probes):
    """(query, mate) of every trial."""
    for i in range(len(labels)):
        mates = [j for j in range(len(labels)) if j != i and labels[j] == labels[i]]
        if protocol == "paper" and mates:
            mates = [max(mates, key=lambda j: (among_probes[i, j], -j))]
        yield from ((i, j) for j in mates)


def interval(hits, trials):
    """Roots of Wilson's equation at the number of trials that vary alike; None twice below five identities by weight.

    The variance is the jackknife's, of the rates without each identity in turn, times 1 - its share.
    """
    if trials.sum() == 0 or (people := trials.sum() ** 2 / (trials**2).sum()) < 5:
        return None, None
    rate = hits.sum() / trials.sum()
    without = [((hits.sum() - h) / (trials.sum() - t), t / trials.sum()) for h, t in zip(hits, trials, strict=True)]
    variance = sum((one - rate) ** 2 * (1 - share) for one, share in without)
    number = people * (rate * (1 - rate) * people + 0.2) / (variance * people**2 + 0.2)
    square = student.ppf(0.975, people - 1) ** 2 / number
    return tuple(sorted(np.roots([1 + square, -2 * rate - square, rate**2]).clip(0, 1)))


def best_rate(hit_scores, stranger_scores, share):
    """Most hits at or above a threshold that at most this share of strangers reaches; None if none could tell."""
    if share * len(stranger_scores) < 1:
        return None
    thresholds = [*np.unique(np.concatenate([hit_scores, stranger_scores])), np.inf]
    within = [t for t in thresholds if (stranger_scores >= t).mean() <= share + 1e-12]
    return max((hit_scores >= t).mean() for t in within)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("ties", TIES)
@pytest.mark.parametrize("impostors", IMPOSTORS)
def test_a_report_holds_what_plain_counts_give(folder, monkeypatch, protocol, ties, impostors):
    monkeypatch.setattr(run, "draw", lambda report: {"cmc": plots.cmc_figure(report.methods, report.gallery.size)})
    output = folder / f"{protocol}-{ties}-{impostors}"
    assert main([
        "--gallery", str(STRANGERS), "--probes", f"{folder}/p", "--distractors", f"{folder}/d", "--output", str(output),
        "--train", f"{folder}/t", "--similarity", str(SIMILARITY), "--subgroups", f"{folder}/groups.tsv", "--partial",
        "--protocol", protocol, "--ties", ties, "--impostors", impostors, "--open-set", "gallery", "--seed", str(SEED),
    ]) == 0  # fmt: skip
    report = report_in(output)
    (method,) = report["methods"]

    labels = np.load(folder / "p/labels.npy")
    probes, strangers = unit(folder / "p"), unit(folder / "d")
    among_probes, to_strangers = table(probes, probes), table(probes, strangers)
    similar = (table(probes, unit(folder / "t")) > SIMILARITY).sum(axis=1)
    assert report["pseudo_shots"]["similar"] == sorted(set(similar.tolist()))
    assert report["pseudo_shots"]["probes"] == [(similar == n).sum() for n in report["pseudo_shots"]["similar"]]

    def rank(i, j, size):
        rivals = to_strangers[i, :size]
        if impostors == "all":
            rivals = np.append(rivals, among_probes[i, labels != labels[i]])
        own = among_probes[i, j]
        return (rivals >= own).sum() if ties == "pessimistic" else (rivals > own).sum()

    trials = list(trials_of(protocol, labels, among_probes))
    ranks = {size: np.array([rank(i, j, size) for i, j in trials]) for size in (10, 100, STRANGERS)}
    query = np.array([i for i, _ in trials])

    def figures(hit, mask):
        """Rate and interval of the trials whose query is in the mask."""
        of = labels[query[mask[query]]]
        hits = np.bincount(of, hit[mask[query]], minlength=PEOPLE + 1)
        number = np.bincount(of, minlength=PEOPLE + 1)
        low, high = interval(hits, number)
        rate = hits.sum() / number.sum() if number.any() else None
        return {"rate": rate, "low": low and pytest.approx(low), "high": high and pytest.approx(high)}, number

    grouped = labels < PEOPLE
    masks = {
        "many": similar >= 5, "few": (similar >= 2) & (similar < 5), "one": similar == 1, "zero": similar == 0,
        "full": similar >= 0, "group:Even": grouped & (labels % 2 == 0), "group:Odd": grouped & (labels % 2 == 1),
    }  # fmt: skip
    assert list(method["cells"]) == list(masks)
    for key, mask in masks.items():
        expected, number = figures(ranks[STRANGERS] == 0, mask)
        counts = {"trials": number.sum(), "probes": mask[np.unique(query)].sum(), "identities": (number > 0).sum()}
        assert method["cells"][key] == {**expected, **counts}, key
    for shown, (size, found) in zip(method["sizes"], ranks.items(), strict=True):
        assert shown == {"gallery": size, **figures(found == 0, masks["full"])[0]}
    ties = [(np.append(to_strangers[i], among_probes[i, (labels != labels[i]) & (impostors == "all")])
             == among_probes[i, j]).any() for i, j in trials]  # fmt: skip
    assert method["ties"] == sum(ties)
    assert any(f"{sum(ties)} of {len(trials)}" in line for line in report["conventions"])
    assert any(line.startswith("Warning: ") for line in report["conventions"]) == (np.mean(ties) > 0.01)
    assert method["cmc"]["rank"] == sorted({0, *ranks[STRANGERS].tolist()})
    recall = [(ranks[STRANGERS] <= r).mean() for r in method["cmc"]["rank"]]
    np.testing.assert_allclose(method["cmc"]["recall"], recall)

    same = labels[:, None] == labels
    upper = np.triu(np.ones_like(same), 1)
    mated, nonmated = among_probes[upper & same], among_probes[upper & ~same]
    for level in method["verification"]["tar_at_far"]:
        assert level["tar"] == pytest.approx(best_rate(mated, nonmated, level["far"]))
    both = [max((nonmated >= t).mean(), (mated < t).mean()) for t in np.append(mated, nonmated)]
    assert method["verification"]["eer"] == pytest.approx(min(both))

    for level in method["open_set"]["cosine"]["tpir_at_fpir"]:
        for name, split in zip(("g1", "g2"), split_galleries(labels, 1, SEED), strict=True):
            expected = open_set_rate(split, among_probes, to_strangers.max(axis=1), ties, level["fpir"])
            assert level[name] == pytest.approx(expected)


def open_set_rate(split, among_probes, nearest_stranger, ties, fpir):
    """TPIR of templates of one image, distractors enrolled too."""
    scores = np.round(among_probes[:, [rows[0] for rows in split.enrolled]], 12)
    accepted = []
    for probe, mate in zip(split.mated, split.mate, strict=True):
        rival = max(np.delete(scores[probe], mate).max(), nearest_stranger[probe])
        own = scores[probe, mate]
        accepted.append(own if own > rival or (own == rival and ties == "devkit") else -np.inf)
    highest = np.maximum(scores[split.nonmated].max(axis=1), nearest_stranger[split.nonmated])
    return best_rate(np.array(accepted), highest, fpir)
