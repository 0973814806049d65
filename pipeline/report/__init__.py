"""Should I keep it? What a chain left on the disk, as one page that a browser shows without a network.

In come the steps of a plan, manifests, logs and samples, out goes HTML. It decides nothing, measures nothing and needs no
model: what a page says of chance was computed where the figures were, or follows from them.
"""
