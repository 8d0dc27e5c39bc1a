/**
 * x_T of a draw, number for number as the Python library makes it: a torch generator keyed by
 * (seed, draw) through NumPy's SeedSequence, and torch's normal numbers for tensors of 16 or more.
 */

/** NumPy's SeedSequence(entropy).generate_state(count), for entropy of at most four words. */
export function seedSequence(entropy, count) {
  let constant = 0x43b0d7e5;
  const hash = (value) => {
    value ^= constant;
    constant = Math.imul(constant, 0x931e8875);
    value = Math.imul(value, constant);
    return value ^ (value >>> 16);
  };
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from++) {
    for (let to = 0; to < 4; to++) {
      if (from === to) continue;
      const mixed = Math.imul(0xca01f9dd, pool[to]) - Math.imul(0x4973f715, hash(pool[from]));
      pool[to] = mixed ^ (mixed >>> 16);
    }
  }
  let output = 0x8b51f9dd;
  return Array.from({ length: count }, (_, i) => {
    let word = pool[i % 4] ^ output;
    output = Math.imul(output, 0x58f38ded);
    word = Math.imul(word, output);
    return (word ^ (word >>> 16)) >>> 0;
  });
}

/** The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998): a function giving 32 bits a call. */
export function mersenneTwister(seed) {
  const state = new Uint32Array(624);
  state[0] = seed;
  for (let i = 1; i < 624; i++) {
    state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
  }
  let next = 624;
  const twist = () => {
    for (let i = 0; i < 624; i++) {
      const bits = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (bits >>> 1) ^ (bits & 1 ? 0x9908b0df : 0);
    }
    next = 0;
  };
  return () => {
    if (next === 624) twist();
    let y = state[next++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  };
}

/**
 * torch.randn(size) in float32 on a CPU, for a multiple of 16 numbers: all uniform ones first, then
 * Box and Muller in blocks of 16, whose first half holds the radii and whose second the angles.
 */
export function randn(size, bits) {
  if (size % 16) throw new RangeError(`size must be a multiple of 16, not ${size}`);
  const uniform = Float32Array.from({ length: size }, () => (bits() & 0xffffff) / 2 ** 24);
  const normal = new Float32Array(size);
  for (let block = 0; block < size; block += 16) {
    for (let i = block; i < block + 8; i++) {
      const radius = Math.sqrt(-2 * Math.log(1 - uniform[i]));
      const angle = 2 * Math.PI * uniform[i + 8];
      normal[i] = radius * Math.cos(angle);
      normal[i + 8] = radius * Math.sin(angle);
    }
  }
  return normal;
}

/** x_T of a draw: `size` standard normal numbers. torch's CPU generator takes the low 32 bits. */
export function noise(size, seed, draw) {
  return randn(size, mersenneTwister(seedSequence([seed, draw], 2)[1]));
}
