"""Write what Python distributions an image holds, as CycloneDX 1.6 JSON: `python sbom.py FILE`."""

import hashlib
import importlib.metadata
import json
import re
import sys
from pathlib import Path


def bill() -> dict[str, object]:
    """Name, version, licence and package URL of each; in order, so that equal images have equal bills."""
    installed = importlib.metadata.distributions()
    found = {re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one for one in installed}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "components": [component(name, found[name]) for name in sorted(found)],
    }


def component(name: str, distribution: importlib.metadata.Distribution) -> dict[str, object]:
    """One distribution; the hash is of its own table of files and their hashes (RECORD)."""
    record = distribution.read_text("RECORD") or ""
    licence = distribution.metadata.get("License-Expression") or distribution.metadata.get("License") or ""
    return {
        "type": "library",
        "name": name,
        "version": distribution.version,
        "purl": f"pkg:pypi/{name}@{distribution.version}",
        "licenses": [{"license": {"name": licence.splitlines()[0][:200]}}] if licence.strip() else [],
        "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(record.encode()).hexdigest()}],
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(bill(), indent=1) + "\n")
