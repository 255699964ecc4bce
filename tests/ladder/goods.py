"""What do the registries of the tests give? Small packages, made here, in the form that each package manager wants."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from pathlib import Path

NPM, PYPI, FILES, APT = "registry.npmjs.org", "pypi.org", "files.pythonhosted.org", "apt.registry.example"
"""The first three have names that the package managers are set to; that of the last is in the image's sources."""

NODE_PACKAGES = {"is-number": "7.0.0", "is-odd": "3.0.1", "is-even": "1.0.0", "roomy": "1.0.0"}
ROOMY_BYTES = 12 << 20
"""Of one file in `roomy`, which nothing makes smaller."""
LIST_BYTES = 12 << 20
"""Of apt's list of packages."""


def answer(host: str, path: str) -> bytes | None:
    """What is at the path. None: nothing."""
    path = path.partition("?")[0]
    if host == NPM:
        name, _, file = path[1:].partition("/-/")
        if name not in NODE_PACKAGES:
            return None
        return node_tarball(name) if file else _node_index(name)
    if host == PYPI:
        return _python_index() if path == "/simple/iniconfig/" else None
    if host == FILES:
        return python_wheel() if path == f"/{_WHEEL}" else None
    if host == APT:
        return apt_files().get(path)
    return None


# -------------------------------------------------------------------------------------------------------------- npm


@functools.cache
def node_tarball(name: str) -> bytes:
    manifest = {"name": name, "version": NODE_PACKAGES[name], "main": "index.js", "license": "Apache-2.0"}
    files = {
        "package.json": json.dumps(manifest).encode(),
        "index.js": b"module.exports = it => typeof it === 'number'\n",
    }
    if name == "roomy":
        files["room"] = hashlib.shake_256(b"room").digest(ROOMY_BYTES)
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w:gz", compresslevel=1) as archive:
        for path, content in files.items():
            entry = tarfile.TarInfo(f"package/{path}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return written.getvalue()


def _node_index(name: str) -> bytes:
    version, tarball = NODE_PACKAGES[name], node_tarball(name)
    integrity = "sha512-" + base64.b64encode(hashlib.sha512(tarball).digest()).decode()
    place = {"tarball": f"https://{NPM}/{name}/-/{name}-{version}.tgz", "integrity": integrity}
    versions = {version: {"name": name, "version": version, "dist": place}}
    return json.dumps({"name": name, "dist-tags": {"latest": version}, "versions": versions}).encode()


# ------------------------------------------------------------------------------------------------------------- PyPI

_WHEEL = "iniconfig-2.0.0-py3-none-any.whl"


@functools.cache
def python_wheel() -> bytes:
    about = "iniconfig-2.0.0.dist-info"
    files = {
        "iniconfig/__init__.py": "class IniConfig:\n    pass\n",
        f"{about}/METADATA": "Metadata-Version: 2.1\nName: iniconfig\nVersion: 2.0.0\n",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{about}/RECORD"] = "".join(f"{path},,\n" for path in [*files, f"{about}/RECORD"])
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    return written.getvalue()


def _python_index() -> bytes:
    digest = hashlib.sha256(python_wheel()).hexdigest()
    link = f'<a href="https://{FILES}/{_WHEEL}#sha256={digest}">{_WHEEL}</a>'
    return f"<!DOCTYPE html><html><body>{link}</body></html>".encode()


# -------------------------------------------------------------------------------------------------------------- apt

APT_SOURCES = f"Types: deb\nURIs: http://{APT}/\nSuites: ./\nTrusted: yes\n"


@functools.cache
def apt_files() -> dict[str, bytes]:
    """A whole flat repository, by path: `hello`, and a list that takes room because it names many others."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place, "hello")
        (root / "DEBIAN").mkdir(parents=True)
        control = "Package: hello\nVersion: 1.0\nArchitecture: all\nMaintainer: Tests <tests@registry.example>\n"
        (root / "DEBIAN/control").write_text(f"{control}Description: says hello\n")
        program = root / "usr/bin/hello"
        program.parent.mkdir(parents=True)
        program.write_text("#!/bin/sh\necho 'Hello, world!'\n")
        program.chmod(0o755)
        made = Path(place, "hello.deb")
        subprocess.run(
            ["dpkg-deb", "--root-owner-group", "--build", str(root), str(made)],
            check=True,
            capture_output=True,
            timeout=60,
        )
        package = made.read_bytes()
    entry = f"Filename: ./hello.deb\nSize: {len(package)}\nSHA256: {hashlib.sha256(package).hexdigest()}\n"
    others = "Filename: ./none.deb\nSize: 1\nDescription: none\nX-Room: " + 4096 * "x"
    fillers = [f"{control.replace('hello', f'filler{number}')}{others}" for number in range(LIST_BYTES // len(others))]
    packages = "\n\n".join([f"{control}{entry}Description: says hello", *fillers, ""]).encode()
    listed = f" {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    release = f"Origin: tests\nSuite: tests\nDate: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n{listed}".encode()
    return {"/./Release": release, "/./Packages": packages, "/./hello.deb": package}
