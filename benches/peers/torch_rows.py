"""What both scripts beside this one compute with: decoder layers of the shape of SmolLM2-135M's, and rows of blocks that run through them."""
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
