"""A stand-in for the Hugging Face Hub on this machine, which speaks what `huggingface_hub` asks of it without Xet.

It keeps repositories in memory: what a commit brings is there as a whole or not at all. Files over `LARGE` bytes go by
LFS, as Parquet files and weights do on the Hub.
"""

import base64
import hashlib
import json
import re
import socket
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_standin"
LARGE = 2000
_REPO = r"(?P<kind>models|datasets)/(?P<name>[^/]+/[^/]+?)"
_PLAIN = r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+?)"


class Hub:
    """What is on the Hub, and how it fails.

    `refused` maps a part of a path to a status and a message; `broken` are parts of paths whose requests lose their
    connection after half of the body has been read, `unanswered` of those that lose it once they have been carried out.
    """

    def __init__(self):
        self.repos, self.large = {}, {}
        self.refused, self.broken, self.unanswered = {}, (), ()
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def files(self, name, kind="models"):
        return self.repos[kind, name]["files"]

    def answer(self, method, path, body, headers):
        """Return status, JSON or bytes, and headers."""
        signed_in = headers.get("Authorization") == f"Bearer {TOKEN}"
        if path.startswith("/lfs/"):  # the address is the permission
            self.large[path.removeprefix("/lfs/")] = body
            return 200, {}, {}
        if not signed_in:
            return 401, {"error": "Invalid username or password."}, {}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}, {}
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user"}, {}
        for pattern, act in _ROUTES:
            if found := re.fullmatch(pattern, path):
                kind = "datasets" if (found["kind"] or "").startswith("datasets") else "models"
                repo = self.repos.get((kind, found["name"]))
                if repo is None:
                    return 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"}
                return act(self, repo, found, body)
        return 404, {"error": f"{method} {path} is not in the stand-in"}, {"X-Error-Code": "EntryNotFound"}

    def _create(self, wish):
        key = (f"{wish.get('type', 'model')}s", f"{wish['organization']}/{wish['name']}")
        if (there := key in self.repos) is False:
            self.repos[key] = {"private": wish.get("visibility") == "private", "files": {}, "id": key[1]}
        address = self.url + "/" + ("datasets/" if key[0] == "datasets" else "") + key[1]
        return (409 if there else 200), {"url": address, "error": "You already created this repo"}, {}

    def _info(self, repo, found, body):
        named = [{"rfilename": path} for path in repo["files"]]
        return 200, {"id": repo["id"], "private": repo["private"], "sha": _sha(repo), "siblings": named, "tags": []}, {}

    def _preupload(self, repo, found, body):
        asked = json.loads(body)["files"]
        mode = [{"path": each["path"], "uploadMode": "lfs" if each["size"] > LARGE else "regular"} for each in asked]
        return 200, {"files": [each | {"shouldIgnore": False} for each in mode]}, {}

    def _batch(self, repo, found, body):
        objects = []
        for each in json.loads(body)["objects"]:
            action = {"actions": {"upload": {"href": f"{self.url}/lfs/{each['oid']}"}}}
            objects.append(each if each["oid"] in self.large else each | action)
        return 200, {"transfer": "basic", "objects": objects}, {}

    def _commit(self, repo, found, body):
        files = dict(repo["files"])
        for line in body.splitlines():
            change = json.loads(line)
            value = change["value"]
            if change["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif change["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
                assert hashlib.sha256(files[value["path"]]).hexdigest() == value["oid"]
            elif change["key"] == "deletedFile":
                del files[value["path"]]
        repo["files"] = files
        return 200, {"commitUrl": f"{self.url}/{repo['id']}/commit/{_sha(repo)}", "commitOid": _sha(repo)}, {}

    def _tree(self, repo, found, body):
        under = unquote(found["path"] or "").strip("/")
        files = {path: file for path, file in repo["files"].items() if path.startswith(f"{under}/" if under else "")}
        folders = {parent for path in files for parent in (path.rpartition("/")[0],) if parent and parent != under}
        entries = [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in sorted(folders)]
        return 200, entries + [_entry(path, file) for path, file in files.items()], {}

    def _paths(self, repo, found, body):
        asked = json.loads(body)["paths"]
        return 200, [_entry(path, repo["files"][path]) for path in asked if path in repo["files"]], {}

    def _resolve(self, repo, found, body):
        file = repo["files"].get(unquote(found["path"]))
        headers = {"X-Repo-Commit": _sha(repo)}
        if file is None:
            return 404, {"error": "Entry not found"}, headers | {"X-Error-Code": "EntryNotFound"}
        return 200, file, headers | {"ETag": f'"{hashlib.sha256(file).hexdigest()}"'}


_ROUTES = [
    (rf"/api/{_REPO}(/revision/[^/]+)?", Hub._info),
    (rf"/api/{_REPO}/preupload/[^/]+", Hub._preupload),
    (rf"/api/{_REPO}/commit/[^/]+", Hub._commit),
    (rf"/api/{_REPO}/tree/[^/]+(?P<path>/.*)?", Hub._tree),
    (rf"/api/{_REPO}/paths-info/[^/]+", Hub._paths),
    (rf"{_PLAIN}\.git/info/lfs/objects/batch", Hub._batch),
    (rf"{_PLAIN}/resolve/[^/]+/(?P<path>.*)", Hub._resolve),
]


def _sha(repo):
    return hashlib.sha1(repr(sorted(repo["files"].items())).encode()).hexdigest()


def _entry(path, file):
    return {"type": "file", "path": path, "size": len(file), "oid": hashlib.sha1(file).hexdigest()}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def reply(self):
        hub, path = self.hub, urlsplit(self.path).path
        if _is_any(path, hub.broken):
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._hang_up()
        body = self._body()
        if refused := [answer for part, answer in hub.refused.items() if _is_any(path, [part])]:
            status, answer, headers = refused[0][0], {"error": refused[0][1]}, {}
        else:
            status, answer, headers = hub.answer(self.command, path, body, self.headers)
        if _is_any(path, hub.unanswered):
            return self._hang_up()
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (headers | {"Content-Length": len(data), "X-Request-Id": "standin"}).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

        return None

    do_GET = do_HEAD = do_POST = do_PUT = reply  # noqa: N815

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _hang_up(self):
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args):
        pass


def _is_any(path, parts):
    return any(re.search(part, path) for part in parts)


@contextmanager
def standin():
    """Yield a `Hub` that listens."""
    hub = Hub()
    thread = threading.Thread(target=hub.http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        hub.http.shutdown()
        hub.http.server_close()
        thread.join()
