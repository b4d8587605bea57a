"""Compiles every kernel for an H100 on a machine without one, and says what a program of it takes.

    python tests/facelt/compile_kernels.py [float32] [tf32] [bfloat16]

One line a kernel: name, operands, bytes of shared memory. In a process of its own, for the interpreter must not be on.
"""

import sys
from typing import Any

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from facelt.head.kernels import cross_entropy, read

CARD = GPUTarget("cuda", 90, 32)
FLOAT32: dict[str, Any] = {"LOW": tl.float32, "SUM": tl.float32, "PRECISION": "ieee", "WIDE": False}
ROUNDINGS = {"float32": FLOAT32, "tf32": FLOAT32 | {"PRECISION": "tf32"}, "bfloat16": FLOAT32 | {"LOW": tl.bfloat16}}
SCALARS = {"G", "D", "N", "span", "groups", "begin", "width"}
TILES = {"TG": 64, "TN": 64, "TD": 32}
# Of 512 numbers an embedding, as `read` has them; float32 without rounding is held in smaller tiles.
HELD = {"float32": {"TG": 16, "TN": 16}, "tf32": {"TG": 32, "TN": 32}, "bfloat16": {"TG": 32, "TN": 32}}
READ = {"TD": 32, "ALL_D": 512, "GROUP": 8, "SOFTMAX": True}
# What is absent: of a cosine classifier over all classes; of a linear one over a sample; and of the memory likewise.
COSINE: dict[str, Any] = dict.fromkeys(("bias", "factor", "chosen", "dbias", "dfactor"))
LINEAR: dict[str, Any] = {"inverse_norm": None, "along": None}
CASES: list[tuple[Any, str, dict[str, Any]]] = []
for kind, low in ROUNDINGS.items():
    for absent in (COSINE, LINEAR):
        CASES += [
            (fn, kind, TILES | absent | low) for fn in (cross_entropy.scores_forward, cross_entropy.scores_backward)
        ]
    by_cosine, by_keys = {"bias": None, "chosen": None}, {"scale": None, "place": None}
    CASES.append((read.read_forward, kind, READ | HELD[kind] | low | by_cosine | {"OF_CENTROIDS": True}))
    CASES.append((read.read_forward, kind, READ | HELD[kind] | low | by_keys | {"OF_CENTROIDS": False}))
    CASES.append((read.read_backward, kind, TILES | low | by_cosine | {"dbias": None, "SOFTMAX": True}))
    CASES.append((read.read_backward, kind, TILES | low | by_keys | LINEAR | {"SOFTMAX": True}))
# One row and one class, whose numbers Triton takes as constants; linear weights of the read.
CASES.append((cross_entropy.scores_forward, "bfloat16", TILES | COSINE | ROUNDINGS["bfloat16"] | {"G": 1, "N": 1}))
CASES.append((read.read_backward, "bfloat16", TILES | LINEAR | ROUNDINGS["bfloat16"] | {"SOFTMAX": False, "width": 1}))


def kind_of(name: str, low: str) -> str:
    """The type of a kernel's argument."""
    if name in SCALARS:
        return "i32"
    if name in ("place", "chosen"):
        return "*i64"
    return "*bf16" if low == "bfloat16" and name in ("dl", "p") else "*fp32"


def compiled(fn: Any, low: str, fixed: dict[str, Any]) -> Any:
    names = fn.arg_names
    fixed = {name: value for name, value in fixed.items() if name in names}
    signature = {name: "constexpr" if name in fixed else kind_of(name, low) for name in names}
    source = ASTSource(fn, signature=signature, constexprs={(names.index(n),): v for n, v in fixed.items()})
    return triton.compile(source, target=CARD, options={"num_warps": 8})


if __name__ == "__main__":
    for fn, low, fixed in [case for case in CASES if case[1] in (sys.argv[1:] or ROUNDINGS)]:
        print(fn.__name__, low, compiled(fn, low, fixed).metadata.shared, flush=True)
