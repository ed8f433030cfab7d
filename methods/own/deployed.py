"""A network exported stage by stage, run by onnxruntime with a rule: numpy and no torch.

`eelit export FOLDER`, or ``python -m eelit.methods.own.deployed FOLDER``, prints the loop, to be taken along.
"""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.own.saved import SavedRule
from eelit.methods.policies.base import Assembling

NAME = "stages.json"


def stages_in(folder: str | Path) -> list[Any]:
    """Return the sessions of the stages that `export.export` wrote. Raises `ImportError` without onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError("running exported stages needs onnxruntime: pip install 'eelit[onnx]'") from error
    told = json.loads((Path(folder) / NAME).read_text(encoding="utf-8"))
    return [
        onnxruntime.InferenceSession(str(Path(folder) / Path(name).name), providers=["CPUExecutionProvider"])
        for name in told["stages"]
    ]


def run(
    stages: Sequence[Any], inputs: Mapping[str, NDArray[Any]], rule: SavedRule
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.bool_]]:
    """Return where each sample leaves ``[N]``, from 0, what it is told ``[N, C]``, and who gets no answer ``[N]``.

    Nothing behind the exit at which a sample leaves is run for it. Each stage is one file with its head, so a head also
    runs at an exit that the rule does not ask; what it says is then not looked at.
    """
    state, memory, last = dict(inputs), rule.start(), len(stages) - 1
    samples = max(len(part) for part in state.values())
    rest, exits = np.arange(samples), np.full(samples, last)
    answers: dict[int, Any] = {}
    assembling = len(rule.parts) == 1 and isinstance(rule.parts[0][1], Assembling)
    for i, stage in enumerate(stages):
        logits, *parts = stage.run(None, {each.name: state[each.name] for each in stage.get_inputs()})
        state = dict(zip((each.name for each in stage.get_outputs()[1:]), parts, strict=True))
        stop = np.full(len(rest), i == last)
        if i in rule.enabled and (i < last or assembling):
            memory, asked = rule.step(memory, logits)
            stop |= np.asarray(asked) & np.isfinite(logits.reshape(len(rest), -1)).all(axis=1)
        told = np.asarray(rule.answer(memory, logits)) if i in rule.enabled else logits
        answers.update(zip(rest[stop].tolist(), told[stop], strict=True))
        exits[rest[stop]] = i
        if stop.all():
            break
        if stop.any():
            n, rest = len(rest), rest[~stop]
            state = {name: part if part.shape[:1] != (n,) else part[~stop] for name, part in state.items()}
            memory = tuple(np.asarray(part)[~stop] for part in memory)
    told = np.stack([answers[i] for i in range(samples)])
    rejected = np.zeros(samples, dtype=np.bool_)
    if rule.reject_below > -np.inf:
        rejected = (exits == last) & np.asarray(rule.rejected(told))
    return exits, told, rejected


def loop() -> str:
    """Return the program that runs exported stages with a rule."""
    imports = (
        "import json\nimport sys\nfrom collections.abc import Mapping, Sequence\nfrom pathlib import Path\n"
        "from typing import Any\n\nimport numpy as np\nfrom numpy.typing import NDArray\n\n"
        "from eelit.methods.own.saved import SavedRule, load_rule\n"
        "from eelit.methods.policies.base import Assembling\n\n"
        f"NAME = {NAME!r}\n"
    )
    parts = [inspect.getsource(part) for part in (stages_in, run)]
    use = (
        "exits, answers, rejected = run(stages_in(sys.argv[1]), dict(np.load(sys.argv[2])), load_rule(sys.argv[3]))\n"
        "told = {'exits': exits.tolist(), 'answers': answers.tolist(), 'rejected': rejected.tolist()}\n"
        "print(json.dumps(told))\n"
    )
    return "from __future__ import annotations\n\n" + "\n\n".join([imports, *parts, use])


def program(folder: str | Path) -> str:
    """Return the same with a line that says how it is run on what was exported into a folder."""
    return f"# python loop.py {folder} inputs.npz rule.json; {NAME} names the inputs\n{loop()}"


if __name__ == "__main__":
    folder = sys.argv[1:]
    if len(folder) != 1 or not (Path(folder[0]) / NAME).is_file():
        sys.exit("usage: python -m eelit.methods.own.deployed FOLDER, into which Network.export wrote")
    print(program(folder[0]), end="")
