"""Pure tensor functions: no Ray, no files, no clock, no global random state."""
