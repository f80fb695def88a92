"""Forward and backward of sequential rows through copies of decoder layers, as benches/layers.rs does it.

    python torch_layers.py --threads 2      # each line on standard input asks for one step, whose times are printed as a JSON line
"""
import argparse, json, sys, time
import torch
from torch_rows import BLOCKS, D, DOCS, HD, KV, LAYERS, LEVELS, layer, level

q = argparse.ArgumentParser()
q.add_argument("--threads", type=int, default=2)
a = q.parse_args()
torch.set_num_threads(a.threads)
torch.manual_seed(1)
CONTEXT = 250
P = [{n: torch.nn.Parameter(w) for n, w in layer().items()} for _ in range(LAYERS)]
context = [(torch.randn(DOCS, KV, CONTEXT, HD), torch.randn(DOCS, KV, CONTEXT, HD)) for _ in range(LAYERS)]
X = [torch.randn(DOCS, BLOCKS, D) for _ in range(LEVELS)]
DY = [torch.randn(DOCS, BLOCKS, D) for _ in range(LEVELS)]
anchor = ((torch.arange(DOCS * BLOCKS).view(DOCS, BLOCKS) * 7919) % (CONTEXT - 1)) + 1


def step():
    past = [([], []) for _ in range(LAYERS)]
    before = torch.arange(CONTEXT)[None, None] < anchor[:, :, None]
    outs = [level(x.clone().requires_grad_(), anchor + j, P, context, past, before) for j, x in enumerate(X)]
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
