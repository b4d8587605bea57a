"""What a score is: the float64 sum of the exact products of two float32 rows.

Matrix products round differently for every shape, library and machine, so they only ever propose; wherever a rank
could hang on their rounding, the pair is scored here. That makes ranks, ties included, the same for any block size,
search engine or number of processes.
"""

import numpy as np

CHUNK = 512  # pairs at a time: 2 MB of float64 at D = 512, little enough to stay in a cache


def score_pairs(left_nD: np.ndarray, left: np.ndarray, right_nD: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Scores (n, float64) of the pairs (left_nD[left[i]], right_nD[right[i]])."""
    scores = np.empty(len(left))
    for at in range(0, len(left), CHUNK):
        part = slice(at, at + CHUNK)
        # a product of two float32 is exact in float64; the pairwise sum has a fixed order for a given D
        products = np.multiply(left_nD[left[part]], right_nD[right[part]], dtype=np.float64)
        scores[part] = products.sum(axis=1)
    return scores


def product_error(dimension: int, float_type: type = np.float32) -> float:
    """How far a product of unit rows in that type can lie from their score, whatever the order of its sum.

    γ_n = nu/(1-nu) for the product (Higham, Accuracy and Stability of Numerical Algorithms, eq. 3.5), and the same in
    float64 for the score; the slack covers rows that are a rounding longer than 1.
    """
    n_u = [(dimension + 2) * np.finfo(kind).eps / 2 for kind in (float_type, np.float64)]
    return float(1.01 * sum(nu / (1 - nu) for nu in n_u))
