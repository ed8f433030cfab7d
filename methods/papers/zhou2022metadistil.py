"""BERT Learns to Teach: Knowledge Distillation with Meta Learning (MetaDistil).

Idea
    In ordinary distillation the teacher is fixed before the student is trained, so it never learns whether its teaching
    helps. Here the student takes a trial step and is then evaluated on a quiz, on sentences that it is not taught with.
    The quiz loss is differentiated back through that step into the teacher. Then the trial step is undone, and the
    student repeats it with the improved teacher (pilot update). Only the student is used in the end.

Model
    Teacher theta_T: an encoder of n layers with a head. Student theta_S: its first k pretrained layers, with its own
    head. z_T, z_S: their logits; r_j: the representation of layer j, scaled to length 1.

Training
    1. The teacher is fine-tuned:  L = CE(z_T, y).
    2. A lesson is    L_S = alpha L_soft + (1 - alpha) CE(z_S, y) + beta L_PKD,
       L_soft = T^2 mean (softmax(z_T / T) - softmax(z_S / T))^2,  mean over samples and classes,
       L_PKD = mean (r_i(student) - r_j(teacher))^2,  over samples, numbers of r, and pairs of inner layers: student
       layer i = 1, 2 … with teacher layer j = floor(n / k) i, as long as both lie before the last ones.
       Each round has a batch of lessons (x, y) and one of the quiz (x_q, y_q):
         trial   theta_S' = theta_S - xi grad_S L_S(theta_S, theta_T; x, y), plain descent, no state of an optimiser;
         teach   theta_T steps down  L_Q = CE(z_S'(x_q), y_q), whose gradient goes through the trial:
                 dL_Q / dtheta_T = -xi [d^2 L_S / dtheta_T dtheta_S] grad_{S'} L_Q;
         learn   theta_S steps down L_S(theta_S, theta_T; x, y): the old student, the same batch, the new teacher.

Exit rule
    The paper has none: the student answers everything. Here it may pass a sentence on to the teacher as fine-tuned in
    1, to show the student's value in a cascade: it keeps those with max softmax(z_S) >= threshold.

Skipped
    In the paper nothing, at any time. Here the whole teacher, for sentences that the student keeps.

Measured apart
    This is not an early-exit method: ways of training a small network of fixed depth are compared.

Deviations
    1. To pass sentences on is an extension, for context; so the fine-tuned teacher is kept in addition to the one that
       learns to teach, which is discarded in the paper and here.
    2. MiniLM (6 layers, 384 wide) teaches its first 2 layers on Rotten Tomatoes, 4,000 sentences, one epoch each,
       instead of BERT-base (12 layers) 6 or 4 layers on GLUE for, in the released code, 3 epochs. Rates are 1e-4, and
       1e-3 for heads, with warm-up for 10 % of the steps and weight decay 0.01, instead of 5e-5 without either; the
       teacher learns at a fifth of the student's rate as in the code, whose 1e-5 is 2e-5 here, falling linearly to 0.
       Images (ResNet, VGG on CIFAR-100) are left out.
    3. The quiz is a tenth of the training sentences, which the student is not taught with; the code takes the
       development set, on which it also reports. Each round draws one batch of it, as the code can; all of it by
       default there. As batches are of sentences of one length, such a quiz has six on the mean, and often more of
       one class, and Adam makes as large a step down a noisy slope as down a clear one. So the teacher follows single
       quizzes: with seed 0 the difference of her two logits was +0.43 on the mean of 400 validation sentences at
       first, +1.75 after 50 rounds and -0.01 after 100, and its size fell from 2.8 to 0.9. In the end her labels say
       little, and her accuracy is lower than before. Larger quizzes, of 12 such batches (about 72 sentences),
       were tried with seed 0 for the first 130 rounds, a good quarter: on 1,000 validation sentences her accuracy
       fell from 0.802 to 0.731 at this rate, and to 0.784 at a fifth of it. So they alone do not keep her from
       forgetting; a whole training with them was not made.
    4. xi is 0.01 instead of the code's 5e-5. The teacher's gradient is a multiple of xi, and Adam, otherwise
       independent of the scale of gradients, adds 1e-8 to their magnitude: with the code's xi, gradients here would
       start at about that size.
    5. r_j is the mean over tokens instead of the class token, as MiniLM was pretrained.
    6. The trial has the dropout mask of the step that follows; in the code both draw their own. Attention is computed
       step by step in the trial, as the fused one has no second derivative.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.engine import tasks
from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Data, Examples, parted
from eelit.methods.engine.members import Network
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating
from eelit.methods.engine.weights import trained
from eelit.methods.families.cascades import CascadeMethod, Prepared
from eelit.methods.policies.base import checked
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.plain import train_plain

Said: TypeAlias = tuple[Tensor, list[Tensor]]
"""What a network says of a batch: logits ``[N, C]``, and r_1, r_2 … of its inner layers, each ``[N, d]``."""
Labelled: TypeAlias = tuple[Tensor, Tensor]
"""A batch: token ids ``[N, T]`` and classes ``[N]``."""


class Reader(nn.Module):
    """A text encoder of some layers, with a head behind the last one."""

    def __init__(self, stages: list[nn.Module], head: nn.Module) -> None:
        super().__init__()
        self.stages, self.head = nn.ModuleList(stages), head

    def forward(self, x: Tensor, *, layers: bool = False) -> Tensor | Said:
        """Return the logits of token ids ``[N, T]``; with ``layers`` what is read of inner layers, too."""
        state, read = x, []
        for stage in self.stages:
            state = stage(state)
            read.append(state)
        z: Tensor = self.head(state)
        return (z, [F.normalize(each.mean(dim=1), dim=-1) for each in read[:-1]]) if layers else z


def matched(student: int, teacher: int) -> list[tuple[int, int]]:
    """Return pairs of inner layers, from 0, of a student of so many layers and a teacher: every (n // k)-th of hers.

    Raises `ValueError` unless the student has a layer at least, and no more than the teacher.
    """
    if not 1 <= student <= teacher:
        raise ValueError(f"a student of a teacher with {teacher} layers has 1 to {teacher}, not {student}")
    stride = teacher // student
    return [(i, stride * (i + 1) - 1) for i in range(student - 1)]


@dataclass(frozen=True)
class Lesson:
    """The loss L_S of a student who is taught."""

    alpha: float
    beta: float
    temperature: float
    pairs: tuple[tuple[int, int], ...]  # of inner layers

    def loss(self, student: Said, teacher: Said, y: Tensor) -> Tensor:
        """Return L_S of what student and teacher say of sentences of the classes ``y [N]``; both get gradients."""
        (z_S, read), (z_T, taught), T = student, teacher, self.temperature
        soft = T**2 * F.mse_loss((z_S / T).softmax(dim=-1), (z_T / T).softmax(dim=-1))
        found = self.alpha * soft + (1 - self.alpha) * F.cross_entropy(z_S, y)
        if self.pairs and self.beta:
            found = found + self.beta * torch.stack([F.mse_loss(read[i], taught[j]) for i, j in self.pairs]).mean()
        return found


def says(network: nn.Module, x: Tensor) -> Said:
    """Return what a network says of token ids ``[N, T]``, its inner layers included."""
    return cast(Said, network(x, layers=True))


def teaching_slopes(
    student: nn.Module, teacher: nn.Module, lesson: Lesson, taught: Labelled, quiz: Labelled, xi: float
) -> list[Tensor]:
    """Return ``dL_Q / dtheta_T``: what each parameter of the teacher has done, by way of the trial, to the quiz.

    Neither network is changed. The student makes the trial with dropout, if it is in training mode, and sits the quiz
    without; the teacher says what she does without.
    """
    (x, y), (x_q, y_q) = taught, quiz
    theta_S, theta_T = dict(student.named_parameters()), [*teacher.parameters()]
    with sdpa_kernel(SDPBackend.MATH):
        with evaluating(teacher):
            L_S = lesson.loss(says(student, x), says(teacher, x), y)
        down = torch.autograd.grad(L_S, [*theta_S.values()], create_graph=True, materialize_grads=True)
        ahead = {name: p - xi * slope for (name, p), slope in zip(theta_S.items(), down, strict=True)}
        with evaluating(student):
            L_Q = F.cross_entropy(torch.func.functional_call(student, ahead, (x_q,)), y_q)
        return list(torch.autograd.grad(L_Q, theta_T, materialize_grads=True, allow_unused=True))


def teach_better(teacher: nn.Module, slopes: list[Tensor], optimiser: torch.optim.Optimizer) -> None:
    """Let the teacher step down the slopes, clipped at norm 1."""
    for p, slope in zip(teacher.parameters(), slopes, strict=True):
        p.grad = slope
    nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)


def endless(examples: Examples, batch: int, seed: int, device: torch.device) -> Iterator[Labelled]:
    """Yield shuffled batches for ever, inputs and classes, on the device."""
    shuffle, y = torch.Generator().manual_seed(seed), examples.targets.to(device)
    while True:
        for index, x in examples.batches(batch, shuffle, device=device):
            yield x, y[index.to(device)]


def distil(
    student: Reader, tutor: Reader, lesson: Lesson, parts: Mapping[str, Examples], bench: Bench, *, xi: float,
    pilot: bool, teacher_rate: float, head_rate: float, **options: Any,
) -> None:  # fmt: skip
    """Stage 2: trial, teach, learn; ``options`` are those of `fit`."""
    teaches = teacher_rate > 0
    adam = torch.optim.AdamW(tutor.parameters(), lr=teacher_rate, weight_decay=0.0)
    quizzes = endless(parts["quiz"], options["batch"], bench.seed, device_of(student))

    def loss(batch: Batch) -> Tensor:
        x, y = batch.inputs, batch.targets
        with torch.no_grad(), evaluating(tutor):
            before = None if pilot else says(tutor, x)
        if teaches:
            adam.param_groups[0]["lr"] = teacher_rate * (1 - batch.done)
            with torch.random.fork_rng(devices=[]):  # the step to come has the dropout of the trial
                slopes = teaching_slopes(student, tutor, lesson, (x, y), next(quizzes), xi)
            teach_better(tutor, slopes, adam)
        with torch.no_grad(), evaluating(tutor):
            lessons = says(tutor, x) if before is None else before
        return lesson.loss(says(student, x), lessons, y)

    student.train()
    fit(
        student.parameters(), parts["lessons"], loss, bench, label="learning, and learning to teach",
        faster=student.head.parameters(), faster_rate=head_rate, beside=(adam,) * teaches, **options,
    )  # fmt: skip


@dataclass(frozen=True)
class MetaDistil(CascadeMethod):
    """A student whose teacher learns to teach; here the student may ask the teacher, for once."""

    encoder: str = "minilm-l6"  # the teacher; the paper: BERT-base
    corpus: str = "rotten-tomatoes"  # data; the paper: GLUE
    train_size: int = 4000  # training sentences, those of the quiz among them
    length: int = 40  # most word pieces of a sentence; the released code: 128
    layers: int = 2  # k, layers of the student: a third of the teacher's; the paper: half, or a third
    quiz: float = 0.1  # share of the sentences that the quiz takes; the released code: the development set instead
    alpha: float = 0.5  # weight of soft labels against true ones; the released code: 0.5
    beta: float = 100.0  # weight of inner layers, 0 for none; the released code: 100
    temperature: float = 5.0  # T; the released code: 5
    trial_rate: float = 0.01  # xi, the step on trial; the released code: 5e-5
    pilot: bool = True  # the student learns from the teacher of after the quiz; False: from the one of before
    epochs: float = 1.0  # passes of either training; the released code: 3
    batch: int = 8  # sentences of a lesson, and of a quiz; the released code: 8
    rate: float = 1e-4  # learning rate of either, in its own training; the released code: 5e-5 for the student
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing; the released code: 5e-5
    teacher_rate: float = 2e-5  # learning rate of teaching, 0 for a teacher who stays; the released code: 1e-5

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 1.1)
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 700, "epochs": 8.0, "batch": 64, "rate": 8e-3,
        "head_rate": 2e-2, "teacher_rate": 8e-4, "beta": 1.0,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 300, "length": 20, "batch": 16, "rate": 2e-4, "head_rate": 2e-3, "teacher_rate": 4e-5,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"train_size": 8000, "epochs": 3.0, "rate": 5e-5}
    others: ClassVar[Mapping[str, Any]] = {"length": 9, "layers": 3}

    def __post_init__(self) -> None:
        """Refuse what cannot be meant. Raises `ValueError`."""
        checked("MetaDistil", "alpha", self.alpha, least=0, most=1)
        for name in ("beta", "trial_rate", "teacher_rate"):
            checked("MetaDistil", name, getattr(self, name), least=0, finite=True)
        checked("MetaDistil", "temperature", self.temperature, above=0, finite=True)
        checked("MetaDistil", "quiz", self.quiz, least=0, most=0.9)
        if self.teacher_rate > 0 and self.quiz == 0:
            raise ValueError("MetaDistil: a teacher learns from a quiz, so some sentences must be kept for it")

    def load(self) -> Data:
        """Token ids of sentences, with classes."""
        return tasks.text(self.corpus, train=self.train_size, length=self.length)

    def build(self, data: Data, seed: int) -> Cascade:
        """Student and fine-tuned teacher as members, and beside them the teacher who learns to teach."""
        full, short = (text_exits(self.encoder, data.classes, seed=s, shared_pooler=False) for s in (seed, seed + 1))
        teacher = Reader([*full.stages], full.heads[-1])
        matched(self.layers, full.exits)
        student = Reader([*short.stages[: self.layers]], short.heads[self.layers - 1])
        cascade = Cascade([Network(student), Network(teacher)])
        cascade.add_module("tutor", deepcopy(teacher))
        return cascade.eval()

    def train(self, model: Cascade, data: Data, bench: Bench) -> None:
        """Fine-tune the teacher; then let both learn, the student his task and she to teach it."""
        student, teacher = (cast(Reader, member.network) for member in model.members)
        whole = MultiExit([nn.Sequential(*teacher.stages)], [teacher.head])
        train_plain(whole, data, bench, head_rate=self.head_rate, **self.options)
        tutor = cast(Reader, model.get_submodule("tutor"))
        tutor.load_state_dict(teacher.state_dict())
        parts = parted(data.train, {"lessons": 1 - self.quiz, "quiz": self.quiz})
        lesson = Lesson(self.alpha, self.beta, self.temperature, tuple(matched(self.layers, len(teacher.stages))))
        rounds: dict[str, Any] = {**self.options, "head_rate": self.head_rate, "teacher_rate": self.teacher_rate}
        rounds |= {"xi": self.trial_rate, "pilot": self.pilot}

        def train() -> None:
            distil(student, tutor, lesson, parts, bench, **rounds)

        settings = {**rounds, "train": len(data.train), "quiz": self.quiz}
        trained(nn.ModuleList([student, tutor]), train, bench, data=data.digest, settings=settings)
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is the threshold of an exit rule that the paper does not have."""
        return MaxConfidence(knob)
