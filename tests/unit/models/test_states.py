"""What a user may ask for, held against the one table of transitions; and the diagram of it."""

import re
from pathlib import Path

from models.states import ACTIONS, FULFILLED, LEASED, TERMINAL, TRANSITIONS, Action, WorkState, allowed_actions

ROOT = Path(__file__).parents[3]
BY_WORKERS = {(WorkState.QUEUED, WorkState.RUNNING)}
BY_CHECKS = {(WorkState.VALIDATING, WorkState.QUEUED), (WorkState.VALIDATING, WorkState.FAILED)}
EDGES = {(state, target) for state, targets in TRANSITIONS.items() for target in targets}


def test_every_action_leads_along_a_transition_or_keeps_the_state():
    for action, moves in ACTIONS.items():
        for state, target in moves.items():
            if action is Action.DELETE:
                assert (state, target) == (state, state)
                assert state in TERMINAL
            else:
                assert (state, target) in EDGES, action


def test_every_way_out_of_a_state_that_no_worker_holds_is_an_action():
    asked = {(state, target) for moves in ACTIONS.values() for state, target in moves.items()}
    waiting = {(state, target) for state, target in EDGES if state not in LEASED}
    assert waiting - BY_WORKERS - BY_CHECKS == {
        (state, target) for state, target in asked & EDGES if state not in LEASED
    }


def test_what_is_asked_again_was_not_allowed_anew():
    for action, states in FULFILLED.items():
        targets = set(ACTIONS[action].values())
        assert not states & ACTIONS[action].keys()
        assert action is Action.DELETE or targets <= states, "where an action leads, asking again is no error"


def test_the_allowed_actions_of_a_state_are_those_of_the_table():
    assert allowed_actions(WorkState.RUNNING) == (Action.CANCEL, Action.PAUSE)
    assert allowed_actions(WorkState.PAUSED) == (Action.CANCEL, Action.RESUME)
    assert allowed_actions(WorkState.FAILED) == (Action.RETRY, Action.DELETE)
    assert allowed_actions(WorkState.PAUSING) == ()


def test_the_diagram_shows_every_transition_and_no_other():
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (diagram,) = re.findall(r"```mermaid\nstateDiagram-v2\n(.*?)```", text, re.DOTALL)
    lines = [line.strip() for line in diagram.splitlines() if "-->" in line and "[*]" not in line]
    drawn = [re.fullmatch(r"(\w+) --> (\w+): \S.*", line) for line in lines]
    assert all(drawn), "each line is `a --> b: reason`"
    edges = [(match[1], match[2]) for match in drawn if match]
    assert len(edges) == len(set(edges))
    assert set(edges) == {(state.value, target.value) for state, target in EDGES}
    ends = set(re.findall(r"^\s*(\w+) --> \[\*\]$", diagram, re.MULTILINE))
    assert ends == {state.value for state in TERMINAL}
