"""What training does to tokens, on the device: conservative substitutions of residues, masks."""

import torch
from models import DNA_MASK, DNA_PAD, PROTEIN_MASK

# BLOSUM62, rows and columns in BLOSUM_ORDER: where conservative substitutions go.
BLOSUM_ORDER = "ARNDCQEGHILKMFPSTWYV"
BLOSUM62 = """4 -1 -2 -2 0 -1 -1 0 -2 -1 -1 -1 -1 -2 -1 1 0 -3 -2 0
-1 5 0 -2 -3 1 0 -2 0 -3 -2 2 -1 -3 -2 -1 -1 -3 -2 -3
-2 0 6 1 -3 0 0 0 1 -3 -3 0 -2 -3 -2 1 0 -4 -2 -3
-2 -2 1 6 -3 0 2 -1 -1 -3 -4 -1 -3 -3 -1 0 -1 -4 -3 -3
0 -3 -3 -3 9 -3 -4 -3 -3 -1 -1 -3 -1 -2 -3 -1 -1 -2 -2 -1
-1 1 0 0 -3 5 2 -2 0 -3 -2 1 0 -3 -1 0 -1 -2 -1 -2
-1 0 0 2 -4 2 5 -2 0 -3 -3 1 -2 -3 -1 0 -1 -3 -2 -2
0 -2 0 -1 -3 -2 -2 6 -2 -4 -4 -2 -3 -3 -2 0 -2 -2 -3 -3
-2 0 1 -1 -3 0 0 -2 8 -3 -3 -1 -2 -1 -2 -1 -2 -2 2 -3
-1 -3 -3 -3 -1 -3 -3 -4 -3 4 2 -3 1 0 -3 -2 -1 -3 -1 3
-1 -2 -3 -4 -1 -2 -3 -4 -3 2 4 -2 2 0 -3 -2 -1 -2 -1 1
-1 2 0 -1 -3 1 1 -2 -1 -3 -2 5 -1 -3 -1 0 -1 -3 -2 -2
-1 -1 -2 -3 -1 0 -2 -3 -2 1 2 -1 5 0 -2 -1 -1 -1 -1 1
-2 -3 -3 -3 -2 -3 -3 -3 -1 0 0 -3 0 6 -4 -2 -2 1 3 -1
-1 -2 -2 -1 -3 -1 -1 -2 -2 -3 -3 -1 -2 -4 7 -1 -1 -4 -3 -2
1 -1 1 0 -1 0 0 0 -1 -2 -2 0 -1 -2 -1 4 1 -3 -2 -2
0 -1 0 -1 -1 -1 -1 -2 -2 -1 -1 -1 -1 -2 -1 1 5 -2 -2 0
-3 -3 -4 -4 -2 -2 -3 -2 -2 -3 -2 -3 -1 1 -4 -3 -2 11 2 -3
-2 -2 -2 -3 -2 -1 -2 -3 2 -1 -1 -2 -1 3 -3 -2 -2 2 7 -1
0 -3 -3 -3 -1 -2 -2 -3 -3 3 1 -2 1 -1 -2 -2 0 -3 -1 4"""


def substitution_table(device) -> torch.Tensor:
    """Cumulative probabilities (33, 20) of the residue that replaces a token, in the order of ESM-2's ids 4..23."""
    score = torch.tensor([[float(x) for x in row.split()] for row in BLOSUM62.splitlines()])
    order = [BLOSUM_ORDER.index(a) for a in "LAGVSERTIDPKQNFYMHWC"]
    weight = torch.exp2(score[order][:, order] / 2).fill_diagonal_(0)
    table = torch.full((33, 20), 0.05)
    table[4:24] = weight / weight.sum(1, keepdim=True)
    return table.cumsum(1).to(device)


class Augment:
    """Conservative substitutions and masks, on the device."""

    def __init__(self, kind, o, masked, vocabulary, device):
        self.protein, self.o, self.vocabulary = kind == "protein", o, vocabulary
        self.masked = masked  # share of the rows that learn masked tokens
        self.table = substitution_table(device)

    def mask(self, tokens, eligible, mask_id, rate, random_ids):
        """BERT's: 80 % mask, 10 % random, 10 % kept. Returns tokens and chosen positions."""
        chosen = (torch.rand(tokens.shape, device=tokens.device) < rate) & eligible
        kind = torch.rand(tokens.shape, device=tokens.device)
        other = torch.randint(*random_ids, tokens.shape, device=tokens.device)
        result = torch.where(chosen & (kind < 0.8), mask_id, tokens)
        return torch.where(chosen & (kind >= 0.9), other, result), chosen

    def __call__(self, tokens):
        """(tokens, their targets, positions of the masked-token objective)."""
        o, b, clean, protein = self.o, len(tokens), tokens, self.protein
        if protein:
            eligible = (tokens > 3) & (tokens < 24)
            if o["noise"]:
                rate = torch.rand(b, 1, device=tokens.device) * o["noise"]
                hit = eligible & (torch.rand(tokens.shape, device=tokens.device) < rate)
                draw = torch.rand(tokens.shape, device=tokens.device)[..., None]
                new = (self.table[tokens] < draw).sum(-1).clamp(max=19) + 4
                tokens = torch.where(hit, new, tokens)
        else:
            eligible = (tokens > 4) & (tokens != DNA_PAD)
        rows = torch.arange(b, device=tokens.device)[:, None] < self.masked * b
        rate = torch.where(rows, o["mask_rate"], o["light_mask"])
        ids = (PROTEIN_MASK, rate, (4, 24)) if protein else (DNA_MASK, rate, (5, self.vocabulary))
        tokens, at = self.mask(tokens, eligible, *ids)
        return tokens, clean, at & rows
