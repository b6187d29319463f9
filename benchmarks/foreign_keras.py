"""Files of small Keras classifiers by tf2onnx, for `foreign_files.py --more`; run where tensorflow and tf2onnx are.

usage: python benchmarks/foreign_keras.py FOLDER
"""

import sys
from pathlib import Path
from typing import Any


def main() -> None:
    import tensorflow as tf
    import tf2onnx

    layers, folder = tf.keras.layers, Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    tf.random.set_seed(0)
    for place, (name, made) in enumerate(_nets(layers).items()):
        source = layers.Input((16, 16, 3), name="image")
        values = source
        for layer in made:
            values = layer(values)
        model = tf.keras.Model(source, layers.Dense(5)(layers.Flatten()(values)))

        def call(image: Any, model: Any = model) -> Any:
            return model(image, training=False)

        signature = [tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image")]
        path = folder / f"tf {name}.onnx"
        tf2onnx.convert.from_function(
            tf.function(call), input_signature=signature, opset=(13, 15, 18)[place % 3], output_path=str(path)
        )


def _nets(layers: Any) -> dict[str, list[Any]]:
    def twice(inner: list[Any], join: Any) -> Any:
        def called(values: Any) -> Any:
            other = values
            for layer in inner:
                other = layer(other)
            return join([values, other])

        return called

    first = [layers.Conv2D(4, 3, 2, "same"), layers.BatchNormalization(), layers.ReLU()]
    return {
        "convolution": [*first],
        "pools": [*first, layers.MaxPool2D(3, 2, "same"), layers.AveragePooling2D(2, 1, "same")],
        "residual": [*first, twice([layers.Conv2D(4, 3, 1, "same"), layers.BatchNormalization()], layers.Add())],
        "concatenated": [*first, twice([layers.Conv2D(2, 1, activation="relu")], layers.Concatenate())],
        "separable": [*first, layers.SeparableConv2D(6, 3, padding="same"), layers.ReLU(6.0)],
        "depthwise": [*first, layers.DepthwiseConv2D(3, 2, "same"), layers.LeakyReLU()],
        "zero padded": [layers.ZeroPadding2D(((0, 1), (0, 1))), layers.Conv2D(4, 3, 2), layers.ReLU()],
        "global average": [*first, layers.GlobalAveragePooling2D()],
        "global max": [*first, layers.GlobalMaxPooling2D()],
        "upsampled": [*first, layers.UpSampling2D(2), layers.Conv2D(2, 3)],
        "bilinear": [*first, layers.UpSampling2D(2, interpolation="bilinear")],
        "transposed": [*first, layers.Conv2DTranspose(2, 3, 2, "same"), layers.ReLU()],
        "dilated": [*first, layers.Conv2D(4, 3, dilation_rate=2, activation="relu")],
        "rescaled": [layers.Rescaling(2.0, -1.0), *first],
        "cropped": [layers.Cropping2D(2), *first],
        "permuted": [*first, layers.Permute((3, 1, 2)), layers.Reshape((8, 32)), layers.Dense(4, activation="relu")],
        "lines": [layers.Reshape((256, 3)), layers.Conv1D(4, 5, 3, activation="relu"), layers.MaxPool1D(2)],
        "dense, sigmoid": [layers.Flatten(), layers.Dense(12, activation="sigmoid")],
        "dense, elu": [layers.Flatten(), layers.Dense(12, activation="elu")],
        "swish": [layers.Conv2D(4, 3, 2, activation="swish")],
    }


if __name__ == "__main__":
    main()
