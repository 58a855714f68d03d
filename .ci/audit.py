"""Known faults in the packages of requirements.lock, as pip-audit finds them, in an environment of its own.

pip-audit ends well, too, where it could look up nothing. This says so: it ends with 0 where every package was looked up
and none has a known fault, with 1 where one has, and with 2 where some could not be looked up.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

PIP_AUDIT = "pip-audit==2.10.1"
OPTIONS = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]


def main() -> None:
    """Audit the lock file that is named first."""
    found = audit(Path(sys.argv[1]))
    unknown = [f"{package['name']}: {package['skip_reason']}" for package in found if "skip_reason" in package]
    faults = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in found
        for fault in package.get("vulns", [])
    ]
    print("\n".join([*faults, f"{len(found) - len(unknown)} of {len(found)} packages looked up, {len(faults)} faults"]))
    if unknown:
        print(f"not looked up: {len(unknown)} packages; the first: {unknown[0]}", file=sys.stderr)
    sys.exit(1 if faults else 2 if unknown else 0)


def audit(lock: Path) -> list[dict[str, Any]]:
    """What pip-audit says of each package; it ends the program where there is no answer."""
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.json"
        command = [str(uv), "tool", "run", PIP_AUDIT, "--requirement", str(lock), *OPTIONS, "--output", str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.exists():
            last = done.stderr.strip().splitlines()[-1:]
            print(f"not looked up: no answer from pip-audit: {''.join(last)}", file=sys.stderr)
            sys.exit(2)
        packages: list[dict[str, Any]] = json.loads(answer.read_text())["dependencies"]
    return packages


if __name__ == "__main__":
    main()
