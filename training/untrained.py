"""Write the bundled models with random weights from a fixed seed, until trained ones exist."""

import torch, sys
sys.path.insert(0, str(__import__("pathlib").Path(__file__).parents[1]))
from tests.workflow.conftest import bpe, coding
from tokenizers import Tokenizer
from virnucpro.classifier.model import Classifier, write_classifier
from virnucpro.classifier.spec import ClassifierSpec
from virnucpro.encoders.canonical import write_canonical
from virnucpro.encoders.dnabert import DNABERT, DNABERTConfig
from virnucpro.encoders.esm2 import ESM2, ESM2Config
from pathlib import Path
F=Path(__file__).parents[1] / "resources/models"
t=bpe([coding(s,300) for s in range(50)]); torch.manual_seed(0)
d=DNABERT(DNABERTConfig(layers=4,width=128,heads=4,ffn=512,vocabulary=Tokenizer.from_str(t).get_vocab_size()),tokenizer_json=t).half()
write_canonical(d,F/'mini-dnabert-s.safetensors',name='mini-dnabert-s')
e=ESM2(ESM2Config(layers=4,width=128,heads=4,ffn=512)).half(); write_canonical(e,F/'mini-esm2.safetensors',name='mini-esm2')
for n in ('mini-500','mini-300'):
    write_classifier(F/f'{n}.safetensors',Classifier(256,512).eval(),ClassifierSpec(name=n,width=256,hidden=512))
