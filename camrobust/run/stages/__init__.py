"""What runs on the machines of a cluster: load, perturb, explain, commit."""
