"""What do I see? Steps, events, manifests and reports as lines, bars and tables.

It decides nothing and reads nothing from the disk.
"""
