"""A simulated world of machines: computers with queues, links with bandwidth and outages, joules, and what crosses.

Its clock is simulated and says so: layer times are multiply-accumulates ÷ speed, and no rate was measured anywhere.
What is real is what is done: each computer runs its own part of the network, what crosses a link is really serialised,
and both are counted.

``traces``: rates over time, seeded; ``machines``: computers, links, power; ``wire``: states as bytes; ``stream``:
samples that pass through a chain of machines, event by event; ``shown``: a chain as results tell it.

Methods differ in how much of it they need. Those that divide one network among a chain of machines send their samples
through ``stream``, by ``families/tiers.py`` or ``families/multi_device.py``: Cascading Neural Network, DDNN,
CDNN-over-Fog, SPINN, the hybrid network, Exit Predictor. The others are no such chain and have a clock of their own:

- DEE, LEE and SEE (``families/on_device.py``), one phone frame by frame: ``machines`` and ``traces``;
- EENet, a chip image by image: ``traces``;
- IoVT, a cell slot by slot, whose channels and free shares follow formulas of its own: journeys and bytes as above;
- the federated methods, round by round: ``wire``, and for adaptive control ``machines`` and ``traces``. ES-FedAvg
  counts bytes and has no clock, as nothing in it depends on time.

SnaPEA and class-dependent thresholds run on one chip, where nothing changes: they count operations and need no world.

Why not one clock for all: on the phone nothing happens at the same time, while a rule is asked after each exit, sees
the seconds so far, may pause and may drop a frame, which no leg of a journey can tell. On a chip, in a cell and in a
round no sample passes on from queue to queue: each has one duration, and a cell's queue is what a slot leaves over for
the next. Where two clocks apply they give the same seconds, which tests see to: the phone's and the chip's queue before
one computer, and a round's message, work and answer of each node.

`machines.Power`, a battery in watts, has one user, SPINN. What the others count is seconds, bytes or
multiply-accumulates, or joules by a formula of their paper.
"""
