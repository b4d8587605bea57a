"""report.json, field by field: the same models write a report, read one made before, and say what is wrong with it.

Rates and intervals are shares from 0 to 1; None where they could not be measured. What only older or newer versions
write is optional or kept as it came.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from megaface_eval.errors import InputError
from megaface_eval.protocols.open_set import FPIRS
from megaface_eval.protocols.verification import FARS

FORMAT = 1
HISTOGRAM = np.linspace(-1, 1, 201)  # edges of the bins that scores are counted in
QUOTED = 40  # characters of a wrong value that a message shows


def _at_each(name: str, levels: tuple[float, ...]) -> AfterValidator:
    """Holds a list to one entry for each of the levels, in turn."""

    def check(entries: list) -> list:
        if [getattr(entry, name) for entry in entries] != list(levels):
            raise ValueError(f"expected one entry at each {name} of {list(levels)}")
        return entries

    return AfterValidator(check)


def _with_cosine(scores: dict | None) -> dict | None:
    if scores is not None and "cosine" not in scores:
        raise ValueError("expected cosine among the scores")
    return scores


class Part(BaseModel):
    """A part of a report: types to the letter, no NaN, further fields kept."""

    model_config = ConfigDict(strict=True, extra="allow", frozen=True, allow_inf_nan=False, protected_namespaces=())


class Interval(Part):
    """A 95 % interval over identities; None where they are too few."""

    low: float | None
    high: float | None


class Cell(Interval):
    """One figure of the table and what it was counted over; all None in a column that was not measured."""

    rate: float | None
    trials: int | None
    probes: int | None
    identities: int | None


class SizeRate(Interval):
    """Rank-1 in one of the nested galleries."""

    gallery: int
    rate: float | None


class Curve(Part):
    """A curve's points: lists of one length."""

    @model_validator(mode="after")
    def _one_length(self):
        lengths = {name: len(values) for name, values in self if isinstance(values, list)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"lists of lengths {lengths}, expected one value of each for every point")
        return self


class Cmc(Curve):
    """Cumulative match in the largest gallery: ranks from 0 that occur, and the share of mates found by each."""

    rank: Annotated[list[int], Field(min_length=1)]
    recall: list[float]


class Roc(Curve):
    """False and true accept rates, ascending, and the thresholds; older reports have none."""

    far: list[float]
    tar: list[float]
    threshold: list[float] | None = None


class TarAtFar(Interval):
    """TAR at one FAR, and the lowest score accepted there."""

    far: float
    tar: float | None
    threshold: float | None = None


class Verification(Part):
    """One against one. sample: None if all probes were compared, or which were."""

    mated_pairs: int | None = None
    nonmated_pairs: int | None = None
    eer: float | None
    tar_at_far: Annotated[list[TarAtFar], _at_each("far", FARS)]
    roc: Roc
    sample: dict[str, Any] | None = None


class TpirAtFpir(Interval):
    """TPIR at one FPIR, in both galleries and their mean; the interval is the mean's."""

    fpir: float
    g1: float | None
    g2: float | None
    mean: float | None


class OpenSetCurve(Curve):
    """FPIR and TPIR of one gallery, ascending."""

    fpir: list[float]
    tpir: list[float]


class OpenSet(Part):
    """Open-set identification under one score; numbers of mated and non-mated probes in G1 and G2."""

    tpir_at_fpir: Annotated[list[TpirAtFpir], _at_each("fpir", FPIRS)]
    curves: Annotated[list[OpenSetCurve], Field(min_length=2, max_length=2)]
    mated: list[int] = []
    nonmated: list[int] = []


class RejectAt(Interval):
    """Error once a share of the images is rejected, over the trials that are left."""

    share: float
    rate: float | None
    trials: int


class RejectCurve(Curve):
    """Error by share of images rejected, until no trial is left."""

    share: list[float]
    error: list[float]


class Reject(Part):
    """One error against reject. mean: over the first 20 % rejected. relative: mean over the error of all images."""

    curve: RejectCurve
    at: list[RejectAt]
    mean: float | None
    relative: float | None


class Quality(Part):
    """Errors against reject by one quality, at the threshold that refuses non-mated scores up to `refused`."""

    fmr: float
    refused: float
    false_non_match: Reject
    rank1: Reject


class GroupRate(Interval):
    """An error of a group. weight: identities of equal share behind it. effective: independent trials behind it."""

    rate: float | None
    pairs: int
    weight: float | None
    effective: float | None


class GroupErrors(Part):
    """False matches within a group, false non-matches of its members."""

    attribute: str
    group: str
    identities: int
    false_non_match: GroupRate
    false_match: GroupRate


class Fairness(Part):
    """Errors by group at one threshold: `fmr` of all non-mated pairs pass, scores up to `refused` are refused."""

    fmr: float
    refused: float
    groups: list[GroupErrors]


