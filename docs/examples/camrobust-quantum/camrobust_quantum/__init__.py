"""A hybrid network for camrobust; the configuration names `camrobust_quantum.model:build` as a model's builder."""
