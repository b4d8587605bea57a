"""Loops over classes as Triton kernels, and the choice of them; triton is imported here alone, where it serves."""
