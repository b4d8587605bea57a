"""Tables 3 and 4 of the paper in miniature: every method, at equal images seen, on drawn people with a long tail.

    bash jobs/tables_small.sh [--seeds 3] [--folder FOLDER]

For each seed: one plain stage of so many epochs on 300 drawn people, 5,000 images; from it every arm for as
many images again. Known people are named by the arm's classifier and by its memory, strangers told from them, other
strangers found among 1,000 distractors; ORL's 40 people are real ones. Learning rates (0.03 or 0.1) are chosen for each
arm on validation people at the first seed and 4 + 4 epochs, thresholds of F on validation people of each run.
The FOLDER keeps what is done: the same command again goes on where it stopped. It ends with the tables, which are in
FOLDER/epochs-N.md too.
"""

import argparse
import contextlib
import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

os.environ.setdefault("OMP_NUM_THREADS", "1")  # a small network gains nothing from more

from facelt.open_world.readings.reading import Columns
from tests.bench.tables import page, sets
from tests.bench.tables.arms import ARMS, BASELINE, GROUPS
from tests.bench.tables.choosing import RATES, choose
from tests.bench.tables.comparing import Sample, sample
from tests.bench.tables.measuring import EMBEDDINGS, Facts, identified, known_people
from tests.bench.tables.running import Budget, Diverged, result

T = TypeVar("T")


def main() -> None:
    args = arguments().parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    given = (name for group in args.arms for name in GROUPS.get(group, [group]))
    names = list(dict.fromkeys([BASELINE[0], *given]))
    began = time.monotonic()
    with (args.folder / "log.txt").open("a", encoding="utf-8") as log:

        def quietly(make: Callable[[], T]) -> T:
            with contextlib.redirect_stderr(log), contextlib.redirect_stdout(log):
                return make()

        quietly(lambda: sets.make(args.folder))
        rates, diverged = {}, []
        for name in tqdm(names, desc="learning rates", unit="arm"):
            try:
                rates[name] = quietly(lambda name=name: choose(ARMS[name], name, args.folder))
            except Diverged:
                diverged.append(name)
        pages = [f"Learning rates, of {' and '.join(f'{r / 10:g}' for r in RATES)}: {in_groups(rates)}."]
        if diverged:
            pages.append(f"Diverged at each: {', '.join(diverged)}.")
        found: dict[str, list[Columns]] = {name: [] for name in rates}
        bar = tqdm(total=args.seeds * len(rates), desc=f"{args.epochs} + {args.epochs} epochs", unit="run")
        for seed, (name, rate) in itertools.product(range(args.seeds), rates.items()):
            wanted = (ARMS[name], name, Budget(args.epochs, seed), rate, args.folder)
            with contextlib.suppress(Diverged):
                found[name].append(quietly(lambda wanted=wanted: result(*wanted)))
            bar.update()
        bar.close()
    whole = {name: runs for name, runs in found.items() if len(runs) == args.seeds}
    pages.append(report(whole, args.folder, f"{args.epochs} + {args.epochs} epochs, {args.seeds} seeds"))
    if lost := [name for name in found if name not in whole]:
        pages.append(f"Diverged at some seed, and left out: {', '.join(lost)}.")
    text, target = "\n\n".join(pages), args.folder / f"epochs-{args.epochs}.md"
    target.write_text(text + "\n", encoding="utf-8")
    print(text)
    print(f"\nwrote {target} after {(time.monotonic() - began) / 60:.0f} minutes")


def in_groups(rates: dict[str, float]) -> str:
    """Which arms have which rate."""
    return "; ".join(
        f"{rate / 10:g} for {', '.join(name for name, of in rates.items() if of == rate)}"
        for rate in sorted(set(rates.values()))
    )


def report(found: dict[str, list[Columns]], folder: Path, budget: str) -> str:
    """Both tables of one budget, and what they say."""
    facts = Facts.of(folder)
    classes, people = len(facts.counts_C), facts.people
    known: dict[page.Row, dict[str, Sample]] = {}
    strangers: dict[page.Row, dict[str, Sample]] = {}
    for name, runs in tqdm(found.items(), desc="intervals", unit="arm"):
        for reading in ARMS[name].reads:
            figures = [known_people(run, reading, facts) for run in runs]
            known[name, reading] = sample(figures, classes, people["known"])
        for embedding in EMBEDDINGS:
            row = {}
            for who in page.STRANGER_COLUMNS:
                figures = [figure for run in runs if (figure := identified(run, embedding, who, facts)) is not None]
                if figures:
                    row |= sample([{who: figure} for figure in figures], classes, people[who])
            if row:
                strangers[name, embedding] = row
    parts = [
        f"## {budget}",
        "Known people: top-1 of the closed set, F of the open set, AUROC of strangers, %. ▲ ▼: above or below plain by "
        "its classifier outside chance.",
        page.table(known, page.KNOWN_COLUMNS, BASELINE, ("arm", "read by")),
        "\n".join(page.in_words(known, page.KNOWN_COLUMNS, BASELINE)),
        "Differences in points, 95 % interval; bold: outside chance.",
        page.versus(known, page.known_pairs(known), page.KNOWN_COLUMNS),
        "Strangers: rank-1 among 1,000 distractors, %. ▲ ▼: above or below plain outside chance. Control: meta with "
        "the memory's mean in place of its content.",
        page.table(strangers, page.STRANGER_COLUMNS, ("plain", "direct"), ("arm", "embedding")),
        "\n".join(page.in_words(strangers, page.STRANGER_COLUMNS, ("plain", "direct"))),
        page.versus(strangers, page.stranger_pairs(strangers), page.STRANGER_COLUMNS),
    ]
    return "\n\n".join(parts)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jobs/tables_small.sh", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where to keep what is done")
    parser.add_argument("--seeds", type=int, default=3, choices=range(1, 10), metavar="N", help="default: 3")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of either stage (default: 4)")
    parser.add_argument(
        "--arms",
        nargs="+",
        default=["methods", "parts"],
        choices=[*GROUPS, *ARMS],
        metavar="ARM",
        help=f"groups: {', '.join(GROUPS)} (default: methods parts), or of: {', '.join(ARMS)}",
    )
    return parser


if __name__ == "__main__":
    main()
