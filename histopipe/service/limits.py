"""Limits on what one client may use, so that none can starve the others."""

from __future__ import annotations

from dataclasses import dataclass

from histopipe.core.params import MAX_MEMBERS
from histopipe.ingest.images import MAX_PIXELS


@dataclass(frozen=True)
class Limits:
    """Limits of the service; a request that exceeds one is refused with a reason.

    Attributes:
        images: maximum number of images in one request.
        pixels: maximum number of pixels of one image, read from its header before it is decoded.
        body: maximum bytes of a request to `/v1/predict` or `/v1/explain`.
        upload: maximum bytes of a slide or an archive.
        members: maximum number of files, folders and links in an archive.
        seconds: maximum seconds for the headers of a request, for its body, and for each pause in an upload or in
            reading a response.
        upload_seconds: maximum seconds for a whole upload.
        wait: maximum seconds that patches wait for prediction; beyond that the status is 429.
        queue: maximum number of waiting patches, even if the expected wait is shorter than `wait`.
        requests: maximum number of concurrent requests with images; beyond that the status is 429.
        memory: maximum bytes of request bodies and large responses at the same time; beyond that the status is 429.
        jobs: maximum number of slides and archives that are predicted or wait.
        job_seconds: maximum seconds for the prediction of one slide or archive.
        keep: seconds that the result of a finished job stays on disk.
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
