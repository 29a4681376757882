"""The connection to the hub is lost in the middle of a file: it is tried again, and then said in a sentence.

A server on this machine stands in for the hub; nothing leaves the machine.
"""

from __future__ import annotations

import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_worlds import pictures, png, write_parquet

ROOT = Path(__file__).resolve().parents[2]
COMMIT, NAME, FILE = "a" * 40, "someone/pictures", "data/train-00000-of-00001.parquet"


class _Hub(http.server.BaseHTTPRequestHandler):
    """What `datasets` asks of a dataset with one parquet file. The first `drops` bodies of the file break off halfway."""

    protocol_version = "HTTP/1.1"
    content = b""
    drops = 0
    broken_off = 0

    def log_message(self, *arguments: Any) -> None:
        pass

    def _json(self, value: Any, code: int = 200) -> None:
        body = json.dumps(value).encode()
        self.send_response(code)
        if code == 404:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        file = {"type": "file", "path": FILE, "size": len(self.content), "oid": "b" * 40}
        if path.startswith(f"/api/datasets/{NAME}/tree/"):
            self._json(
                [file] if path.endswith("/data") else [{"type": "directory", "path": "data", "oid": "c" * 40}, file]
            )
        elif path.startswith(f"/api/datasets/{NAME}"):
            self._json({"id": NAME, "sha": COMMIT, "siblings": [{"rfilename": FILE}], "private": False, "tags": []})
        elif path == f"/datasets/{NAME}/resolve/{COMMIT}/{FILE}":
            self._file()
        else:
            self._json({"error": "Entry not found"}, 404)

    do_HEAD = do_GET  # noqa: N815

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        file = {"type": "file", "path": FILE, "size": len(self.content), "oid": "b" * 40}
        self._json([file] if b"parquet" in asked else [])

    def _file(self) -> None:
        wanted = re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")
        start = int(wanted[1]) if wanted else 0
        rest = self.content[start:]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("ETag", f'"{"e" * 40}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if _Hub.broken_off < self.drops:
            _Hub.broken_off += 1
            self.wfile.write(rest[: len(rest) // 2])
            self.close_connection = True
        else:
            self.wfile.write(rest)


Prepare = Callable[[int], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Prepare]:
    """Runs `gantk prepare` against a hub that breaks off so many downloads."""
    path = write_parquet(tmp_path / "a.parquet", [png(image) for image in pictures(300)], np.arange(300) % 3)
    _Hub.content, _Hub.broken_off = path.read_bytes(), 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def run(drops: int) -> subprocess.CompletedProcess[str]:
        _Hub.drops = drops
        environment = {k: v for k, v in os.environ.items() if "proxy" not in k.lower()} | {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "huggingface"),
            "HF_HUB_DISABLE_XET": "1",
        }
        overrides = ["data.source=hub", f"data.path={NAME}", "data.resolution=8"]
        return subprocess.run(
            [sys.executable, "-m", "gantk", "prepare", "--config", "configs/tiny.yaml", *overrides],
            cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200,
        )  # fmt: skip

    yield run
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_connection_that_is_lost_twice_is_tried_again(prepare: Prepare) -> None:
    done = prepare(2)
    assert done.returncode == 0, done.stderr
    assert _Hub.broken_off == 2
    assert "270 training and 30 held-out images" in done.stdout
    assert f"data.revision={COMMIT}" in done.stdout


@pytest.mark.slow
def test_connection_that_stays_lost_is_a_sentence(prepare: Prepare) -> None:
    done = prepare(10**6)
    assert done.returncode == 3
    assert _Hub.broken_off >= 3, "it was not tried again"
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"gantk: cannot load {NAME} from the hub: ")
    assert "run the command again" in last
    assert "Traceback" not in done.stderr
