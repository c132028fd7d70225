/* Images drawn by a trained network: what its answer means, guidance, and the reverse chain.
 *
 * Builds on diffusion.js (tables, steps, noise) and unet.js (the network); runs in the browser and
 * in Node. tests/book/test_images_js.py holds the chains against ddpmlib with the same noise.
 */
"use strict";

(function (global) {
  // x_0 from the network's answer, where scale^2 + std^2 = 1: ddpmlib/denoiser.py.
  const CLEAN = {
    eps: (answer, x, scale, std) => (x - std * answer) / scale, // (3.4)
    x0: (answer) => answer,
    v: (answer, x, scale, std) => scale * x - std * answer, // (3.6)
  };

  /**
   * The denoiser behind an export of `ddpmlib export-web`. predict(x, t, label) is one call of the
   * network: {x0, varMix}, varMix the place of the reverse variance, one number per pixel.
   */
  function denoiser(exported) {
    const { forward } = UNet.load(exported), clean = CLEAN[exported.predicts];
    const process = Diffusion.process(Diffusion.schedules[exported.schedule](exported.T));
    const size = exported.image_shape.reduce((a, b) => a * b);
    const predict = (x, t, label) => {
      const answer = forward(x, t, label), [scale, std] = kernel(process, t);
      const learned = exported.var_mix === null;
      const place = (i) => (learned ? (answer[size + i] + 1) / 2 : exported.var_mix); // (6.5)
      return {
        x0: Float64Array.from(x, (u, i) => clean(answer[i], u, scale, std)),
        varMix: Float64Array.from(x, (_, i) => place(i)),
      };
    };
    return { process, size, shape: exported.image_shape, predict };
  }

  const kernel = ({ alphaBar }, t) => [Math.sqrt(alphaBar[t]), Math.sqrt(1 - alphaBar[t])];

  /**
   * A reverse chain, one network call at a time: a generator that yields null between the two
   * calls of a guided step, and a state after each step: {t, x} at the start, then
   * {t, x, from, x0, eps}, with the predictions at time `from` that led to x at time t.
   *
   * `generator.normals(n)` gives noise; label -1 means no class; w = 0 is the plain model (11.2).
   */
  function* chain({ model, times, label, w, eta, generator }) {
    const { process, size, predict } = model;
    let x = generator.normals(size);
    yield { t: times[0], x };
    for (let k = 0; k + 1 < times.length; k += 1) {
      const t = times[k], s = times[k + 1], [scale, std] = kernel(process, t);
      let { x0, varMix } = predict(x, t, label);
      if (w !== 0) {
        yield null;
        const none = predict(x, t, -1).x0;
        x0 = x0.map((u, i) => u + w * (u - none[i]));
      }
      const eps = x.map((u, i) => (u - scale * x0[i]) / std);
      let noise = eta > 0 && s > 0 ? generator.normals(size) : null;
      if (noise && eta === 1) noise = widened(noise, varMix, process, t, s); // ancestral alone
      x = Diffusion.step(process, x, x0, t, s, eta, noise);
      yield { t: s, x, from: t, x0, eps };
    }
  }

  /** Noise for Diffusion.step, which gives it the variance beta~, as beta^m beta~^(1-m) (6.5). */
  function widened(noise, varMix, { alphaBar }, t, s) {
    const ratio = (1 - alphaBar[t]) / (1 - alphaBar[s]); // of beta to beta~
    return noise.map((u, i) => u * ratio ** (varMix[i] / 2));
  }

  /** Grey levels 0..255 of an image in [-reach, reach]; what lies outside is cut off. */
  function grey(x, reach = 1) {
    return Uint8ClampedArray.from(x, (u) => 127.5 * (u / reach + 1));
  }

  global.Images = { denoiser, chain, grey };
  if (typeof module !== "undefined") module.exports = global.Images;
})(typeof window === "undefined" ? globalThis : window);
