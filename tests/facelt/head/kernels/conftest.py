"""Without a card, kernels run in Triton's interpreter: told here, before anything has imported triton."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
