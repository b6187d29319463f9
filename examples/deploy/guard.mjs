// Print the label of an image, whether every image within the radius provably gets it, and the proven margin.
//
//     npm install onnxruntime-web
//     node guard.mjs guard.onnx image.pgm
//
// The package runs in browsers as well: fetch the guard there, and take the pixels from a canvas. In Node.js alone,
// onnxruntime-node is faster; only its name changes below. The image is a binary PGM or PPM of 8 bits, without
// comments, and the size that the guard reads. A guard of several radii gets a line each.

import { readFileSync } from 'node:fs';
import * as ort from 'onnxruntime-web';

/** Return the pixels of an image, in [0, 1], as a tensor [1, channels, height, width]. */
function readImage(path) {
  const content = readFileSync(path);
  const head = /^(P5|P6)\s(\d+)\s(\d+)\s255\s/.exec(content.toString('latin1', 0, 64));
  if (head === null) throw new Error(`${path}: expected a binary PGM or PPM of 8 bits, without comments`);
  const [channels, width, height] = [head[1] === 'P6' ? 3 : 1, Number(head[2]), Number(head[3])];
  const levels = content.subarray(head[0].length), size = width * height;
  if (levels.length < channels * size) throw new Error(`${path} ends before its last pixel`);
  const pixels = Float32Array.from({ length: channels * size }, (_, place) => {
    return levels[(place % size) * channels + Math.floor(place / size)] / 255;
  });
  return new ort.Tensor('float32', pixels, [1, channels, height, width]);
}

try {
  if (process.argv.length !== 4) throw new Error('expected two arguments: guard.onnx image.pgm');
  const [model, path] = process.argv.slice(2);
  const session = await ort.InferenceSession.create(readFileSync(model));
  const { label, certified, margin } = await session.run({ image: readImage(path) }, ['label', 'certified', 'margin']);
  margin.data.forEach((least, radius) => {
    console.log(`label ${label.data[0]}, certified ${certified.data[radius] ? 'yes' : 'no'}, margin ${least.toFixed(4)}`);
  });
} catch (error) {
  console.error(`error: ${error.message}`);
  process.exitCode = 1;
}
