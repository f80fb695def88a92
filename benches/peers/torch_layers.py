"""Forward and backward of sequential rows through copies of decoder layers, as benches/layers.rs does it.

    python torch_layers.py --threads 2      # each line on standard input asks for one step, whose times are printed as a JSON line
"""
import argparse, json, sys, time
import torch, torch.nn.functional as Fn

q = argparse.ArgumentParser()
q.add_argument("--threads", type=int, default=2)
a = q.parse_args()
torch.set_num_threads(a.threads)
torch.manual_seed(1)
D, HEADS, KV, HD, INNER, LAYERS, DOCS, BLOCKS, LEVELS, CONTEXT = 576, 9, 3, 64, 1536, 3, 8, 16, 8, 250
SHAPES = dict(q=(HEADS * HD, D), k=(KV * HD, D), v=(KV * HD, D), o=(D, HEADS * HD), gate=(INNER, D), up=(INNER, D), down=(D, INNER))
P = [{n: torch.nn.Parameter(torch.randn(*s) * s[1] ** -0.5) for n, s in SHAPES.items()} | {n: torch.nn.Parameter(torch.ones(D)) for n in ("n1", "n2")} for _ in range(LAYERS)]
context = [(torch.randn(DOCS, KV, CONTEXT, HD), torch.randn(DOCS, KV, CONTEXT, HD)) for _ in range(LAYERS)]
X = [torch.randn(DOCS, BLOCKS, D) for _ in range(LEVELS)]
DY = [torch.randn(DOCS, BLOCKS, D) for _ in range(LEVELS)]
anchor = ((torch.arange(DOCS * BLOCKS).view(DOCS, BLOCKS) * 7919) % (CONTEXT - 1)) + 1


def rms(x, w):
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * w


def rope(x, pos):
    f = 1.0 / (1e4 ** (torch.arange(0, HD, 2).float() / HD))
    t = pos[..., None].float() * f
    c, s = t.cos()[:, None], t.sin()[:, None]
    x1, x2 = x.chunk(2, -1)
    return torch.cat([x1 * c - x2 * s, x2 * c + x1 * s], -1)


def split(x, n):
    return x.view(DOCS, BLOCKS, n, HD).transpose(1, 2)


def step():
    past, loss = [([], []) for _ in range(LAYERS)], 0
    before = torch.arange(CONTEXT)[None, None] < anchor[:, :, None]
    same = torch.eye(BLOCKS, dtype=torch.bool)[None].expand(DOCS, -1, -1)
    xs = [x.clone().requires_grad_() for x in X]
    outs = []
    for j in range(LEVELS):
        x, pos = xs[j], anchor + j
        mask = torch.cat([before] + [same] * (j + 1), 2)[:, None]
        for i, w in enumerate(P):
            y = rms(x, w["n1"])
            qs = rope(split(y @ w["q"].T, HEADS), pos)
            past[i][0].append(rope(split(y @ w["k"].T, KV), pos))
            past[i][1].append(split(y @ w["v"].T, KV))
            k, v = (torch.cat([context[i][n]] + past[i][n], 2).repeat_interleave(HEADS // KV, 1) for n in (0, 1))
            m = Fn.scaled_dot_product_attention(qs, k, v, attn_mask=mask).transpose(1, 2).reshape(DOCS, BLOCKS, HEADS * HD)
            x = x + m @ w["o"].T
            y = rms(x, w["n2"])
            x = x + (Fn.silu(y @ w["gate"].T) * (y @ w["up"].T)) @ w["down"].T
        outs.append(x)
    forward = time.perf_counter()
    torch.autograd.backward(outs, DY)
    for w in P:
        for p in w.values():
            p.grad = None
    return forward


for line in sys.stdin:
    start = time.perf_counter()
    forward = step()
    end = time.perf_counter()
    print(json.dumps(dict(forward=forward - start, all=end - start)), flush=True)
