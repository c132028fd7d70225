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

  // ---- exact beliefs of a mixture of isotropic Gaussians: ddpmlib/oracle.py ---------------------

  /** {weights (K), means (K pairs), stds (K), labels (K)}, made ready for the functions below. */
  function mixture({ weights, means, stds, labels }) {
    const total = weights.reduce((a, b) => a + b, 0);
    return {
      logWeights: Float64Array.from(weights, (w) => Math.log(w / total)),
      means: Float64Array.from(means.flat()),
      variances: Float64Array.from(stds, (s) => s * s),
      labels: Int32Array.from(labels),
      classes: Math.max(...labels) + 1,
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

  /** log w_k N(x; mean_k, var_k I) for every component, into `joint`; the largest is returned. */
  function logJoint(at, x, y, joint) {
    let largest = -Infinity;
    for (let k = 0; k < joint.length; k += 1) {
      const dx = x - at.means[2 * k], dy = y - at.means[2 * k + 1];
      joint[k] = at.logNorm[k] - (dx * dx + dy * dy) / (2 * at.variances[k]);
      if (joint[k] > largest) largest = joint[k];
    }
    return largest;
  }

  /**
   * E[x_0 | x_t, label] and E[x_0 | x_t] (2.15), joined by the guidance weight w:
   * x0 = x0_c + w (x0_c - x0_null) (11.3), the same as eps = (1 + w) eps_c - w eps_null.
   */
  function denoise(proc, mix, x, t, labels = null, w = 0) {
    const at = noised(mix, proc.alphaBar[t]);
    const K = mix.labels.length, joint = new Float64Array(K), out = new Float64Array(x.length);
    const point = new Float64Array(2);
    for (let i = 0; i < x.length / 2; i += 1) {
      const label = labels ? labels[i] : -1;
      point[0] = x[2 * i];
      point[1] = x[2 * i + 1];
      logJoint(at, point[0], point[1], joint);
      const own = belief(mix, at, point, joint, label);
      const all = label < 0 || w === 0 ? own : belief(mix, at, point, joint, -1);
      out[2 * i] = own[0] + w * (own[0] - all[0]);
      out[2 * i + 1] = own[1] + w * (own[1] - all[1]);
    }
    return out;
  }

  /** The mean of p(x_0 | x_t) over the components of a label (all of them: -1). */
  function belief(mix, at, [x, y], joint, label) {
    const largest = largestOf(mix, joint, label);
    let total = 0, onX = 0, x0 = 0, y0 = 0;
    for (let k = 0; k < joint.length; k += 1) {
      if (label >= 0 && mix.labels[k] !== label) continue;
      const share = Math.exp(joint[k] - largest);
      const gain = (at.scale * mix.variances[k]) / at.variances[k];
      const onMean = share * (1 - gain * at.scale);
      total += share;
      onX += share * gain;
      x0 += onMean * mix.means[2 * k];
      y0 += onMean * mix.means[2 * k + 1];
    }
    return [(x0 + onX * x) / total, (y0 + onX * y) / total];
  }

  // Over the label's own components: far from them all their shares would vanish otherwise.
  function largestOf(mix, joint, label) {
    let largest = -Infinity;
    for (let k = 0; k < joint.length; k += 1) {
      if ((label < 0 || mix.labels[k] === label) && joint[k] > largest) largest = joint[k];
    }
    return largest;
  }

  /** log q(x_t), or log q(x_t | label), in nats, one per point. */
  function logDensity(proc, mix, x, t, label = -1) {
    const at = noised(mix, proc.alphaBar[t]), joint = new Float64Array(mix.labels.length);
    const prior = Math.log(classWeight(mix, label));
    return Float64Array.from({ length: x.length / 2 }, (_, i) => {
      logJoint(at, x[2 * i], x[2 * i + 1], joint);
      return logSum(mix, joint, label) - prior;
    });
  }

  function classWeight(mix, label) {
    const weight = (w, k) => (label < 0 || mix.labels[k] === label ? Math.exp(w) : 0);
    return mix.logWeights.map(weight).reduce((a, b) => a + b, 0);
  }

  function logSum(mix, joint, label) {
    const largest = largestOf(mix, joint, label);
    let total = 0;
    for (let k = 0; k < joint.length; k += 1) {
      if (label < 0 || mix.labels[k] === label) total += Math.exp(joint[k] - largest);
    }
    return largest + Math.log(total);
  }

  /** The guided score, grad log q(x_t | label) (1 + w) - w grad log q(x_t) (11.2), also at t = 0. */
  function score(proc, mix, x, t, label = -1, w = 0) {
    const at = noised(mix, proc.alphaBar[t]), joint = new Float64Array(mix.labels.length);
    const out = new Float64Array(x.length);
    for (let i = 0; i < x.length / 2; i += 1) {
      const point = [x[2 * i], x[2 * i + 1]];
      logJoint(at, point[0], point[1], joint);
      const own = pull(mix, at, point, joint, label);
      const all = label < 0 || w === 0 ? own : pull(mix, at, point, joint, -1);
      for (const d of [0, 1]) out[2 * i + d] = own[d] + w * (own[d] - all[d]);
    }
    return out;
  }

  function pull(mix, at, [x, y], joint, label) {
    const largest = largestOf(mix, joint, label);
    let total = 0, sx = 0, sy = 0;
    for (let k = 0; k < joint.length; k += 1) {
      if (label >= 0 && mix.labels[k] !== label) continue;
      const share = Math.exp(joint[k] - largest);
      total += share;
      sx += (share * (at.means[2 * k] - x)) / at.variances[k];
      sy += (share * (at.means[2 * k + 1] - y)) / at.variances[k];
    }
    return [sx / total, sy / total];
  }

  /** The most likely class of each point, argmax q(y | x_t). */
  function likelyClass(proc, mix, x, t) {
    const at = noised(mix, proc.alphaBar[t]), joint = new Float64Array(mix.labels.length);
    const chance = new Float64Array(mix.classes);
    return Int32Array.from({ length: x.length / 2 }, (_, i) => {
      const largest = logJoint(at, x[2 * i], x[2 * i + 1], joint);
      chance.fill(0);
      joint.forEach((value, k) => { chance[mix.labels[k]] += Math.exp(value - largest); });
      return chance.indexOf(Math.max(...chance));
    });
  }

  // ---- dice ------------------------------------------------------------------------------------

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
  function draw(mix, labels, dice) {
    const out = dice.normals(2 * labels.length);
    labels.forEach((label, i) => {
      const k = pick(mix, label, dice.uniform()), std = Math.sqrt(mix.variances[k]);
      for (const d of [0, 1]) out[2 * i + d] = mix.means[2 * k + d] + std * out[2 * i + d];
    });
    return out;
  }

  function pick(mix, label, u) {
    let left = u * classWeight(mix, label), last = -1;
    for (let k = 0; k < mix.labels.length; k += 1) {
      if (label >= 0 && mix.labels[k] !== label) continue;
      last = k;
      left -= Math.exp(mix.logWeights[k]);
      if (left < 0) break;
    }
    return last;
  }

  // ---- a chain, and what it drew -----------------------------------------------------------

  /**
   * A reverse chain from noise to data: state(k) is x after k of its steps, computed when first
   * asked for and kept. The starting noise is that of the seed, whatever the other settings are.
   */
  function chain({ proc, mix, times, labels, w, eta, seed }) {
    const dice = random(seed), size = 2 * labels.length;
    const states = [dice.normals(size)];
    const state = (k) => {
      while (states.length <= k) {
        const n = states.length, t = times[n - 1], s = times[n], x = states[n - 1];
        const x0 = denoise(proc, mix, x, t, labels, w);
        const noise = eta > 0 && s > 0 ? dice.normals(size) : null;
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
    return Float64Array.from({ length: x.length / 2 }, (_, i) => c * x[2 * i] + s * x[2 * i + 1]).sort();
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
