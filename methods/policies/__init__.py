"""Exit policies: pure rules that decide, exit by exit and sample by sample, whether to stop.

A policy takes numpy arrays or torch tensors (through array-api-compat) and imports neither torch nor transformers, so
that it can be taken to another code base as it is. It holds settings only. Its two operations are

``start() -> state``
    the state before the first exit: the empty tuple. What is remembered from exit to exit is built from the first
    exit's output, and so lives in the same library and on the same device.
``step(state, output) -> (state, stop)``
    ``output`` is what one exit gives for the samples still running: its answer, ``[n, C]`` logits or ``[n]`` values, or
    a dictionary with the answer under "answer" and what else it says under names of its own. The new state is a tuple
    of arrays whose first axis is the sample (so that finished samples can be dropped), and ``stop`` is a boolean array
    ``[n]``. The same input always gets the same answer.

What is not finite is no certainty: by NaN or +inf in what a rule reads, or logits that are all -inf, nobody stops (a
class masked by -inf has probability 0). Scores are computed in float32 at least, whatever the network's precision, and
compared in float64. Settings may be Python's numbers, numpy's or torch's, and one per exit any sequence. ``threshold``
is in the unit of what the rule compares, which its docstring names; entropy is in nats under that name, and a share of
its maximum, without unit, under the name ``uncertainty``. Outputs of another shape than a rule reads raise
`ValueError`. All this is kept in `base`, which new rules use.

The last exit always answers; a policy is not asked there. A policy that makes the answer from several exits, such as a
vote, also has

``answer(state, output) -> answer``
    what is answered to those that stop here, ``[n, C]``, from the state after this exit's step. At the last exit its
    step is asked as well, for the state alone.

A policy that asks not every exit (or member of a cascade) also has

``route(state, output) -> exit``
    the number ``[n]``, from 0, of the exit to ask next, from the state after this exit's step. Heads in between are
    neither run nor paid for.

Two samples at three exits; the first is agreed on at once, of the second the exits change their mind:

>>> import numpy as np
>>> from eelit.methods.policies.patience import Patience
>>> exits = np.array([[[0.0, 1.0], [1.0, 0.0]], [[0.0, 2.0], [0.0, 1.0]], [[0.0, 3.0], [0.0, 2.0]]])
>>> policy = Patience(1)
>>> state, stop = policy.step(policy.start(), exits[0])
>>> stop.tolist()
[False, False]
>>> state, stop = policy.step(state, exits[1])
>>> stop.tolist()
[True, False]
>>> state, stop = policy.step(tuple(part[~stop] for part in state), exits[2][~stop])  # the second sample alone
>>> stop.tolist()
[True]
>>> Patience(-1)
Traceback (most recent call last):
ValueError: ...
"""
