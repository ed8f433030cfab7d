"""A simulated world of machines: computers with queues, links with bandwidth and outages, joules, and what crosses.

Its clock is simulated and says so: layer times are multiply-accumulates ÷ speed, and no rate was measured anywhere.
What is real is what is done: each computer runs its own part of the network, what crosses a link is really serialised,
and both are counted.

``traces``: rates over time, seeded; ``machines``: computers, links, power; ``wire``: states as bytes; ``stream``:
samples that pass through a chain of machines, event by event.
"""
