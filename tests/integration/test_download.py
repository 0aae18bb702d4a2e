"""Downloads from real servers on this machine: cut, changed, refused, killed and resumed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from histopipe.core.errors import HistopipeError, SourceError
from histopipe.core.params import Params, parse_params
from histopipe.core.workspace import Workspace
from histopipe.ingest.sources.archive_file import find_archive
from histopipe.ingest.sources.stage import fetch, locate
from tests.builders.paths import ROOT


def archive(seed: int = 0, size: int = 1_000_000) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("8863/0/8863_idx5_x51_y1251_class0.png", random.Random(seed).randbytes(size))
    return buffer.getvalue()


@dataclass
class Site:
    """What the server does, and what was asked of it."""

    content: bytes
    etag: str | None = '"one"'
    last_modified: str | None = None
    ranges: bool = True
    head: bool = True
    lengths: bool = True
    failures: list[int] = field(default_factory=list)  # status codes to answer first
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers break off
    pause: float = 0.0  # seconds after every 64 kB
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    served: int = 0
    authorisation: list[str | None] = field(default_factory=list)
    dataset: dict[str, Any] = field(default_factory=dict)  # what a pretended Kaggle says of the data set
    url: str = ""

    @property
    def gets(self) -> list[str | None]:
        return [span for method, span, _ in self.asked if method == "GET"]


class Handler(BaseHTTPRequestHandler):
    site: Site

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.note()
        if not self.site.head:
            self.send_error(405)
        elif not self.fails():
            self.start(200, len(self.site.content))

    def do_GET(self) -> None:
        self.note()
        if self.fails():
            return
        start, end = self.span()
        total = len(self.site.content)
        if start and start >= total:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{total}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        partial = (start, end) != (0, total)
        self.start(206 if partial else 200, end - start, f"bytes {start}-{end - 1}/{total}" if partial else None)
        self.send_body(self.site.content[start:end])

    def do_POST(self) -> None:
        """Kaggle's two calls."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.note()
        if self.fails():
            return
        if self.path.endswith("/GetDataset"):
            body = json.dumps(self.site.dataset).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            self.send_response(302)
            self.send_header("Location", f"{self.site.url}?X-Goog-Signature=secret")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def note(self) -> None:
        self.site.asked.append((self.command, self.headers["Range"], self.headers["If-Range"]))
        self.site.authorisation.append(self.headers["Authorization"])

    def fails(self) -> bool:
        if not self.site.failures:
            return False
        self.send_error(self.site.failures.pop(0))
        return True

    def span(self) -> tuple[int, int]:
        asked, total = self.headers["Range"], len(self.site.content)
        stale = self.headers["If-Range"] not in (None, self.site.etag, self.site.last_modified)
        if not self.site.ranges or asked is None or stale:
            return 0, total
        first, last = asked.removeprefix("bytes=").split("-")
        return int(first), min(int(last) + 1, total) if last else total

    def start(self, code: int, length: int, content_range: str | None = None) -> None:
        self.send_response(code)
        said = {
            "ETag": self.site.etag,
            "Last-Modified": self.site.last_modified,
            "Content-Range": content_range,
        }
        for name, value in said.items():
            if value:
                self.send_header(name, value)
        if self.site.lengths:
            self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_body(self, body: bytes) -> None:
        if len(body) > 1 and self.site.cuts:
            body = body[: self.site.cuts.pop(0)]
        for place in range(0, len(body), 2**16):
            piece = body[place : place + 2**16]
            try:
                self.wfile.write(piece)
            except OSError:  # the client was killed
                return
            self.site.served += len(piece)
            time.sleep(self.site.pause)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(archive())
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("SiteHandler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_port}/files/patches.zip"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.setattr("histopipe.ingest.sources.download.sleep", lambda _: None)
    return Workspace(tmp_path)


def params_with(source: str, **changes: Any) -> Params:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["idc"] = {"source": source, **changes}
    return parse_params(content)


def closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


def record_of(workspace: Workspace) -> bytes:
    return workspace.source("idc").read_bytes()


def start_a_part(site: Site, workspace: Workspace, params: Params, length: int = 400_000) -> None:
    """Leave a download unfinished: every attempt breaks off, the first ones at `length`."""
    site.cuts = [length, *[0] * 10]
    with pytest.raises(SourceError, match="run the same command again to resume"):
        fetch("idc", params, workspace)
    site.cuts, site.served = [], 0
    site.asked.clear()


def assert_whole(site: Site, workspace: Workspace) -> None:
    assert find_archive(workspace.raw("idc")).read_bytes() == site.content
    assert not workspace.downloads("idc").exists()


def test_a_file_is_located_and_downloaded(site: Site, workspace: Workspace) -> None:
    params = params_with(site.url)
    record = locate("idc", params, workspace)
    assert (record.kind, record.name, record.size) == ("web", "patches.zip", len(site.content))
    assert record.fingerprint == {"etag": '"one"', "size": len(site.content)}
    assert site.served == 0
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert site.gets == [None]


@pytest.mark.parametrize("without", ["head", "lengths"])
def test_servers_that_say_little_of_their_files_are_asked_for_one_byte(
    site: Site, workspace: Workspace, without: str
) -> None:
    setattr(site, without, False)
    params = params_with(site.url)
    record = locate("idc", params, workspace)
    assert record.size == len(site.content)
    assert site.gets == ["bytes=0-0"]
    site.lengths = True
    fetch("idc", params, workspace)
    assert_whole(site, workspace)


def test_changed_content_is_noticed(site: Site, workspace: Workspace) -> None:
    params = params_with(site.url)
    locate("idc", params, workspace)
    before = record_of(workspace)
    locate("idc", params, workspace)
    assert record_of(workspace) == before
    site.content, site.etag = archive(1), '"two"'
    with pytest.raises(SourceError, match="changed since it was located: run `histopipe locate idc`"):
        fetch("idc", params, workspace)
    assert not workspace.raw("idc").exists()
    locate("idc", params, workspace)
    assert record_of(workspace) != before
    fetch("idc", params, workspace)
    assert_whole(site, workspace)


def test_a_cut_download_goes_on_where_it_stopped(site: Site, workspace: Workspace) -> None:
    site.cuts = [400_000, 300_000]
    params = params_with(site.url)
    locate("idc", params, workspace)
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    first, second, third = site.gets
    assert first is None
    assert second is not None
    assert third is not None
    begun = [int(span.removeprefix("bytes=").removesuffix("-")) for span in (second, third)]
    assert 300_000 < begun[0] <= 400_000 < begun[1] <= 700_000
    assert [condition for method, _, condition in site.asked if method == "GET"] == [None, '"one"', '"one"']
    assert site.served < len(site.content) + 2 * 2**16


def test_an_unfinished_download_goes_on_in_the_next_run(site: Site, workspace: Workspace) -> None:
    params = params_with(site.url)
    locate("idc", params, workspace)
    start_a_part(site, workspace, params)
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert len(site.gets) == 1
    assert site.gets[0] is not None
    assert site.served < 700_000


def test_a_download_killed_after_the_last_byte_is_not_repeated(site: Site, workspace: Workspace) -> None:
    params = params_with(site.url)
    locate("idc", params, workspace)
    start_a_part(site, workspace, params)
    (workspace.downloads("idc") / "patches.zip.part").write_bytes(site.content)
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert site.asked == []


def test_dates_serve_where_there_is_no_tag(site: Site, workspace: Workspace) -> None:
    site.etag, site.last_modified = None, "Wed, 21 Oct 2015 07:28:00 GMT"
    params = params_with(site.url)
    assert locate("idc", params, workspace).fingerprint["last_modified"] == site.last_modified
    start_a_part(site, workspace, params)
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert site.gets[0] is not None


def test_without_tag_or_date_nothing_is_spliced(
    site: Site, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    site.etag = None
    params = params_with(site.url)
    locate("idc", params, workspace)
    assert "is not detected" in caplog.text
    start_a_part(site, workspace, params)
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert site.gets == [None]


def test_a_changed_tag_starts_anew(site: Site, workspace: Workspace) -> None:
    params = params_with(site.url)
    locate("idc", params, workspace)
    start_a_part(site, workspace, params)
    site.content, site.etag = archive(1), '"two"'
    locate("idc", params, workspace)
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert site.gets == [None]


def test_a_server_without_ranges_starts_anew(site: Site, workspace: Workspace) -> None:
    site.ranges = False
    site.cuts = [400_000]
    params = params_with(site.url)
    locate("idc", params, workspace)
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert len(site.gets) == 2


def test_a_server_that_never_gets_further_is_given_up(site: Site, workspace: Workspace) -> None:
    site.ranges = False
    site.cuts = [400_000] * 50
    params = params_with(site.url)
    locate("idc", params, workspace)
    with pytest.raises(SourceError, match="the connection was cut"):
        fetch("idc", params, workspace)
    assert len(site.gets) <= 6


def test_passing_troubles_are_sat_out(site: Site, workspace: Workspace) -> None:
    params = params_with(site.url)
    locate("idc", params, workspace)
    site.failures = [503, 429]
    fetch("idc", params, workspace)
    assert_whole(site, workspace)


@pytest.mark.parametrize(("code", "remedy"), [(404, "check idc.source"), (403, ".netrc")])
def test_a_refused_file_is_one_line(site: Site, workspace: Workspace, code: int, remedy: str) -> None:
    site.failures = [code, code]
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with(site.url), workspace)
    assert "\n" not in str(caught.value)
    assert remedy in str(caught.value)
    assert not workspace.source("idc").exists()


def test_a_server_never_reached_is_one_line(workspace: Workspace) -> None:
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with(f"http://127.0.0.1:{closed_port()}/patches.zip"), workspace)
    assert "can't be reached (no connection): check the network and idc.source" in str(caught.value)
    assert not workspace.source("idc").exists()


