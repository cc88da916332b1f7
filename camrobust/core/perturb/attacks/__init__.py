"""Perturbations that follow a model's gradient, against its prediction or against its map."""
