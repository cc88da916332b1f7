"""Certificates: what cannot change within a distance of an image, at a confidence of 1 - α.

An image is copied n times with independent Gaussian noise of deviation σ, and every copy is explained. Of each copy a
map ranks m segments; item i gets a number z_i in [0, 1] from its rank (`items`). The *smoothed* score of an item is
s_i = E z_i over the noise. From the n samples follow bounds on all s_i together (`bounds`), from these bounds on s_i
of every image within a distance ρ (`smoothing`), and from these what is certain: the overlap of the first d items and
rank-biased overlap (`overlap`), which items are in the top K (`membership`), and the class (`classes`).
`certificate` does all of this for maps. It speaks of the smoothed scores, not of the map of the image itself.

References:
    Cohen, Rosenfeld, Kolter 2019, arXiv 1902.02918 (classes); Levine et al. 2019, arXiv 1905.12105, and Anani et al.
    2025, ICML (maps); the certificate of rank-biased overlap is ours.
"""
