"""Times KenLM's Python package over lattices, as kenlm_lattice.cc does in C++ (see there for the file and the walk).

usage: kenlm_queries.py MODEL LATTICES
"""

import sys
import time

import kenlm

model = kenlm.Model(sys.argv[1])
with open(sys.argv[2]) as text:
    slots, k = map(int, text.readline().split())
    lines = text.read().splitlines()

lattices = []
for at in range(0, len(lines), slots + 1):
    state, after = kenlm.State(), kenlm.State()
    model.NullContextWrite(state)
    for word in lines[at].split():
        model.BaseScore(state, word, after)
        state, after = after, state
    lattices.append((state, [line.split() for line in lines[at + 1 : at + 1 + slots]]))

best = float("inf")
for _ in range(3):
    total, extensions, start = 0.0, 0, time.perf_counter()
    for state, words in lattices:
        states = [(0.0, state)]
        for slot in words:
            made = []
            for word in slot:
                kept = None
                for score, before in states:
                    after = kenlm.State()
                    log = model.BaseScore(before, word, after)
                    total += log
                    if kept is None or score + log > kept[0]:
                        kept = (score + log, after)
                made.append(kept)
            extensions += len(states) * len(slot)
            states = made
    best = min(best, time.perf_counter() - start)
print(f"{best / extensions * 1e9:.1f} ns an extension (best of 3 passes)")
print(f"sum of log10 scores {total:.6f}")
