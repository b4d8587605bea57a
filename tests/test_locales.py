"""Whatever the locale: texts are read and written as UTF-8, and what is printed is printed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from megaface_eval.features.feature_set import write_features

ROOT = Path(__file__).parents[1]
LOCALES = {"C": None, "de_DE.ISO-8859-1": "ISO-8859-1", "zh_CN.GBK": "GBK"}  # and their charmaps
MARK = "\ufeff"
NAMES = ["Zoë", "Łukasz", "李", "Ann", "Bob", "Eve"]


@pytest.fixture(scope="module", params=LOCALES)
def locale(request, tmp_path_factory):
    """Environment of a process under a locale that is not UTF-8."""
    folder, charmap = tmp_path_factory.mktemp("locale"), LOCALES[request.param]
    if charmap is not None:
        if shutil.which("localedef") is None:
            pytest.skip("no localedef here")
        source = request.param.partition(".")[0]
        made = ["localedef", "-i", source, "-f", charmap, folder / request.param]
        if subprocess.run(made, capture_output=True, check=False).returncode > 1:
            pytest.skip(f"no {request.param} can be made here")
    python = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    kept = {key: value for key, value in os.environ.items() if key not in ("LANG", "PYTHONIOENCODING")}
    return {**kept, **python, "LC_ALL": request.param, "LOCPATH": str(folder)}


def python(environment, *arguments, cwd):
    """What a process under the locale says; it must end well."""
    command = [sys.executable, *map(os.fsencode, map(str, arguments))]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def test_the_locale_is_not_utf_8(locale, tmp_path):
    said = python(locale, "-c", "import locale; print(locale.getencoding())", cwd=tmp_path)
    assert said.strip().lower().replace(b"_", b"-") not in (b"utf-8", b"utf8")


def test_a_report_is_the_same(locale, tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 4)
    rows = (rng.standard_normal((6, 16))[labels] + 0.5 * rng.standard_normal((24, 16))).astype(np.float32)
    paths = [f"{NAMES[label]}/{i}.jpg" for i, label in enumerate(labels)]
    write_features(tmp_path / "p", rows, labels, NAMES, paths, {"method": "Größe ≥ 1"})
    write_features(tmp_path / "d", rng.standard_normal((60, 16)).astype(np.float32), np.zeros(60, int))
    for name in ("names.txt", "paths.txt", "meta.json"):
        text = (tmp_path / "p" / name).read_text("utf-8").replace("\n", "\r\n")
        (tmp_path / "p" / name).write_bytes((MARK + text).encode())
    groups = "\r\n".join(f"{name}\t{'weiß' if i % 2 else '黑'}" for i, name in enumerate(NAMES))
    (tmp_path / "groups.tsv").write_bytes((MARK + groups).encode())
    (tmp_path / "noise.txt").write_bytes(f"{MARK}{paths[0]}\r\n{paths[9]}\r\n".encode())
    common = [
        "-m", "megaface_eval.run", "--gallery", "60", "--probes", "p", "--distractors", "d", "--train", "d",
        "--subgroups", "groups.tsv", "--noise", "drop", "--facescrub-noise", "noise.txt",
    ]  # fmt: skip
    reports = []
    for environment, output in (({**locale, "LC_ALL": "C.UTF-8", "PYTHONUTF8": "1"}, "one"), (locale, "other")):
        said = python(environment, *common, "--output", output, cwd=tmp_path)
        assert b"Full" in said
        reports.append(json.loads((tmp_path / output / "report.json").read_text("utf-8")))
        assert "≥" in (tmp_path / output / "report.html").read_text("utf-8")
    one, other = (
        {key: report[key] for key in report if key not in ("made", "command", "settings")} for report in reports
    )
    assert one == other
    assert one["methods"][0]["name"] == "Größe ≥ 1"
    assert one["probes"] == {"images": 22, "identities": 6}
    assert [column["title"] for column in one["columns"]][-2:] == ["黑", "Weiß"]


def test_a_set_is_packed_and_unpacked(locale, tmp_path):
    for i, name in enumerate(NAMES):
        (tmp_path / "in" / name).mkdir(parents=True)
        Image.fromarray(np.full((20, 20, 3), 30 * i, np.uint8)).save(tmp_path / "in" / name / f"ä{i}.png")
    python(locale, "-m", "recordio_tools", "pack", "in", "out", "--size", "20", cwd=tmp_path)
    assert sorted((tmp_path / "out/names.txt").read_text("utf-8").split()) == sorted(NAMES)
    kept = (tmp_path / "out/paths.txt").read_text("utf-8").split()
    assert sorted(kept) == sorted(f"{name}/ä{i}.png" for i, name in enumerate(NAMES))
    (tmp_path / "chosen.txt").write_bytes(f"{MARK}Zoë\r\n李\r\n".encode())
    python(locale, "-m", "recordio_tools", "subset", "out", "two", "--list", "chosen.txt", cwd=tmp_path)
    assert sorted((tmp_path / "two/names.txt").read_text("utf-8").split()) == ["Zoë", "李"]
    python(locale, "-m", "recordio_tools", "unpack", "two", "files", cwd=tmp_path)
    assert sorted(folder.name for folder in (tmp_path / "files").iterdir() if folder.is_dir()) == ["Zoë", "李"]
    listing = tmp_path / "files" / "images.lst"
    listing.write_bytes((MARK + listing.read_text("utf-8")).encode())
    python(locale, "-m", "recordio_tools", "pack", "files/images.lst", "again", "--size", "20", cwd=tmp_path)
    assert (tmp_path / "again/train.rec").read_bytes() == (tmp_path / "two/train.rec").read_bytes()


def test_a_recipe_is_read(locale, tmp_path):
    recipe = json.loads((ROOT / "jobs/ds.json").read_text("utf-8"))
    recipe["comment"] = "größer"
    (tmp_path / "ds.json").write_bytes((MARK + json.dumps(recipe, ensure_ascii=False)).encode())
    program = "from facelt.config import load; print(ascii(load('ds.json')[0]['comment']))"
    assert python(locale, "-c", program, cwd=tmp_path).strip() == rb"'gr\xf6\xdfer'"
