"""Put a scikit-learn classifier under abstraction and verify the cells of test images.

    python examples/wrap_scikit_learn.py runs/wrapped

Needs skl2onnx. The classifier takes flat images of pixels in [0, 1]. Its probabilities serve as logits, since a claim
asks only which is the greatest.
"""

import sys
from pathlib import Path

import numpy as np
from skl2onnx import to_onnx
from sklearn.neural_network import MLPClassifier

from abscert_plugin.artifact.opened import Artifact
from abscert_plugin.artifact.wrap import WrapOptions, wrap
from abscert_plugin.blackbox import Provider
from abscert_plugin.data import Split, load_data
from abscert_plugin.grid import Grid
from abscert_plugin.preprocessing import Layout
from abscert_plugin.verification.run import Verification
from abscert_plugin.verification.summary import summarise

SHAPE = (1, 8, 8)


def main(out: Path) -> None:
    training = load_data("digits", Split.TRAIN)
    batch = training.take(np.arange(len(training)))
    pixels = training.pixels(batch.images).reshape(len(training), -1)
    classifier = MLPClassifier((32,), max_iter=200, tol=1e-3, random_state=0).fit(pixels, batch.labels)

    out.mkdir(parents=True, exist_ok=True)
    model = out / "model.onnx"
    onnx_model = to_onnx(classifier, pixels[:1], target_opset=13, options={"zipmap": False})
    model.write_bytes(onnx_model.SerializeToString())

    wrapped = wrap(model, out, WrapOptions(Grid(8), image_shape=SHAPE, layout=Layout.FLAT, output="probabilities"))
    for note in wrapped.notes:
        print(f"note: {note}")
    artifact = Artifact.open(wrapped.deploy, Provider.CPU)
    records, _ = Verification(artifact, load_data("digits", Split.TEST)).run(out / "verify-cell", lambda _: None)
    summary = summarise(records)
    print(f"claim cell: {summary.certified} of {summary.images} images certified with {artifact.cells.cells} cells")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
