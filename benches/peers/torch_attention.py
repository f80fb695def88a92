"""Training steps of sequential attention heads in PyTorch, as benches/heads/attention.rs takes them: made-up text and states, the shapes
of SmolLM2-135M, float32.

    python torch_attention.py --threads 2 --vocabulary 8192   # each line on standard input asks for a step; its JSON line has the seconds
"""
import argparse, json, resource, sys, time
import torch, torch.nn.functional as Fn
from torch_rows import BLOCKS, D, DOCS, KV, LAYERS, LEVELS, layer, level, rope, scaled, split

q = argparse.ArgumentParser()
q.add_argument("--threads", type=int, default=2)
q.add_argument("--vocabulary", type=int, default=8192)
a = q.parse_args()
torch.set_num_threads(a.threads)
torch.manual_seed(1)
LENGTH = 256
frozen = [layer() for _ in range(LAYERS)]
P = [{n: torch.nn.Parameter(w.clone()) for n, w in l.items()} for l in frozen]
entry = [torch.nn.Parameter(torch.zeros(D, D)) for _ in range(5)]
A1, B1, A, B, C = entry
norm = torch.nn.Parameter(torch.ones(D))
embedding, unembedding = torch.randn(a.vocabulary, D), torch.randn(a.vocabulary, D) * D**-0.5
layers = [p for l in P for p in l.values()] + [norm]
optimiser = torch.optim.AdamW([dict(params=entry, lr=4e-3), dict(params=layers, lr=1e-3)], weight_decay=0.05, betas=(0.9, 0.95))
average = [p.detach().clone() for p in entry + layers]
F, tokens = torch.randn(DOCS, LENGTH, LAYERS, D), torch.randint(a.vocabulary, (DOCS, LENGTH + LEVELS + 2))
weight = torch.exp(-torch.arange(LEVELS) / 4.0)


def step():
    pos = torch.arange(LENGTH)[None].expand(DOCS, -1)
    context = []
    for i, w in enumerate(frozen):  # the backbone's own keys and values
        y = scaled(F[:, :, i]) * w["n1"]
        context.append((rope(split(y @ w["k"].T, KV), pos), split(y @ w["v"].T, KV)))
    anchor, past, loss = torch.randint(1, LENGTH, (DOCS, BLOCKS)), [([], []) for _ in range(LAYERS)], 0
    before = torch.arange(LENGTH)[None, None] < anchor[:, :, None]
    r, o = torch.gather(F[:, :, 0], 1, (anchor - 1)[:, :, None].expand(-1, -1, D)), None
    for j in range(LEVELS):
        e = scaled(embedding[torch.gather(tokens, 1, anchor + j)])
        r = r + scaled(r) @ A1.T + e @ B1.T if o is None else r + scaled(r) @ A.T + scaled(o) @ C.T + e @ B.T
        o = level(r, anchor + j, P, context, past, before)
        logits = (scaled(o) * norm) @ unembedding.T
        loss = loss + weight[j] * Fn.cross_entropy(logits.flatten(0, 1), torch.gather(tokens, 1, anchor + j + 1).flatten())
    optimiser.zero_grad()
    (loss / weight.sum()).backward()
    torch.nn.utils.clip_grad_norm_(entry + layers, 1.0)
    optimiser.step()
    with torch.no_grad():
        for mean, p in zip(average, entry + layers):
            mean.mul_(0.98).add_(p, alpha=0.02)


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


loaded = peak()
for line in sys.stdin:
    start = time.perf_counter()
    step()
    print(json.dumps(dict(seconds=time.perf_counter() - start, memory_growth_mb=peak() - loaded)), flush=True)
