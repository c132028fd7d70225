/* What the widgets with a trained network share: its weights, loaded when first wanted, and turns
 * of work so short that the page never stands still. For the browser; needs images.js.
 */
"use strict";

(function () {
  const FOLDER = document.currentScript.src.replace(/[^/]*$/, "");
  const TURN = 12; // milliseconds of work before the page gets its turn
  let loading = null;

  /** The denoiser, as a promise. A script element also loads where fetch may not: from file://. */
  function model() {
    loading = loading || new Promise((resolve, reject) => {
      const script = Alive.element("script", { src: `${FOLDER}mnist_weights.js` });
      script.addEventListener("load", () => resolve(Images.denoiser(DiffusionWeights)));
      script.addEventListener("error", () => {
        loading = null; // the next attempt may succeed
        reject(new Error("The network's weights could not be loaded."));
      });
      document.head.append(script);
    });
    return loading;
  }

  // A message to oneself: comes back after waiting clicks and paints, without a timer's delay.
  const channel = new MessageChannel(), waiting = [];
  channel.port1.onmessage = () => waiting.shift()();

  function pause() {
    return new Promise((resolve) => {
      waiting.push(resolve);
      channel.port2.postMessage(null);
    });
  }

  /**
   * Take what a generator yields, in turns, until it ends or `wanted()` says no; each(value) gets
   * every value. Returns whether it came to its end, and {milliseconds} of work.
   */
  async function inTurns(work, each, wanted) {
    let milliseconds = 0;
    for (;;) {
      const start = performance.now();
      while (performance.now() - start < TURN) {
        const { done, value } = work.next();
        if (done) return { finished: true, milliseconds: milliseconds + performance.now() - start };
        each(value);
      }
      milliseconds += performance.now() - start;
      await pause();
      if (!wanted()) return { finished: false, milliseconds };
    }
  }

  /** A picture of an image's own pixels, enlarged by the style sheet. Returns {root, paint, say}. */
  function pixels([, height, width], label) {
    const root = Alive.element("canvas",
      { class: "alive-pixels", role: "img", width, height, "aria-label": label });
    const context = root.getContext("2d"), image = context.createImageData(width, height);
    const paint = (x, reach) => {
      Images.grey(x, reach).forEach((level, i) => image.data.set([level, level, level, 255], 4 * i));
      context.putImageData(image, 0, 0);
    };
    return { root, paint, say: (text) => root.setAttribute("aria-label", text) };
  }

  Alive.network = { model, inTurns, pixels };
})();
