"""From a model and images to activations, gradients and maps."""
