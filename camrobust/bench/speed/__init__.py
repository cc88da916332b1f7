"""Speed of passes, perturbations and segments, against a plain forward pass and against other libraries."""
