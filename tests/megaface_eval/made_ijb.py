"""A made-up IJB: lists as they are distributed, and features of random people."""

import numpy as np

from megaface_eval.features.feature_set import write_features


def write_lists(folder, rng, *, subjects=12, templates=48, images=300, name="ijbc"):
    """Write all lists of a small set; returns template and media of each image, and the subject of each template.

    Each subject has one gallery template, in one of the two galleries; all others are probes. Ids are not consecutive.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = np.sort(rng.choice(10 * templates, templates, replace=False)) + 1
    subject = np.concatenate([np.arange(subjects), rng.integers(0, subjects, templates - subjects)])
    of = np.concatenate([np.arange(templates), rng.integers(0, templates, images - templates)])
    rng.shuffle(of)
    media = rng.integers(0, max(images // 4, 1), images)
    scores = rng.uniform(0.1, 1, images)
    faces = [f"{i + 1}.jpg {ids[t]} {m}\n" for i, (t, m) in enumerate(zip(of, media, strict=True))]
    (folder / f"{name}_face_tid_mid.txt").write_text("".join(faces))
    points = " ".join(["10.5"] * 10)
    lines = [f"{i + 1}.jpg {points} {score:.6f}\n" for i, score in enumerate(scores)]
    (folder / f"{name}_name_5pts_score.txt").write_text("".join(lines))
    one, other = np.triu_indices(templates, 1)
    same = subject[one] == subject[other]
    pairs = [f"{ids[a]} {ids[b]} {int(s)}\n" for a, b, s in zip(one, other, same, strict=True)]
    (folder / f"{name}_template_pair_label.txt").write_text("".join(pairs))
    first, second = {"ijbb": ("S1", "S2"), "ijbc": ("G1", "G2")}[name]
    parts = {f"gallery_{first}": range(0, subjects, 2), f"gallery_{second}": range(1, subjects, 2)}
    for part, rows in {**parts, "probe_mixed": range(subjects, templates)}.items():
        people = "".join(f"{ids[t]},{100 + subject[t]}\n" for t in rows)
        (folder / f"{name}_1N_{part}.csv").write_text("TEMPLATE_ID,SUBJECT_ID\n" + people)
    return of, media, subject


def write_ijb_features(folder, rng, of, subject, *, dimension=16, spread=1.0):
    """Features of the images and of their mirror images, as the sets `plain` and `mirrored`; returns both (N×D)."""
    centres = rng.standard_normal((subject.max() + 1, dimension))
    rows = []
    for name in ("plain", "mirrored"):
        noise = rng.standard_normal((len(of), dimension))
        made = (centres[subject[of]] + spread * noise) * rng.uniform(0.5, 2, (len(of), 1))
        rows.append(made.astype(np.float32))
        write_features(folder / name, rows[-1], np.zeros(len(of), int), meta={"method": "made"})
    return rows
