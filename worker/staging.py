"""Staging folders that a killed worker left on this machine: removed when no lease stands behind them any more."""

import shutil

from core.db import Database
from core.layout import Layout
from core.logs import get_logger
from models import leases

log = get_logger(__name__)


def sweep_staging(database: Database, layout: Layout) -> None:
    """Remove the folders of attempts that have ended; a folder's name is the work's id and the attempt's fence."""
    folders = [path for path in layout.staging_root.glob("*-*") if path.is_dir()]
    if not folders:
        return
    with database.read() as session:
        held = {f"{work_id}-{fence}" for work_id, fence in leases.held(session)}
    for folder in folders:
        if folder.name not in held:
            shutil.rmtree(folder, ignore_errors=True)
            log.info("staging folder removed", name=folder.name)
