/* The digit generator: ten images, drawn from noise by a trained network while the reader looks. */
"use strict";

(function () {
  const IMAGES = 10, T = 1000, SHAPE = [1, 28, 28];
  const STEPS = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100];
  const DEFAULTS = { class: "each", w: 0, steps: 10, eta: 1, seed: 1 };
  const { element } = Alive;

  function mount(stage, preset) {
    const settings = { ...DEFAULTS, ...preset };
    let order = 0; // of the latest wish: older ones stop

    const labels = () => Array.from({ length: IMAGES }, (_, i) =>
      ({ each: i % 10, none: -1 }[settings.class] ?? Number(settings.class)));
    const generator = (i) => Diffusion.random(IMAGES * settings.seed + i);

    // ---- drawing -----------------------------------------------------------------------------

    /** Show where the chains begin; nothing is computed yet. */
    function rest() {
      order += 1;
      pictures.forEach((one, i) => {
        one.paint(generator(i).normals(SHAPE[1] * SHAPE[2]));
        one.say(`Image ${i + 1}: pure noise`);
      });
      tell("idle", "Pure noise. Press Draw.", 0);
    }

    async function draw() {
      const mine = (order += 1), wanted = () => mine === order;
      tell("loading", "Loading the network …", 0);
      try {
        const model = await Alive.network.model();
        if (wanted()) await drawWith(model, wanted);
      } catch (error) {
        if (wanted()) tell("failed", error.message, 0);
      }
    }

    async function drawWith(model, wanted) {
      const asked = labels(), { eta, steps } = settings;
      const w = settings.class === "none" ? 0 : settings.w; // there is no class to guide towards
      let calls = 0;
      const times = Diffusion.uniformTimes(T, steps);
      const chains = asked.map((label, i) =>
        Images.chain({ model, times, label, w, eta, generator: generator(i) }));
      const watch = !Alive.calm; // for those who want less motion the pictures change once
      const seen = ({ i, k, state }) => {
        calls += 1;
        if (state && (watch || state.t === 0)) pictures[i].paint(state.t ? state.x : state.x0);
        tell("drawing", `Step ${k} of ${steps}`, (k - 1 + (i + 1) / IMAGES) / steps);
      };
      tell("drawing", `Step 0 of ${steps}`, 0);
      const run = await Alive.network.inTurns(together(chains, steps), seen, wanted);
      if (run.finished && wanted()) finish(asked, calls, run.milliseconds);
    }

    function finish(asked, calls, milliseconds) {
      asked.forEach((label, i) => pictures[i].say(`Image ${i + 1}: ${named(label)}`));
      const each = (milliseconds / calls).toFixed(0), seconds = (milliseconds / 1000).toFixed(1);
      tell("done", `Done: ${calls} network calls in ${seconds} s, ${each} ms each.`, 1);
      stage.dataset.calls = calls;
      stage.dataset.milliseconds = (milliseconds / calls).toFixed(2);
    }

    const named = (label) => (label < 0 ? "a digit, whichever" : `asked for a ${label}`);

    // ---- the page ----------------------------------------------------------------------------

    const pictures = Array.from({ length: IMAGES }, (_, i) =>
      Alive.network.pixels(SHAPE, `Image ${i + 1}`));
    const progress = element("progress", { max: 1, value: 0, "aria-label": "Progress" });
    const words = element("span"), spoken = element("p", { class: "alive-spoken", "aria-live": "polite" });

    /** State and progress, seen; only the beginning and the end are also spoken. */
    function tell(state, text, part) {
      if (state !== stage.dataset.state || state === "done") spoken.textContent = text;
      stage.dataset.state = state;
      words.textContent = text;
      progress.value = part;
      button.say(busy() ? "restart" : "play", busy() ? "Start again" : "Draw");
    }

    const busy = () => ["loading", "drawing"].includes(stage.dataset.state);

    const button = Alive.button({ name: "draw", icon: "play", label: "Draw", action: draw });
    button.root.classList.add("alive-main");
    const change = (name) => (value) => {
      settings[name] = value;
      guidance.enable(settings.class !== "none");
      if (busy()) draw();
      else if (name === "seed") rest();
      else tell("idle", "Other settings now. Press Draw.", 0);
    };
    const kinds = [["each", "each in turn"], ["none", "whichever"],
      ...Array.from({ length: 10 }, (_, digit) => [String(digit), String(digit)])];
    const guidance = Alive.slider({
      name: "w", label: "Guidance weight w", min: 0, max: 4, step: 0.25, value: settings.w,
      change: change("w"),
    });
    const controls = [
      Alive.choice({
        name: "class", label: "Digit", options: kinds, value: settings.class,
        change: change("class"),
      }),
      guidance,
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
        name: "seed", label: "Seed of the noise", min: 1, max: 50, step: 1, value: settings.seed,
        change: change("seed"),
      }),
    ];
    stage.append(
      element("div", { class: "alive-tiles" }, ...pictures.map((one) => one.root)),
      element("div", { class: "alive-row" }, button.root,
        element("div", { class: "alive-progress" }, progress, words)),
      element("div", { class: "alive-knobs" }, ...controls.map((one) => one.root)),
      spoken);
    rest();
  }

  /** All chains step by step, one network call at a time: {i: image, k: step, state or null}. */
  function* together(chains, steps) {
    chains.forEach((one) => one.next()); // the noise they start from is on the screen already
    for (let k = 1; k <= steps; k += 1) {
      for (let i = 0; i < chains.length; i += 1) {
        for (let state = null; !state;) {
          state = chains[i].next().value;
          yield { i, k, state };
        }
      }
    }
  }

  Alive.register("digits", mount);
})();
