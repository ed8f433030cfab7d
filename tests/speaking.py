"""A network whose exits say what is stored, of samples that are their own numbers."""

from torch import nn

from eelit.methods.engine.multi_exit import MultiExit


class Says(nn.Module):
    """Says what is stored of the samples whose numbers it is shown."""

    def __init__(self, said):
        super().__init__()
        self.said = said

    def forward(self, number):
        return self.said[number]


def speaking(said):
    return MultiExit([nn.Identity() for _ in said], [Says(part) for part in said])
