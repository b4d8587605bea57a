"""Reports that several tests read."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megaface_eval.features.feature_set import write_features
from megaface_eval.run import main

sys.path.insert(0, str(Path(__file__).parent))  # for small_sets


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Two methods on images, reported apart and together."""
    root = tmp_path_factory.mktemp("reports")
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 5)
    rows = rng.standard_normal((6, 16))[labels] + 0.8 * rng.standard_normal((30, 16))
    distractors = rng.standard_normal((200, 16)).astype(np.float32)
    names, probe_paths = [f"person_{i}" for i in range(6)], [f"p{i}.png" for i in range(30)]
    for i, path in enumerate(probe_paths):
        Image.fromarray(np.full((20, 20, 3), 8 * i, np.uint8)).save(root / path)
    sets = {}
    for name, spread in (("good", 0.0), ("bad_one", 0.8)):
        noisy = (rows + spread * rng.standard_normal(rows.shape)).astype(np.float32)
        write_features(root / name, noisy, labels, names, probe_paths, {"method": name})
        sets[name] = f"{root}/{name}"
    write_features(root / "d", distractors, np.zeros(200, int), paths=[f"d/{i}.jpg" for i in range(200)])
    common = ["--gallery", "200", "--distractors", f"{root}/d", "--probe-images", str(root), "--devkit-results"]
    for name, path in sets.items():
        assert main([*common, "--probes", path, "--output", f"{root}/report-{name}"]) == 0
    methods = [f"--method={name}={path},{root}/d" for name, path in sets.items()]
    assert main(["--gallery", "200", *methods, "--output", f"{root}/together"]) == 0
    assert main(["--compare", f"{root}/report-good", f"{root}/report-bad_one", "--output", f"{root}/compared"]) == 0
    return root
