/* The trajectory scrubber: the reverse chain of one image, laid out under a slider. At each time it
 * shows x_t, and what the network makes of it: the image and the noise that it predicts.
 */
"use strict";

(function () {
  const T = 1000, SHAPE = [1, 28, 28], NOISE = 3; // noise is shown from -3 to 3
  const STEPS = [2, 3, 5, 7, 10, 15, 20, 30, 50, 100];
  // place: the part of the chain that lies behind when the page opens.
  const DEFAULTS = { class: "3", w: 0, steps: 50, eta: 1, seed: 1, place: 0.5 };
  const { element } = Alive;

  function mount(stage, preset) {
    const settings = { ...DEFAULTS, ...preset };
    let order = 0; // of the latest wish: older chains stop
    let times = Diffusion.uniformTimes(T, settings.steps);
    let states = []; // states[k]: x at times[k], and what is predicted there
    let alphaBar = null;

    // ---- the chain ---------------------------------------------------------------------------

    /** Compute the chain of the present settings. What is known of it can be looked at already. */
    async function compute() {
      const mine = (order += 1), wanted = () => mine === order;
      states = [];
      tell("loading", "Loading the network …");
      try {
        const model = await Alive.network.model();
        if (wanted()) await computeWith(model, wanted);
      } catch (error) {
        if (wanted()) tell("failed", error.message);
      }
    }

    async function computeWith(model, wanted) {
      const { w, eta, seed } = settings, label = Number(settings.class);
      alphaBar = model.process.alphaBar;
      const generator = Diffusion.random(seed);
      const chain = Images.chain({ model, times, label, w, eta, generator });
      await Alive.network.inTurns(chain, (state) => { if (state) add(state); }, wanted);
    }

    /** A step's predictions are those at the time it left; the last ones also stand beside x_0. */
    function add({ x, x0, eps }) {
      const k = states.length;
      if (k) Object.assign(states[k - 1], { x0, eps });
      states.push({ x, x0, eps });
      if (k === settings.steps) tell("done", "");
      else tell("computing", `Computing step ${k + 1} of ${settings.steps} …`);
      if (along.value === k - 1 || k === settings.steps) show();
    }

    // ---- what the reader sees ----------------------------------------------------------------

    function show() {
      const k = along.value, here = states[k];
      stage.dataset.t = times[k];
      if (!here || !here.x0) return;
      panels.x.paint(here.x);
      panels.x0.paint(here.x0);
      panels.eps.paint(here.eps, NOISE);
      const numbers = measure(here, times[k]);
      for (const [name, cell] of Object.entries(cells)) cell.textContent = numbers[name];
      Object.assign(stage.dataset, numbers);
      spoken.textContent = `Signal ${numbers.scale}, noise ${numbers.std}, `
        + `guess off the final image by ${numbers.gap}, `
        + `guessed noise like that at the start by ${numbers.start}.`;
    }

    function measure(here, t) {
      const last = states[settings.steps];
      return {
        scale: Math.sqrt(alphaBar[t]).toFixed(3),
        std: Math.sqrt(1 - alphaBar[t]).toFixed(3),
        gap: last ? rms(here.x0, last.x).toFixed(3) : "…",
        start: correlation(here.eps, states[0].x).toFixed(2),
      };
    }

    function tell(state, text) {
      stage.dataset.state = state;
      words.textContent = text;
    }

    // ---- controls ----------------------------------------------------------------------------

    const along = Alive.slider({
      name: "place", label: "Step of the chain", min: 0, max: settings.steps, step: 1,
      value: Math.round(settings.place * settings.steps), change: show,
      show: (k) => `${k} of ${settings.steps}, t = ${times[k]}`,
    });
    const change = (name) => (value) => {
      const part = along.value / settings.steps;
      settings[name] = value;
      times = Diffusion.uniformTimes(T, settings.steps);
      along.input.max = settings.steps;
      along.set(Math.round(part * settings.steps));
      compute();
    };
    const controls = [
      Alive.choice({
        name: "class", label: "Digit", value: settings.class, change: change("class"),
        options: Array.from({ length: 10 }, (_, digit) => [String(digit), String(digit)]),
      }),
      Alive.slider({
        name: "steps", label: "Steps", values: STEPS, value: settings.steps, change: change("steps"),
      }),
      Alive.slider({
        name: "eta", label: "η, the share of fresh noise", min: 0, max: 1, step: 0.05,
        value: settings.eta,
        show: (eta) => eta.toFixed(2) + ({ 0: " (DDIM)", 1: " (DDPM)" }[eta] || ""),
        change: change("eta"),
      }),
      Alive.slider({
        name: "w", label: "Guidance weight w", min: 0, max: 4, step: 0.25, value: settings.w,
        change: change("w"),
      }),
      Alive.slider({
        name: "seed", label: "Seed of the noise", min: 1, max: 50, step: 1, value: settings.seed,
        change: change("seed"),
      }),
    ];

    // ---- the page ----------------------------------------------------------------------------

    const panels = {}, cells = {};
    const meanings = {
      x: ["xₜ", "the state"], x0: ["x̂₀", "the guessed image"], eps: ["ε̂", "the guessed noise"],
    };
    const figures = Object.entries(meanings).map(([name, [symbol, meaning]]) => {
      panels[name] = Alive.network.pixels(SHAPE, `${symbol}, ${meaning}`);
      panels[name].root.dataset.panel = name;
      return element("figure", {}, panels[name].root,
        element("figcaption", {}, element("strong", {}, symbol), ` ${meaning}`));
    });
    const rows = {
      scale: "Signal √ᾱₜ", std: "Noise √(1 − ᾱₜ)", gap: "x̂₀ off the final image by (rms)",
      start: "ε̂ like the noise at the start (correlation)",
    };
    const numbers = Object.entries(rows).map(([name, text]) => {
      cells[name] = element("dd", {}, "…");
      return element("div", {}, element("dt", {}, text), cells[name]);
    });
    const words = element("p", { class: "alive-status" });
    const spoken = element("p", { class: "alive-spoken", "aria-live": "polite" });
    stage.append(
      element("div", { class: "alive-panels" }, ...figures),
      along.root, words,
      element("dl", { class: "alive-facts" }, ...numbers),
      element("details", { class: "alive-more" }, element("summary", {}, "More controls"),
        element("div", { class: "alive-knobs" }, ...controls.map((one) => one.root))),
      spoken);
    panels.x.paint(Diffusion.random(settings.seed).normals(SHAPE[1] * SHAPE[2]));
    tell("idle", "");
    whenSeen(stage, compute);
  }

  /** The network is loaded, and the chain computed, when the reader comes to it. */
  function whenSeen(stage, act) {
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      act();
    });
    observer.observe(stage);
  }

  function rms(a, b) {
    return Math.sqrt(a.reduce((sum, u, i) => sum + (u - b[i]) ** 2, 0) / a.length);
  }

  function correlation(a, b) {
    const mean = (x) => x.reduce((sum, u) => sum + u, 0) / x.length;
    const [ma, mb] = [mean(a), mean(b)];
    const product = (x, mx, y, my) => x.reduce((sum, u, i) => sum + (u - mx) * (y[i] - my), 0);
    return product(a, ma, b, mb) / Math.sqrt(product(a, ma, a, ma) * product(b, mb, b, mb));
  }

  Alive.register("scrubber", mount);
})();
