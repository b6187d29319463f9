"""Print the label of an image, whether every image within the radius provably gets it, and the proven margin.

    python examples/deploy/guard.py guard.onnx image.pgm

Needs numpy and onnxruntime alone. The image is a binary PGM or PPM of 8 bits and the size that the guard reads, as
`Image.open("image.png").convert("L").save("image.pgm")` of Pillow writes it. A guard of several radii gets a line each.
"""

import re
import sys
from pathlib import Path

import numpy as np
import onnxruntime

content = Path(sys.argv[2]).read_bytes()
head = re.match(rb"P[56]\s(\d+)\s(\d+)\s255\s", content)
if head is None:
    sys.exit(f"{sys.argv[2]}: expected a binary PGM or PPM of 8 bits, without comments")
levels = np.frombuffer(content, np.uint8, offset=head.end()).reshape(int(head[2]), int(head[1]), -1).transpose(2, 0, 1)
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
found = session.run(["label", "certified", "margin"], {"image": levels[None] / np.float32(255)})
label, certified, margins = (values[0] for values in found)
for is_certified, margin in zip(np.atleast_1d(certified), np.atleast_1d(margins), strict=True):
    print(f"label {label}, certified {'yes' if is_certified else 'no'}, margin {margin:.4f}")
