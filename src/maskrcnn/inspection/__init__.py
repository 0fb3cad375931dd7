"""Seeing inside: named tensors of a run."""
