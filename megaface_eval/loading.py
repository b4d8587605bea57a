"""Opening what the settings name: methods, training set, sub-groups, noise lists."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.features import noise
from megaface_eval.features.feature_set import (
    FeatureSet,
    check_spread,
    load_features,
    same_dimension,
    same_recogniser,
    same_rows,
)
from megaface_eval.features.simulate import make_scene
from megaface_eval.features.subgroups import find_subgroups
from megaface_eval.settings import MethodPaths, Settings


@dataclass(frozen=True)
class Method:
    """One recogniser's view of the probes and of the distractors, and of a score cohort if there is one."""

    name: str
    probes: FeatureSet
    distractors: FeatureSet
    cohort: FeatureSet | None = None


@dataclass(frozen=True)
class Likeness:
    """What pseudo-shots are counted on: the probes and the training images, both under one recogniser."""

    probes: FeatureSet
    train: FeatureSet


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """All feature sets of an evaluation.

    groups: masks over the probes (bool, Q), as `find_subgroups` gives them. dropped: distractor rows (bool, N)
    that a noise list takes out. removed: what was removed or replaced, in words. warnings: what looks wrong, in words.
    """

    methods: list[Method]
    likeness: Likeness | None = None
    groups: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    dropped: np.ndarray | None = None
    removed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def probes(self) -> FeatureSet:
        """The first method's probes; every other method has the same images in the same order."""
        return self.methods[0].probes


def load(settings: Settings) -> Loaded:
    """Open and check all that the settings name. Raises InputError for whatever does not fit together."""
    loaded = _simulated(settings) if settings.sources.simulated else _from_disk(settings)
    check_methods(loaded.methods)
    likeness = loaded.likeness
    if not settings.sources.simulated:
        check_likeness(loaded, settings.sources.mixed)
        loaded = replace(loaded, warnings=tuple(suspicions(loaded)))
    if likeness is not None and not np.array_equal(likeness.probes.labels, loaded.probes.labels):
        raise InputError(
            f"{likeness.probes.where}: labels do not match those of the probes in {loaded.probes.where}; "
            "expected the same probes in the same order under the recogniser of --train"
        )
    for root, sets in (
        (settings.sources.probe_images, [method.probes for method in loaded.methods]),
        (settings.sources.distractor_images, [method.distractors for method in loaded.methods]),
    ):
        if root is not None and _with_paths(sets).paths is None:
            raise InputError(f"{sets[0].where}: thumbnails need paths.txt, a path below {root} for each row")
    loaded = _clean(loaded, settings)
    if settings.sources.subgroups is not None:
        found = find_subgroups(settings.sources.subgroups, loaded.probes, partial=settings.sources.partial)
        warnings = (*loaded.warnings, *filter(None, [found.left_out]))
        loaded = replace(loaded, groups=found.masks, warnings=warnings)
    return loaded


def check_methods(methods: list[Method]) -> None:
    """Raise InputError unless all methods saw the same probes and each compares like with like."""
    first = methods[0].probes
    names = [method.name for method in methods]
    if len(set(names)) < len(names):
        raise InputError(f"methods {', '.join(names)}: a name is used twice; expected one name a method")
    for method in methods:
        same_dimension(method.probes, method.distractors)
        if method.cohort is not None:
            same_dimension(method.probes, method.cohort)
        if not np.array_equal(method.probes.labels, first.labels):
            raise InputError(
                f"{method.probes.where} has {len(method.probes)} probes whose labels do not match those of "
                f"{first.where} ({len(first)}); expected the same probes in the same order"
            )


def check_likeness(loaded: Loaded, mixed: bool = False) -> None:
    """Raise InputError unless what is compared is of one recogniser, whose features differ. mixed: of any."""
    likeness = loaded.likeness
    pairs = [(method.probes, method.distractors) for method in loaded.methods]
    for one, other in [*pairs, (likeness.probes, likeness.train)] if likeness is not None else pairs:
        if not mixed:
            same_recogniser(one, other)
        check_spread(one, other)


