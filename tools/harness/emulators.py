"""Stand-ins for the object stores of three clouds, on this machine: moto for S3, Azurite for Azure, a stub for Google.

Each is an `Emulator`: the environment variables that lead a client to it, the URL of a fresh place in it, and `stop`.
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tools.harness.server import free_port

BUCKET = "thunder-test"
# The names that the manual's examples have.
MANUAL_BUCKET, MANUAL_CONTAINER = "my-thunderdb-backups", "thunderdb-wal"
KEY_ID, SECRET = "AKIATHUNDERTEST", "not-so-secret-not-so-secret"
AZURE_ACCOUNT = "devstoreaccount1"
AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
AZURITE_VERSION = "3.35.0"


class Unavailable(Exception):
    """An emulator cannot be had here; the reason is for a skip."""


@dataclass(slots=True)
class Emulator:
    """One running store. `endpoint` is http://host:port of it."""

    scheme: str
    endpoint: str
    environment: dict[str, str]
    stop: Callable[[], None]

    def url(self, prefix: str) -> str:
        return f"{self.scheme}://{BUCKET}/{prefix}"

    def behind(self, endpoint: str) -> dict[str, str]:
        """The environment for a client that goes through a proxy at `endpoint`."""
        return {name: value.replace(self.endpoint, endpoint) for name, value in self.environment.items()}


def start_s3() -> Emulator:
    """moto's server, in a thread of this process. Raises: Unavailable."""
    try:
        import boto3
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise Unavailable(f"moto is not installed ({error})") from None
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # not a line for each request
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    client = boto3.client(
        "s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=KEY_ID, aws_secret_access_key=SECRET
    )
    for bucket in (BUCKET, MANUAL_BUCKET):
        client.create_bucket(Bucket=bucket)
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": KEY_ID,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    return Emulator("s3", endpoint, environment, server.stop)


def start_google() -> Emulator:
    from tools.harness.google_stub import GoogleStub

    stub = GoogleStub([BUCKET, MANUAL_BUCKET])
    endpoint = stub.start()
    return Emulator("gs", endpoint, {"STORAGE_EMULATOR_HOST": endpoint}, stub.stop)


def start_azure(directory: Path) -> Emulator:
    """Azurite, from npm, kept in the user's cache between runs. Raises: Unavailable."""
    program = _azurite()
    port = free_port()
    command = [str(program), "--blobPort", str(port), "--blobHost", "127.0.0.1", "--inMemoryPersistence", "--silent"]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]
    with (directory / "azurite.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=directory, stdout=log, stderr=log, start_new_session=True)
    endpoint = f"http://127.0.0.1:{port}"

    def stop() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()

    blob = f"{endpoint}/{AZURE_ACCOUNT}"
    text = f"DefaultEndpointsProtocol=http;AccountName={AZURE_ACCOUNT};AccountKey={AZURE_KEY};BlobEndpoint={blob};"
    try:
        _until_it_listens(port, process)
        for container in (BUCKET, MANUAL_CONTAINER):
            create_container(blob, container)
    except Exception as error:
        stop()
        raise Unavailable(f"Azurite does not start: {error}") from None
    return Emulator("az", endpoint, {"AZURE_STORAGE_CONNECTION_STRING": text}, stop)


def create_container(endpoint: str, name: str) -> None:
    """PUT ?restype=container, signed with the account's shared key."""
    import base64
    import hashlib
    import hmac
    from email.utils import formatdate

    date, version = formatdate(usegmt=True), "2021-12-02"
    path = f"/{AZURE_ACCOUNT}/{AZURE_ACCOUNT}/{name}"
    text = "PUT" + "\n" * 12 + f"x-ms-date:{date}\nx-ms-version:{version}\n{path}\nrestype:container"
    signature = base64.b64encode(hmac.new(base64.b64decode(AZURE_KEY), text.encode(), hashlib.sha256).digest()).decode()
    headers = {"x-ms-date": date, "x-ms-version": version, "Authorization": f"SharedKey {AZURE_ACCOUNT}:{signature}"}
    request = urllib.request.Request(f"{endpoint}/{name}?restype=container", method="PUT", headers=headers)
    urllib.request.urlopen(request, timeout=10).close()


def cloud_program(program: str, package: str, version: str) -> Path:
    """A cloud's own command line: the one on PATH, else from PyPI in an environment of its own that is kept in the user's
    cache. Raises: Unavailable."""
    found = shutil.which(program)
    if found:
        return Path(found)
    place = _cache() / f"{package}-{version}"
    done_mark = place / "installed"
    if not done_mark.exists():
        for command in (["-m", "venv", str(place)], [str(place / "bin" / "pip"), "install", "-q", f"{package}=={version}"]):
            command = [sys.executable, *command] if command[0] == "-m" else command
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=900)
            except subprocess.TimeoutExpired:
                raise Unavailable(f"{package} was not installed within 900 s") from None
            if done.returncode != 0:
                raise Unavailable(f"{package} cannot be installed: {done.stderr.strip()[-200:]}")
        done_mark.touch()
    return place / "bin" / program


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "thunderdb"


def gsutil_environment(stub: Emulator, directory: Path) -> dict[str, str]:
    """gsutil finds the stub as an HTTP proxy, so that it asks for Google's own host name."""
    boto = directory / "boto"
    port = stub.endpoint.rpartition(":")[2]
    boto.write_text(
        "[Credentials]\ngs_access_key_id = GOOGTEST\ngs_secret_access_key = secret\n"
        f"[Boto]\nis_secure = False\nproxy = 127.0.0.1\nproxy_port = {port}\n"
        f"[GSUtil]\nprefer_api = xml\nstate_dir = {directory}/gsutil\ncheck_hashes = if_fast_else_skip\n"
    )
    return {"BOTO_CONFIG": str(boto)}


def _azurite() -> Path:
    found = shutil.which("azurite-blob")
    if found:
        return Path(found)
    cache = _cache() / f"azurite-{AZURITE_VERSION}"
    program = cache / "node_modules" / ".bin" / "azurite-blob"
    if not program.exists():
        if shutil.which("npm") is None:
            raise Unavailable("Azurite needs npm, which is not installed")
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "install", "--prefix", str(cache), "--no-audit", "--no-fund", f"azurite@{AZURITE_VERSION}"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        except subprocess.TimeoutExpired:
            raise Unavailable("npm did not install Azurite within 300 s") from None
        if done.returncode != 0 or not program.exists():
            raise Unavailable(f"npm cannot install Azurite: {done.stderr.strip()[-200:]}")
    return program


def _until_it_listens(port: int, process: subprocess.Popen[bytes], limit_s: float = 30) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise OSError(f"nothing listens on port {port}")
