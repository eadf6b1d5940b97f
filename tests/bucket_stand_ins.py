"""Buckets of this machine: gs:// as a folder, for the process that asks, and as a server, for commands.

`Folders` is what fsspec takes for gs:// in a process: each bucket is a folder. It needs no package. TensorStore, which writes the arrays of
checkpoints, is told the folder instead of the bucket.

`serve` starts gcp-storage-emulator, a server for the JSON API of Cloud Storage (PyPI, extra `test-gcs`), to which gcsfs, google-cloud-storage and
TensorStore talk over HTTP as to Google's. It knows no preconditions; those that uploads may have are checked here before it sees them, and what is
read says its generation.
"""

import contextlib
import datetime
import functools
import http.server
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import urllib.parse
import zlib

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import _registry

BUCKET = 'bucket-of-tests'
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


class Folders(fsspec.AbstractFileSystem):
    """gs://NAME/PATH is ROOT/NAME/PATH. As in a bucket, folders are there while files are in them."""

    protocol = ('gs', 'gcs')
    root = ''  # set by `folders`
    cachable = False

    def __init__(self, **options):
        super().__init__(**options)
        self._local = LocalFileSystem(auto_mkdir=True)

    def _here(self, path):
        return os.path.join(self.root, self._strip_protocol(path))

    def info(self, path, **_):
        here, name = self._here(path), self._strip_protocol(path)
        if os.path.isdir(here) and ('/' not in name or any(names for _, _, names in os.walk(here))):
            return {'name': name, 'size': 0, 'type': 'directory'}
        if not os.path.isfile(here):
            raise FileNotFoundError(path)
        with open(here, 'rb') as file:
            data = file.read()
        when = datetime.datetime.fromtimestamp(os.path.getmtime(here), datetime.timezone.utc)
        return {'name': name, 'size': len(data), 'type': 'file', 'crc32c': f'{zlib.crc32(data):x}', 'generation': os.stat(here).st_mtime_ns, 'mtime': when}

    def ls(self, path, detail=True, **_):
        found = self.info(path)
        here = self._here(path)
        names = [f'{found["name"]}/{name}' for name in sorted(os.listdir(here))] if found['type'] == 'directory' else [found['name']]
        listed = []
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                listed.append(self.info(name))
        return listed if detail else [each['name'] for each in listed]

    def _open(self, path, mode='rb', **_):
        return self._local.open(self._here(path), mode)

    def pipe_file(self, path, value, mode='overwrite', **_):
        os.makedirs(os.path.dirname(self._here(path)), exist_ok=True)
        with open(self._here(path), 'xb' if mode == 'create' else 'wb') as file:
            file.write(value)

    def cp_file(self, path1, path2, **_):
        if self.info(path1)['type'] == 'file':
            self.pipe_file(path2, self.cat_file(path1))

    def rm_file(self, path):
        os.remove(self._here(path))

    def rm(self, path, recursive=False, maxdepth=None):
        for each in [path] if isinstance(path, str) else path:
            (shutil.rmtree if os.path.isdir(self._here(each)) else os.remove)(self._here(each))

    def rmdir(self, path):
        with contextlib.suppress(OSError):
            os.rmdir(self._here(path))

    def mkdir(self, path, create_parents=True, **_):
        os.makedirs(self._here(path), exist_ok=True)

    def makedirs(self, path, exist_ok=False):
        os.makedirs(self._here(path), exist_ok=True)


def folders(root, monkeypatch) -> str:
    """gs://BUCKET of this process is a folder below `root` from now on. Returns its URL."""
    from etils.epath import backend
    from orbax.checkpoint._src.path import gcs_utils

    from t5x_lite import mirrors, remote

    def store(path: str) -> dict[str, str]:
        here = os.path.join(root, path.removeprefix('gs://').rstrip('/'))
        return {'driver': 'file', 'path': here if here.endswith('/_sharding') else f'{here}/'}  # a file, or what the names of files are added to

    os.makedirs(os.path.join(root, BUCKET), exist_ok=True)
    monkeypatch.setenv('T5X_LITE_CACHE', os.path.join(root, 'cache'))
    monkeypatch.setattr(Folders, 'root', str(root))
    for protocol in Folders.protocol:
        monkeypatch.setitem(_registry, protocol, Folders)
    monkeypatch.setattr(backend.fsspec_backend, '_get_filesystem', lambda name: fsspec.filesystem(name))
    monkeypatch.setattr(gcs_utils, 'is_hierarchical_namespace_enabled', lambda path: False)
    monkeypatch.setattr(gcs_utils, 'get_kvstore_for_gcs', store)
    remote._opened.cache_clear()
    monkeypatch.setattr(mirrors, '_mirrors', {})
    return f'gs://{BUCKET}'


