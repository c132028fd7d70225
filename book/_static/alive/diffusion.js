/* The mathematics of ddpmlib for points in the plane, in the browser and in Node.
 *
 * Names and conventions are the book's: tables run over t = 0..T with alphaBar[0] = 1, points are
 * flat arrays x1, y1, x2, y2, ..., a label of -1 means no class. tests/book/test_diffusion_js.py
 * holds every function against ddpmlib.
 */
"use strict";

(function (global) {
  // ---- schedules: ddpmlib/schedules.py -----------------------------------------------------

  const BETA_FIRST = 1e-4, BETA_LAST = 0.02, T_REFERENCE = 1000;

  const endPoints = (T) => [(BETA_FIRST * T_REFERENCE) / T, (BETA_LAST * T_REFERENCE) / T];

  function table(T, beta) {
    return Float64Array.from({ length: T + 1 }, (_, t) => (t === 0 ? 0 : beta(t)));
  }

  /** beta_t on a straight line (1.13); all schedules return beta_0 = 0, beta_1, ..., beta_T. */
  function linear(T) {
    const [first, last] = endPoints(T);
    return table(T, (t) => first + ((last - first) * (t - 1)) / (T - 1));
  }

  /** beta_t on a logistic curve (5.1). */
  function sigmoid(T, steepness = 6) {
    const [first, last] = endPoints(T);
    const place = (t) => -steepness + (2 * steepness * (t - 1)) / (T - 1);
    return table(T, (t) => first + (last - first) / (1 + Math.exp(-place(t))));
  }

  /** beta_t such that alphaBar falls as a squared cosine (1.14), clipped at maxBeta. */
  function cosine(T, offset = 0.008, maxBeta = 0.999) {
    const curve = (t) => Math.cos(((t / T + offset) / (1 + offset)) * (Math.PI / 2)) ** 2;
    return table(T, (t) => Math.min(1 - curve(t) / curve(t - 1), maxBeta));
  }

  // ---- the process: ddpmlib/process.py -----------------------------------------------------

  /** The tables that follow from beta. */
  function process(beta) {
    const alphaBar = new Float64Array(beta.length);
    beta.forEach((b, t) => { alphaBar[t] = t === 0 ? 1 : alphaBar[t - 1] * (1 - b); });
    return { T: beta.length - 1, beta, alphaBar };
  }

  /** steps + 1 times from T to 0, evenly spaced; halves are rounded to even, as Python does. */
  function uniformTimes(T, steps) {
    return Array.from({ length: steps + 1 }, (_, k) => roundEven((T * (steps - k)) / steps));
  }

  function roundEven(u) {
    const low = Math.floor(u);
    if (u - low !== 0.5) return Math.round(u);
    return low % 2 === 0 ? low : low + 1;
  }

  /** beta~ of the stride t -> s: the variance of q(x_s | x_t, x_0) (2.8). */
  function betaTilde({ alphaBar }, t, s) {
    return ((1 - alphaBar[s]) / (1 - alphaBar[t])) * (1 - alphaBar[t] / alphaBar[s]);
  }

  /** Draw x_s given x_t and a guess of x_0 (7.2): eta = 1 is DDPM, eta = 0 is DDIM. */
  function step(proc, x, x0, t, s, eta, noise) {
    const a_t = proc.alphaBar[t], a_s = proc.alphaBar[s];
    const variance = eta ** 2 * betaTilde(proc, t, s);
    const onX = Math.sqrt(Math.max(1 - a_s - variance, 0) / (1 - a_t));
    const onX0 = Math.sqrt(a_s) - onX * Math.sqrt(a_t);
    const onNoise = s === 0 ? 0 : Math.sqrt(variance);
    return x.map((value, i) => onX0 * x0[i] + onX * value + (onNoise ? onNoise * noise[i] : 0));
  }

  // ---- exact predictions of a mixture of isotropic Gaussians: ddpmlib/oracle.py -----------------

  /** {weights (K), means (K pairs), stds (K), labels (K)}, made ready for the functions below. */
  function mixture({ weights, means, stds, labels }) {
    const total = weights.reduce((a, b) => a + b, 0);
    const all = Int32Array.from(labels, (_, k) => k), classes = Math.max(...labels) + 1;
    const members = Array.from({ length: classes }, (_, c) => all.filter((k) => labels[k] === c));
    return {
      logWeights: Float64Array.from(weights, (w) => Math.log(w / total)),
      means: Float64Array.from(means.flat()),
      variances: Float64Array.from(stds, (s) => s * s),
      labels: Int32Array.from(labels),
      classes,
      /** The components of a label; all of them for -1. */
      of: (label) => (label < 0 ? all : members[label]),
    };
  }

  /** The components at time t: q(x_t) is a mixture again (1.10). */
  function noised(mix, alphaBar) {
    const scale = Math.sqrt(alphaBar);
    const variances = mix.variances.map((v) => alphaBar * v + 1 - alphaBar);
    return {
      scale, variances,
      means: mix.means.map((m) => scale * m),
      // Of the density of component k, without its exponential; the plane has two dimensions.
      logNorm: mix.logWeights.map((w, k) => w - Math.log(2 * Math.PI * variances[k])),
    };
  }

  // Components whose share is below e^-40 of the largest vanish in the rounding of the others.
  const FAR = 40;

  /**
   * What the components at time t say about points: a function (x, y, label) that returns
   * {log, sums}, the log of the density that the label's components (-1: all) add up to, and
   * `coefficients` (functions of k) summed over them, weighted by their shares p(k | x_t, label).
   * The answer is overwritten by the next call.
   */
  function asker(mix, at, coefficients) {
    const K = mix.labels.length, joint = new Float64Array(K);
    const tables = coefficients.map((one) => Float64Array.from({ length: K }, (_, k) => one(k)));
    const answer = { log: 0, sums: new Float64Array(tables.length) };
    const half = at.variances.map((v) => 1 / (2 * v));
    return (x, y, label) => {
      const members = mix.of(label);
      let largest = -Infinity, total = 0;
      for (let m = 0; m < members.length; m += 1) {
        const k = members[m], dx = x - at.means[2 * k], dy = y - at.means[2 * k + 1];
        joint[m] = at.logNorm[k] - (dx * dx + dy * dy) * half[k];
        if (joint[m] > largest) largest = joint[m];
      }
      answer.sums.fill(0);
      for (let m = 0; m < members.length; m += 1) {
        if (joint[m] < largest - FAR) continue;
        const k = members[m], share = Math.exp(joint[m] - largest);
        total += share;
        for (let i = 0; i < tables.length; i += 1) answer.sums[i] += share * tables[i][k];
      }
      for (let i = 0; i < tables.length; i += 1) answer.sums[i] /= total;
      answer.log = largest + Math.log(total);
      return answer;
    };
  }

  /** A field that is linear in x for each component, (a_k x + b_k mean_k), asked with guidance. */
  function guidedField(mix, at, onX, onMean, x, labels, w) {
    const mean = (d) => (k) => onMean(k) * mix.means[2 * k + d];
    const ask = asker(mix, at, [onX, mean(0), mean(1)]);
    const out = new Float64Array(x.length);
    const add = (i, label, weight) => {
      const { sums } = ask(x[i], x[i + 1], label);
      out[i] += weight * (sums[0] * x[i] + sums[1]);
      out[i + 1] += weight * (sums[0] * x[i + 1] + sums[2]);
    };
    for (let i = 0; i < x.length; i += 2) {
      const label = labels ? labels[i / 2] : -1, guided = label >= 0 && w !== 0;
      add(i, label, guided ? 1 + w : 1);
      if (guided) add(i, -1, -w);
    }
    return out;
  }

  /**
   * E[x_0 | x_t, label] and E[x_0 | x_t] (2.15), joined by the guidance weight w:
   * x0 = (1 + w) x0_c - w x0_null (11.3), the same as eps = (1 + w) eps_c - w eps_null.
   */
  function denoise(proc, mix, x, t, labels = null, w = 0) {
    const at = noised(mix, proc.alphaBar[t]);
    const gain = (k) => (at.scale * mix.variances[k]) / at.variances[k];
    return guidedField(mix, at, gain, (k) => 1 - gain(k) * at.scale, x, labels, w);
  }

  /** (1 + w) grad log q(x_t | label) - w grad log q(x_t) (11.2), also at t = 0. */
  function score(proc, mix, x, t, labels = null, w = 0) {
    const at = noised(mix, proc.alphaBar[t]);
    const pull = (k) => 1 / at.variances[k];
    return guidedField(mix, at, (k) => -pull(k), (k) => at.scale * pull(k), x, labels, w);
  }

  /** log q(x_t), or log q(x_t | label), in nats, one per point. */
  function logDensity(proc, mix, x, t, label = -1) {
    const ask = asker(mix, noised(mix, proc.alphaBar[t]), []);
    const prior = Math.log(classWeight(mix, label));
    const one = (_, i) => ask(x[2 * i], x[2 * i + 1], label).log - prior;
    return Float64Array.from({ length: x.length / 2 }, one);
  }

  function classWeight(mix, label) {
    return mix.of(label).reduce((sum, k) => sum + Math.exp(mix.logWeights[k]), 0);
  }

  /** The most likely class of each point, argmax q(y | x_t). */
  function likelyClass(proc, mix, x, t) {
    const member = (c) => (k) => Number(mix.labels[k] === c);
    const members = Array.from({ length: mix.classes }, (_, c) => member(c));
    const ask = asker(mix, noised(mix, proc.alphaBar[t]), members);
    return Int32Array.from({ length: x.length / 2 }, (_, i) => {
      const { sums } = ask(x[2 * i], x[2 * i + 1], -1);
      return sums.indexOf(Math.max(...sums));
    });
  }

  // ---- noise -----------------------------------------------------------------------------------

  /** Seeded random numbers: uniform() in [0, 1) (mulberry32), normals(n) (Box and Muller). */
  function random(seed) {
    let state = (seed * 0x9e3779b1) >>> 0;
    const uniform = () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let z = Math.imul(state ^ (state >>> 15), state | 1);
      z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
      return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
    };
    const normals = (n) => {
      const out = new Float64Array(n);
      for (let i = 0; i < n; i += 2) {
        const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
        out[i] = radius * Math.cos(angle);
        if (i + 1 < n) out[i + 1] = radius * Math.sin(angle);
      }
      return out;
    };
    return { uniform, normals };
  }

  /** One data point for each label, from the components of that label. */
  function draw(mix, labels, generator) {
    const out = generator.normals(2 * labels.length);
    labels.forEach((label, i) => {
      const k = pick(mix, label, generator.uniform()), std = Math.sqrt(mix.variances[k]);
      for (const d of [0, 1]) out[2 * i + d] = mix.means[2 * k + d] + std * out[2 * i + d];
    });
    return out;
  }

  /** A component of the label, by its weight; u is uniform in [0, 1). */
  function pick(mix, label, u) {
    let left = u * classWeight(mix, label);
    const found = mix.of(label).find((k) => (left -= Math.exp(mix.logWeights[k])) < 0);
    return found === undefined ? mix.of(label).at(-1) : found;
  }

  // ---- a chain, and what it drew -----------------------------------------------------------

  /**
   * A reverse chain from noise to data: state(k) is x after k of its steps, computed when first
   * asked for and kept. The starting noise is that of the seed, whatever the other settings are.
   */
  function chain({ proc, mix, times, labels, w, eta, seed }) {
    const generator = random(seed), size = 2 * labels.length;
    const states = [generator.normals(size)];
    const state = (k) => {
      while (states.length <= k) {
        const n = states.length, t = times[n - 1], s = times[n], x = states[n - 1];
        const x0 = denoise(proc, mix, x, t, labels, w);
        const noise = eta > 0 && s > 0 ? generator.normals(size) : null;
        states.push(step(proc, x, x0, t, s, eta, noise));
      }
      return states[k];
    };
    return { state, times, steps: times.length - 1 };
  }

  /**
   * How far apart two sets of equally many points are: their Wasserstein-2 distance along a line,
   * root mean square over `lines` directions (the sliced Wasserstein distance).
   */
  function slicedDistance(a, b, lines = 16) {
    let total = 0;
    for (let i = 0; i < lines; i += 1) {
      const along = [Math.cos((Math.PI * i) / lines), Math.sin((Math.PI * i) / lines)];
      const p = shadow(a, along), q = shadow(b, along);
      total += p.reduce((sum, value, k) => sum + (value - q[k]) ** 2, 0) / p.length;
    }
    return Math.sqrt(total / lines);
  }

  function shadow(x, [c, s]) {
    const place = (_, i) => c * x[2 * i] + s * x[2 * i + 1];
    return Float64Array.from({ length: x.length / 2 }, place).sort();
  }

  /** Root mean square distance of the points from the mean of their own label. */
  function spread(x, labels) {
    const sums = new Map();
    labels.forEach((label, i) => {
      const [n, sx, sy] = sums.get(label) || [0, 0, 0];
      sums.set(label, [n + 1, sx + x[2 * i], sy + x[2 * i + 1]]);
    });
    let total = 0;
    labels.forEach((label, i) => {
      const [n, sx, sy] = sums.get(label);
      total += (x[2 * i] - sx / n) ** 2 + (x[2 * i + 1] - sy / n) ** 2;
    });
    return Math.sqrt(total / labels.length);
  }

  global.Diffusion = {
    schedules: { linear, cosine, sigmoid },
    process, uniformTimes, step, mixture, denoise, logDensity, score, likelyClass,
    random, draw, chain, slicedDistance, spread,
  };
  if (typeof module !== "undefined") module.exports = global.Diffusion;
})(typeof window === "undefined" ? globalThis : window);
