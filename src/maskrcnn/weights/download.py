"""Fetching published checkpoints into PyTorch's cache, whole or not at all."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.markup import escape

from maskrcnn.errors import DownloadError, os_reason
from maskrcnn.progress import Reporter
from maskrcnn.weights.releases import Release, file_digest

TIMEOUT = 30.0
"""Seconds without a byte after which a connection is given up and begun again."""
TRIES = 5
"""Attempts in a row that bring nothing new."""
PAUSE = 1.0
"""Seconds before the second try; each further pause is twice as long."""
CHUNK = 1 << 20


def cache_folder() -> Path:
    """Return PyTorch's folder of checkpoints, where torchvision keeps its downloads as well.

    It follows the variables TORCH_HOME and XDG_CACHE_HOME; without them it is ~/.cache/torch/hub/checkpoints.
    """
    return Path(torch.hub.get_dir()) / "checkpoints"


def place(release: Release) -> Path:
    """Return where the file of a release is or will be, also where Detectron2 has fetched it already."""
    ours = cache_folder() / release.file_name
    cache = Path(os.environ.get("FVCORE_CACHE") or "~/.torch/iopath_cache").expanduser()
    theirs = cache / release.address.split("/", 3)[-1]
    return theirs if theirs.is_file() and not ours.exists() else ours


def fetch(release: Release, reporter: Reporter | None = None) -> Path:
    """Return the path of a release's file, downloading it where it is not there yet.

    An interrupted download goes on where it stopped; of several processes one downloads and the others wait. The
    file gets its name once its size and its digest are right. MASKRCNN_OFFLINE=1 forbids downloads.

    Raises:
        DownloadError: the file cannot be had or written, or is not the one that was published; the message names
            the address and where to put the file by hand.
    """
    path, reporter = place(release), reporter or Reporter(quiet=True)
    if path.is_file():
        return path
    by_hand = f"By hand: download {release.address} and save it as {path}."
    if os.environ.get("MASKRCNN_OFFLINE", "0") not in ("", "0"):
        raise DownloadError(
            f"{release.name} is not on this machine, and MASKRCNN_OFFLINE forbids fetching it. {by_hand}"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _alone(path, reporter):
            if not path.is_file():  # another process may have fetched it meanwhile
                _download(release, path, reporter, by_hand)
    except OSError as e:
        if isinstance(e, DownloadError):
            raise
        raise DownloadError(f"Cannot write {os_reason(e.filename or path, e)}. {by_hand}") from None
    with suppress(OSError):
        Path(f"{path}.lock").unlink()
    return path


@contextmanager
def _alone(path: Path, reporter: Reporter) -> Iterator[None]:
    """Hold the lock of a file, and tell where another process has it."""
    lock = FileLock(f"{path}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        reporter.say(f"Waiting for another process, which fetches {escape(path.name)}.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _download(release: Release, path: Path, reporter: Reporter, by_hand: str) -> None:
    part = path.with_name(f"{path.name}.part")
    furthest = failures = 0
    while True:
        try:
            _continue(release, part, reporter, by_hand)
            break
        except urllib.error.HTTPError as e:
            if e.code == 416:  # what is there does not belong to the file as it is now
                part.unlink(missing_ok=True)
            elif e.code < 500 and e.code not in (408, 429):
                raise DownloadError(f"{release.address} answers {e.code} {e.reason}. {by_hand}") from None
            reason = f"{e.code} {e.reason}"
        except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as e:
            cause = getattr(e, "reason", None) or e
            reason = str(cause) or type(cause).__name__
            final = isinstance(cause, ssl.SSLCertVerificationError)
            if isinstance(cause, socket.gaierror) and cause.errno != socket.EAI_AGAIN:
                host = urllib.parse.urlsplit(release.address).hostname
                reason, final = f"{host} is not found; is this machine online? ({cause.strerror})", True
            if final:
                raise DownloadError(f"Cannot fetch {release.address}: {reason}. {by_hand}") from None
        size = part.stat().st_size if part.exists() else 0
        if size >= furthest + CHUNK:  # a connection that breaks often, but brings something every time
            furthest, failures = size, 0
        failures += 1
        if failures == TRIES:
            kept = " What came is kept, and the next try goes on from there." if size else ""
            raise DownloadError(f"Cannot fetch {release.address}: {reason}.{kept} {by_hand}")
        pause = PAUSE * 2 ** (failures - 1)
        reporter.say(f"{escape(release.address)}: {escape(reason)}. Trying again in {pause:.0f} s.")
        time.sleep(pause)
    _check(release, part, by_hand)
    os.replace(part, path)


def _check(release: Release, part: Path, by_hand: str) -> None:
    """Raise, and remove the file, where it is not the one that was published."""
    if release.matches(part):
        return
    if release.digest:
        found = file_digest(part, release.algorithm)[: len(release.digest)]
        wrong = f"its {release.algorithm} begins with {found}, not {release.digest}"
    else:
        wrong = f"it has {part.stat().st_size:,} bytes, not {release.size:,}"
    part.unlink()
    raise DownloadError(f"What {release.address} gave is not what was published: {wrong}. It is removed. {by_hand}")


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows a server to other http and https addresses; urllib by itself goes to ftp as well."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: Any,
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request for where the server sends us."""
        if urllib.parse.urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(newurl, code, f"to {newurl}, which is no web address", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


@contextmanager
def _network_errors() -> Iterator[None]:
    """Raise what the network does as `ConnectionError`, to tell it from what the disk does: both are OSErrors."""
    try:
        yield
    except urllib.error.URLError:
        raise
    except OSError as e:
        raise ConnectionError(e.strerror or str(e) or type(e).__name__) from None


def _continue(release: Release, part: Path, reporter: Reporter, by_hand: str) -> None:
    """Fetch what is missing of a file; raise where the connection ends too early."""
    have = part.stat().st_size if part.exists() else 0
    tag = part.with_name(f"{part.name}.etag")
    request = urllib.request.Request(release.address, headers={"User-Agent": "maskrcnn"})
    if have and tag.exists():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", tag.read_text(encoding="utf-8"))
    with _network_errors():
        answer = urllib.request.build_opener(_WebOnly).open(request, timeout=TIMEOUT)
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise DownloadError(
                f"{release.address} gave a web page, not the file, as a network does that wants you to sign in first. "
                f"{by_hand}"
            )
        if answer.status != 206:
            have = 0
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink()
            raise ConnectionError("the server went on from another place than it was asked to")
        length = answer.headers.get("Content-Length")
        total = None if length is None else have + int(length)
        _check_room(part, (total or release.size or 0) - have)
        mark = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        if mark and not mark.startswith("W/"):
            tag.write_text(mark, encoding="utf-8")
        else:
            tag.unlink(missing_ok=True)
        with part.open("ab" if have else "wb") as file:
            received = have + _copy(answer, file, have, total, release, reporter)
    if total is not None and received < total:
        raise ConnectionError(f"the connection ended after {received:,} of {total:,} bytes")
    tag.unlink(missing_ok=True)


def _copy(answer: Any, file: Any, have: int, total: int | None, release: Release, reporter: Reporter) -> int:
    """Write the answer to a file with a bar in megabytes; return the number of bytes."""
    megabytes = -(-(total or release.size or 0) // CHUNK)
    received = 0
    with reporter.bar(f"fetching {escape(release.file_name)}, MB", megabytes, have // CHUNK) as bar:
        while True:
            with _network_errors():
                chunk = answer.read(CHUNK)
            if not chunk:
                break
            file.write(chunk)
            before, received = received, received + len(chunk)
            for _ in range((have + received) // CHUNK - (have + before) // CHUNK):
                bar.advance()
    return received


def _check_room(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DownloadError(
            f"{part.parent} has {free / 1e6:.0f} MB free, and the file needs {needed / 1e6:.0f} MB more. Set "
            "TORCH_HOME to a folder with room."
        )
