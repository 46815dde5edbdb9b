"""The states of leased work and the one table of transitions between them."""

from enum import StrEnum
from types import MappingProxyType


class Kind(StrEnum):
    """What a piece of leased work does."""

    VALIDATION = "validation"
    TRAINING = "training"


class WorkState(StrEnum):
    """Where a piece of work stands.

    validating  a `/v1` job waits for its file to be checked         moved on by the checker
    queued      waits for a worker                                   claimed by a worker, cancelled by a user
    running     a worker holds its lease                             ended by the worker, or by the sweep
    pausing     a user asked to pause; the worker saves              ended by the worker, or by the sweep
    paused      saved, holds no device                               resumed or cancelled by a user
    cancelling  a user asked to cancel; the worker stops its child   ended by the worker, or by the sweep
    succeeded, failed, cancelled                                     failed and cancelled may be retried
    """

    VALIDATING = "validating"
    QUEUED = "queued"
    RUNNING = "running"
    PAUSING = "pausing"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


S = WorkState
TRANSITIONS: MappingProxyType[WorkState, frozenset[WorkState]] = MappingProxyType(
    {
        S.VALIDATING: frozenset({S.QUEUED, S.FAILED}),
        S.QUEUED: frozenset({S.RUNNING, S.CANCELLED}),
        S.RUNNING: frozenset({S.SUCCEEDED, S.FAILED, S.QUEUED, S.CANCELLING, S.PAUSING}),
        S.PAUSING: frozenset({S.PAUSED, S.QUEUED, S.FAILED}),
        S.PAUSED: frozenset({S.QUEUED, S.CANCELLED}),
        S.CANCELLING: frozenset({S.CANCELLED}),
        S.SUCCEEDED: frozenset(),
        S.FAILED: frozenset({S.QUEUED}),
        S.CANCELLED: frozenset({S.QUEUED}),
    }
)
TERMINAL = frozenset({S.SUCCEEDED, S.FAILED, S.CANCELLED})
LEASED = frozenset({S.RUNNING, S.PAUSING, S.CANCELLING})


def sources(target: WorkState) -> tuple[WorkState, ...]:
    """Return the states from which `target` may be reached."""
    return tuple(state for state, targets in TRANSITIONS.items() if target in targets)


class Action(StrEnum):
    """What a user may ask of a job."""

    CANCEL = "cancel"
    PAUSE = "pause"
    RESUME = "resume"
    RETRY = "retry"
    DELETE = "delete"


# In which states each action is allowed, and where it leads; one that is deleted keeps its state.
ACTIONS: MappingProxyType[Action, MappingProxyType[WorkState, WorkState]] = MappingProxyType(
    {
        Action.CANCEL: MappingProxyType({S.QUEUED: S.CANCELLED, S.RUNNING: S.CANCELLING, S.PAUSED: S.CANCELLED}),
        Action.PAUSE: MappingProxyType({S.RUNNING: S.PAUSING}),
        Action.RESUME: MappingProxyType({S.PAUSED: S.QUEUED}),
        Action.RETRY: MappingProxyType({S.FAILED: S.QUEUED, S.CANCELLED: S.QUEUED}),
        Action.DELETE: MappingProxyType({state: state for state in (S.SUCCEEDED, S.FAILED, S.CANCELLED)}),
    }
)

# In which states what was asked for is under way or done: asking again changes nothing and is no error.
FULFILLED: MappingProxyType[Action, frozenset[WorkState]] = MappingProxyType(
    {
        Action.CANCEL: frozenset({S.CANCELLING, S.CANCELLED}),
        Action.PAUSE: frozenset({S.PAUSING, S.PAUSED}),
        Action.RESUME: frozenset({S.QUEUED, S.RUNNING}),
        Action.RETRY: frozenset({S.QUEUED, S.RUNNING}),
        Action.DELETE: frozenset(),
    }
)


def allowed_actions(state: WorkState) -> tuple[Action, ...]:
    """Return what a user may ask of a job in this state."""
    return tuple(action for action, moves in ACTIONS.items() if state in moves)


class DatasetState(StrEnum):
    """A data set's state as the API shows it; derived from its work."""

    VALIDATING = "validating"
    READY = "ready"
    FAILED = "failed"


def dataset_state(state: WorkState) -> DatasetState:
    """Return the state of a data set whose validation stands at `state`."""
    if state is WorkState.SUCCEEDED:
        return DatasetState.READY
    return DatasetState.FAILED if state in TERMINAL else DatasetState.VALIDATING


class UploadState(StrEnum):
    """An upload's state: it takes parts, or it became a data set. One that expired is not found."""

    PENDING = "pending"
    COMPLETED = "completed"


class AdapterState(StrEnum):
    """An adapter's state. `ready` is committed together with its job's `succeeded`."""

    VERIFYING = "verifying"
    READY = "ready"
    FAILED = "failed"


class AttemptOutcome(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    GIVEN_BACK = "given_back"
    PAUSED = "paused"
    WORKER_LOST = "worker_lost"


class EventKind(StrEnum):
    """The kinds of items in a log."""

    LOG = "log"
    METRIC = "metric"
    EVENT = "event"
    SAMPLE = "sample"
    CHECKPOINT = "checkpoint"
