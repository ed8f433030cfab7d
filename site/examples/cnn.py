"""A convolutional network with named stages gets exits, learns, and is run by a rule that was chosen for it."""

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from eelit.methods import attach, calibrate


def block(inner, outer, stride=1):
    return nn.Sequential(nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU())


class Cnn(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer1 = nn.Sequential(block(1, 16), block(16, 16))
        self.layer2 = nn.Sequential(block(16, 32, 2), block(32, 32))
        self.layer3 = nn.Sequential(block(32, 64, 2), block(64, 64))
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(self.layer3(self.layer2(self.layer1(x))).mean(dim=(2, 3)))


torch.manual_seed(0)
x, labels = map(torch.tensor, load_digits(return_X_y=True))
images = x.float().view(-1, 1, 8, 8) / 16
train, held_out, new = (TensorDataset(images[i], labels[i]) for i in torch.randperm(1797).split([700, 800, 297]))


def head(shape, outputs):
    return nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(shape).numel(), outputs))


network = attach(Cnn(), ["layer1", "layer2"], heads=head, probe=images[:8])  # refused if this changed its answers
network.fit(DataLoader(train, 32, shuffle=True), "sdn", epochs=8, head_epochs=4, rate=5e-3, head_rate=2e-2)
logits = network.collect(DataLoader(held_out, 100))
rule = calibrate(logits, "max-confidence", max_drop=0.03, confidence=0.9)
found = network.infer(new.tensors[0], rule)
right = (found.predicted == new.tensors[1]).float().mean()
print(f"{right:.1%} of {len(new)} digits right at {found.macs.mean() / logits.full_cost:.1%} of the full model's MACs")
