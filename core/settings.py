"""Settings: one class, read from `LENSMITH_*` variables, never from anywhere else."""

from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Literal, Self
from urllib.parse import quote, urlsplit

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from core.layout import Layout

MIB = 1024 * 1024


class Settings(BaseSettings):
    """What an operator may set. Defaults are the embedded service on loopback."""

    model_config = SettingsConfigDict(env_prefix="LENSMITH_", env_ignore_empty=True, extra="ignore", frozen=True)

    data_dir: Path = Path(".lensmith")
    database_url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite in the data directory")
    redis_url: str = Field("redis://127.0.0.1:6379/0", description="Redis protocol broker (Redis or Valkey)")
    storage_url: str | None = Field(None, description="file:///… or s3://bucket/prefix; default: in the data directory")
    serving_url: str = Field("http://127.0.0.1:8001", description="where the serving process listens")
    api_key: SecretStr | None = Field(None, description="the server's single key; unset: only loopback may be bound")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    log_format: Literal["console", "json"] = "console"

    max_upload_bytes: int = Field(2 * 1024 * MIB, ge=1, description="largest data set that POST /datasets takes")
    upload_part_bytes: int = Field(
        16 * MIB, ge=1, le=1024 * MIB, description="size of the parts of an upload; a proxy's limit must be above it"
    )
    remote_images: bool = Field(
        default=False, description="whether https URLs of callers are fetched: a row's images, a data set's source"
    )
    hub_datasets: bool = Field(default=False, description="whether callers may name data sets of the Hub as a source")
    source_buckets: str = Field("", description="S3 buckets, with commas, whose objects callers may name as a source")
    cache_bytes: int = Field(
        2 * 1024 * MIB, ge=1, description="what the API keeps of data sets' tables, and as much of thumbnails"
    )
    feature_cache_bytes: int = Field(
        20 * 1024 * MIB, ge=0, description="what a worker keeps of images that a vision tower has looked at; 0: nothing"
    )
    max_infer_bytes: int = Field(32 * MIB, ge=1, description="largest body that POST /infer takes")
    lease_s: float = Field(60.0, gt=0, description="how long a lease lives without a heartbeat")
    heartbeat_s: float = Field(5.0, gt=0, description="seconds between heartbeats of a lease")
    poll_s: float = Field(3.0, gt=0, description="seconds between a worker's own looks into SQL")
    sweep_s: float = Field(15.0, gt=0, description="seconds between sweeps of expired leases and lost messages")
    stop_ask_s: float = Field(5.0, ge=0, description="how long a child may take to stop when asked")
    stop_pause_s: float = Field(
        60.0, ge=0, description="how long a child may take to stop for a pause; it saves after the step under way"
    )
    stop_term_s: float = Field(10.0, ge=0, description="how long it may take after SIGTERM, before SIGKILL")
    stall_s: float = Field(
        3600.0,
        ge=0,
        description="how long a child may go on with nothing before it is killed, and tried again; 0: for ever",
    )
    janitor_grace_s: float = Field(
        24 * 3600.0,
        ge=0,
        description="age from which an object that no row names is removed; work in flight is younger",
    )
    checkpoint_keep_days: float = Field(
        7.0, ge=0, description="how long a job that failed or was cancelled keeps its checkpoints for a retry"
    )
    project_jobs: int = Field(0, ge=0, description="jobs of one project that run at once; 0: no bound")
    worker_classes: str = Field("", description="what jobs may ask of this worker by name, with commas: 24gb,l4")
    max_attempts: int = Field(
        3, ge=1, description="attempts in a row that may be lost, or fail for want of storage, without a step gained"
    )
    retry_s: float = Field(
        5.0, ge=0, le=75, description="wait before the next attempt when storage failed; four times as long each time"
    )

    log_keep_days: float = Field(
        30.0, ge=0, description="days after a job's end when its log moves from the database into an object"
    )

    @model_validator(mode="after")
    def _beat_within_the_lease(self) -> Self:
        if self.heartbeat_s * 3 > self.lease_s:
            raise ValueError(
                f"LENSMITH_HEARTBEAT_S: a lease of {self.lease_s:g} s (LENSMITH_LEASE_S) needs heartbeats at least every "
                f"{self.lease_s / 3:.3g} s."
            )
        return self

    @model_validator(mode="after")
    def _sources_are_not_ours(self) -> Self:
        """Whoever may name our own bucket as a source reads every project's objects."""
        ours = urlsplit(self.storage_url or "").netloc
        if ours in self.source_bucket_names:
            raise ValueError(f"the bucket {ours} holds our own objects (LENSMITH_STORAGE_URL), so it can be no source.")
        return self

    @property
    def exposure(self) -> str | None:
        """Return why this address may not be bound; None when it may: loopback, or a key is set."""
        if self.api_key is not None or self.host == "localhost":
            return None
        try:
            if ip_address(self.host).is_loopback:
                return None
        except ValueError:  # a name: whoever resolves it may be far away
            pass
        return (
            f"Without a key only loopback may be bound, not {self.host}: make one with "
            "`export LENSMITH_API_KEY=$(openssl rand -hex 32)` and start again."
        )

    @property
    def source_bucket_names(self) -> frozenset[str]:
        """Return the buckets of `source_buckets`."""
        return frozenset(name.strip() for name in self.source_buckets.split(",") if name.strip())

    @property
    def worker_class_names(self) -> frozenset[str]:
        """Return the classes of `worker_classes`."""
        return frozenset(name.strip() for name in self.worker_classes.split(",") if name.strip())

    @property
    def layout(self) -> Layout:
        """Return the layout of the data directory."""
        return Layout(self.data_dir.absolute())

    @property
    def resolved_database_url(self) -> str:
        """Return the database's URL, the embedded SQLite unless another is set."""
        return self.database_url or f"sqlite:///{quote(str(self.layout.database))}"  # a `?` would begin the options

    @property
    def resolved_storage_url(self) -> str:
        """Return the object store's URL, the embedded folder unless another is set."""
        return self.storage_url or self.layout.storage.as_uri()


@cache
def settings() -> Settings:
    """Return this process's settings, read once."""
    return Settings()
