"""How is the base image built, kept and found?

An image is a folder, `<state>/images/<digest>/rootfs`, beside `manifest.json`. `images/current` is a link to the one
that new sandboxes use. Whatever has such a name is whole: it got the name when it was.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hostler.domain.clock import SystemClock
from hostler.engine.sandbox_port import SandboxUnavailable
from hostler.sandbox import image_recipe
from hostler.sandbox.file_locks import TurnMissed, blocking_turn
from hostler.sandbox.image_recipe import Recipe

Progress = Callable[[str], None]

BUILD_SECONDS = 1800.0
"""After that long a build is stuck."""

SPARE_SECONDS = 300.0
"""For what is done besides: files are copied and removed."""


@dataclass(frozen=True, slots=True)
class Image:
    """A base root file system."""

    digest: str
    """32 hexadecimal digits, of the recipe and of the versions of the packages that it led to."""
    rootfs: Path
    suite: str
    built_at: float
    """Seconds since 1970."""
    recipe: str
    """Digest of the recipe."""
    packages: dict[str, str]
    """Debian packages and their versions."""
    bytes: int
    """Sizes of the files together."""


class BaseImages:
    """The images of one state directory. Everything blocks; several processes may use it at a time."""

    def __init__(
        self,
        state_dir: Path,
        recipe: Callable[[], Recipe] = image_recipe.host_recipe,
        build_seconds: float = BUILD_SECONDS,
    ) -> None:
        """Touches nothing. `recipe` is asked when something is to be built."""
        self.home = Path(os.path.abspath(state_dir)) / "images"
        self._recipe = recipe
        self._build_seconds = build_seconds

    def current(self) -> Path | None:
        """The root file system that new sandboxes use; None: none has been built."""
        image = self.current_image()
        return None if image is None else image.rootfs

    def current_image(self) -> Image | None:
        with suppress(OSError):
            return self._load(os.readlink(self.home / "current"))
        return None

    def list(self) -> list[Image]:
        """The newest first."""
        names = (entry.name for entry in self.home.iterdir()) if self.home.is_dir() else ()
        found = [image for name in names if not name.startswith(".") and (image := self._load(name)) is not None]
        return sorted({image.digest: image for image in found}.values(), key=lambda image: -image.built_at)

    def build(self, progress: Progress = lambda line: None, *, again: bool = False) -> Image:
        """The image of the recipe, built if there is none, and current from now on.

        again     builds also when there is one, to get newer versions of the packages.
        progress  is given lines for a person.

        Raises SandboxUnavailable, with what to do, when this host can't build one; then nothing is left.
        """
        recipe = self._recipe()
        with self._locked():
            known = next((image for image in self.list() if image.recipe == recipe.digest), None)
            if known is None or again:
                known = self._make(recipe, progress)
            new = self.home / ".current"
            new.unlink(missing_ok=True)
            new.symlink_to(known.digest)
            new.replace(self.home / "current")
            return known

    def remove(self, digest: str) -> bool:
        """Removes the image whose digest begins so. False: there is none, or more than one.

        Raises SandboxUnavailable while it is in use (`hold`).
        """
        with self._locked():
            found = [image for image in self.list() if digest and image.digest.startswith(digest)]
            if len(found) != 1:
                return False
            image = found[0]
            folder = image.rootfs.parent
            with _lock(folder / "in-use", fcntl.LOCK_EX | fcntl.LOCK_NB) as free:
                if not free:
                    raise SandboxUnavailable(f"image {image.digest[:12]} is in use; stop the server, then remove it")
                current = self.home / "current"
                if current.is_symlink() and os.readlink(current) == image.digest:
                    current.unlink()
                doomed = self.home / f".doomed-{image.digest}"
                folder.rename(doomed)
            shutil.rmtree(doomed)
            return True

    @contextmanager
    def hold(self, image: Image) -> Iterator[None]:
        """Keeps the image from being removed."""
        with _lock(image.rootfs.parent / "in-use", fcntl.LOCK_SH):
            yield

    # ---------------------------------------------------------------------------------------------------------- inside

    def _load(self, name: str) -> Image | None:
        try:
            data = json.loads((self.home / name / "manifest.json").read_text())
        except (OSError, ValueError):
            return None
        return Image(rootfs=self.home / data["digest"] / "rootfs", **data)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Sandboxes' users pass through to the root file system; the worker alone can list what is here.
        self.home.mkdir(parents=True, exist_ok=True, mode=0o711)
        self.home.chmod(0o711)
        with ExitStack() as turn:
            try:
                turn.enter_context(blocking_turn(self.home / ".lock", self._build_seconds + SPARE_SECONDS))
            except TurnMissed as missed:
                raise SandboxUnavailable(f"no image can be built or removed now: {missed}") from missed
            for entry in self.home.glob(".*-*"):  # of a build or a removal that was cut off
                shutil.rmtree(entry, ignore_errors=True)
            yield

    def _make(self, recipe: Recipe, progress: Progress) -> Image:
        if os.geteuid() != 0:
            raise SandboxUnavailable("building an image needs root: sudo hostler image build")
        mmdebstrap = shutil.which("mmdebstrap")
        if mmdebstrap is None:
            raise SandboxUnavailable("missing on this host: install with: apt-get install mmdebstrap")
        place = Path(tempfile.mkdtemp(prefix=".new-", dir=self.home))
        try:
            place.chmod(0o711)
            root = place / "rootfs"
            sources = place / "hostler.sources"
            sources.write_text(recipe.sources)
            _run(recipe.command(mmdebstrap, sources, root), progress, self._build_seconds)
            sources.unlink()
            progress("taking away what sandboxes must not have")
            image_recipe.finish(root)
            packages = image_recipe.installed(root, _output)
            text = json.dumps([recipe.digest, sorted(packages.items())])
            digest = hashlib.sha256(text.encode()).hexdigest()[:32]
            size = sum(path.lstat().st_size for path in image_recipe.walk(root) if not path.is_dir())
            (place / "in-use").touch()
            manifest = {
                "digest": digest,
                "suite": recipe.suite,
                "built_at": SystemClock().now().timestamp(),
                "recipe": recipe.digest,
                "packages": packages,
                "bytes": size,
            }
            (place / "manifest.json").write_text(json.dumps(manifest, indent=1))
            _output(["sync", "-f", str(place)])  # what has its name must be whole after a power cut too
            if not (self.home / digest).exists():
                place.rename(self.home / digest)
            image = self._load(digest)
            assert image is not None, "it has just been written"
            return image
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _run(command: Sequence[str], progress: Progress, seconds: float) -> None:
    """Runs it in mount and process namespaces of its own: whatever it mounts and starts goes when it goes."""
    inside = [
        "setpriv",
        "--pdeathsig",
        "KILL",
        "unshare",
        "--mount",
        "--propagation",
        "slave",  # else it would keep what is unmounted meanwhile, such as volumes of sessions
        "--pid",
        "--fork",
        "--kill-child",
        *command,
    ]
    last: list[str] = []
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
    process = subprocess.Popen(
        inside,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={"PATH": path, "LC_ALL": "C.UTF-8", "HOME": "/root"},
        start_new_session=True,
    )
    assert process.stderr is not None
    too_long = threading.Event()

    def end() -> None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)

    def stop() -> None:  # from a thread, because one that is stuck says nothing, and what follows waits for its words
        too_long.set()
        end()

    watch = threading.Timer(seconds, stop)
    watch.start()
    try:
        for line in process.stderr:
            said = line.rstrip()
            last = [*last[-14:], said]
            if said.startswith("I: "):
                progress(said[3:])
        status = process.wait()
    finally:
        watch.cancel()
        watch.join()
        if process.poll() is None:
            end()
            process.wait()
        process.stderr.close()
    if too_long.is_set():
        raise SandboxUnavailable(f"the image was not built in {seconds:g} seconds; it said last: {_end_of(last)}")
    if status != 0:
        raise SandboxUnavailable(f"the image was not built: {_end_of(last)}")


def _end_of(lines: Sequence[str]) -> str:
    return "\n".join(lines)[-2000:]


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@contextmanager
def _lock(file: Path, how: int) -> Iterator[bool]:
    """Whether the lock was to be had, which may only be no where `how` doesn't wait."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, how)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
