"""One image or a batch of images in, score rows out; and the models that are measured."""
