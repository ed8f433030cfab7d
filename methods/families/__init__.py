"""Families of methods: each says once how to sweep, execute and check what its members share.

``exits``: one network with exit heads; a pure policy decides after each head.
``split``: one network with exit heads, cut between device and cloud where an online bandit says.
"""
