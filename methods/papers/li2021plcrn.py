"""Learning to inference with early exit in the progressive speech enhancement (PL-CRN++).

Idea
    Progressive enhancement removes noise from a recording in rounds, a few decibels each. How many rounds are worth
    their cost depends on how noisy the recording is. Once two successive rounds give nearly the same output, further
    ones would hardly change it: so stop. Nothing is trained for this, and one threshold trades quality for speed.

Model
    X is the complex spectrum of the noisy recording, S_0 = X, h_0 = 0. Round q = 1 … Q, with the same weights in all:
    e_q = enc(X, S_{q-1});   r, z = sigmoid(W [e_q, h_{q-1}]);   c = tanh(V [e_q, r h_{q-1}]);
    h_q = (1 - z) h_{q-1} + z c   (a unit that is recurrent over rounds, not over time);
    G_q, D_q = dec(h_q, e_q);   S_q = sigmoid(G_q) S_{q-1} + D_q,   real and imaginary part estimated.
    The encoder is two convolutions with a stride of 4 along frequency; convolutions dilated by 1, 2 and 4 look along
    time, over all frequencies at once; the decoder mirrors the encoder and adds its intermediate features.

Training
    All rounds together, from the start: L = sum_q a_q log(c + mean |S_q - Y_q|^2), where the mean is over real and
    imaginary parts of a recording, c = 1e-5, and the a_q are proportional to q^p and sum to 1. With clean speech Y and
    noise X - Y, round q aims at Y_q = Y + 10^(-q g / 20) (X - Y), g dB less noise in each round; Y_Q = Y.

Exit rule
    d_q = |S_q - S_{q-1}| / (|S_{q-1}| + 1e-8), of whole recordings. Stop after the first round q >= 2 with d_q < tau
    (strictly). A larger tau means fewer rounds; infinity stops at round 2, 0 never.

Skipped
    All later rounds. What is answered is the spectrum of the round itself, bit for bit that of a full run.

Deviations
    1. The paper's text could not be read, its abstract could: the exit by the distance of neighbouring stages,
       recurrence over stages and complex spectral mapping are from it. Weights shared by all rounds, window and hop (in
       seconds) and the recurrent unit follow the code of a sibling network of the first author, DARCN, which has
       magnitudes and no exits. The number of rounds, their targets, and the norm by which d_q is divided are ours; the
       variant ``clean targets`` (g infinite) has the sibling's target in every round. So are the logarithm and the
       weights in the loss, where the sibling has squared errors and equal weights: with those the last round was worse
       than the ones before it. Whether the noisiest recordings, whose errors are the largest, cause that is untested.
    2. One second of recorded prompts of one speaker at -5 to 15 dB, 8 kHz, instead of TIMIT with recorded noises. A
       third each is in recorded music, in babble (six of the same speaker's other prompts at once, at other speeds:
       no package was found to bring real babble), and in made noise. 32 ms windows; dilated convolutions instead of a
       recurrent network over time; 16 and 32 channels.
    3. A round scales the estimate before it by sigmoid(G_q) and adds D_q; a plain mapping S_q = D_q learns too slowly
       here. Spectra enter with the square root of their magnitude, beside that root itself.
    4. Quality is the scale-invariant signal-to-distortion ratio (SI-SDR, in dB, higher is better). The paper's ESTOI is
       measured in the claims (package ``pystoi``), and so is its PESQ if the package ``pesq`` is installed: that needs
       a C compiler, so it is not among our requirements. DNSMOS would take another trained network.
    5. The first exit is after round ``first``. At 1, S_1 is compared with the noisy X. The paper's two neighbouring
       stages, read strictly, require 2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine import tasks
from eelit.methods.engine.audio import BANDS, si_sdr, spectrum, waveform
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Mean, Score
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Chance
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.base import ANSWER, checked
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, fit

CLOSENESS = "closeness"
"""What a head says beside its spectrum: -d_q."""
LEAST = 1e-5
"""c: an error, of 1 that the noisy recording has in the mean, below which less hardly counts."""
State = tuple[Tensor, Tensor, Tensor, Tensor]
"""X, S_q and S_{q-1} ``[N, 2, F, T]``, and h_q ``[N, channels, bins, T]``."""


def distance(now: Tensor, before: Tensor) -> Tensor:
    """Return ``d = |now - before| / (|before| + 1e-8)`` ``[N]`` of spectra ``[N, 2, F, T]``."""
    change, norm = (x.flatten(1).norm(dim=1) for x in (now - before, before))
    return change / (norm + 1e-8)


def goals(x: Tensor, y: Tensor, rounds: int, gain: float) -> Tensor:
    """Return ``Y_1 … Y_Q`` ``[Q, N, 2, F, T]`` from noisy and clean spectra: ``gain`` dB less noise in each."""
    rest = [10 ** (-q * gain / 20) for q in range(1, rounds)] + [0.0]
    return torch.stack([y + share * (x - y) for share in rest])


def weights(rounds: int, power: float) -> Tensor:
    """Return ``a_1 … a_Q`` ``[Q]``, which grow as a power of the round's number; their sum is 1."""
    a = torch.arange(1.0, rounds + 1) ** power
    return a / a.sum()


