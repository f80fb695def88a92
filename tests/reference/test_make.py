#!/usr/bin/env python3
"""Tests of make.py (needs what make.py needs):  python test_make.py

Runs it twice in fresh processes and looks at what it wrote.
"""

import filecmp
import json
import math
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from safetensors import safe_open
from transformers import AutoModelForCausalLM

transformers.logging.disable_progress_bar()
HERE = Path(__file__).resolve().parent
OLD = {"llama-tied-bf16", "llama-old-config", "qwen2", "gpt-neox-sequential"}
NEW = {
    "llama", "llama3-rope", "linear-rope", "llama-biases", "mistral-window",
    "qwen2-window", "qwen3", "gpt2", "gpt-neox",
}  # fmt: skip


def files_in(folder):
    return sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())


class Made(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.case = "all"
        cls.tmp = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.tmp.cleanup)
        cls.one, cls.two = Path(cls.tmp.name, "one"), Path(cls.tmp.name, "two")
        # something stale, which the script has to clear away
        (cls.two / "llama").mkdir(parents=True)
        (cls.two / "llama" / "model-00001-of-00002.safetensors").write_text("stale")
        for out in (cls.one, cls.two):
            run = [sys.executable, HERE / "make.py", out]
            cls.table = subprocess.run(run, check=True, capture_output=True, text=True).stdout
        print(cls.table)

    def each(self):
        for folder in sorted(self.one.iterdir()):
            self.case = folder.name
            config = json.loads((folder / "config.json").read_text())
            vectors = json.loads((folder / "vectors.json").read_text())
            yield folder, config, vectors

    def _formatMessage(self, msg, standard):
        return f"{getattr(self, 'case', '')}: {super()._formatMessage(msg, standard)}"

    def test_two_runs_are_identical(self):
        files = files_in(self.one)
        self.assertEqual(files, files_in(self.two))
        names = [str(f) for f in files]
        _, differ, errors = filecmp.cmpfiles(self.one, self.two, names, shallow=False)
        self.assertEqual((differ, errors), ([], []))
        diff = subprocess.run(["diff", "-r", self.one, self.two], capture_output=True, text=True)
        self.assertEqual((diff.returncode, diff.stdout), (0, ""))

    def test_folders_and_sizes(self):
        self.assertEqual({p.name for p in self.one.iterdir()}, OLD | NEW)
        self.assertLess(sum((self.one / f).stat().st_size for f in files_in(self.one)), 10**6)
        for folder, _, _ in self.each():
            names = {p.name for p in folder.iterdir()}
            weights = {n for n in names if n.endswith(".safetensors")}
            rest = names - weights
            if folder.name == "llama-tied-bf16":
                self.assertGreaterEqual(len(weights), 3)
                index = json.loads((folder / "model.safetensors.index.json").read_text())
                self.assertEqual(set(index["weight_map"].values()), weights)
                rest.remove("model.safetensors.index.json")
            else:
                self.assertEqual(weights, {"model.safetensors"})
            self.assertEqual(rest, {"config.json", "vectors.json"})
            for name in weights:
                self.assertLessEqual((folder / name).stat().st_size, 60_000)

    def test_layouts(self):
        for folder, config, _ in self.each():
            old = folder.name in OLD
            self.assertEqual("torch_dtype" in config, old)
            self.assertEqual("dtype" in config, not old)
            if config["model_type"] != "gpt2":
                self.assertEqual("rope_scaling" in config, old)
                self.assertEqual("rope_parameters" in config, not old)

    def test_stored_types_and_tying(self):
        for folder, config, _ in self.each():
            names, types = set(), set()
            for path in folder.glob("*.safetensors"):
                with safe_open(path, "pt") as f:
                    names |= set(f.keys())
                    types |= {f.get_slice(k).get_dtype() for k in f.keys()}
            self.assertEqual(types, {"BF16" if folder.name == "llama-tied-bf16" else "F32"})
            heads = {n for n in names if n in ("lm_head.weight", "embed_out.weight")}
            self.assertEqual(len(heads), 0 if config["tie_word_embeddings"] else 1)

    def test_vectors(self):
        for folder, config, vectors in self.each():
            self.assertEqual(list(vectors), ["model", "made_with", "cases"])
            self.assertEqual(vectors["model"], folder.name)
            self.assertEqual(len(vectors["cases"]), 2)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            )
            context = config.get("max_position_embeddings", config.get("n_positions"))
            for case in vectors["cases"]:
                ids, added = case["token_ids"], case["greedy_continuation"]
                self.assertLessEqual(len(ids) + len(added), context)
                self.assertTrue(8 <= len(added) <= 12)
                with torch.no_grad():
                    out = model(torch.tensor([ids + added]), output_hidden_states=True)
                logits = out.logits[0, : len(ids)]
                want = torch.tensor(case["logits"])
                self.assertEqual(want.shape, (len(ids), config["vocab_size"]))
                torch.testing.assert_close(logits, want, atol=3e-5, rtol=1e-5)
                # transformers gives the last hidden state after the final norm
                hidden = out.hidden_states[-1][0, len(ids) - 1]
                first8 = torch.tensor(case["last_hidden_final_norm_first8"])
                torch.testing.assert_close(hidden[:8], first8, atol=3e-5, rtol=1e-5)
                l2 = case["last_hidden_final_norm_l2"]
                self.assertTrue(math.isclose(hidden.norm().item(), l2, rel_tol=1e-4))
                # each added id is the largest logit's before it
                self.assertEqual(out.logits[0, len(ids) - 1 : -1].argmax(-1).tolist(), added)
                top = out.logits[0, :-1].topk(2).values
                smallest = (top[:, 0] - top[:, 1]).min().item()
                self.assertGreater(smallest, 0.01)
                self.assertAlmostEqual(smallest, case["smallest_top2_logit_gap"], delta=3e-5)
            self.assertIn(config["eos_token_id"], vectors["cases"][1]["greedy_continuation"][:-1])


if __name__ == "__main__":
    unittest.main()
