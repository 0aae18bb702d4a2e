"""What one client may ask for, so that none can starve the others."""

from __future__ import annotations

from dataclasses import dataclass

from histopipe.core.params import MAX_MEMBERS
from histopipe.ingest.images import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """Bounds of the server; whatever goes beyond one is refused with a reason.

    Attributes:
        images: of one request.
        pixels: of one image, read from its header before it is decoded.
        body: bytes of a request to `/v1/predict` or `/v1/explain`.
        upload: bytes of a slide or an archive.
        members: files, folders and links in an archive.
        seconds: for a request's headers, and again for its body; and between two pieces of an upload.
        upload_seconds: for an upload as a whole.
        wait: seconds that patches may wait for their turn; beyond that the answer is 429.
        queue: patches that may wait, whatever their time.
        requests: whose images are graded at the same time; beyond that the answer is 429.
        memory: bytes of bodies held at the same time; beyond that the answer is 429.
        jobs: slides and archives that run or wait.
        job_seconds: for one of them.
        keep: seconds for which its result is kept.
    """

    images: int = 64
    pixels: int = MAX_PIXELS
    body: int = 32 * 2**20
    upload: int = 4 * 2**30
    members: int = MAX_MEMBERS
    seconds: float = 20.0
    upload_seconds: float = 3600.0
    wait: float = 1.0
    queue: int = 1024
    requests: int = 64
    memory: int = 512 * 2**20
    jobs: int = 8
    job_seconds: float = 3600.0
    keep: float = 3600.0
