"""What passes, perturbations and segments cost, against a plain forward pass and against other libraries."""
