import argparse, contextlib, os
from pathlib import Path
os.environ.setdefault("OMP_NUM_THREADS", "1")
from tqdm import tqdm
from tests.bench.tables import sets
from tests.bench.tables.arms import ARMS, GROUPS
from tests.bench.tables.choosing import choose
from tests.bench.tables.running import Budget, Diverged, result
p = argparse.ArgumentParser()
p.add_argument("--folder", type=Path); p.add_argument("--seeds", type=int, default=3); p.add_argument("--epochs", type=int, nargs="+", default=[4])
p.add_argument("--arms", nargs="+")
a = p.parse_args()
a.folder.mkdir(parents=True, exist_ok=True)
names = [n for x in a.arms for n in (GROUPS[x] if x in GROUPS else [x])]
with (a.folder / "log.txt").open("a") as log:
    def quiet(f, *args):
        with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
            return f(*args)
    quiet(sets.make, a.folder)
    rates = {n: quiet(choose, ARMS[n], n, Budget(min(a.epochs), 0), a.folder) for n in tqdm(names)}
    print(rates)
    for e in a.epochs:
        for s in range(a.seeds):
            for n in tqdm(names):
                quiet(result, ARMS[n], n, Budget(e, s), rates[n], a.folder)
