"""The Slurm jobs without a Slurm: their headers, and whole runs of one task under stand-ins for srun and scontrol."""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from facelt import extract
from megaface_eval.options import build_parser, settings_of
from recordio_tools.__main__ import main as recordio

ROOT = Path(__file__).parents[1]
SCRIPTS = [ROOT / "jobs" / name for name in ("train.sbatch", "eval.sbatch", "ranks.sh")]

# Like srun with one task: drops its own options, notes them, forwards signals.
SRUN = """#!/usr/bin/env bash
options=()
while [[ $1 == --* ]]; do options+=("$1"); shift; done
echo "${options[*]} MASTER=$MASTER_ADDR:$MASTER_PORT OMP=$OMP_NUM_THREADS" >> "$LOG/srun"
SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=1 exec "$@"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$LOG/scontrol"
[[ $1 == show ]] && printf 'first-host\\nsecond-host\\n'
exit 0
"""
PLAIN_STEPS, META_STEPS = 36, 12  # 6 · 48 / 8 and 2 · 48 / 8


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A data folder of 48 images of six people."""
    folder = tmp_path_factory.mktemp("jobs") / "data"
    sizes = ["--identities", "6", "--images", "48", "--size", "32"]
    assert recordio(["synth", str(folder), *sizes, "--workers", "1"]) == 0
    return folder


@pytest.fixture
def job(tmp_path, tiny_recipe) -> dict[str, str]:
    """The environment of a job on one node of four CPUs, with the stand-ins first on PATH."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        write_program(tmp_path / "bin" / name, text)
    tiny_recipe["facelt"]["plain"]["epochs"] = 6  # long enough to be stopped halfway
    (tmp_path / "ds.json").write_text(json.dumps(tiny_recipe))
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    kept = {k: v for k, v in os.environ.items() if not re.match("SLURM_|MASTER_|RECOGNISER|RANK|WORLD_SIZE|LOCAL_", k)}
    slurm = {"JOB_ID": "1234567", "JOB_NODELIST": "host[1-2]", "JOB_NUM_NODES": "1", "CPUS_ON_NODE": "4"}
    slurm |= {"JOB_START_TIME": "1000", "JOB_END_TIME": "5000"}
    return kept | {
        "PATH": path, "LOG": str(tmp_path), "CONFIG": str(tmp_path / "ds.json"), "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu", **{f"SLURM_{k}": v for k, v in slurm.items()},
    }  # fmt: skip


