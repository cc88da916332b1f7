"""What the machinery around the measuring costs: the job against a bare loop, millions of images, millions of rows."""
