"""Downloads from a server that behaves, and from several that do not."""

import errno
import hashlib
import http.client
import http.server
import os
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
from collections import namedtuple

import pytest
from filelock import FileLock
from rich.console import Console

from maskrcnn.errors import DownloadError, InputError
from maskrcnn.progress import Reporter
from maskrcnn.weights import download
from maskrcnn.weights.releases import Release

CONTENT = bytes(range(256)) * 12_000  # 3 MB
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT; `faults` are taken one per request: a status, or how much to send before hanging up."""

    daemon_threads = True

    def __init__(self):
        self.faults, self.requests, self.etag, self.ranges, self.length = [], [], '"one"', True, None
        self.shift, self.location, self.type = 0, "/file.bin", "application/octet-stream"
        super().__init__(("127.0.0.1", 0), Handler)

    def handle_error(self, request, client_address):
        """Say nothing of clients that hang up."""


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        server.requests.append(dict(self.headers))
        fault = server.faults.pop(0) if server.faults else None
        if self.path == "/moved.bin":
            self.send_response(302)
            self.send_header("Location", server.location)
            self.end_headers()
            return
        if isinstance(fault, int) and fault >= 400:
            self.send_error(fault)
            return
        start = 0
        wanted = self.headers.get("Range", "")
        if server.ranges and wanted and self.headers.get("If-Range") == server.etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start + server.shift}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(server.length or len(CONTENT) - start))
        self.send_header("ETag", server.etag)
        self.send_header("Content-Type", server.type)
        self.end_headers()
        end = start + fault[0] if isinstance(fault, tuple) else None
        self.wfile.write(CONTENT[start:end])
        if isinstance(fault, tuple) and len(fault) > 1:
            self.wfile.flush()
            server.hang.wait(5)
        if end is not None:
            self.close_connection = True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def server():
    with Server() as server:
        server.hang = threading.Event()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.hang.set()
        server.shutdown()


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("HOME", str(tmp_path))
    for variable in ("MASKRCNN_OFFLINE", "FVCORE_CACHE", "http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(download, "PAUSE", 0.001)


def release(server, name="file.bin", digest=SHA[:8], **fields):
    address = f"http://127.0.0.1:{server.server_address[1]}/{name}"
    return Release("test/file", address, "sha256", digest, "none", "no page", **fields)


def fetched(server, **fields):
    path = download.fetch(release(server, **fields))
    assert path.read_bytes() == CONTENT
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
    return path


def test_a_file_is_fetched_once(server, tmp_path):
    path = fetched(server)
    assert path == tmp_path / "torch" / "hub" / "checkpoints" / "file.bin"
    assert fetched(server) == path and len(server.requests) == 1


def test_a_redirect_is_followed(server):
    assert download.fetch(release(server, "moved.bin")).read_bytes() == CONTENT


def test_a_redirect_out_of_the_web_is_not(server):
    server.location = "ftp://127.0.0.1/file.bin"
    with pytest.raises(DownloadError, match=r"answers 302 to ftp://127\.0\.0\.1/file\.bin, which is no web address"):
        download.fetch(release(server, "moved.bin"))
    assert len(server.requests) == 1


@pytest.mark.parametrize("faults", [[500], [503, 429], [(1_000_000,)], [(1,), (2_000_000,)]], ids=str)
def test_what_fails_for_a_while_is_tried_again(server, faults):
    server.faults = list(faults)
    fetched(server)
    assert len(server.requests) == len(faults) + 1


def test_what_came_is_not_fetched_again(server):
    server.faults = [(1_000_000,)]
    fetched(server)
    assert server.requests[1]["Range"] == "bytes=1000000-"


def test_a_connection_that_breaks_often_gets_there(server, monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    monkeypatch.setattr(download, "CHUNK", 300_000)
    server.faults = [(400_000,)] * 7
    fetched(server)
    assert len(server.requests) == 8


def test_a_server_that_goes_on_elsewhere_is_not_believed(server):
    server.faults, server.shift = [(1_000_000,)], 5
    fetched(server)
    assert ["Range" in request for request in server.requests] == [False, True, False]


def test_every_further_try_is_announced(server, capsys):
    server.faults = [503, 503]
    download.fetch(release(server), Reporter(Console(file=sys.stdout, width=200)))
    assert capsys.readouterr().out.count("file.bin: 503 Service Unavailable. Trying again in 0 s.") == 2


def test_a_host_that_is_not_found_is_told_at_once(monkeypatch):
    def refuse(*arguments):
        raise urllib.error.URLError(socket.gaierror(socket.EAI_NONAME, "Name or service not known"))

    monkeypatch.setattr(download, "_continue", refuse)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(DownloadError, match=r"x\.org is not found; is this machine online\? .*By hand"):
        download.fetch(Release("test/y", "https://x.org/y.pth", "sha256", "0", "", ""))


def test_a_certificate_that_is_not_trusted_is_told_at_once(monkeypatch):
    def refuse(*arguments):
        raise urllib.error.URLError(ssl.SSLCertVerificationError(1, "certificate verify failed"))

    monkeypatch.setattr(download, "_continue", refuse)
    monkeypatch.setattr(download.time, "sleep", lambda seconds: pytest.fail("tried again"))
    with pytest.raises(DownloadError, match=r"Cannot fetch https://x/y\.pth: .*certificate verify failed.*By hand"):
        download.fetch(Release("test/y", "https://x/y.pth", "sha256", "0", "", ""))


@pytest.mark.parametrize(
    "error",
    [OSError(errno.EHOSTUNREACH, "No route to host"), ssl.SSLError(1, "bad record mac"), TimeoutError("timed out")],
    ids=["route", "TLS", "timeout"],
)
@pytest.mark.parametrize("when", ["headers", "content"])
def test_a_network_that_fails_is_tried_again_and_not_taken_for_the_disk(server, monkeypatch, error, when):
    broken, whose = (
        (http.client.HTTPConnection, "getresponse") if when == "headers" else (http.client.HTTPResponse, "read")
    )
    real, failures = getattr(broken, whose), [error]

    def fail_once(self, *arguments):
        if failures:
            raise failures.pop()
        return real(self, *arguments)

    monkeypatch.setattr(broken, whose, fail_once)
    fetched(server)
    assert not failures


def test_a_network_that_stays_away_is_named_as_the_cause(server, monkeypatch):
    def fail(self, *arguments):
        raise OSError(errno.EHOSTUNREACH, "No route to host")

    monkeypatch.setattr(http.client.HTTPResponse, "read", fail)
    monkeypatch.setattr(download, "TRIES", 2)
    with pytest.raises(DownloadError, match=r"Cannot fetch http://.*: No route to host\. By hand"):
        download.fetch(release(server))
    assert len(server.requests) == 2


def test_an_interrupted_download_goes_on_in_the_next_run(server, monkeypatch):
    server.faults = [(2_000_000,)]
    monkeypatch.setattr(download, "TRIES", 1)
    with pytest.raises(DownloadError, match=r"ended after 2,000,000 of 3,072,000 bytes\. What came is kept"):
        download.fetch(release(server))
    assert not download.place(release(server)).exists()
    fetched(server)
    assert server.requests[1]["Range"] == "bytes=2000000-"


def test_a_file_that_changed_is_fetched_anew(server, monkeypatch):
    server.faults = [(2_000_000,)]
    monkeypatch.setattr(download, "TRIES", 1)
    with pytest.raises(DownloadError):
        download.fetch(release(server))
    server.etag = '"two"'
    fetched(server)


def test_a_server_without_ranges_sends_all_again(server):
    server.faults, server.ranges = [(2_000_000,)], False
    fetched(server)


def test_a_part_that_does_not_belong_is_given_up(server):
    path = download.place(release(server))
    path.parent.mkdir(parents=True)
    path.with_name("file.bin.part").write_bytes(b"x" * 4_000_000)
    path.with_name("file.bin.part.etag").write_text('"one"')
    server.faults = [416]
    fetched(server)


def test_a_truncated_download_is_no_file(server, monkeypatch):
    server.length = len(CONTENT) + 100
    monkeypatch.setattr(download, "TRIES", 2)
    server.faults = [(len(CONTENT),), (0,)]
    with pytest.raises(DownloadError, match="Cannot fetch http://127.0.0.1"):
        download.fetch(release(server))
    assert not download.place(release(server)).exists()


def test_a_server_that_hangs_is_left(server, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.1)
    server.faults = [(1000, "hang")]
    fetched(server)


def test_another_file_than_published_is_removed(server):
    with pytest.raises(
        DownloadError, match=rf"its sha256 begins with {SHA[:8]}, not 01234567\. It is removed\. By hand"
    ):
        download.fetch(release(server, digest="01234567"))
    assert list(download.cache_folder().glob("*.bin*")) in ([], [download.cache_folder() / "file.bin.lock"])


def test_without_a_digest_the_size_is_checked(server):
    assert fetched(server, digest="", size=len(CONTENT))
    download.place(release(server)).unlink()
    with pytest.raises(DownloadError, match="it has 3,072,000 bytes, not 17"):
        download.fetch(release(server, digest="", size=17))


def test_a_page_to_sign_in_is_no_file(server):
    server.type = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match=r"gave a web page, not the file.*By hand: download http://.*/file\.bin"):
        download.fetch(release(server, digest=""))
    assert not download.place(release(server, digest="")).exists()


@pytest.mark.parametrize("status", [403, 404])
def test_a_refusal_is_told_at_once(server, status):
    server.faults = [status]
    with pytest.raises(
        DownloadError, match=rf"answers {status} .*By hand: download http://.*/file\.bin and save it as /.*/file\.bin\."
    ):
        download.fetch(release(server))
    assert len(server.requests) == 1


def test_offline_the_error_tells_address_and_place(monkeypatch):
    monkeypatch.setattr(download, "TRIES", 2)
    gone = Release("test/x", "http://127.0.0.1:9/x.pth", "sha256", "0", "", "")
    with pytest.raises(
        DownloadError, match=r"Cannot fetch http://127\.0\.0\.1:9/x\.pth: .*refused.*checkpoints/x\.pth\."
    ):
        download.fetch(gone)


def test_downloads_can_be_forbidden(server, monkeypatch):
    monkeypatch.setenv("MASKRCNN_OFFLINE", "1")
    with pytest.raises(DownloadError, match="MASKRCNN_OFFLINE forbids"):
        download.fetch(release(server))
    assert not server.requests


def test_too_little_room_is_told_before(server, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage(10, 10, 1_000_000))
    with pytest.raises(DownloadError, match="has 1 MB free, and the file needs 3 MB more"):
        download.fetch(release(server))


def test_a_disk_that_fills_up_is_told(server, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "_copy", full)
    with pytest.raises(DownloadError, match=r"Cannot write .*/file\.bin: No space left on device\. By hand"):
        download.fetch(release(server))
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "torch").write_text("a file in the way")
    with pytest.raises(DownloadError, match=r"Cannot write .*By hand"):
        download.fetch(release(server))


@pytest.mark.parametrize("cache", [".torch/iopath_cache", "elsewhere"], ids=["by default", "FVCORE_CACHE"])
def test_detectron2s_own_cache_is_used(tmp_path, monkeypatch, cache):
    if cache == "elsewhere":
        monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / cache))
    address = "https://dl.fbaipublicfiles.com/detectron2/COCO/model/1/model_final_abcdef.pkl"
    there = tmp_path / cache / "detectron2/COCO/model/1/model_final_abcdef.pkl"
    there.parent.mkdir(parents=True)
    there.write_bytes(b"weights")
    assert download.fetch(Release("d/m", address, "md5", "abcdef", "", "")) == there


CHILD = """
import sys
from maskrcnn.weights import download
from maskrcnn.weights.releases import Release
print(download.fetch(Release("test/file", sys.argv[1], "sha256", sys.argv[2], "", "")).stat().st_size)
"""


def test_two_processes_fetch_a_file_once(server):
    command = [sys.executable, "-c", CHILD, release(server).address, SHA[:8]]
    environment = {**os.environ, "MASKRCNN_SHAPE_CHECKS": "0"}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    assert [int(process.communicate(timeout=60)[0]) for process in both] == [len(CONTENT)] * 2
    assert len(server.requests) == 1


def test_waiting_for_another_process_is_told(server, capsys):
    path = download.place(release(server))
    path.parent.mkdir(parents=True)
    with FileLock(f"{path}.lock"):
        arguments = release(server), Reporter(Console(file=sys.stdout, width=200))
        thread = threading.Thread(target=download.fetch, args=arguments, daemon=True)
        thread.start()
        thread.join(0.2)
        assert thread.is_alive() and not server.requests
    thread.join(10)
    assert path.read_bytes() == CONTENT
    assert "Waiting for another process, which fetches file.bin." in capsys.readouterr().out


def test_progress_is_shown(server, capsys):
    console = Console(file=sys.stdout, force_terminal=True, width=100)
    download.fetch(release(server), Reporter(console))
    assert "fetching file.bin, MB" in capsys.readouterr().out


def test_names_and_paths(tmp_path, monkeypatch):
    from maskrcnn.weights.published import locate

    monkeypatch.chdir(tmp_path)
    assert str(locate("some/weights.pth")) == "some/weights.pth"
    with pytest.raises(InputError, match="Did you mean 'torchvision/maskrcnn_resnet50_fpn'"):
        locate("torchvision/maskrcnn_resnet50_fnp")
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "maskrcnn_resnet50_fpn").touch()
    assert locate("torchvision/maskrcnn_resnet50_fpn").exists()
