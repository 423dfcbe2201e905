"""Train the byte-pair tokenizer of the mini DNA encoder on chunks of the training split."""

import argparse
import json
from pathlib import Path

from sequences import decode
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from windows import MIXTURE, Corpus, Options, Windows

SPECIALS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer", type=Path, help="output (tokenizer.json)")
    parser.add_argument("--vocabulary", type=int, default=1024)
    parser.add_argument("--chunks", type=int, default=30000)
    parser.add_argument("--seed", type=int, default=21)
    args = parser.parse_args()
    codes, sizes, _ = Windows(Corpus(args.corpus, (0,)), Options(MIXTURE), args.seed).codes(args.chunks, 500)
    texts = [decode(row[:size]) for row, size in zip(codes, sizes, strict=True)]
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=args.vocabulary, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    args.tokenizer.write_text(json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":")))
    lengths = [len(e.ids) for e in tokenizer.encode_batch(texts[:2000])]
    print(
        f"{tokenizer.get_vocab_size()} entries, {sum(map(len, texts[:2000])) / sum(lengths):.2f} bases a token, "
        f"longest {max(lengths)} tokens"
    )


if __name__ == "__main__":
    main()
