"""Where things lie in the data directory. No other module joins these names."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The rooms of one data directory (`LENSMITH_DATA_DIR`)."""

    root: Path

    @property
    def database(self) -> Path:
        """Return the embedded SQLite file."""
        return self.root / "lensmith.db"

    @property
    def storage(self) -> Path:
        """Return the folder of the embedded object store."""
        return self.root / "storage"

    @property
    def models(self) -> Path:
        """Return the cache of base models that we build ourselves (`lensmith-demo`, `tiny`)."""
        return self.root / "cache" / "models"

    @property
    def features(self) -> Path:
        """Return the cache of what frozen vision towers make of images."""
        return self.root / "cache" / "features"

    @property
    def datasets(self) -> Path:
        """Return the cache of data sets unpacked for training, by digest."""
        return self.root / "cache" / "datasets"

    @property
    def tables(self) -> Path:
        """Return the cache of data sets' tables that the API reads, by data set and digest."""
        return self.root / "cache" / "tables"

    @property
    def thumbnails(self) -> Path:
        """Return the cache of small pictures, by the sha256 of the large one."""
        return self.root / "cache" / "thumbnails"

    @property
    def adapters(self) -> Path:
        """Return the cache of adapters unpacked for serving, by sha256."""
        return self.root / "cache" / "adapters"

    @property
    def valkey(self) -> Path:
        """Return the folder of the embedded Valkey server."""
        return self.root / "valkey"

    @property
    def logs(self) -> Path:
        """Return the folder with one log file per part."""
        return self.root / "logs"

    @property
    def run(self) -> Path:
        """Return the folder of things that live as long as the service: the lock, staging folders."""
        return self.root / "run"

    @property
    def lock(self) -> Path:
        """Return the file whose lock says that a service runs on this data directory."""
        return self.run / "lensmith.lock"

    @property
    def staging_root(self) -> Path:
        """Return the folder that holds the staging folders of all attempts."""
        return self.run / "staging"

    def staging(self, work_id: str, fence: int) -> Path:
        """Return the only folder that the child of one attempt may write to."""
        return self.staging_root / f"{work_id}-{fence}"

    def make(self) -> None:
        """Create the folders that exist on every data directory."""
        caches = (self.models, self.datasets, self.tables, self.thumbnails, self.adapters)
        for folder in (self.storage, *caches, self.logs, self.run):
            folder.mkdir(parents=True, exist_ok=True)
