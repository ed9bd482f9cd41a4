"""Which model and tokenizer a directory holds, weights aside: what trainer and sampler must agree on."""

import hashlib
import json
from pathlib import Path

WRITER = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")  # say nothing of it
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt")


def model_identity(model_dir: Path) -> str:
    """Digest of the architecture, the tokens that end a response, and the tokenizer."""
    found = hashlib.sha256()
    for name in ("config.json", "generation_config.json"):
        path = model_dir / name
        fields = json.loads(path.read_text()) if path.is_file() else {}
        kept = {key: value for key, value in fields.items() if key not in WRITER}
        if name != "config.json":  # the rest are defaults of sampling, which every request states itself
            kept = {"eos_token_id": kept.get("eos_token_id")}
        found.update(json.dumps(kept, sort_keys=True).encode())
    for name in TOKENIZER:
        path = model_dir / name
        if path.is_file():
            found.update(name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()
