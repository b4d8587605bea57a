"""IJB-C at its full size, made up: python tests/bench/ijb.py [--folder DIR]; needs 2 GB of disk.

23,124 templates of 3,531 people, 469,375 images, 15,658,489 pairs, 19,593 probes; lists and features are written, then
`megaface_eval.ijb` is run on them in a process of its own, whose processor time and largest memory are printed.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
PEOPLE, TEMPLATES, IMAGES, PAIRS, DIMENSION = 3531, 23124, 469_375, 15_658_489, 512
NOISE = 12.0  # length of an image's noise, of its person's direction 1


def write_all(folder: Path) -> None:
    """Lists and features: the first templates are the people's gallery templates, the rest probes."""
    rng = np.random.default_rng(0)
    subject = np.concatenate([np.arange(PEOPLE), rng.integers(0, PEOPLE, TEMPLATES - PEOPLE)])
    of = np.sort(np.concatenate([np.arange(TEMPLATES), rng.integers(0, TEMPLATES, IMAGES - TEMPLATES)]))
    media = rng.integers(0, 140_000, IMAGES)
    points = " ".join(["50.0"] * 10)
    scores = rng.uniform(0.5, 1, IMAGES)
    with (folder / "ijbc_face_tid_mid.txt").open("w", encoding="utf-8") as file:
        file.writelines(f"{i}.jpg {t} {m}\n" for i, (t, m) in enumerate(zip(of, media, strict=True)))
    with (folder / "ijbc_name_5pts_score.txt").open("w", encoding="utf-8") as file:
        file.writelines(f"{i}.jpg {points} {score:.6f}\n" for i, score in enumerate(scores))
    probes = np.arange(PEOPLE, TEMPLATES)
    for name, rows in (("gallery_G1", np.arange(0, PEOPLE, 2)), ("gallery_G2", np.arange(1, PEOPLE, 2))):
        write_people(folder / f"ijbc_1N_{name}.csv", rows, subject)
    write_people(folder / "ijbc_1N_probe_mixed.csv", probes, subject)
    mates = [(subject[probe], probe) for probe in probes.tolist()]
    each = (PAIRS - len(mates)) // PEOPLE
    with (folder / "ijbc_template_pair_label.txt").open("w", encoding="utf-8") as file:
        file.writelines(f"{one} {other} 1\n" for one, other in mates)
        for one in tqdm(range(PEOPLE), desc="pairs"):
            number = each + (one < PAIRS - len(mates) - each * PEOPLE)
            others = rng.choice(probes, number + 40, replace=False)
            others = others[subject[others] != one][:number]
            file.writelines(f"{one} {other} 0\n" for other in others.tolist())
    centres = rng.standard_normal((PEOPLE, DIMENSION), np.float32) / DIMENSION**0.5
    for name in ("plain", "mirrored"):
        (folder / name).mkdir()
        np.save(folder / name / "labels.npy", subject[of])
        rows = np.lib.format.open_memmap(folder / name / "features.npy", "w+", np.float32, (IMAGES, DIMENSION))
        for at in tqdm(range(0, IMAGES, 16384), desc=name):
            part = slice(at, at + 16384)
            noise = rng.standard_normal((len(of[part]), DIMENSION), np.float32) * (NOISE / DIMENSION**0.5)
            rows[part] = centres[subject[of[part]]] + noise
        rows.flush()


def write_people(path: Path, rows: np.ndarray, subject: np.ndarray) -> None:
    """One list of 1:N."""
    lines = "".join(f"{row},{subject[row]}\n" for row in rows)
    path.write_text("TEMPLATE_ID,SUBJECT_ID\n" + lines, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--folder", type=Path, help="keep lists and features here, and take them where they are")
    parser.add_argument("--far-rule", default="nearest")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "plain").is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            write_all(folder)
        command = [sys.executable, "-m", "megaface_eval.ijb", str(folder), "--features", str(folder / "plain")]
        command += ["--mirrored", str(folder / "mirrored"), "--far-rule", options.far_rule]
        start = time.perf_counter()
        subprocess.run([*command, "--output", str(folder / "report"), "--force"], cwd=ROOT, check=True)
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        print(
            f"{time.perf_counter() - start:.0f} s by the clock, {used.ru_utime + used.ru_stime:.0f} s of processor, "
            f"{used.ru_maxrss / 1e6:.2f} GB at most"
        )


if __name__ == "__main__":
    main()
