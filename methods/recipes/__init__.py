"""Recipes: how weights are trained. All train through `fit` and keep what they trained through `trained`.

``joint``: backbone and all exit heads together; ``plain``: the network without exits; ``two_stage``: heads on a frozen
network; ``language``: a decoder from nothing; each of the others is named for the idea that it trains.
"""
