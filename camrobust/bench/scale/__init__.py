"""What the machinery around the measurements costs: the job, millions of images, millions of rows."""
