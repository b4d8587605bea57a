"""Opening what the command line names: methods, training set, sub-groups, noise lists."""

from argparse import Namespace
from dataclasses import dataclass, replace

import numpy as np

from megaface_eval.errors import InputError
from megaface_eval.evaluate import Method, check_methods
from megaface_eval.features import noise
from megaface_eval.features.feature_set import FeatureSet, load_features
from megaface_eval.features.simulate import make_scene
from megaface_eval.features.subgroups import subgroup_masks
from megaface_eval.options import parse_method
from megaface_eval.processes import Ranks
from megaface_eval.protocols.pseudo_shot import SIMILARITY, count_similar, quantile_threshold
from megaface_eval.search.candidates import Scan


@dataclass(frozen=True)
class Inputs:
    """Everything an evaluation takes. recogniser: the probes under the recogniser of `train`. dropped: distractor rows
    (bool) that a noise list takes out. removed: what was removed or replaced, in words."""

    methods: list[Method]
    train: FeatureSet | None
    recogniser: FeatureSet | None
    groups: dict[str, np.ndarray]
    dropped: np.ndarray | None = None
    removed: tuple[str, ...] = ()


def open_inputs(options: Namespace) -> Inputs:
    """Open and check all that the options name. Raises InputError for whatever does not fit together."""
    inputs = _simulated(options) if options.simulate else _from_disk(options)
    check_methods(inputs.methods)
    probes = inputs.methods[0].probes
    if inputs.recogniser is not None and not np.array_equal(inputs.recogniser.labels, probes.labels):
        raise InputError(
            f"{inputs.recogniser.where}: labels do not match those of the probes in {probes.where}; "
            "expected the same probes in the same order under the recogniser of --train"
        )
    for root, sets in (
        (options.probe_images, [method.probes for method in inputs.methods]),
        (options.distractor_images, [method.distractors for method in inputs.methods]),
    ):
        if root is not None and _with_paths(sets).paths is None:
            raise InputError(f"{sets[0].where}: thumbnails need paths.txt, a path below {root} for each row")
    inputs = _clean(inputs, options)
    if options.subgroups is not None:
        inputs = replace(inputs, groups=subgroup_masks(options.subgroups, inputs.methods[0].probes))
    return inputs


def _simulated(options: Namespace) -> Inputs:
    scenes = [make_scene(options.gallery, cosine, options.seed) for cosine in options.mate_cosine]
    names = [f"simulated {cosine:g}" for cosine in options.mate_cosine]
    # one seed gives all scenes the same people and distractors; only how alike their images are differs
    methods = [Method(name, s.probes, s.distractors) for name, s in zip(names, scenes, strict=True)]
    return Inputs(methods, scenes[0].train, scenes[0].recogniser_probes, scenes[0].groups)


def _from_disk(options: Namespace) -> Inputs:
    if options.method:
        named = [parse_method(text) for text in options.method]
    else:
        named = [("", options.probes, options.distractors)]
    cohorts = [load_features(path) for path in options.cohort]
    if cohorts and len(cohorts) != len(named):
        raise InputError(f"{len(cohorts)} --cohort for {len(named)} methods; expected one for each, in the same order")
    methods = []
    for i, (name, probes_path, distractors_path) in enumerate(named):
        probes, distractors = load_features(probes_path), load_features(distractors_path)
        name = " ".join((name or str(probes.meta.get("method") or probes_path.name)).split())
        methods.append(Method(name, probes, distractors, cohorts[i] if cohorts else None))
    train = load_features(options.train) if options.train else None
    recogniser = load_features(options.probes_recogniser) if options.probes_recogniser else None
    if train is not None and recogniser is None:
        recogniser = methods[0].probes
    return Inputs(methods, train, recogniser, {})


def _clean(inputs: Inputs, options: Namespace) -> Inputs:
    """Apply the noise lists."""
    if options.noise == "keep":
        return inputs
    methods, recogniser, dropped, removed = inputs.methods, inputs.recogniser, None, []
    if options.megaface_noise is not None:
        listed = noise.read_noise(options.megaface_noise)
        dropped = noise.noisy_rows(_with_paths([m.distractors for m in methods]), listed, depth=3)
        removed.append(f"{int(dropped.sum())} of {len(dropped)} distractors removed (noise list of {len(listed)})")
    if options.facescrub_noise is not None:
        listed = noise.read_noise(options.facescrub_noise)
        noisy = noise.noisy_rows(_with_paths([m.probes for m in methods]), listed, depth=1)
        if options.noise == "drop":
            methods = [replace(method, probes=noise.choose(method.probes, ~noisy)) for method in methods]
            recogniser = recogniser and noise.choose(recogniser, ~noisy)
            removed.append(f"{int(noisy.sum())} of {len(noisy)} probes removed (noise list of {len(listed)})")
        else:
            shaken = [noise.replace_noisy(method.probes, noisy, options.seed) for method in methods]
            methods = [replace(method, probes=probes) for method, probes in zip(methods, shaken, strict=True)]
            removed.append(f"{int(noisy.sum())} of {len(noisy)} probes replaced by their person's clean mean")
    return replace(inputs, methods=methods, recogniser=recogniser, dropped=dropped, removed=tuple(removed))


def _with_paths(sets: list[FeatureSet]) -> FeatureSet:
    return next((one for one in sets if one.paths is not None), sets[0])


def pseudo_shots(
    options: Namespace, inputs: Inputs, scan: Scan, ranks: Ranks
) -> tuple[np.ndarray | None, float | None]:
    """Similar training images of each probe and the threshold they were counted at; None without a training set."""
    if inputs.train is None:
        return None, None
    if options.similarity_quantile is not None:
        threshold = quantile_threshold(inputs.recogniser, inputs.train, options.similarity_quantile, options.seed)
    else:
        threshold = SIMILARITY if options.similarity is None else options.similarity
    counts = count_similar(inputs.recogniser, inputs.train, threshold, scan=scan, ranks=ranks, progress="pseudo-shots")
    return counts, threshold
