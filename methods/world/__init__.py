"""A simulated world of machines: computers with queues, links with bandwidth and outages, joules, and what crosses.

Its clock is simulated and says so: layer times are multiply-accumulates ÷ speed, and no rate was measured anywhere. What
is real is what its samples are and say: each computer runs its own part of the network, what crosses a link is really
serialised, and both are counted.
"""
