"""`PUT /uploads/{id}/parts/{number}`: a body becomes an object piece by piece, whole or not at all."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Annotated, Any

from fastapi import Path, Request, Response
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from api.services import ProjectDep, Services, ServicesDep
from api.uploads.access import find, hold, pending
from api.uploads.digests import ClaimedDep, check_digest
from api.uploads.schemas import read_part
from core.draft import Stored
from core.errors import Invalid, Problem, Unavailable, WorkFailed
from core.http import CLIENT_GONE_STATUS
from core.ids import Prefix, new_id
from core.logs import get_logger
from core.storage import CHUNK_BYTES, Storage
from models import upload as uploads
from models.upload import Upload, UploadPart

log = get_logger(__name__)


async def put_part(
    upload_id: str,
    number: Annotated[int, Path(ge=1, description="from 1 to the upload's `num_parts`")],
    request: Request,
    services: ServicesDep,
    project: ProjectDep,
    claimed: ClaimedDep,
) -> Response:
    """Take one part, in any order. Sent again, the newest counts; the same bytes change nothing.

    A part is there when this has answered. Of one whose connection broke nothing is kept: send it again.
    """
    upload = await run_in_threadpool(_open_upload, services, upload_id, project=project)
    expected = _length_of(upload, number)
    declared = _declared(request)
    if declared is not None:  # refused before the body is read
        _check_length(declared, expected, is_whole=True)
    key = f"{upload.prefix}/{number}-{new_id(Prefix.REQUEST)}"
    storing = _store(services.storage, key, request.stream(), expected=expected, claimed=claimed)
    try:
        stored = await _until(request.app.state.stopping, storing)
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE_STATUS)
    part = UploadPart(
        upload_id=upload.id,
        number=number,
        project=project,
        key=key,
        sha256=stored.sha256,
        size_bytes=stored.size_bytes,
    )
    read = read_part(part)
    await run_in_threadpool(_keep, services, part)
    return Response(read.model_dump_json(), media_type="application/json")


def _open_upload(services: Services, upload_id: str, *, project: str) -> Upload:
    with services.database.read() as session:
        return pending(find(session, upload_id, project=project))


def _length_of(upload: Upload, number: int) -> int:
    if number > upload.num_parts:
        plural = "s" if upload.num_parts > 1 else ""
        raise Invalid.field("#/number", f"The upload has {upload.num_parts} part{plural}, counted from 1.")
    return upload.bytes_of(number)


def _declared(request: Request) -> int | None:
    declared = request.headers.get("content-length", "")
    return int(declared) if declared.isdecimal() else None


def _check_length(came: int, expected: int, *, is_whole: bool) -> None:
    if came > expected or (is_whole and came != expected):
        least = "" if is_whole else "at least "
        raise Invalid.field("#", f"This part has {expected:,} bytes, and {least}{came:,} came. Send exactly these.")


async def _until(stopping: asyncio.Event, storing: Coroutine[Any, Any, Stored]) -> Stored:
    """Return what was stored, unless this process is told to stop first.

    Who waits for bytes then would be cancelled at the end of the grace, too late to remove what it wrote.
    """
    work = asyncio.create_task(storing)
    end = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({work, end}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        raise Unavailable("This server is being stopped. Send the part again when it is back.")
    finally:
        work.cancel()
        end.cancel()
        await asyncio.gather(work, end, return_exceptions=True)


async def _store(
    storage: Storage, key: str, body: AsyncIterator[bytes], *, expected: int, claimed: str | None
) -> Stored:
    """Write a body to an object of exactly this length and, when one is claimed, of this digest.

    Whatever ends it early (the client, a limit, the end of this process) leaves no object.
    """
    draft = await run_in_threadpool(storage.draft, key)
    try:
        async for piece in _gathered(body):
            _check_length(draft.size_bytes + len(piece), expected, is_whole=False)
            await run_in_threadpool(draft.write, piece)
        _check_length(draft.size_bytes, expected, is_whole=True)
        check_digest(draft.sha256, claimed)
        return await run_in_threadpool(storage.finish, draft)
    except BaseException:
        await run_in_threadpool(storage.discard, draft)
        raise


async def _gathered(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield a body in larger pieces: a network's are of 64 KB, and each would be a turn of a thread."""
    gathered = bytearray()
    async for chunk in body:
        gathered += chunk
        if len(gathered) >= CHUNK_BYTES:
            yield bytes(gathered)
            gathered.clear()
    if gathered:
        yield bytes(gathered)


def _keep(services: Services, part: UploadPart) -> None:
    """Write the part's row, and remove the object that nothing leads to then: an older one, or this one."""
    try:
        with services.database.write() as session:
            held = pending(hold(session, part.upload_id, project=part.project))
            needless = uploads.keep_part(session, held, part)
    except Problem:  # surely nothing was committed; after a lost connection, who knows
        _remove(services.storage, part.key)
        raise
    if needless is not None:
        _remove(services.storage, needless)


def _remove(storage: Storage, key: str) -> None:
    """Remove an object of an upload. What a store that is away keeps is removed at the upload's end."""
    try:
        storage.delete(key)
    except WorkFailed as failed:
        log.warning("an object of an upload stays behind", key=key, error=failed.detail)