@pytest.mark.parametrize("trouble", ["down", "closed"])
def test_a_server_reached_before_leaves_the_record(
    site: Site, workspace: Workspace, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    url = site.url
    if trouble == "closed":
        url = f"http://127.0.0.1:{closed_port()}/patches.zip"
        shown = json.dumps({"kind": "web", "source": url, "resolved": url, "name": "p", "size": 1, "fingerprint": {}})
        workspace.source("idc").parent.mkdir(parents=True)
        workspace.source("idc").write_text(shown)
    else:
        locate("idc", params_with(url), workspace)
        site.failures = [503] * 10
    before, inode = record_of(workspace), workspace.source("idc").stat().st_ino
    locate("idc", params_with(url), workspace)
    assert record_of(workspace) == before
    assert workspace.source("idc").stat().st_ino == inode
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "the earlier record is kept" in warnings[0]


def test_the_record_of_another_address_does_not_count(site: Site, workspace: Workspace) -> None:
    locate("idc", params_with(site.url), workspace)
    with pytest.raises(SourceError, match="can't be reached"):
        locate("idc", params_with(f"http://127.0.0.1:{closed_port()}/patches.zip"), workspace)


def test_a_checksum_is_compared_and_the_wrong_file_thrown_away(site: Site, workspace: Workspace) -> None:
    wrong = params_with(site.url, checksum="sha256:" + "0" * 64)
    locate("idc", wrong, workspace)
    with pytest.raises(SourceError, match=r"idc\.checksum"):
        fetch("idc", wrong, workspace)
    assert not workspace.raw("idc").exists()
    assert not workspace.downloads("idc").exists()
    right = params_with(site.url, checksum=f"sha256:{hashlib.sha256(site.content).hexdigest()}")
    assert locate("idc", right, workspace) != locate("idc", wrong, workspace)
    locate("idc", right, workspace)
    fetch("idc", right, workspace)
    assert_whole(site, workspace)


def test_a_web_page_in_place_of_the_archive_is_refused(site: Site, workspace: Workspace) -> None:
    site.content = b"<!DOCTYPE html><title>Please log in</title>"
    params = params_with(site.url)
    locate("idc", params, workspace)
    with pytest.raises(SourceError, match=r"neither a zip nor a tar archive \(it starts with b'<!DOCTYPE"):
        fetch("idc", params, workspace)
    assert not workspace.raw("idc").exists()
    assert not workspace.downloads("idc").exists()


def test_an_empty_file_is_refused(site: Site, workspace: Workspace) -> None:
    site.content = b""
    with pytest.raises(SourceError, match="is empty"):
        locate("idc", params_with(site.url), workspace)


def test_credentials_are_used_but_never_recorded(
    site: Site, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    params = params_with(site.url.replace("http://", "http://me:hush@") + "?token=hush")
    locate("idc", params, workspace)
    start_a_part(site, workspace, params)
    kept = [path.read_bytes() for path in workspace.downloads("idc").glob("*.json")]
    assert kept
    assert all(b"hush" not in content for content in [record_of(workspace), *kept])
    fetch("idc", params, workspace)
    assert site.authorisation[-1] == "Basic bWU6aHVzaA=="
    site.failures = [404] * 2
    with pytest.raises(SourceError) as caught:
        locate("idc", params, workspace)
    assert "hush" not in str(caught.value)
    assert "hush" not in "".join(capsys.readouterr())


def test_a_killed_process_goes_on_where_it_was(site: Site, workspace: Workspace) -> None:
    site.pause = 0.03
    params = params_with(site.url)
    locate("idc", params, workspace)
    part = workspace.downloads("idc") / "patches.zip.part"
    script = (
        "import sys, json; from pathlib import Path; from histopipe.core.params import parse_params;"
        "from histopipe.core.workspace import Workspace; from histopipe.ingest.sources.stage import fetch;"
        "fetch('idc', parse_params(json.loads(sys.argv[1])), Workspace(Path(sys.argv[2])))"
    )
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["idc"] = {"source": site.url}
    child = subprocess.Popen(
        [sys.executable, "-c", script, json.dumps(content), str(workspace.root)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    deadline = time.monotonic() + 20
    while not (part.exists() and part.stat().st_size > 200_000) and time.monotonic() < deadline:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not workspace.raw("idc").exists()
    come = part.stat().st_size
    assert 200_000 < come < len(site.content)
    site.pause = 0
    fetch("idc", params, workspace)
    assert_whole(site, workspace)
    assert site.gets == [None, f"bytes={come}-"]
    assert [path.name for path in workspace.raw("idc").parent.iterdir()] == ["idc"]


# Kaggle, pretended by the same server behind Kaggle's own client


@pytest.fixture
def kaggle(site: Site, workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> Site:
    environment = pytest.importorskip("kagglesdk.kaggle_env")
    home = workspace.root / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("KAGGLE_API_TOKEN", "pretended")
    address = site.url.removesuffix("/files/patches.zip")
    monkeypatch.setitem(environment._env_to_endpoint, environment.KaggleEnv.PROD, address)
    site.dataset = {"currentVersionNumber": 3, "totalBytes": len(site.content)}
    return site


def test_kaggle_gives_the_archive_as_it_came(kaggle: Site, workspace: Workspace) -> None:
    params = params_with("kaggle")
    record = locate("idc", params, workspace)
    handle = "paultimothymooney/breast-histopathology-images"
    assert record.fingerprint == {"handle": handle, "version": 3}
    assert record.size == len(kaggle.content)
    path = fetch("idc", params, workspace)
    assert path.name == "breast-histopathology-images-v3.zip"
    assert_whole(kaggle, workspace)
    assert kaggle.authorisation[0] == "Bearer pretended"


def test_a_new_version_on_kaggle_is_noticed(kaggle: Site, workspace: Workspace) -> None:
    before = locate("idc", params_with("kaggle"), workspace)
    assert locate("idc", params_with("kaggle"), workspace) == before
    kaggle.dataset["currentVersionNumber"] = 4
    assert locate("idc", params_with("kaggle"), workspace) != before


def test_a_cut_download_from_kaggle_goes_on(kaggle: Site, workspace: Workspace) -> None:
    kaggle.cuts = [400_000]
    params = params_with("kaggle")
    locate("idc", params, workspace)
    fetch("idc", params, workspace)
    assert_whole(kaggle, workspace)
    resumed = kaggle.gets[-1]
    assert resumed is not None
    assert int(resumed.removeprefix("bytes=").removesuffix("-")) > 300_000


@pytest.mark.parametrize("code", [401, 403, 500])
def test_kaggle_without_access_says_what_to_do(kaggle: Site, workspace: Workspace, code: int) -> None:
    kaggle.failures = [code] * 5
    with pytest.raises(SourceError) as caught:
        locate("idc", params_with("kaggle"), workspace)
    for part in (str(code), "kaggle.json", "KAGGLE_API_TOKEN", "KAGGLE_KEY", "idc.source"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_kaggle_out_of_reach_keeps_what_was_located(
    kaggle: Site, workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    locate("idc", params_with("kaggle"), workspace)
    before = record_of(workspace)
    kaggle.failures = [401] * 5
    locate("idc", params_with("kaggle"), workspace)
    assert record_of(workspace) == before
    assert "the earlier record is kept" in caplog.text


def test_kaggle_without_a_network_says_what_to_do(
    kaggle: Site, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = pytest.importorskip("kagglesdk.kaggle_env")
    nowhere = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setitem(environment._env_to_endpoint, environment.KaggleEnv.PROD, nowhere)
    with pytest.raises(SourceError, match=r"no connection.*KAGGLE_API_TOKEN.*idc\.source"):
        locate("idc", params_with("kaggle"), workspace)


def test_a_damaged_kaggle_login_is_one_line(
    kaggle: Site, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(workspace.root))
    (workspace.root / "kaggle.json").write_text("{")
    with pytest.raises(HistopipeError, match="Invalid Kaggle credentials file"):
        locate("idc", params_with("kaggle"), workspace)
