"""The cost of everything around the measuring: the job itself, millions of images, millions of rows."""