def compressed(spectra: Tensor) -> Tensor:
    """Return ``[N, 3, F, T]``: real and imaginary part divided by the root of the magnitude, and that root."""
    root = (spectra.square().sum(dim=1, keepdim=True) + 1e-6) ** 0.25
    return torch.cat([spectra / root, root], dim=1)


class Round(nn.Module):
    """One round of enhancement; its weights serve all rounds."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        c, how = channels, ((5, 3), (4, 1), (2, 1))  # kernel, stride and padding along frequency and time
        self.channels, self.bins = 2 * c, ((BANDS - 1) // 4) // 4 + 1
        self.enter, self.deepen = nn.Conv2d(6, c, *how), nn.Conv2d(c, 2 * c, *how)
        self.gates, self.candidate = nn.Conv2d(4 * c, 4 * c, 1), nn.Conv2d(4 * c, 2 * c, 1)
        self.squeeze, self.spread = nn.Conv1d(2 * c * self.bins, width, 1), nn.Conv1d(width, 2 * c * self.bins, 1)
        self.along = nn.ModuleList(nn.Conv1d(width, width, 3, padding=d, dilation=d) for d in (1, 2, 4))
        self.rise, self.leave = nn.ConvTranspose2d(2 * c, c, *how), nn.ConvTranspose2d(c, 3, *how)
        with torch.no_grad():  # a round that has learnt nothing changes little
            self.leave.weight.mul_(0.1)
            self.leave.get_parameter("bias").copy_(torch.tensor([2.0, 0.0, 0.0]))

    def start(self, x: Tensor) -> State:
        """Return what there is before the first round: S_0 = X and h_0 = 0."""
        return x, x, x, x.new_zeros(len(x), self.channels, self.bins, x.shape[-1])

    def forward(self, state: State) -> State:
        """Return what there is after one more round."""
        x, s, _, h = state
        wide = F.elu(self.enter(torch.cat([compressed(x), compressed(s)], dim=1)))
        e = F.elu(self.deepen(wide))
        r, z = self.gates(torch.cat([e, h], dim=1)).sigmoid().chunk(2, dim=1)
        h = (1 - z) * h + z * self.candidate(torch.cat([e, r * h], dim=1)).tanh()
        seen = self.squeeze(h.flatten(1, 2))
        for layer in self.along:
            seen = seen + F.elu(layer(seen))
        deep = h + e + F.elu(self.spread(seen)).unflatten(1, (self.channels, self.bins))
        out = self.leave(F.elu(self.rise(deep)) + wide)
        return x, out[:, :1].sigmoid() * s + out[:, 1:], s, h


class Rounds(nn.Module):
    """Rounds up to the next exit; the first take the noisy spectrum."""

    def __init__(self, one: Round, count: int) -> None:
        super().__init__()
        self.one, self.count = one, count

    def forward(self, state: Tensor | State) -> State:
        """Return the state after ``count`` more rounds, from a noisy spectrum or the state at the exit before."""
        now = self.one.start(state) if isinstance(state, Tensor) else state
        for _ in range(self.count):
            now = self.one(now)
        return now


class Estimate(nn.Module):
    """What is said after a round: its spectrum, and how close that is to the one before."""

    def forward(self, state: State) -> dict[str, Tensor]:
        """Return ``S_q`` as the answer and ``-d_q``."""
        _, now, before, _ = state
        return {ANSWER: now, CLOSENESS: -distance(now, before)}


def estimates(one: Round, x: Tensor, rounds: int) -> Tensor:
    """Return ``S_1 … S_Q`` ``[Q, N, 2, F, T]``."""
    state, found = one.start(x), []
    for _ in range(rounds):
        state = one(state)
        found.append(state[1])
    return torch.stack(found)


@dataclass(frozen=True)
class PlCrn(ExitMethod):
    """Rounds of enhancement that end when they change little."""

    corpus: str = "prompts"  # sound in noise; the paper's: TIMIT
    train_size: int = 320  # pieces of sound for training
    samples: int = 8064  # of each piece: a second; a multiple of 128, the step from window to window
    rounds: int = 5  # Q, stages of enhancement; the paper's could not be confirmed
    first: int = 2  # the round behind which the first exit is; 1 compares with the noisy recording
    gain: float = 6.0  # g, dB of noise that each round is to take away; infinite: clean speech is every round's target
    power: float = 2.0  # p, by which later rounds weigh more in the loss; the sibling's: 0
    channels: int = 16  # of the first convolution, of the second twice as many
    width: int = 64  # of the convolutions along time
    epochs: float = 10.0  # passes over the training data; the sibling's: 50
    batch: int = 8  # pieces in a step
    rate: float = 3e-3  # largest learning rate of AdamW; the sibling's: 1e-3 with Adam

    data: ClassVar[tuple[str, ...]] = ("prompts", "music")
    knob: ClassVar[str] = "tau"
    knobs: ClassVar[tuple[float, ...]] = (math.inf, 0.3, 0.25, 0.2, 0.17, 0.14, 0.12, 0.1, 0.08, 0.06, 0.04, 0.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "progressive targets": {},
        "clean targets": {"gain": math.inf},
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "train_size": 96, "samples": 1024, "rounds": 4, "channels": 4, "width": 16, "epochs": 8.0,
        "batch": 12, "rate": 1.5e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 128, "samples": 3584, "rounds": 4, "epochs": 4.0, "rate": 5e-3,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"train_size": 1200, "epochs": 20.0}

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        checked("PlCrn", "rounds", self.rounds, whole=True, least=2)
        checked("PlCrn", "first", self.first, whole=True, least=1, most=self.rounds - 1)
        checked("PlCrn", "gain", self.gain, above=0)
        checked("PlCrn", "power", self.power, least=0, finite=True)
        checked("PlCrn", "samples", self.samples, whole=True, least=512)

    @property
    def quality(self) -> str:
        """Mean ratio of speech to all else, whatever its scale."""
        return "SI-SDR in dB"

    def load(self) -> Data:
        """Return spectra of noisy pieces, and the clean waves."""
        return tasks.mixtures(self.corpus, train=self.train_size, samples=self.samples)

    def build(self, data: Data, seed: int) -> MultiExit:
        """Return the network: one round, as often as there are exits and ``first`` asks for."""
        torch.manual_seed(seed)
        one = Round(self.channels, self.width)
        counts = [self.first] + [1] * (self.rounds - self.first)
        return MultiExit([Rounds(one, count) for count in counts], [Estimate() for _ in counts])

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train all rounds at once."""
        stage: Any = model.stages[0]
        one, rounds, gain, train = stage.one, self.rounds, self.gain, data.train
        a = weights(rounds, self.power)
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}

        def loss(batch: Batch) -> Tensor:
            aims = goals(batch.inputs, spectrum(batch.targets), rounds, gain)
            errors = (estimates(one, batch.inputs, rounds) - aims).square().mean(dim=(2, 3, 4))
            return a.to(errors.device) @ (errors + LEAST).log().mean(dim=1)

        def learn() -> None:
            fit(one.parameters(), train, loss, bench, label="enhancement", **options)

        trained(model.train(), learn, bench, data=data.digest, settings=options)

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """Return the rule: ``-d_q > -tau``."""
        return ScoreThreshold(-knob, of=CLOSENESS)

    @property
    def score(self) -> Score:
        """The mean SI-SDR of spectra ``[N, 2, F, T]``, as waves."""
        return Mean(lambda answers, targets: si_sdr(waveform(answers, targets.shape[-1]), targets))

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return what the noisy recordings reach as they are."""
        examples = prepared.split("test").examples
        noisy = waveform(torch.stack(list(examples.inputs)), examples.targets.shape[-1])
        found, n = si_sdr(noisy, examples.targets), len(examples)
        return Chance(
            what=f"the noisy recordings as they are, of {n}",
            quality=float(found.mean()),
            error=float(found.std()) / math.sqrt(n),
        )