def command(root, name: str, *flags: str) -> subprocess.CompletedProcess:
    """`python -m t5x_lite.NAME FLAGS` of a process whose gs:// is the folder `root`."""
    code = (
        f'import sys, runpy, pytest; from tests import bucket_stand_ins; bucket_stand_ins.folders({str(root)!r}, pytest.MonkeyPatch()); '
        f"sys.argv = ['', *{list(flags)!r}]; runpy.run_module('t5x_lite.{name}', run_name='__main__', alter_sys=True)"
    )
    environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': '--xla_backend_optimization_level=0'}
    return subprocess.run([sys.executable, '-c', code], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


@contextlib.contextmanager
def serve():
    """Variables of the environment under which commands find gs://BUCKET in a server of this process."""
    from gcp_storage_emulator import server
    from gcp_storage_emulator.exceptions import NotFound
    from gcp_storage_emulator.handlers import buckets
    from gcp_storage_emulator.storage import Storage

    storage, one_at_a_time = Storage(use_memory_fs=True), threading.Lock()
    buckets.create_bucket(BUCKET, storage)

    def generation(bucket: str, name: str) -> str:
        try:
            return str(storage.get_file_obj(bucket, name)['generation'])
        except NotFound:
            return '0'

    class Handler(server.RequestHandler):
        said = ''

        def _answer(self, answer) -> None:
            url = urllib.parse.urlsplit(self.path)
            query, self.said = dict(urllib.parse.parse_qsl(url.query)), ''
            place = re.search(r'/b/([^/]+)/o(?:/([^/]+))?', url.path)
            data = self.rfile.read(int(self.headers['Content-Length'] or 0))
            self.rfile = io.BytesIO(data)
            with one_at_a_time:
                if place:
                    bucket, name = place[1], urllib.parse.unquote(place[2] or '') or (query['name'] if 'name' in query else _name_in(data))
                    if self.command in ('POST', 'PUT') and 'ifGenerationMatch' in query and query['ifGenerationMatch'] != generation(bucket, name):
                        return self._refuse()
                    self.said = generation(bucket, name) if self.command == 'GET' and name else ''
                answer(self)

        def _refuse(self) -> None:
            body = json.dumps({'error': {'code': 412, 'message': 'At least one of the pre-conditions you specified did not hold.'}}).encode()
            self.send_response(412)
            self.send_header('Content-Length', str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def end_headers(self) -> None:
            if self.said not in ('', '0'):
                self.send_header('x-goog-generation', self.said)
            super().end_headers()

        def do_GET(self):
            self._answer(server.RequestHandler.do_GET)

        def do_POST(self):
            self._answer(server.RequestHandler.do_POST)

        def do_PUT(self):
            self._answer(server.RequestHandler.do_PUT)

        def do_DELETE(self):
            self._answer(server.RequestHandler.do_DELETE)

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128

        def handle_error(self, request, client_address) -> None:  # who asked is gone: killed
            pass

    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    httpd = Server(('127.0.0.1', port), functools.partial(Handler, storage))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    host = f'http://127.0.0.1:{port}'
    try:
        yield {
            'STORAGE_EMULATOR_HOST': host, 'TENSORSTORE_GCS_HTTP_URL': host, 'GOOGLE_AUTH_TOKEN_FOR_TESTING': 'nobody',
            'GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT': 'false',  # asks by gRPC what kind of bucket it is
        }  # fmt: skip
    finally:
        httpd.shutdown()
        httpd.server_close()


def _name_in(data: bytes) -> str:
    """Of the object that a multipart upload makes."""
    found = re.search(rb'"name":\s*("(?:[^"\\]|\\.)*")', data[: 1 << 16])
    return json.loads(found[1]) if found else ''
