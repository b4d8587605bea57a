"""Faces found in photographs and warped to the recognisers' template; only here are torch and onnxruntime named."""
