"""Certificates without chance for small networks: bounds on the map of every image within a ball.

`chain` reads a network as a chain of layers whose bounds are known, and bounds are propagated through them (`steps`,
`linear`). `top` says which items cannot leave the top k of the map, and within which radius.

References:
    Gowal et al. 2018, arXiv 1810.12715 (intervals); Zhang et al. 2018, arXiv 1811.00866, CROWN, and Boopathy et al.
    2019, arXiv 1811.12395, CNN-Cert (linear bounds); arXiv 2301.11324, CORGI (maps).
"""
