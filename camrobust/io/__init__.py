"""Reads and writes bytes: folders, buckets, images, manifests. No other room knows where they are stored."""
