"""What passes, perturbations and segments cost, against a plain forward pass and the peers; runs without Ray."""
