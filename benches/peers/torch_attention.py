"""Training steps of sequential attention heads in PyTorch, as benches/heads/attention.rs takes them: made-up text and states, the shapes
of SmolLM2-135M, float32.

    python torch_attention.py --threads 2 --vocabulary 8192   # each line on standard input asks for a step; its JSON line has the seconds
"""
import argparse, json, resource, sys, time
import torch, torch.nn.functional as Fn

D, HEADS, KV, HD, INNER, LAYERS, DOCS, BLOCKS, LEVELS = 576, 9, 3, 64, 1536, 3, 8, 16, 8
SHAPES = dict(q=(HEADS * HD, D), k=(KV * HD, D), v=(KV * HD, D), o=(D, HEADS * HD), gate=(INNER, D), up=(INNER, D), down=(D, INNER))


def layer():
    return {n: torch.randn(*s) * s[1] ** -0.5 for n, s in SHAPES.items()} | {n: torch.ones(D) for n in ("n1", "n2")}


def scaled(x):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)


def rope(x, pos):
    f = 1.0 / (1e4 ** (torch.arange(0, HD, 2).float() / HD))
    t = pos[..., None].float() * f
    c, s = t.cos()[:, None], t.sin()[:, None]
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * c - x2 * s, x2 * c + x1 * s], -1)


def split(x, n):
    return x.view(DOCS, x.shape[1], n, HD).transpose(1, 2)


def level(x, pos, layers, context, past, before):
    """Rows x [DOCS, BLOCKS, D] through the layers; their keys and values go to `past`. `before` says what of its text each block sees."""
    same = torch.eye(BLOCKS, dtype=torch.bool)[None].expand(DOCS, -1, -1)
    mask = torch.cat([before] + [same] * (len(past[0][0]) + 1), 2)[:, None]
    for i, w in enumerate(layers):
        y = scaled(x) * w["n1"]
        past[i][0].append(rope(split(y @ w["k"].T, KV), pos))
        past[i][1].append(split(y @ w["v"].T, KV))
        k, v = (torch.cat([context[i][n]] + past[i][n], 2).repeat_interleave(HEADS // KV, 1) for n in (0, 1))
        m = Fn.scaled_dot_product_attention(rope(split(y @ w["q"].T, HEADS), pos), k, v, attn_mask=mask)
        x = x + m.transpose(1, 2).reshape(DOCS, BLOCKS, HEADS * HD) @ w["o"].T
        y = scaled(x) * w["n2"]
        x = x + (Fn.silu(y @ w["gate"].T) * (y @ w["up"].T)) @ w["down"].T
    return x


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
