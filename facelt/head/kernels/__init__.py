"""Loops over blocks of classes as Triton kernels, and the choice between the two; triton is imported here alone, and only where it serves."""
