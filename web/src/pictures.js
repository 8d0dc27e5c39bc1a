/** Pictures on canvases, with the regions outlined where two noise predictions differ most. */

const SCALE = 4; // canvas pixels a picture pixel, so that an outline is thinner than a pixel
const OUTLINED = 0.85; // the share of a picture that stays outside the outlines, as in plots.py

/**
 * Paint a picture.
 *
 * @param picture {pixels: RGB in 0 … 1, size}.
 * @param outline {map, colour}: a square map of any size, brought to the picture's; none if null.
 */
export function paint(canvas, { pixels, size }, outline = null) {
  const small = document.createElement("canvas");
  small.width = small.height = size;
  canvas.width = canvas.height = size * SCALE;
  const image = new ImageData(size, size);
  for (let i = 0; i < size * size; i++) {
    for (let c = 0; c < 3; c++) image.data[4 * i + c] = Math.round(255 * pixels[3 * i + c]);
    image.data[4 * i + 3] = 255;
  }
  small.getContext("2d").putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  if (outline) drawOutline(context, enlarge(outline.map, size), size, outline.colour);
}

/** Lines between the top 15 % of a map (size × size) and the rest. */
function drawOutline(context, map, size, colour) {
  const level = Float32Array.from(map).sort()[Math.floor(OUTLINED * (map.length - 1))];
  const inside = (x, y) => x >= 0 && y >= 0 && x < size && y < size && map[y * size + x] > level;
  context.fillStyle = colour;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      if (!inside(x, y)) continue;
      const [left, top] = [x * SCALE, y * SCALE];
      if (!inside(x - 1, y)) context.fillRect(left, top, 1.5, SCALE);
      if (!inside(x + 1, y)) context.fillRect(left + SCALE - 1.5, top, 1.5, SCALE);
      if (!inside(x, y - 1)) context.fillRect(left, top, SCALE, 1.5);
      if (!inside(x, y + 1)) context.fillRect(left, top + SCALE - 1.5, SCALE, 1.5);
    }
  }
}

/** A square map brought to size × size by bilinear interpolation. */
export function enlarge(map, size) {
  const side = Math.sqrt(map.length);
  const at = (i) => Math.min(side - 1, Math.max(0, ((i + 0.5) * side) / size - 0.5));
  return Float32Array.from({ length: size * size }, (_, place) => {
    const [x, y] = [at(place % size), at(Math.floor(place / size))];
    const [left, top] = [Math.floor(x), Math.floor(y)];
    const [right, bottom] = [Math.min(side - 1, left + 1), Math.min(side - 1, top + 1)];
    const row = (line) => {
      const [a, b] = [map[line * side + left], map[line * side + right]];
      return a + (b - a) * (x - left);
    };
    return row(top) + (row(bottom) - row(top)) * (y - top);
  });
}
