"""A classifier of transformers gets exits, learns, and is run by a rule that was chosen for it."""

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from eelit.methods import attach, calibrate, load, load_rule
from eelit.methods.data import fetch, text

torch.manual_seed(0)
reviews = text.rotten_tomatoes(train=400, validation=400, test=200)  # your own: texts with their labels
name = fetch.path("minilm-l6")  # your own: a folder, or a name such as "bert-base-uncased"
tokenizer = AutoTokenizer.from_pretrained(name)
model = AutoModelForSequenceClassification.from_pretrained(name, num_labels=2)


def batches(part, shuffle=False):
    def together(pairs):
        texts, labels = zip(*pairs, strict=True)
        tokens = tokenizer(list(texts), padding=True, truncation=True, max_length=24, return_tensors="pt")
        return {**tokens, "labels": torch.tensor(labels)}

    return DataLoader(list(zip(part.texts, part.targets, strict=True)), 16, shuffle=shuffle, collate_fn=together)


network = attach(model)  # an exit after every layer; the model's own head stays the last
network.fit(batches(reviews.train, shuffle=True), "pabee", epochs=1, rate=2e-4, head_rate=2e-3)
logits = network.collect(batches(reviews.validation))
rule = calibrate(logits, "max-confidence", budget=0.5)
network.save("network")
rule.save("rule.json")

network, rule = load("network"), load_rule("rule.json")  # from here on: what is deployed
found = [(network.infer(batch, rule), batch["labels"]) for batch in batches(reviews.test)]
right = torch.cat([told.predicted == labels for told, labels in found]).float().mean()
exits = torch.cat([told.exits for told, _ in found]) + 1
print(f"{right:.1%} of {len(exits)} reviews right, after {exits.float().mean():.1f} of {network.exits} layers")
