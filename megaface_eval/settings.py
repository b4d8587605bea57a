"""Everything that one run is asked for, as values: made once from the command line, then handed to whoever needs it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megaface_eval.features.gallery import nested_sizes
from megaface_eval.protocols.cohort import CohortRule
from megaface_eval.protocols.identification import Rules
from megaface_eval.protocols.open_set import OpenSetRule
from megaface_eval.protocols.pseudo_shot import ShotRule
from megaface_eval.protocols.threshold import ErrorRule


@dataclass(frozen=True, kw_only=True)
class MethodPaths:
    """Where the feature sets of one method lie. name: empty to take the one that the probes' meta.json gives."""

    name: str
    probes: Path
    distractors: Path
    cohort: Path | None


@dataclass(frozen=True, kw_only=True)
class Sources:
    """What is evaluated: methods on disk, or simulated ones, or reports made before; one of the three is not empty.

    mixed: features of a method may be of different recognisers, as their metas have it.
    subgroups: a TSV of attributes, which may leave out some of the probes' people if `partial`.
    train: training images under a recogniser; recogniser: the probes under it, None for the first method's own.
    probe_images, distractor_images: folders that paths.txt starts from, for thumbnails.
    """

    methods: tuple[MethodPaths, ...] = ()
    simulated: tuple[float, ...] = ()  # a mean cosine of mates for each
    compared: tuple[Path, ...] = ()
    mixed: bool = False
    train: Path | None = None
    recogniser: Path | None = None
    subgroups: Path | None = None
    partial: bool = False
    probe_images: Path | None = None
    distractor_images: Path | None = None


@dataclass(frozen=True, kw_only=True)
class NoiseLists:
    """One of `noise.MODES`, and the lists of the probes' and the distractors' noisy images."""

    mode: str
    probes: Path | None
    distractors: Path | None


@dataclass(frozen=True, kw_only=True)
class Output:
    """The report's folder; whether an existing one is replaced, the devkit's files are added, JSON is printed.

    resume: searches are kept beside the report until it is written, and go on from what is kept.
    """

    folder: Path
    force: bool
    devkit_results: bool
    json: bool
    resume: bool = False

    @property
    def kept(self) -> Path:
        """Where searches are kept."""
        return self.folder.with_name(f"{self.folder.name}.search")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A whole run.

    gallery_size: number of distractors. seeded: smaller galleries hold a seeded choice of them, not the first ones.
    open_set: None leaves it out. search: one of `choose.SEARCHES`. recorded: every option as report.json keeps it.
    """

    gallery_size: int
    sources: Sources
    rules: Rules
    shots: ShotRule
    cohort: CohortRule
    open_set: OpenSetRule | None
    errors: ErrorRule
    noise: NoiseLists
    seeded: bool
    seed: int
    search: str
    output: Output
    recorded: dict[str, Any]

    @property
    def sizes(self) -> list[int]:
        """Sizes of the nested galleries, ascending."""
        return nested_sizes(self.gallery_size)
