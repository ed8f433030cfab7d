"""Your own model: what its exits said, from any framework, turned into a rule that decides when to stop.

`logits.Logits` holds what all exits said of some samples, with labels and costs; `files.read` reads it from a file. On
it work `compare.compare` (every policy that needs no more), `calibrate.calibrate` (one policy at one setting, with a
promise), `advise.advise` (whether early exit is worth it at all) and `saved.load_rule` (what calibrating wrote). Numpy
alone: torch is imported nowhere in this room's modules for logits.

`attach.attach` puts exits on your network, which can then be trained, asked for its `Logits`, run with a rule, in
batches or as a stream (`stream.infer_stream`), kept (`kept.load`) and exported (`deployed.run`). Torch is in these
modules: `attach`, `batches`, `cutting`, `export`, `heads`, `kept`, `network`, `sampling`, `stream`, `tokens` and
`training`; nothing here imports them unless you do.

What one uses of all this is offered by `eelit.methods` itself.
"""
