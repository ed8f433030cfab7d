"""Stop when several exits in a row were each sure (zhang2022pceebert)."""

from __future__ import annotations

from dataclasses import dataclass

from array_api_compat import array_namespace

from eelit.methods.policies.base import Array, Output, State, exact, logits_of, settle, uncertainty


@dataclass(frozen=True)
class PatientConfidence:
    """Stop when ``patience`` consecutive exits each are strictly less uncertain than ``uncertainty``.

    Uncertainty is the entropy of ``softmax(logits)`` divided by ``ln C``, so 0 is certain and 1 undecided, whatever the
    number of classes (`Entropy` has its threshold in nats). The exits need not agree. The earliest exit (counted from
    0) is number ``patience - 1``. An uncertainty of 0 never stops; one above 1 always stops there. Each sample has its
    own counter.
    """

    uncertainty: float  # a share of ln C, without unit
    patience: int  # at least 1; 1 asks for a single sure exit

    def __post_init__(self) -> None:
        settle(self, "uncertainty")
        settle(self, "patience", whole=True, least=1)

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Count on for the sure samples among logits ``[n, C]``, from 0 again for the others."""
        found = exact(uncertainty(logits_of(output)))
        xp = array_namespace(found)
        sure = found < self.uncertainty
        before = state[0] if state else xp.zeros((found.shape[0],), dtype=xp.int64, device=found.device)
        count = xp.where(sure, before + 1, xp.zeros_like(before))
        return (count,), (count >= self.patience) & ~xp.isnan(found)
