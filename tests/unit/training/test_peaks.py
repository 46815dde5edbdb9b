"""The peak of each phase: what a phase held is told of it alone, and libraries are told apart."""

import torch

from core.events import Phase
from training.peaks import Phases

MB = 1 << 20


def test_each_phase_has_the_peak_of_itself(run):
    phases = Phases(run().child)
    assert phases.empty_bytes > 100 * MB  # torch alone is larger
    for phase, size_mb in ((Phase.LOADING, 400), (Phase.PREPARING, 0), (Phase.TRAINING, 200), (Phase.PREPARING, 100)):
        phases.enter(phase)
        held = torch.ones(size_mb * MB // 4)
        del held
    phases.leave()
    loading, preparing, training = (phases.peaks[each] for each in (Phase.LOADING, Phase.PREPARING, Phase.TRAINING))
    assert 150 * MB < loading - training < 250 * MB
    assert 50 * MB < training - preparing < 150 * MB, "of a phase that came again, the most"
    assert phases.most_bytes == loading


def test_what_was_built_before_a_phase_began_again_is_not_in_its_peak(run):
    phases = Phases(run().child)
    phases.enter(Phase.LOADING)
    built = torch.ones(400 * MB // 4)
    del built
    phases.begin_again()
    phases.leave()
    assert phases.peaks[Phase.LOADING] < phases.empty_bytes + 200 * MB


def test_a_phase_is_told_when_it_is_entered(run):
    child_run = run()
    Phases(child_run.child).enter(Phase.TRAINING)
    assert [event.phase for event in child_run.events] == [Phase.TRAINING]
