"""Chunk scores of a pair with its own heads on an evaluation pool, and the AUROCs that matter."""

import numpy as np
import torch
from sklearn.metrics import roc_auc_score

PROKARYOTES, EUKARYOTES = (1, 2, 3), (4, 5, 6, 7, 8, 9)


@torch.no_grad()
def vectors(pair, arrays, device, which="both", batch=4096):
    """Pooled (dna, protein) vectors (n, d1), (n, d2) of a pool's frames, fp32; None for an encoder not asked for."""
    pair.eval()
    dna_all, protein_all = [], []
    for i in range(0, len(arrays["chunk"]), batch):
        protein = torch.from_numpy(arrays["protein"][i : i + batch]).to(device).long()
        dna = torch.from_numpy(arrays["dna"][i : i + batch]).to(device).long()
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
            _, _, vp, vd = pair(protein, dna, 0.0, which)
        dna_all.append(vd)
        protein_all.append(vp)
    return (torch.cat(x).float() if x[0] is not None else None for x in (dna_all, protein_all))


def chunk_scores(frame_scores, chunk):
    """max viral / (max viral + max other) over a chunk's frames → (chunks, scores), chunks sorted."""
    numbers, index = np.unique(chunk, return_inverse=True)
    viral, other = np.zeros(len(numbers)), np.zeros(len(numbers))
    np.maximum.at(viral, index, frame_scores)
    np.maximum.at(other, index, 1 - frame_scores)
    return numbers, viral / (viral + other)


def aurocs(scores, category, remote=None):
    """AUROC of viral against all others, prokaryotes, eukaryotes; and of viral chunks unlike the training data."""
    viral = category == 0
    result = {}
    for name, others in (
        ("all", ~viral),
        ("prok", np.isin(category, PROKARYOTES)),
        ("euk", np.isin(category, EUKARYOTES)),
    ):
        if viral.any() and others.any():
            keep = viral | others
            result[name] = roc_auc_score(viral[keep], scores[keep])
    if remote is not None and (remote & viral).any():
        keep = ~viral | remote
        result["remote"] = roc_auc_score(viral[keep], scores[keep])
    return result


def by_category(scores, category, categories=range(1, 10)):
    viral = category == 0
    return {
        c: roc_auc_score(viral[viral | (category == c)], scores[viral | (category == c)])
        for c in categories
        if (category == c).any()
    }


def report(pair, arrays, device, which="both") -> tuple[float, str]:
    """(AUROC of the pair's head, or of the one encoder's; a line with all AUROCs)."""
    dna, protein = vectors(pair, arrays, device, which)
    heads = []
    if which == "both":
        heads.append(("both", pair.both, torch.cat([dna, protein], 1)))
    heads += [h for h in (("dna", pair.only_dna, dna), ("protein", pair.only_protein, protein)) if h[2] is not None]
    _numbers, first = np.unique(arrays["chunk"], return_index=True)
    category = arrays["category"][first]
    remote = arrays["remote"][first] if "remote" in arrays else None
    lines, auroc = [], None
    for name, head, x in heads:
        with torch.no_grad():
            frame = torch.softmax(head(x).float(), 1)[:, 1].cpu().numpy()
        _, scores = chunk_scores(frame, arrays["chunk"])
        result = aurocs(scores, category, remote)
        lines.append(f"{name} " + " ".join(f"{k} {v:.4f}" for k, v in result.items()))
        if auroc is None:
            auroc = result["all"]
            lines[-1] += " [" + " ".join(f"{c}:{v:.3f}" for c, v in by_category(scores, category).items()) + "]"
    return auroc, " | ".join(lines)
