"""Families of methods: each says once how to sweep, execute and check what its members share.

``exits``: one network with exit heads; a pure policy decides after each head.
``images``: the same with a convolutional network, cut at shares of its cost; ``text``: with a pretrained encoder.
``cascades``: a chain of separate models; a policy decides after each, and may pass members over.
``image_cascades``: the same with a linear model, a forest, a small and a large network for images.
``tiers``: one network with exits, divided among machines of a simulated world; ``multi_device``: with several devices.
``exit_prediction``: one network with exits, one of which a predictor chooses before the network runs.
``on_device``: one network with exits on a phone without a server; a scheduler names the exits of each frame.
``stepwise``: what exits and cascades have in common, for further families of this kind.
``split``: one network with exit heads, cut between device and cloud where a rule says, which may learn online.
``designs``: one such network, or several, of whose exits a search leaves those that pay, with thresholds of their own.
``gates``: one network whose blocks are run or bypassed, each by its own gate.
``dot_products``: a network of convolutions, of which single dot products stop once their sign is known or guessed.
``generation``: what the families that write texts share: texts of a split, each written once.
``tokens``: a decoder in which each token leaves at a layer of its own.
``speculative``: speculative decoding; a cheap part writes ahead, a costly part reads several tokens in one pass.
``translation``: encoder and decoder, each token leaving the decoder at a block of its own.
``pruning``: the same with blocks of the decoder left out for good.
``skimming``: an encoder whose tokens leave before the layer that a predictor finds they do not need.
``tagging``: an encoder that tags words, which halt at layers of their own or all at once.
``ranking``: an additive ensemble of trees; a policy at a sentinel sends documents away.
``sentinels``: the same with several sentinels.
``acquisition``: a network with exits, each stage of which buys one feature of the sample.
"""
