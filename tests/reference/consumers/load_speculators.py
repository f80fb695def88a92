#!/usr/bin/env python3
"""Load exported heads with the package speculators, strictly, save them again, and print how many tensors there are as JSON.

    python load_speculators.py DRAFT SAVED
"""
import json, os, sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


def main(draft, saved):
    from safetensors.torch import load_file
    from speculators import SpeculatorModel

    model = SpeculatorModel.from_pretrained(draft)
    # The embeddings are the backbone's, which the file leaves out; the package fills in what is not a number.
    model.embed_tokens.weight.data.fill_(float("nan"))
    model.load_verifier_weights()
    state, given = model.state_dict(), load_file(f"{draft}/model.safetensors")
    # Tables of the backbone are not in the file.
    tables = {"embed_tokens.weight", "lm_head.weight", "verifier_lm_head.weight", "verifier_norm.weight", "t2d", "d2t"}
    missing = sorted(name for name in state if name not in given and name not in tables)
    left = sorted(name for name in given if name not in state)
    differing = sorted(
        name for name, value in given.items() if name in state and not (state[name].float() - value.float()).abs().max() <= 1e-6
    )
    model.save_pretrained(saved)
    print(json.dumps({"tensors": len(given), "missing": missing, "left": left, "differing": differing}))


if __name__ == "__main__":
    main(*sys.argv[1:])
