"""Claims: which piece of work is next, and taking it under a lease.

The order is priority, then fair share between projects (fewest leased pieces of work on the queue, then least device
time of the last day), then age. `api.jobs.forecast` simulates the same order. Work whose memory plan does not fit what is free
of the worker's device is passed over, but not for ever: beside other work all that it would hold alone has to be free, where
nothing else runs the least that it can do with.
"""

from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlalchemy.sql.elements import ColumnElement, SQLColumnExpression
from sqlmodel import Session, col

from core.clock import utc_now
from core.db import NowS, UtcDateTime
from core.queue import Queue
from models.device_memory import Headroom, Promise, Room, unbounded
from models.event import note
from models.leases import LONGEST_WAIT_S, Claim
from models.states import LEASED, WorkState
from models.work import Attempt, Work
from models.worker import Worker

SHARE_WINDOW_S = 86_400.0  # of the device time that counts for fair share
PATIENCE = timedelta(minutes=10)  # after its making, until which smaller work overtakes work that waits for memory


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What a worker can take.

    Attributes:
        gpus: How many it has.
        classes: Names of what it is; work that asks for a class is taken by a worker of that class only.
        device: Whose memory it uses; workers may share one.
        memory_bytes: Of the device, in all; None where nobody knows. For whoever plans; claims look at what is free.
        headroom: Returns what of it more work may hold; None where nobody knows.
    """

    gpus: int = 0
    classes: frozenset[str] = frozenset()
    device: str | None = None
    memory_bytes: int | None = None
    headroom: Headroom = unbounded


NOTHING_SPECIAL = Offer()


def claim(
    session: Session,
    queue: Queue,
    *,
    worker_id: str,
    lease_s: float,
    offer: Offer = NOTHING_SPECIAL,
    project_bound: int = 0,
) -> Claim | None:
    """Take the next piece of work of a queue that the worker can do; None when there is none.

    Args:
        session: Of a writing transaction.
        queue: Where to look.
        worker_id: Who will hold the lease.
        lease_s: How long it lasts without a heartbeat.
        offer: What the worker can take.
        project_bound: How many pieces of work of one project may be leased at once; 0: as many as there are workers.
    """
    _serialize(session, queue)
    first = session.execute(_next(queue, offer, project_bound)).scalar()
    if first is None:
        return None
    promised = promises(session, queue, offer.device)
    room = offer.headroom(promised)
    chosen = first
    if room is not None:
        fitting = _fitting(session, queue, offer, project_bound, room, is_shared=bool(promised))
        if fitting is None:
            return None
        chosen = fitting
    taken = session.execute(
        sa.update(Work)
        .where(col(Work.id) == chosen, col(Work.state) == WorkState.QUEUED)
        .values(
            state=WorkState.RUNNING,
            fence=col(Work.fence) + 1,
            attempt=col(Work.attempt) + 1,
            lease_owner=worker_id,
            lease_until_s=NowS() + lease_s,
            started_at=sa.func.coalesce(col(Work.started_at), sa.literal(utc_now(), UtcDateTime())),
            finished_at=None,
            failure=None,
            last_flush=0,
            promised_bytes=_promise(room),
        )
        .returning(
            col(Work.id),
            col(Work.project),
            col(Work.kind),
            col(Work.fence),
            col(Work.attempt),
            col(Work.last_seq),
            NowS(),
        )
    ).first()
    if taken is None:
        return None
    work_id, project, kind, fence, attempt, last_seq, now_s = taken
    session.add(
        Attempt(
            work_id=work_id,
            project=project,
            number=attempt,
            fence=fence,
            worker_id=worker_id,
            first_seq=last_seq + 1,
            began_s=now_s,
        )
    )
    session.flush()
    note(session, work_id, f"Attempt {attempt} started.", fence=fence, state=WorkState.RUNNING, worker=worker_id)
    return Claim(work_id=work_id, project=project, kind=kind, fence=fence, attempt=attempt, room=room)


def _promise(room: Room | None) -> sa.Case[int | None] | None:
    """Return what work is promised that is claimed: all that there is, until its run has planned how much it takes."""
    if room is None:
        return None
    is_planned = col(Work.needed_bytes).is_not(None)
    return sa.case((is_planned, sa.literal(room.beside_bytes, sa.BigInteger())), else_=sa.null())


def promises(session: Session, queue: Queue, device: str | None) -> list[Promise]:
    """Return what was promised of a device to work of a queue that runs; nothing where nobody knows what it will hold."""
    rows = session.execute(
        sa.select(col(Worker.pid), col(Work.promised_bytes))
        .join(Worker, col(Worker.id) == col(Work.lease_owner))
        .where(
            col(Work.queue) == queue,
            col(Work.state).in_(LEASED),
            col(Worker.device) == device,
            sa.func.coalesce(col(Work.promised_bytes), -1) != 0,  # 0: it runs on another device of its worker
        )
    )
    return [Promise(pid=pid, memory_bytes=promised_bytes or 0) for pid, promised_bytes in rows]


def _fitting(
    session: Session, queue: Queue, offer: Offer, project_bound: int, room: Room, *, is_shared: bool
) -> str | None:
    """Return the next work that fits what is free; none while work that only waits for others to end has waited for long.

    Beside others work gets what it would take alone: nobody learns in another way because of who runs beside. Alone it is
    taken when the least that it can do with is there.
    """
    work = _next(queue, offer, project_bound)
    work = work.where(sa.func.coalesce(col(Work.least_bytes), 0) <= room.alone_bytes)
    waits: str | None = session.execute(work).scalar()
    if waits is None or not is_shared:
        return waits
    first = session.get_one(Work, waits)
    if (first.needed_bytes or 0) <= room.beside_bytes:
        return waits
    if utc_now() - first.created_at > PATIENCE:
        return None
    overtaking: str | None = session.execute(
        work.where(sa.func.coalesce(col(Work.needed_bytes), 0) <= room.beside_bytes)
    ).scalar()
    return overtaking


def device_time(queue: Queue) -> sa.CTE:
    """Return the seconds that each project's attempts on a queue took of the last day, by the database's clock."""
    now = sa.select(NowS().label("now_s")).cte("clock")
    ended = sa.func.coalesce(col(Attempt.ended_s), now.c.now_s)
    since = now.c.now_s - SHARE_WINDOW_S
    began = sa.case((col(Attempt.began_s) < since, since), else_=col(Attempt.began_s))
    seconds = ended - began
    is_recent = sa.or_(col(Attempt.ended_s) >= since, col(Attempt.ended_s).is_(None) & col(Attempt.ended_at).is_(None))
    return (
        sa.select(col(Attempt.project), sa.func.sum(sa.case((seconds > 0, seconds), else_=0.0)).label("used_s"))
        .select_from(Attempt)
        .join(Work, col(Work.id) == col(Attempt.work_id))
        .join(now, sa.true())
        .where(col(Work.queue) == queue, is_recent)
        .group_by(col(Attempt.project))
        .cte("used")
        .prefix_with("MATERIALIZED", dialect="postgresql")
    )


def is_available(at_s: SQLColumnExpression[float]) -> ColumnElement[bool]:
    """Tell whether work may be claimed: nothing waits longer than the longest wait, unless the clock was set back."""
    return sa.or_(at_s <= NowS(), at_s > NowS() + LONGEST_WAIT_S)


def _next(queue: Queue, offer: Offer, project_bound: int) -> sa.Select[str]:
    leased = (
        sa.select(col(Work.project), sa.func.count().label("num"))
        .where(col(Work.queue) == queue, col(Work.state).in_(LEASED))
        .group_by(col(Work.project))
        .cte("leased")
        .prefix_with("MATERIALIZED", dialect="postgresql")  # else its planner counts again for every row
    )
    used = device_time(queue)
    num_leased = sa.func.coalesce(leased.c.num, 0)
    waiting = (
        sa.select(col(Work.id))
        .outerjoin(leased, leased.c.project == col(Work.project))
        .outerjoin(used, used.c.project == col(Work.project))
        .where(
            col(Work.queue) == queue,
            col(Work.state) == WorkState.QUEUED,
            is_available(col(Work.available_at_s)),
            col(Work.gpus) <= offer.gpus,
            sa.or_(col(Work.resource_class).is_(None), col(Work.resource_class).in_(sorted(offer.classes))),
        )
        .order_by(col(Work.priority).desc(), num_leased, sa.func.coalesce(used.c.used_s, 0.0), col(Work.id))
        .limit(1)
        .with_for_update(skip_locked=True, of=Work)
    )
    return waiting.where(num_leased < project_bound) if project_bound else waiting


def _serialize(session: Session, queue: Queue) -> None:
    """Let one claim of a queue end before the next looks: two at once would both see room below a project's bound."""
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtext(f"lensmith claim {queue}"))))
