#!/usr/bin/env python3
"""Compute in PyTorch how a small correlation network scores random lattices, for src/rescorer/correlation.rs.

    python make.py OUT_DIR

writes OUT_DIR/correlation.json: the sizes, every parameter by the name that it has here, two blocks of random states,
embeddings and head scores, and what follows from them: the scores behind the true tokens, those behind every candidate, and
the gradients of `sum(coefficients * scores)`. All of it is computed in float64, candidate by candidate, from the formulas of
LiLiCorr (arXiv 2608.20530) with the departures that the Rust file names, and rounded to 9 digits.
"""
import json, math, os, sys
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)
D, W, HEADS, RANK, SLOTS, K, LAYERS, BLOCKS, TOKENS, EPSILON = 6, 8, 2, 5, 3, 4, 2, 2, 9, 1e-6


class Parameters(dict):
    def get_(self, name, *shape, around=0.0):
        scale = 1 / math.sqrt(shape[-1]) if len(shape) == 2 else 0.3
        return self.setdefault(name, (around + scale * torch.randn(*shape)).requires_grad_())

    def linear(self, name, x, outputs, biased=True):
        y = self.get_(f"{name}.weight", outputs, x.shape[-1]) @ x
        return y + self.get_(f"{name}.bias", outputs) if biased else y

    def norm(self, name, x):
        return x / torch.sqrt((x * x).mean() + EPSILON) * self.get_(f"{name}.weight", x.shape[-1], around=1.0)


def unit(x):
    return x / torch.sqrt((x * x).sum() + EPSILON)


def entered(p, slot, rank, token, state, log_probs):
    numbers = [log_probs[rank], log_probs[rank].exp(), log_probs[rank] - log_probs.max(), torch.tensor(rank / (K - 1)), torch.tensor(float(rank == 0))]
    numbers = torch.stack([number.reshape(()) for number in numbers])
    centred = numbers - numbers.mean()
    numbers = centred / torch.sqrt((centred * centred).mean() + EPSILON)
    numbers = numbers * p.get_("feature_norm.weight", 5, around=1.0) + p.get_("feature_norm.bias", 5)
    mlp = p.linear("feature_down", F.silu(p.linear("feature_up", numbers, W)), W)
    projected = p.linear("token", token, W, biased=False) + p.linear("state", state, W, biased=False)
    return projected + mlp + p.get_("slots", SLOTS, W)[slot] + p.get_("ranks", 16, W)[rank]


def layer(p, name, xs):
    projected = [p.linear(f"{name}.query_key_value", p.norm(f"{name}.attention_norm", x), 3 * W) for x in xs]
    distances, same = p.get_("distances", 2 * SLOTS - 1, HEADS), p.get_("same_slot", HEADS)
    width, after = W // HEADS, []
    for i, x in enumerate(xs):
        mixed = []
        for head in range(HEADS):
            part = lambda j, which: projected[j][which * W + head * width : which * W + (head + 1) * width]
            scores = []
            for j in range(len(xs)):
                bias = distances[i // K - j // K + SLOTS - 1, head] + (same[head] if i // K == j // K else 0)
                scores.append(part(i, 0) @ part(j, 1) / math.sqrt(width) + bias)
            weights = torch.stack(scores).softmax(0)
            mixed.append(sum(weights[j] * part(j, 2) for j in range(len(xs))))
        x = x + p.linear(f"{name}.attention_output", torch.cat(mixed), W)
        inner = F.silu(p.linear(f"{name}.up", p.norm(f"{name}.mlp_norm", x), 2 * W))
        after.append(x + p.linear(f"{name}.down", inner, W))
    return after


def block(p, ids, before, embeddings, states, hidden, heads):
    """Scores [SLOTS, K] behind the true tokens, and [SLOTS - 1, K, K] behind every candidate."""
    xs = [entered(p, s, k, embeddings[ids[s][k]], states[s], heads[s].log_softmax(0)) for s in range(SLOTS) for k in range(K)]
    for index in range(LAYERS):
        xs = layer(p, f"layers.{index}", xs)
    anchor = p.linear("anchor", hidden, W, biased=False) + p.linear("token", embeddings[before[0]], W, biased=False)
    anchor = p.norm("anchor_norm", anchor)
    factors = []
    for x in xs:
        x = p.norm("norm", x)
        factors.append(F.silu(p.linear("factor", torch.cat([x, anchor, x * anchor]), W)))
    outgoing = [unit(p.linear("outgoing", f, RANK)) for f in factors]
    incoming = [unit(p.linear("incoming", f, RANK)) for f in factors]
    first = unit(p.linear("anchor_outgoing", anchor, RANK))
    gates, weights = p.get_("gates", SLOTS), p.get_("head_weights", SLOTS, around=1.0)
    score = lambda vector, s, k: weights[s] * (heads[s][k] - heads[s][0]) + 10 * gates[s] * (vector @ incoming[s * K + k])
    truth = []
    for s in range(SLOTS):
        vector = first if s == 0 else torch.zeros(RANK)
        if s > 0 and before[s] in ids[s - 1]:
            vector = outgoing[(s - 1) * K + ids[s - 1].index(before[s])]
        truth.append(torch.stack([score(vector, s, k) for k in range(K)]))
    pairs = [torch.stack([torch.stack([score(outgoing[(s - 1) * K + a], s, b) for b in range(K)]) for a in range(K)]) for s in range(1, SLOTS)]
    return torch.stack(truth), torch.stack(pairs)


def rounded(x):
    return [float(f"{value:.9g}") for value in x.detach().flatten().tolist()]


def main(folder):
    torch.manual_seed(3)
    p = Parameters()
    embeddings = torch.randn(TOKENS, D)
    states, hidden = torch.randn(BLOCKS, SLOTS, D), torch.randn(BLOCKS, D)
    heads = torch.randn(BLOCKS, SLOTS, K).sort(-1, descending=True).values
    heads = heads - heads[..., :1]
    ids = [[torch.randperm(TOKENS)[:K].tolist() for _ in range(SLOTS)] for _ in range(BLOCKS)]
    # The true tokens before each slot; one of them is no candidate.
    before = [[int(torch.randint(TOKENS, ()))] + [ids[b][s][(b + s) % K] for s in range(SLOTS - 1)] for b in range(BLOCKS)]
    before[1][1] = next(token for token in range(TOKENS) if token not in ids[1][0])
    found = [block(p, ids[b], before[b], embeddings, states[b], hidden[b], heads[b]) for b in range(BLOCKS)]
    scores, pairs = (torch.stack([one[part] for one in found]) for part in (0, 1))
    coefficients, of_pairs = torch.randn(scores.shape), torch.randn(pairs.shape)
    ((coefficients * scores).sum() + (of_pairs * pairs).sum()).backward()
    vectors = dict(
        made_with=f"torch {torch.__version__}",
        width=D, hidden=W, heads=HEADS, rank=RANK, layers=LAYERS, shape=[BLOCKS, SLOTS, K],
        parameters={
            key: dict(shape=list(value.shape), values=rounded(value), gradient=rounded(value.grad))
            for key, value in sorted(p.items())
        },
        embeddings=rounded(embeddings), states=rounded(states), hidden_states=rounded(hidden), head_scores=rounded(heads),
        ids=sum(sum(ids, []), []), before=sum(before, []),
        coefficients=[rounded(coefficients), rounded(of_pairs)], scores=rounded(scores), pairs=rounded(pairs),
    )  # fmt: skip
    with open(os.path.join(folder, "correlation.json"), "w") as file:
        json.dump(vectors, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
