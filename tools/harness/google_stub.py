"""The part of Google Cloud Storage's XML API that a store client uses: objects, ranges, preconditions, listings, multipart.

It follows the documentation of that API, not a recording of the service: what a real account still has to prove is said in
docs/object-stores.md. No authentication.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import unquote
from xml.sax.saxutils import escape

from aiohttp import web

from tools.harness.web_thread import WebThread

PAGE = 100


class GoogleStub(WebThread):
    """`objects` is (bucket, key) -> (content, generation, when)."""

    def __init__(self, buckets: list[str]) -> None:
        super().__init__()
        self.buckets = buckets
        self.objects: dict[tuple[str, str], tuple[bytes, int, datetime]] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self._numbers = itertools.count(1)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        bucket, _, key = unquote(request.path.lstrip("/")).partition("/")
        if bucket not in self.buckets:
            return _error(404, "NoSuchBucket", "The specified bucket does not exist.")
        body = await _body(request)
        if not key:
            return self._list(bucket, request.query)
        if "uploads" in request.query or "uploadId" in request.query:
            return self._multipart(request.method, bucket, key, request.query, body)
        found = self.objects.get((bucket, key))
        if request.method == "PUT":
            if request.headers.get("x-goog-if-generation-match") == "0" and found is not None:
                return _error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
            return web.Response(headers=self._store(bucket, key, body))
        if found is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        if request.method == "DELETE":
            del self.objects[bucket, key]
            return web.Response(status=204)
        return _content(request, found)

    def _store(self, bucket: str, key: str, body: bytes) -> dict[str, str]:
        generation = next(self._numbers)
        self.objects[bucket, key] = (body, generation, datetime.now(UTC))
        return {"ETag": _etag(body), "x-goog-generation": str(generation)}

    def _list(self, bucket: str, query: Mapping[str, str]) -> web.Response:
        prefix, after = query.get("prefix", ""), query.get("continuation-token", "")
        keys = sorted(key for name, key in self.objects if name == bucket and key.startswith(prefix) and key > after)
        page, more = keys[:PAGE], len(keys) > PAGE
        entries = []
        for key in page:
            content, _, when = self.objects[bucket, key]
            entries.append(
                f"<Contents><Key>{escape(key)}</Key><LastModified>{when:%Y-%m-%dT%H:%M:%S.000Z}</LastModified>"
                f"<ETag>{escape(_etag(content))}</ETag><Size>{len(content)}</Size></Contents>"
            )
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        text = f"<ListBucketResult><Name>{bucket}</Name><IsTruncated>{str(more).lower()}</IsTruncated>{token}{''.join(entries)}"
        return _xml(text + "</ListBucketResult>")

    def _multipart(self, method: str, bucket: str, key: str, query: Mapping[str, str], body: bytes) -> web.Response:
        if "uploads" in query:
            upload = f"upload-{next(self._numbers)}"
            self.uploads[upload] = {}
            names = f"<Bucket>{bucket}</Bucket><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            return _xml(f"<InitiateMultipartUploadResult>{names}</InitiateMultipartUploadResult>")
        upload = query["uploadId"]
        if upload not in self.uploads:
            return _error(404, "NoSuchUpload", "The specified upload does not exist.")
        if method == "PUT":
            self.uploads[upload][int(query["partNumber"])] = body
            return web.Response(headers={"ETag": _etag(body)})
        parts = self.uploads.pop(upload)
        if method == "DELETE":
            return web.Response(status=204)
        headers = self._store(bucket, key, b"".join(parts[number] for number in sorted(parts)))
        result = f"<CompleteMultipartUploadResult><ETag>{escape(headers['ETag'])}</ETag></CompleteMultipartUploadResult>"
        return _xml(result, headers)


async def _body(request: web.BaseRequest) -> bytes:
    parts = [chunk async for chunk in request.content.iter_any()]  # without aiohttp's limit on a body's size
    return b"".join(parts)


def _content(request: web.BaseRequest, found: tuple[bytes, int, datetime]) -> web.Response:
    content, generation, when = found
    headers = {
        "ETag": _etag(content),
        "x-goog-generation": str(generation),
        "Last-Modified": format_datetime(when, usegmt=True),
    }
    wanted = request.http_range
    if wanted.start is None and wanted.stop is None:
        if request.method == "HEAD":
            return web.Response(headers=headers | {"Content-Length": str(len(content))})
        return web.Response(body=content, headers=headers)
    start, end = wanted.start or 0, min(len(content), wanted.stop or len(content))
    if start >= len(content):
        return _error(416, "InvalidRange", "The requested range cannot be satisfied.")
    headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
    return web.Response(status=206, body=content[start:end], headers=headers)


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _xml(text: str, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(text=f'<?xml version="1.0" encoding="UTF-8"?>{text}', content_type="application/xml", headers=headers)


def _error(status: int, code: str, message: str) -> web.Response:
    response = _xml(f"<Error><Code>{code}</Code><Message>{message}</Message></Error>")
    response.set_status(status)
    return response
