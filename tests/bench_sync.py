"""`eelit sync` killed a hundred times ends with the files of a run that nobody killed, and asks for nothing twice.

`python tests/bench_sync.py [TIMES]` prints how many runs were killed, and how many requests were made again.
"""

import sys
import tempfile
from pathlib import Path

from scholarly import Server
from test_sync import killed, sources, undisturbed, world, written


def main(times):
    server = Server(world())
    server.delay = 0.01
    with tempfile.TemporaryDirectory() as made:
        folder, again, ended, rounds = Path(made), 0, 0, 0
        calm, needed = undisturbed(folder, server)
        left = times
        while left > 0:  # a run is at its end after some kills: then another one begins from nothing
            rounds += 1
            server.asked.clear()
            root = written(folder / f"root{rounds}", world())
            kills = min(left, 10)
            ended += killed(root, folder / f"cache{rounds}", server, kills, seed=rounds)
            assert sources(root) == calm, rounds
            assert set(server.asked) == set(needed)
            again += len(server.asked) - len(needed)
            assert len(server.asked) <= len(needed) + kills
            left -= kills
    print(
        f"{times} kills in {rounds} catalogues ({ended} runs had ended before): all files as without a kill;", end=" "
    )
    print(f"{again} requests made again, of {rounds * len(needed)} needed")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100)
