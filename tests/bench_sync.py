"""`eelit sync` killed a hundred times, at every step of its writing and at any moment, ends as if nobody had killed it.

`python tests/bench_sync.py [TIMES]` prints in which phases the kills fell, and how many requests were made again.
"""

import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import killing
from scholarly import Server
from test_sync import assert_whole, finished, lacking, sources, started, undisturbed, visible, written

PHASES = (
    "before the first request", "while asking", "all answers there, nothing written yet", "some files written",
    "all files written", "had ended by itself",
)  # fmt: skip
IN_A_ROW = 5
"""Kills of one catalogue, each of a run that goes on where the one before was killed."""


class Bench:
    """One bench: what a calm run makes, how long it takes, and where kills have fallen so far."""

    def __init__(self, folder, server):
        self.folder, self.server, self.again = folder, server, 0
        self.calm, self.needed = undisturbed(folder, server)
        finished(folder / "calm", folder / "calm-cache", server)
        self.further = set(server.asked)  # what a run asks about identifiers that the one before has filled in
        assert sources(folder / "calm") == self.calm
        self.before = sources(written(folder / "before", lacking()))
        start = time.monotonic()
        finished(written(folder / "timed", lacking()), folder / "timed-cache", server)
        self.seconds = time.monotonic() - start
        self.fell = {"at a step of writing": Counter(), "at any moment": Counter()}

    def phase(self, root, asked):
        """Return how far a run has come that is dead by now."""
        names = {name for name, text in visible(root).items() if text != self.before[name]}
        if names == visible(root).keys():
            return PHASES[4]
        if names:
            return PHASES[3]
        return PHASES[min(len(asked), 1)] if len(asked) < len(self.needed) else PHASES[2]

    def at_steps(self, most):
        """Kill runs that have all answers at each step of their writing; return how many."""
        hook = self.folder / "hook"
        hook.mkdir()
        shutil.copy(killing.__file__, hook / "sitecustomize.py")
        for step in range(1, most + 1):
            root, cache = written(self.folder / f"step{step}", lacking()), self.folder / f"step{step}-cache"
            shutil.copytree(self.folder / "calm-cache", cache)
            self.server.asked.clear()
            run = started(root, cache, self.server, PYTHONPATH=str(hook), KILL_AT=str(step))
            run.communicate()
            if run.returncode == 0:
                return step - 1
            self.fell["at a step of writing"][self.phase(root, self.needed)] += 1
            self.sound(root, cache, [])
        return most

    def at_any_moment(self, kills, chance, number):
        """Kill so many runs of one catalogue one after the other, each at any moment; what ends before is no kill."""
        root, cache = written(self.folder / f"any{number}", lacking()), self.folder / f"any{number}-cache"
        self.server.asked.clear()
        left = kills
        while left:
            run = started(root, cache, self.server)
            time.sleep(chance.uniform(0.2, 1.05) * self.seconds)
            run.kill()
            run.communicate()
            ended = run.returncode == 0
            left -= not ended
            self.fell["at any moment"][PHASES[5] if ended else self.phase(root, set(self.server.asked))] += 1
            assert_whole(root, self.before, self.calm)
        self.sound(root, cache, self.needed)
        again = len(self.server.asked) - len(set(self.server.asked))
        assert again <= kills, "at most the request that was under way is made again"
        self.again += again

    def sound(self, root, cache, asked):
        """See that files are whole, and that the next run makes of them what a calm one does, and asks for the rest."""
        assert_whole(root, self.before, self.calm)
        finished(root, cache, self.server)
        assert sources(root) == self.calm
        assert set(asked) <= set(self.server.asked) <= {*asked, *self.further}


def main(times):
    server, chance = Server(lacking()), random.Random(7)
    server.delay = 0.01
    with tempfile.TemporaryDirectory() as made:
        bench = Bench(Path(made), server)
        steps = bench.at_steps(times)
        left, rounds = times - steps, 0
        while left > 0:
            rounds += 1
            bench.at_any_moment(min(left, IN_A_ROW), chance, rounds)
            left -= IN_A_ROW
    print(f"{times} kills of runs of {bench.seconds:.1f} s; in every case all files are as without a kill")
    print(f"{'':40}{'at a step of writing':>22}{'at any moment':>16}")
    for phase in PHASES:
        print(f"{phase:40}" + "".join(f"{found[phase]:>{22 - 6 * i}}" for i, found in enumerate(bench.fell.values())))
    print(f"{bench.again} requests made again, of {rounds * len(bench.needed)} needed in {rounds} catalogues")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