def suspicions(loaded: Loaded) -> Iterator[str]:
    """What may have been mixed up on the command line, in words."""
    likeness = loaded.likeness
    for method in loaded.methods:
        probes, distractors = method.probes, method.distractors
        if same_rows(probes, distractors):
            yield f"{method.name}: probes and distractors are the same features"
        elif _mated(probes) < 0.5 < _mated(distractors):
            yield (
                f"{method.name}: most distractors have another image of their identity and most probes have none; are "
                "--probes and --distractors swapped?"
            )
        if likeness is not None and same_rows(probes, likeness.train):
            yield f"{method.name}: --train and the probes are the same features, so each probe counts itself"
    if likeness is not None and likeness.probes is not loaded.probes and same_rows(likeness.probes, likeness.train):
        yield "--train and --probes-recogniser are the same features, so each probe counts itself"


def _mated(features: FeatureSet) -> float:
    """Share of rows that have another of their identity; none where all have one label, as sets without labels do."""
    _, place, images = np.unique(features.labels, return_inverse=True, return_counts=True)
    return float((images[place] > 1).mean()) if len(images) > 1 else 0.0


def _simulated(settings: Settings) -> Loaded:
    cosines = settings.sources.simulated
    # one seed gives all scenes the same people and distractors; only how alike their images are differs
    scenes = [make_scene(settings.gallery_size, cosine, settings.seed) for cosine in cosines]
    methods = [
        Method(f"simulated {cosine:g}", s.probes, s.distractors) for cosine, s in zip(cosines, scenes, strict=True)
    ]
    first = scenes[0]
    return Loaded(methods=methods, likeness=Likeness(first.recogniser_probes, first.train), groups=first.groups)


def _from_disk(settings: Settings) -> Loaded:
    sources = settings.sources
    methods = [_load_method(paths) for paths in sources.methods]
    if sources.train is None:
        return Loaded(methods=methods)
    train = load_features(sources.train)
    probes = load_features(sources.recogniser) if sources.recogniser is not None else methods[0].probes
    return Loaded(methods=methods, likeness=Likeness(probes, train))


def _load_method(paths: MethodPaths) -> Method:
    cohort = load_features(paths.cohort) if paths.cohort is not None else None
    probes, distractors = load_features(paths.probes), load_features(paths.distractors)
    name = paths.name or str(probes.meta.get("method") or paths.probes.name)
    return Method(" ".join(name.split()), probes, distractors, cohort)


def _clean(loaded: Loaded, settings: Settings) -> Loaded:
    """Apply the noise lists."""
    lists, methods, likeness, dropped, removed = settings.noise, loaded.methods, loaded.likeness, None, []
    if lists.distractors is not None:
        listed = noise.read_noise(lists.distractors)
        dropped = noise.noisy_rows(_with_paths([m.distractors for m in methods]), listed, depth=3)
        removed.append(f"{int(dropped.sum())} of {len(dropped)} distractors removed (noise list of {len(listed)})")
    if lists.probes is not None:
        listed = noise.read_noise(lists.probes)
        noisy = noise.noisy_rows(_with_paths([m.probes for m in methods]), listed, depth=1)
        if lists.mode == "drop":
            methods = [replace(method, probes=noise.choose(method.probes, ~noisy)) for method in methods]
            if likeness is not None:
                likeness = replace(likeness, probes=noise.choose(likeness.probes, ~noisy))
            removed.append(f"{int(noisy.sum())} of {len(noisy)} probes removed (noise list of {len(listed)})")
        else:
            methods = [
                replace(method, probes=noise.replace_noisy(method.probes, noisy, settings.seed)) for method in methods
            ]
            removed.append(f"{int(noisy.sum())} of {len(noisy)} probes replaced by their person's clean mean")
    return replace(loaded, methods=methods, likeness=likeness, dropped=dropped, removed=tuple(removed))


def _with_paths(sets: list[FeatureSet]) -> FeatureSet:
    return next((one for one in sets if one.paths is not None), sets[0])
