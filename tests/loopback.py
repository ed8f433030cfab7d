"""Machines as processes of their own: each message goes over a loopback socket, its length before it."""

import multiprocessing
import pickle
import socket
import struct
from contextlib import contextmanager

import torch

from eelit.methods.engine.costs import MacCounter

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["loopback"])  # so that torch is loaded once, not by each process


def send(line, message):
    line.sendall(struct.pack("<I", len(message)) + message)


def received(line):
    """Return the next message; None if the line was closed."""
    head = line.recv(4, socket.MSG_WAITALL)
    if not head:
        return None
    (size,) = struct.unpack("<I", head)
    return line.recv(size, socket.MSG_WAITALL) if size else b""


class Counting:
    """A machine that counts its own multiply-accumulates, and puts their number before each answer."""

    def __init__(self, machine):
        self.machine = machine

    def handle(self, message):
        with MacCounter() as counter:
            answer = self.machine.handle(message)
        return struct.pack("<Q", counter.macs) + answer


class Told:
    """What takes a message for a `Counting` machine, returns its answer, and keeps what each took in ``macs``."""

    def __init__(self, ask):
        self.ask, self.macs = ask, []

    def __call__(self, message):
        answer = self.ask(message)
        self.macs += struct.unpack("<Q", answer[:8])
        return answer[8:]


def serve(machine, port):
    """Answer messages on a port of the loopback, which is told, until the line is closed."""
    torch.set_num_threads(1)
    machine = pickle.loads(machine)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port.send(server.getsockname()[1])
        line, _ = server.accept()
    with line:
        while (message := received(line)) is not None:
            send(line, machine.handle(message))


@contextmanager
def process(machine):
    """Run a machine in a process of its own; give what takes a message and returns one."""
    ours, theirs = CONTEXT.Pipe()
    child = CONTEXT.Process(target=serve, args=(pickle.dumps(machine), theirs), daemon=True)
    child.start()
    with socket.create_connection(("127.0.0.1", ours.recv())) as line:

        def ask(message):
            send(line, message)
            return received(line)

        yield ask
    child.join()
    assert child.exitcode == 0
