"""Whether the memory lives: measured on the batch of a log step, and a warning in words when it does not.

B: images of this rank, G: of all ranks, D: embedding size, k: classes of this rank.
"""

import torch
from torch import Tensor

from facelt.head.heads import Head, MetaHead, Seen
from facelt.parallel import collectives, group

# A centroid this far from where its class is now, as a share of the class mean's norm, tells of another time.
STALE = 0.3
# tanh at 0.85 passes a quarter of the gradient that it passes at 0.
SATURATED = 0.85
# Of the classes in a batch of at least FEW, the share that the memory must tell apart.
COLLAPSED, FEW = 0.1, 8


@torch.no_grad()
def measure(head: Head, seen: Seen | None) -> dict[str, float]:
    """Figures of a step of a meta head ({} for another head), the same on all ranks, which must call it alike.

    seen: what that step's `HeadOutput` holds.

    memory_drift        distance of centroids to where their classes are now, as a share of the class means' norm
    selector            mean |e|
    retrieved_classes   distinct classes that weigh most in the images' reads; batch_classes: distinct labels
    reach_10, _50, _90  quantiles of γ
    hinge_active        share of the images within the hinge of the centroid loss; the released one has one for all
    memory_share        ‖e⊗m‖ / (‖v‖ + ‖e⊗m‖), on average: how much of the embedding's length the memory may make
    temperature         of cosine retrieval
    Four collectives of O(G) numbers and one product of G x k x D.
    """
    if not isinstance(head, MetaHead) or seen is None:
        return {}
    ranks, rank = group.world_size(), group.rank()
    direct_BD = seen.direct_GD.tensor_split(ranks)[rank]
    memory_B = (seen.concept_BD * seen.memory_BD).norm(dim=1)
    share_B = memory_B / (direct_BD.norm(dim=1) + memory_B).clamp(min=1e-12)
    selector_B, reach_B = seen.concept_BD.abs().mean(1), seen.reach_B
    hinge_B = torch.zeros_like(reach_B) if seen.hinge_B is None else seen.hinge_B.to(reach_B.dtype)
    figures_G4 = collectives.gather(torch.stack([selector_B, share_B, reach_B, hinge_B], 1)).double()
    low, middle, high = torch.quantile(figures_G4[:, 2], figures_G4.new_tensor([0.1, 0.5, 0.9])).tolist()
    selector, share, _, hinge = figures_G4.mean(0).tolist()
    values = {"reach_10": low, "reach_50": middle, "reach_90": high}
    if head.knobs.memory:
        values["memory_share"] = share
        if head.knobs.selector != "one":
            values["selector"] = selector
    if seen.hinge_B is not None:
        values["hinge_active"] = hinge
    values["batch_classes"] = len(seen.labels_G.unique())
    if head.memory.retrieves:
        values["retrieved_classes"] = len(head.memory.retrieved(seen.direct_GD, seen.temperature).unique())
    if seen.temperature is not None:
        values["temperature"] = seen.temperature.item()
    return values | _drift(head, seen.direct_GD, seen.labels_G)


def _drift(head: MetaHead, direct_GD: Tensor, labels_G: Tensor) -> dict[str, float]:
    """memory_drift over the classes with two images or more in the batch; {} where there is none.

    The mean of n images misses the class's own by s²/n, with s² their variance: ‖c - mean‖² - s²/n and ‖mean‖² - s²/n
    have the right expectations.
    """
    rows, columns = head.partition.own(labels_G)
    classes, inverse, n_c = columns.unique(return_inverse=True, return_counts=True)
    f_nD, several_c = direct_GD[rows].double(), n_c > 1
    mean_cD = f_nD.new_zeros(len(classes), f_nD.shape[1]).index_add_(0, inverse, f_nD) / n_c[:, None]
    spread_c = f_nD.new_zeros(len(classes)).index_add_(0, inverse, (f_nD - mean_cD[inverse]).square().sum(1))
    noise_c = spread_c / (n_c - 1).clamp(min=1) / n_c
    apart_c = (head.memory.centroids[classes].double() - mean_cD).square().sum(1) - noise_c
    size_c = mean_cD.square().sum(1) - noise_c
    sums = torch.stack([x[several_c].sum() for x in (apart_c, size_c)])
    apart, size = collectives.all_sum(sums).tolist()
    return {"memory_drift": (max(apart, 0.0) / size) ** 0.5} if size > 0 else {}


def warnings(values: dict[str, float]) -> dict[str, str]:
    """What is wrong with a memory of such figures: kind -> a sentence with what to try."""
    found = {}
    if values.get("memory_drift", 0) > STALE:
        found["stale"] = (
            f"the memory is stale: centroids lie {values['memory_drift']:.0%} of a class mean's length away from their "
            'classes; try head.centroid_update="mean"'
        )
    if values.get("selector", 0) > SATURATED:
        found["saturated"] = (
            f"the concept selector is saturated: mean |e| is {values['selector']:.2f}, so it selects nothing; "
            'try head.selector="zero"'
        )
    classes, retrieved = values.get("batch_classes", 0), values.get("retrieved_classes")
    if retrieved is not None and classes >= FEW and retrieved <= COLLAPSED * classes:
        found["collapsed"] = (
            f"retrieval has collapsed: images of {classes:.0f} classes read {retrieved:.0f} of them; "
            'try head.retrieval="cosine"'
        )
    if values.get("hinge_active") == 0:
        found["inert"] = (
            "the hinge of the centroid loss is zero for every image of the batch: equation 9 teaches nothing so, the "
            "released loss only attracts; try head.centroid_margin beyond the distances that it is compared with"
        )
    return found