def write_program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def submit(name: str, *arguments: object, job: dict[str, str], cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """Run a job as Slurm does: as a copy elsewhere."""
    spooled = Path(job["LOG"]) / "slurm_script"
    shutil.copy(ROOT / "jobs" / f"{name}.sbatch", spooled)
    full = ["bash", str(spooled), *map(str, arguments)]
    return subprocess.run(full, cwd=cwd, env=job, capture_output=True, text=True, timeout=120)


def replace_python(folder: Path, text: str) -> None:
    """A python of our own, and jobs/ without the .venv of the checkout, whose python would come first."""
    write_program(folder / "bin" / "python", text)
    (folder / "jobs").symlink_to(ROOT / "jobs")


def sbatch_options(name: str) -> dict[str, str]:
    lines = (ROOT / "jobs" / f"{name}.sbatch").read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    found = dict(re.fullmatch(r"#SBATCH --([\w-]+)=?(\S*)", line).groups() for line in lines if "#SBATCH" in line)
    assert all(line.startswith("#SBATCH") for line in lines[1 : 1 + len(found)])  # Slurm reads none after a command
    return found


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_bash_reads_it_and_shellcheck_finds_nothing(script):
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    if shutil.which("shellcheck"):
        checked = subprocess.run(
            ["shellcheck", "-s", "bash", "-x", str(script)], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stdout


def test_headers():
    both = {"nodes": "1", "exclusive": "", "mem": "0", "requeue": "", "open-mode": "append"}
    assert sbatch_options("train") == both | {"job-name": "facelt", "signal": "B:USR1@300"}
    assert sbatch_options("eval") == both | {"job-name": "facelt-eval"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_figure_of_the_training_lives_outside_the_json(script):
    words = re.findall(r"[a-z_]+", script.read_text().lower())
    assert not {"lr", "batch", "epochs", "train_batch_size", "decay", "seed", "gallery", "momentum"} & set(words)


@pytest.mark.parametrize("name, given", [("train", 0), ("train", 1), ("eval", 0), ("eval", 4)])
def test_too_few_arguments_are_answered_in_one_line(name, given, job):
    done = submit(name, *["x"] * given, job=job)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: {given} arguments; expected .*jobs/{name}\.sbatch .*\n", done.stderr)
    assert not (Path(job["LOG"]) / "srun").exists()


@pytest.mark.parametrize("name, arguments", [("train", 2), ("eval", 5)])
def test_what_is_no_job_or_starts_elsewhere_is_answered_in_one_line(name, arguments, job, tmp_path):
    done = submit(name, *["x"] * arguments, job={k: v for k, v in job.items() if k != "SLURM_JOB_ID"})
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "not in a Slurm job" in done.stderr
    done = submit(name, *["x"] * arguments, job=job, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "submit from the root of the checkout" in done.stderr


def srun_line(job: dict[str, str]) -> str:
    """The options that srun is given in a job, and what it is told of where the tasks meet."""
    (Path(job["LOG"]) / "bin" / "python").symlink_to("/bin/true")
    path = ["bash", "-c", '. jobs/ranks.sh; PATH=$LOG/bin:$PATH; srun "${ranks[@]}" python']
    assert subprocess.run(path, cwd=ROOT, env=job, check=False).returncode == 0
    return (Path(job["LOG"]) / "srun").read_text()


def test_one_task_a_gpu_and_the_first_host_for_all(job):
    del job["OMP_NUM_THREADS"]
    said = srun_line(job | {"SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_CPUS_ON_NODE": "33"})
    options, port, threads = re.fullmatch(r"(.*) MASTER=first-host:(\d+) OMP=(\d+)\n", said).groups()
    sizes = "--nodes=2 --ntasks=8 --ntasks-per-node=4 --cpus-per-task=8"
    assert options == f"{sizes} --kill-on-bad-exit=1 --gpus-per-node=4"
    assert (int(port), threads) == (10_000 + int(job["SLURM_JOB_ID"]) % 20_000, "8")


def test_what_the_user_says_of_tasks_and_where_they_meet_holds(job):
    own = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "my-port"}
    said = srun_line(job | own | {"SLURM_NTASKS_PER_NODE": "2", "OMP_NUM_THREADS": "1"})
    sizes = "--nodes=1 --ntasks=2 --ntasks-per-node=2 --cpus-per-task=2"
    assert said == f"{sizes} --kill-on-bad-exit=1 MASTER=10.0.0.1:my-port OMP=1\n"


def test_fewer_cpus_than_gpus_is_answered_in_one_line(job):
    done = submit("train", "data", "run", job=job | {"SLURM_GPUS_ON_NODE": "8"})
    assert done.returncode == 2
    assert done.stderr == "error: 4 CPUs for 8 tasks on a node; expected one for each: sbatch --cpus-per-gpu=N …\n"


def test_asked_to_stop_it_is_queued_again_and_then_trains_to_the_end(data, job, tmp_path):
    run = tmp_path / "run"
    arguments = ["bash", "jobs/train.sbatch", str(data), str(run)]
    lines = run / "metrics.jsonl"
    with subprocess.Popen(arguments, cwd=ROOT, env=job, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (lines.exists() and lines.read_text()):
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)  # to the batch shell alone, as --signal=B: does
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 0, said
    assert "job 1234567: stopped unfinished; it is queued again" in said
    assert (tmp_path / "scontrol").read_text() == "show hostnames host[1-2]\nrequeue 1234567\n"
    stopped = len(lines.read_text().splitlines())
    assert 0 < stopped < PLAIN_STEPS
    done = submit("train", *arguments[2:], job=job)
    assert done.returncode == 0, done.stderr
    steps = [(one["stage"], one["step"]) for one in map(json.loads, lines.read_text().splitlines())]
    assert steps == [("plain", i) for i in range(PLAIN_STEPS)] + [("meta", i) for i in range(META_STEPS)]
    assert (tmp_path / "scontrol").read_text().count("requeue") == 1


PYTHON_THAT_LEAVES = """#!/usr/bin/env bash
# Makes what a rank would leave, once it is asked to stop.
trap 'eval "$LEAVE"' USR1
echo started > "$LOG/started"
for ((i = 0; i < 500; i++)); do sleep 0.02; done
"""


@pytest.mark.parametrize(
    "leave, more, status, queued",
    [
        ("save plain 5 false; exit 0", [], 0, True),
        ("save plain 9 true; exit 138", [], 0, True),  # the signal met it while the stage meta was starting
        ("save plain 9 true; exit 0", ["--stage", "plain"], 0, False),
        ("save plain 9 true; exit 0", ["--stage=plain"], 0, False),
        ("save plain 9 true; save meta 9 true; exit 0", [], 0, False),
        ("save plain 9 true; sleep 0.1; save plain 12 false; exit 0", ["--stage", "plain"], 0, True),  # more epochs
        ("save meta 9 true; sleep 0.1; save plain 12 false; exit 0", [], 0, True),
        ("save plain 5 false; exit 2", [], 2, False),
        ("exit 138", [], 1, False),  # it would stop there for ever
        ("exit 75", [], 0, True),  # before a step was done
        ('echo 3 > "$RUN/queued_in_vain"; exit 75', [], 1, False),  # … three times in a row
        ('save plain 5 false; echo 3 > "$RUN/queued_in_vain"; exit 75', [], 0, True),
    ],
)
def test_what_is_queued_again(leave, more, status, queued, job, tmp_path):
    (tmp_path / "run").mkdir()
    save = 'save() { mkdir -p "$RUN/$1/step-$2"; echo "{\\"finished\\": $3}" > "$RUN/$1/step-$2/state.json"; }; '
    replace_python(tmp_path, PYTHON_THAT_LEAVES)
    job |= {"LEAVE": save + leave, "RUN": str(tmp_path / "run")}
    arguments = ["bash", "jobs/train.sbatch", "data", job["RUN"], *more]
    with subprocess.Popen(arguments, cwd=tmp_path, env=job, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (tmp_path / "started").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGUSR1)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == status, said
    assert ("requeue 1234567\n" in (tmp_path / "scontrol").read_text()) == queued
    assert ("no checkpoint" in said) == (status == 1)


PYTHON_THAT_DIES = """#!/usr/bin/env bash
mkdir -p "$RUN"
eval "$LEAVE"
"""
SAVE = 'save() { mkdir -p "$RUN/$1/step-$2"; echo "{\\"finished\\": $3}" > "$RUN/$1/step-$2/state.json"; }; '


@pytest.mark.parametrize(
    "leave, status, queued",
    [
        ("save plain 5 false; exit 137", 0, True),  # a task was killed, and there is something to go on from
        ("exit 137", 137, False),
        ('save plain 5 false; echo 3 > "$RUN/queued_in_vain"; exit 137', 0, True),
        ("exit 75", 0, True),
        ("save plain 5 false; exit 1", 1, False),
        ("save memory 5 true; exit 137", 137, False),
    ],
)
def test_what_is_queued_again_though_nobody_asked(leave, status, queued, job, tmp_path):
    replace_python(tmp_path, PYTHON_THAT_DIES)
    job |= {"LEAVE": SAVE + leave, "RUN": str(tmp_path / "run")}
    done = submit("train", "data", job["RUN"], job=job, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert ("requeue 1234567\n" in (tmp_path / "scontrol").read_text()) == queued


def test_killed_again_and_again_without_a_new_checkpoint_it_is_given_up(job, tmp_path):
    replace_python(tmp_path, PYTHON_THAT_DIES)
    job |= {"LEAVE": SAVE + "[[ -d $RUN/plain ]] || save plain 5 false; exit 137", "RUN": str(tmp_path / "run")}
    statuses = [submit("train", "data", job["RUN"], job=job, cwd=tmp_path).returncode for _ in range(5)]
    assert statuses == [0, 0, 0, 0, 1]


SCONTROL_BEFORE_23 = """#!/usr/bin/env bash
[[ $1 == show ]] && echo "JobId=$3 RunTime=00:00:01 StartTime=2026-11-25T16:20:11 EndTime=$ENDS Deadline=N/A"
exit 0
"""


@pytest.mark.parametrize("asked", [False, True])
@pytest.mark.parametrize("seconds, status", [(300, 2), (301, 0), (None, 0)])
def test_a_time_limit_within_the_margin_is_refused_at_once(seconds, status, asked, job, tmp_path):
    replace_python(tmp_path, PYTHON_THAT_DIES)
    job |= {"LEAVE": SAVE + "save meta 5 true; exit 0", "RUN": str(tmp_path / "run"), "TZ": "UTC"}
    if asked:
        write_program(tmp_path / "bin" / "scontrol", SCONTROL_BEFORE_23)
        job["ENDS"] = "Unknown" if seconds is None else f"2026-11-25T16:25:{11 + seconds - 300:02d}"
        job["MASTER_ADDR"] = "host"
    if asked or seconds is None:
        del job["SLURM_JOB_START_TIME"], job["SLURM_JOB_END_TIME"]
    else:
        job["SLURM_JOB_END_TIME"] = str(1000 + seconds)
    done = submit("train", "data", job["RUN"], job=job, cwd=tmp_path)
    assert done.returncode == status
    assert (done.stderr.count("\n"), "give more --time" in done.stderr) == ((1, True) if status else (0, False))


PYTHON_THAT_RECORDS = """#!/usr/bin/env bash
printf '%s\\0' "$@" >> "$LOG/python"
printf '\\n' >> "$LOG/python"
"""


@pytest.mark.parametrize("recogniser", [False, True])
def test_eval_reads_what_it_extracted(recogniser, job, tmp_path):
    replace_python(tmp_path, PYTHON_THAT_RECORDS)
    told = {"RECOGNISER": "arc.onnx", "RECOGNISER_OPTIONS": "--mean 0 --std 58.4 57.1 57.4 --channels bgr"}
    job |= told if recogniser else {}
    done = submit("eval", "run", "a/faces", "b/faces", "c/faces", "report", "--gallery", "10K", job=job, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    calls = [line.split("\0")[:-1] for line in (tmp_path / "python").read_text().splitlines()]
    *extracts, evaluation = calls
    made = {}
    for module, *arguments in ((call[1], *call[2:]) for call in extracts):
        assert module == "facelt.extract"
        args = extract.arguments().parse_args(arguments)
        assert args.onnx is not None or args.checkpoint == "run"
        pixels = (args.mean, args.std, args.channels)
        assert pixels == (([0], [58.4, 57.1, 57.4], "bgr") if args.onnx else (None, None, None))
        kinds = ["onnx"] if args.onnx else args.embedding
        made |= {f: (kind, args.data[0]) for kind, f in zip(kinds, output_folders(args), strict=True)}
    assert evaluation[:2] == ["-m", "megaface_eval.run"]
    settings = settings_of(build_parser().parse_args(evaluation[2:]))
    sources = settings.sources
    assert (settings.gallery_size, settings.output.folder) == (10_000, Path("report"))
    for method in sources.methods:
        assert (made[method.probes], made[method.distractors]) == ((method.name, "a/faces"), (method.name, "b/faces"))
    judge = "onnx" if recogniser else "direct"
    assert (made[sources.train], made[sources.recogniser]) == ((judge, "c/faces"), (judge, "a/faces"))


def output_folders(args: argparse.Namespace) -> list[Path]:
    assert len(args.data) == 1
    return extract.output_folders(args, args.data[0])


@pytest.mark.parametrize("there", ["report", "report.features"])
def test_eval_replaces_only_what_its_own_interrupted_job_left(there, job, tmp_path):
    replace_python(tmp_path, PYTHON_THAT_RECORDS)
    (tmp_path / there).mkdir()
    arguments = ["run", "probes", "distractors", "train", "report/"]
    done = submit("eval", *arguments, job=job, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, f"error: {there} exists; remove it, or give another REPORT\n")
    done = submit("eval", *arguments, job=job | {"SLURM_RESTART_COUNT": "1"}, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all("--force" in call.split("\0") for call in (tmp_path / "python").read_text().splitlines())
