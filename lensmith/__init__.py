"""The Python SDK: `from lensmith import Client`.

    client = Client()                                   # LENSMITH_URL, LENSMITH_API_KEY
    dataset = client.datasets.wait(client.datasets.upload("digits.zip").id)
    job = client.jobs.create(base_model="smolvlm-256m", dataset=dataset.id)
    for item in client.jobs.follow(job.id): ...
    answer = client.infer("Which digit is this?", images=["7.png"], adapter=client.jobs.get(job.id).adapter)

It speaks HTTP and shares no code with the server.
"""

from lensmith.client import Client
from lensmith.errors import ApiError, LensmithClientError, NotUploadable, Unreachable
from lensmith.resources import (
    Adapter,
    Answer,
    Attempt,
    Batch,
    Checkpoint,
    CurvePoint,
    Dataset,
    Example,
    Job,
    LogItem,
    Preview,
    Upload,
)

__all__ = [
    "Adapter",
    "Answer",
    "ApiError",
    "Attempt",
    "Batch",
    "Checkpoint",
    "Client",
    "CurvePoint",
    "Dataset",
    "Example",
    "Job",
    "LensmithClientError",
    "LogItem",
    "NotUploadable",
    "Preview",
    "Unreachable",
    "Upload",
]
