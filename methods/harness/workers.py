"""Independent tasks in processes of their own: on this machine, or on a dask or ray cluster that is connected."""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, TypeVar

from joblib import Parallel, delayed, parallel_config

Backend = Literal["loky", "dask", "ray"]
R = TypeVar("R")


class BackendMissing(RuntimeError):
    """A back end was asked for whose package is not installed."""


def demand(backend: Backend) -> None:
    """Raise `BackendMissing` if the back end's package is not there."""
    package, extra = {"loky": ("joblib", "run"), "dask": ("distributed", "cluster"), "ray": ("ray", "ray")}[backend]
    if importlib.util.find_spec(package) is None:
        raise BackendMissing(f"the back end {backend} needs the package {package}: pip install 'eelit[{extra}]'")


def spread(
    tasks: Mapping[Any, Callable[[], R]], backend: Backend, jobs: int, threads: int = 1
) -> Iterator[tuple[Any, R | Exception]]:
    """Run every task in a worker, and yield its name and its result as they arrive, in any order.

    A process that dies takes the pool along, with all results that were on their way. Then each task that has not been
    yielded gets a pool of its own: the one that dies again yields what was raised, and the others are none the worse.
    Those that had finished are not run again.
    """
    with TemporaryDirectory(prefix="eelit-") as folder, _workers(backend, jobs, threads):
        numbered = enumerate(tasks.items())
        left = {name: delayed(_finished)(name, task, Path(folder, f"{i}.pickle")) for i, (name, task) in numbered}
        try:
            together = [left.values()] if jobs > 1 else [[task] for task in left.values()]
            for batch in together:
                for name, result in Parallel(return_as="generator_unordered")(list(batch)):
                    yield name, result
                    del left[name]
        except Exception:  # what is raised differs with the back end
            for name, task in left.items():
                try:
                    yield from Parallel()([task])
                except Exception as error:
                    yield name, error


def _finished(name: Any, task: Callable[[], R], aside: Path) -> tuple[Any, R]:
    """Run a task, unless its result lies aside, and lay it there before it is sent."""
    if aside.exists():
        known: R = pickle.loads(aside.read_bytes())
        return name, known
    result = task()
    _give_back_memory()
    with suppress(OSError):  # a worker on another machine has no such folder
        part = aside.with_suffix(".part")
        part.write_bytes(pickle.dumps(result))
        part.replace(aside)
    return name, result


def _give_back_memory() -> None:
    """Return to the system what the task has freed.

    A training leaves 200 to 600 MB of freed tensors: a network in a reference cycle waits for the collector, and the C
    library's heap keeps what is freed. joblib would take that for a leak and stop the worker while others wait for it,
    with a warning.
    """
    gc.collect()
    with suppress(OSError, AttributeError):  # only the GNU C library can be asked
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _end_with(parent: int) -> None:
    """End this worker when the process that started it is killed: it would go on, and slow down what comes next.

    One that has had no task yet would wait for minutes. A signal of Linux's to that effect would come already when the
    thread ends that started the worker.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _workers(backend: Backend, jobs: int, threads: int = 1) -> Iterator[None]:
    """Run joblib's tasks in ``jobs`` processes with so many threads each; a single worker would mean this process."""
    if backend == "loky":
        watched: dict[str, Any] = {"initializer": _end_with, "initargs": (os.getpid(),)}
        with parallel_config(backend="loky", n_jobs=max(2, jobs), inner_max_num_threads=threads, **watched):
            yield
    elif backend == "dask":
        with _dask_cluster(jobs), parallel_config(backend="dask"):
            yield
    else:
        from ray.util.joblib import register_ray

        register_ray()
        with parallel_config(backend="ray", n_jobs=jobs):
            yield


@contextmanager
def _dask_cluster(jobs: int) -> Iterator[None]:
    """Use the dask cluster that is connected, or make one on this machine."""
    from distributed import Client, LocalCluster, get_client

    try:
        get_client()
    except ValueError:
        with LocalCluster(n_workers=max(2, jobs), threads_per_worker=1) as cluster, Client(cluster):
            yield
    else:
        yield