Bins = Annotated[list[float], Field(min_length=len(HISTOGRAM) - 1, max_length=len(HISTOGRAM) - 1)]


class Scores(Part):
    """Shares of scores between the edges: of mates, of pairs of two people's probes, of nearest distractors."""

    edges: Annotated[list[float], Field(min_length=len(HISTOGRAM), max_length=len(HISTOGRAM))]
    mates: Bins
    impostors: Bins
    nearest: Bins


class MissImage(Part):
    """One of the images of a miss: row in its feature set, path if known, thumbnail as a data URI."""

    role: str
    row: int
    path: str | None
    thumbnail: str | None


class Miss(Part):
    """A mate beside its nearest distractor, which beats it or, among hits, does not. rank: from 1."""

    identity: str
    rank: int
    mate_score: float
    distractor_score: float
    images: list[MissImage]


class MethodReport(Part):
    """Everything of one method; probes, distractors, cohort: where its features lay.

    ties: trials in which an impostor scores exactly as the mate does.
    """

    name: str
    probes: str | None = None
    distractors: str | None = None
    cohort: str | None = None
    meta: dict[str, Any] = {}
    cells: dict[str, Cell]
    sizes: Annotated[list[SizeRate], Field(min_length=1)]
    ties: int | None = None
    cmc: Cmc
    verification: Verification | None
    open_set: Annotated[dict[str, OpenSet] | None, AfterValidator(_with_cosine)]
    quality: dict[str, Quality] | None = None
    fairness: Fairness | None = None
    scores: Scores
    misses: list[Miss]
    hits: list[Miss] = []


class SettingsReport(Part):
    """The options in force, as on the command line; those named here must agree between reports compared."""

    protocol: str
    ties: str
    impostors: str
    noise: str
    seed: Annotated[int, Field(ge=0)]


class GallerySizes(Part):
    """The largest gallery, and all nested ones."""

    size: int
    sizes: list[int]


class ProbeCounts(Part):
    """Numbers of probe images and identities."""

    images: int
    identities: int


class ColumnHead(Part):
    """A column of the table, under the heading `group`."""

    key: str
    title: str
    group: str


class Heading(Part):
    """A heading over so many columns."""

    title: str
    columns: int


class Claim(Interval):
    """One rate less another. p: the level at which its interval would touch 0. All None where identities are too few.

    shown: whether it holds among all claims of the report (Holm). least: a difference as large would have held.
    """

    p: float | None = None
    shown: bool | None = None
    least: float | None = None


class Difference(Claim):
    """`method` less `than`, in one column."""

    method: str
    than: str
    column: str
    difference: float


class Gap(Claim):
    """A method's rate on the sub-group `group` less that on the sub-group `than`. of: which rate."""

    of: Literal["rank-1", "false non-match", "false match"] = "rank-1"
    method: str
    group: str
    than: str
    difference: float


class PseudoShotHistogram(Part):
    """Numbers of probes that have each number of similar training images: cosine above `similarity`."""

    similarity: float
    similar: list[int]
    probes: list[int]


class Report(Part):
    """report.json."""

    format: Literal[1]
    made: str = ""
    command: str
    versions: dict[str, str]
    settings: SettingsReport
    gallery: GallerySizes
    probes: ProbeCounts
    columns: Annotated[list[ColumnHead], Field(min_length=1)]
    groups: list[Heading]
    methods: Annotated[list[MethodReport], Field(min_length=1)]
    differences: list[Difference] = []
    gaps: list[Gap] = []
    statements: list[str] = []
    conventions: list[str]
    pseudo_shots: PseudoShotHistogram | None = None

    @model_validator(mode="after")
    def _every_cell(self):
        for number, method in enumerate(self.methods):
            missing = [column.key for column in self.columns if column.key not in method.cells]
            if missing:
                raise ValueError(f"methods[{number}].cells lacks {missing[0]!r}, expected a cell for every column")
        return self

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON."""
        return json.dumps(self.model_dump(exclude_unset=True), indent=indent, allow_nan=False)


def read_report(value: Any, where: Path) -> Report:
    """The report that a JSON value holds. Raises InputError: the place in the file, what was found and expected."""
    try:
        return Report.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
    problem = "is missing"
    if first["type"] != "missing":
        expected = first["msg"].removeprefix("Value error, ")
        expected = expected.replace("Input should be", "expected").replace("List should have", "expected")
        problem = f"is {_shortened(first['input'])}, {expected}"
    raise InputError(
        f"{where}: not a report of this program ({_place(first['loc'])} in report.json {problem}); "
        "expected its --output folder"
    )


def _place(location: tuple[int | str, ...]) -> str:
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location]
    return "".join(parts).removeprefix(".") or "the whole"


def _shortened(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= QUOTED else f"{text[:QUOTED]}…"
