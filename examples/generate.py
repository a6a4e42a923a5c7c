"""Generate: draws, beams and scores from a next-token model, and an encoder-decoder.

python examples/generate.py
"""

import numpy as np

import rnncore

folk = rnncore.load("zoo:folk")
tune = folk.generate([["<stop>", *"M:6/8\n"]], 400, temperature=0.8, top_p=0.95, seed=7, stop=["<stop>"])[0]
print("M:6/8\n" + tune.text)

words = rnncore.load("zoo:lm")
for text in ("and the king said", "said king the and"):
    (score,) = words.score([["<stop>", *text.split()]])
    print(f"{text!r}: perplexity {score.perplexity:.1f}")

encoder, decoder = rnncore.load("zoo:g2p-encoder"), rnncore.load("zoo:g2p")
word = encoder.vocabulary["letters"].ids("tune")
encoded = encoder.run({"letters": np.array([word]), "lengths": np.array([len(word)])})
encoded["memory_lengths"] = np.array([len(word)])
best = decoder.generate([["<stop>"]], 30, beams=4, n_best=2, stop=["<stop>"], inputs=encoded)[0]
print("tune:", best.text, "or", best.alternatives[0].text)
