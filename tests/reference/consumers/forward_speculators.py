#!/usr/bin/env python3
"""Draft with the modules of the package speculators, and compare the logits with those that a run has kept.

    python forward_speculators.py TARGET DRAFT RUN SET [DOCUMENTS]

DRAFT holds DFlash, DFlash2 or DSpark heads in the package's format, RUN the candidates that these heads gave on SET. Prints one line of
JSON: at how many places a block was drafted, the largest difference of a logit of a candidate, and the largest of these logits.
"""
import array, json, os, sys

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")


def read(path, kind):
    with open(path, "rb") as file:
        return array.array(kind, file.read())


def main(target, draft, run, name, documents="3"):
    import torch
    from safetensors.torch import load_file
    from speculators import SpeculatorModel
    from transformers import LlamaForCausalLM

    backbone = LlamaForCausalLM.from_pretrained(target, dtype=torch.float32).eval()
    model = SpeculatorModel.from_pretrained(draft).float().eval()
    for layer in model.layers:
        layer.self_attn.config._attn_implementation = "eager"
    config = json.load(open(f"{draft}/config.json"))
    features, mask = config["aux_hidden_state_layer_ids"], config["mask_token_id"]
    rows, first = config["block_size"], 0 if config["sample_from_anchor"] else 1
    embed, unembed = backbone.model.embed_tokens.weight, backbone.lm_head.weight
    tensors = load_file(f"{draft}/model.safetensors")
    drafted = torch.arange(len(unembed))
    if "d2t" in tensors:
        drafted = tensors["d2t"] + torch.arange(len(tensors["d2t"]))
    number = {int(token): place for place, token in enumerate(drafted)}

    about = json.load(open(f"{run}/candidates/{name}/candidates.json"))
    heads, k, positions = about["heads"], about["k"], about["positions"]
    path = f"{run}/candidates/{name}/candidates.bin"
    ids, scores = read(path, "I"), read(path, "f")[positions * heads * k :]
    trace = json.load(open(f"{run}/traces/{name}/trace.json"))["documents"]
    tokens = read(f"{run}/traces/{name}/tokens.bin", "I")

    place, places, largest, size = 0, 0, 0.0, 0.0
    with torch.no_grad():
        for document in trace[: int(documents)]:
            begin, prompt, count = document["first"], document["prompt"], document["continuation"]
            text = torch.tensor(list(tokens[begin : begin + prompt + count]))
            states = backbone(text[None], output_hidden_states=True).hidden_states
            for at in range(count):
                n = prompt + at
                context = model.hidden_norm(model.fc(torch.cat([states[layer][:, :n] for layer in features], -1)))
                x = torch.stack([embed[text[n]], *[embed[mask]] * (rows - 1)])[None]
                around = model.rotary_emb(x, torch.arange(n + rows)[None])
                for layer in model.layers:
                    x = layer(target_hidden=context, hidden_states=x, position_embeddings=around)
                hidden = model.norm(x)[:, first:]
                logits = hidden[0] @ unembed[drafted].T
                best = [ids[((place + at) * heads + head) * k] for head in range(heads)]
                if getattr(model, "markov_head", None) is not None:
                    before = torch.tensor([[int(text[n]), *best[:-1]]])
                    logits = logits + model.markov_head.block_bias(prev_token_ids=before, hidden_states=hidden)[0]
                for head in range(heads):
                    for candidate in range(k):
                        cell = ((place + at) * heads + head) * k + candidate
                        largest = max(largest, abs(float(logits[head, number[ids[cell]]]) - scores[cell]))
                        size = max(size, abs(scores[cell]))
                places += 1
            place += count
    print(json.dumps({"places": places, "largest": largest, "of": size}))


if __name__ == "__main__":
    main(*sys.argv[1:])
