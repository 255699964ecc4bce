"""How do the probes get into a sandbox? As one file, which stands where `claude` would."""

from __future__ import annotations

import zipfile
from pathlib import Path

import hostler.attacks.inside

INTERPRETER = "/usr/bin/python3"
_EPOCH = (1980, 1, 1, 0, 0, 0)


def pack(target: Path) -> None:
    """Writes the program: a Python archive that starts itself."""
    source = Path(hostler.attacks.inside.__file__).parent
    with target.open("wb") as file:
        file.write(f"#!{INTERPRETER} -IS\n".encode())
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:

            def add(name: str, text: str) -> None:
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), text)

            for package in ("hostler", "hostler/attacks"):
                add(f"{package}/__init__.py", "")
            for module in sorted(source.glob("*.py")):
                text = module.read_text()
                if module.name == "__main__.py":
                    add("__main__.py", text)
                else:
                    add(f"hostler/attacks/inside/{module.name}", text)
    target.chmod(0o755)
