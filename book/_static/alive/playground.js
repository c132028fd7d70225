/* The playground: points flow from noise to data under the exact denoiser of a mixture. */
"use strict";

(function () {
  const POINTS = 500, T = 1000, REACH = 3, TRACKED = 8;
  const STEPS = [1, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 250, 500, 1000];
  const COLOURS = ["blue", "orange", "green", "red", "pink", "light blue"];
  const DEFAULTS = {
    data: "moons", schedule: "cosine", steps: 50, eta: 1, class: "none", w: 0, seed: 1,
    show: [], first: ["data", "steps"], start: "data", autoplay: false,
  };
  const NONE = "–"; // where a number has no meaning
  const EXPLAINED = "Gap: sliced Wasserstein distance to data. Spread: root mean square distance "
    + "from the mean, of each class that was asked for.";
  const { element } = Alive;

  function mount(stage, preset) {
    const settings = { ...DEFAULTS, ...preset };
    const shown = new Set(settings.show);
    let run = null; // what follows from the settings: see prepare()
    let place = 0; // where the chain stands, 0..steps; fractions lie between two states

    // ---- the chain ---------------------------------------------------------------------------

    function prepare() {
      const mix = Diffusion.mixture(Diffusion.mixtures[settings.data]);
      const proc = Diffusion.process(Diffusion.schedules[settings.schedule](T));
      const labels = Int32Array.from({ length: POINTS }, (_, i) => labelOf(i, mix.classes));
      const times = Diffusion.uniformTimes(T, settings.steps);
      const { w, eta, seed } = settings;
      const chain = Diffusion.chain({ proc, mix, times, labels, w, eta, seed });
      return { mix, proc, labels, chain, ...truth(mix, proc, labels) };
    }

    /** Data to compare with, and what data get, measured as the points are (eight draws). */
    function truth(mix, proc, labels) {
      const key = `${settings.data} ${settings.class}`;
      if (run && run.key === key) return { key, data: run.data, expected: run.expected };
      const generator = Diffusion.random(0); // no seed of a chain
      const fresh = () => Diffusion.draw(mix, labels, generator);
      const pair = () => measure({ mix, proc, labels, data: fresh() }, fresh(), 0);
      const all = Array.from({ length: 8 }, pair);
      const mean = (name) => all.reduce((sum, one) => sum + one[name], 0) / all.length;
      const expected = { gap: mean("gap"), spread: mean("spread"), share: mean("share") };
      return { key, data: fresh(), expected };
    }

    function labelOf(i, classes) {
      if (settings.class === "none") return -1;
      return settings.class === "each" ? i % classes : Number(settings.class);
    }

    /** A new chain for changed settings, at the same part of its way as the old one. */
    function renew() {
      const part = run ? place / run.chain.steps : 0;
      run = prepare();
      place = clock.playing ? part * run.chain.steps : Math.round(part * run.chain.steps);
      along.limit(run.chain.steps);
      settle();
    }

    /** Points and time at `place`: between two states both are blended. */
    function now() {
      const k = Math.min(Math.floor(place), run.chain.steps), part = place - k;
      const x = run.chain.state(k), t = run.chain.times[k];
      if (part === 0) return { x, t };
      const next = run.chain.state(k + 1), s = run.chain.times[k + 1];
      return { x: x.map((v, i) => v + part * (next[i] - v)), t: Math.round(t + part * (s - t)) };
    }

    // ---- motion ------------------------------------------------------------------------------

    /** Few steps are shown slowly enough to be followed, many in eight seconds altogether. */
    const seconds = () => Math.min(1 + 0.5 * run.chain.steps, 8);

    function frame(elapsed) {
      move(place + (elapsed / seconds()) * run.chain.steps);
      if (place === run.chain.steps) clock.pause();
    }

    function move(to) {
      place = Math.max(0, Math.min(to, run.chain.steps));
      show();
    }

    function playOrPause() {
      if (clock.playing) return clock.pause();
      if (place === run.chain.steps) move(0);
      clock.play();
    }

    function pauseAt(to) {
      clock.pause();
      move(to);
      settle();
    }

    // ---- what the reader sees ----------------------------------------------------------------

    const view = Alive.canvas({ label: "Points on their way from noise to data", draw: paint });
    const clock = Alive.clock(stage, frame, () => {
      play.say(clock.playing ? "pause" : "play", clock.playing ? "Pause" : "Play");
      if (run) settle();
    });

    /** The picture and its numbers. */
    function show() {
      view.repaint();
      const { x, t } = now(), numbers = inWords(measure(run, x, t));
      along.say(place, t);
      table.say("points", numbers);
      Object.assign(stage.dataset, { place: place.toFixed(3), t, ...numbers });
    }

    /** When something has come to rest: the other words, also for those who listen. */
    function settle() {
      show();
      table.say("data", inWords(run.expected));
      caption.textContent = legend();
      if (!clock.playing) spoken.textContent = summary();
    }

    function summary() {
      const { gap, spread, share } = stage.dataset;
      const asked = share === NONE ? "" : `, ${share} look as asked`;
      const where = `Step ${Math.floor(place)} of ${run.chain.steps}`;
      return `${where}. Gap to the data ${gap}, spread ${spread}${asked}.`;
    }

    function inWords({ gap, spread, share }) {
      const percent = `${Math.round(100 * share)} %`;
      return {
        gap: gap.toFixed(2), spread: spread.toFixed(2),
        share: settings.class === "none" ? NONE : percent,
      };
    }

    /** What the picture shows. */
    function legend() {
      const one = single() < 0 ? "" : ` of class ${COLOURS[single()]}`;
      const guided = one && settings.w > 0 ? "guided score" : "score";
      return [
        "Colours: the class that a point most likely belongs to.",
        shown.has("density") ? `Shading: the true density${one} at this noise level.` : "",
        shown.has("score") ? `Arrows: the ${guided}${one}, long ones cut short.` : "",
        shown.has("paths") ? `Lines: the ways of ${TRACKED} points.` : "",
      ].join(" ");
    }

    function paint(context, width) {
      if (!run) return;
      const { x, t } = now();
      const zoom = width / (2 * REACH);
      const at = (u) => (u + REACH) * zoom, up = (v) => (REACH - v) * zoom;
      context.clearRect(0, 0, width, width);
      if (shown.has("density")) paintDensity(context, width, t);
      if (shown.has("score")) paintScore(context, at, up, zoom, t);
      paintPoints(context, at, up, x, t, shown.has("paths") ? 0.3 : 0.85);
      if (shown.has("paths")) paintPaths(context, at, up, x, t);
    }

    /** The class that the density and the score are of: a single one asked for, or none. */
    const single = () => (["none", "each"].includes(settings.class) ? -1 : Number(settings.class));

    const CELLS = 64, tile = element("canvas", { width: CELLS, height: CELLS });

    /** Where points should lie at this noise level: q(x_t), the darker the more. */
    function paintDensity(context, width, t) {
      const q = Diffusion.logDensity(run.proc, run.mix, lattice(CELLS), t, single());
      const top = q.reduce((a, b) => Math.max(a, b)), ink = rgb(Alive.colour("density"));
      const tiles = tile.getContext("2d"), image = tiles.createImageData(CELLS, CELLS);
      q.forEach((value, i) => image.data.set([...ink, 150 * Math.exp((value - top) / 2)], 4 * i));
      tiles.putImageData(image, 0, 0);
      context.drawImage(tile, 0, 0, width, width);
    }

    /** The centres of n x n cells, row by row from the top left. */
    function lattice(n) {
      const centre = (i) => (2 * REACH * (i + 0.5)) / n - REACH;
      return Float64Array.from({ length: 2 * n * n }, (_, i) => {
        const cell = i >> 1;
        return i % 2 ? -centre(Math.floor(cell / n)) : centre(cell % n);
      });
    }

    /** Arrows along the (guided) score. Their length saturates: far out it would fill the page. */
    function paintScore(context, at, up, zoom, t) {
      const n = 15, x = lattice(n), w = single() < 0 ? 0 : settings.w;
      const labels = new Int32Array(n * n).fill(single());
      const score = Diffusion.score(run.proc, run.mix, x, t, labels, w);
      const unit = Math.sqrt(1 - run.proc.alphaBar[t] + 0.01), longest = (1.7 * REACH) / n;
      context.strokeStyle = context.fillStyle = Alive.colour("arrow");
      context.lineWidth = 1.1;
      context.globalAlpha = 0.75;
      for (let i = 0; i < x.length; i += 2) {
        const size = Math.hypot(score[i], score[i + 1]) || 1;
        const length = (longest * Math.tanh(size * unit)) / size;
        const [dx, dy] = [score[i] * length * zoom, -score[i + 1] * length * zoom];
        arrow(context, at(x[i]) - dx / 2, up(x[i + 1]) - dy / 2, dx, dy);
      }
      context.globalAlpha = 1;
    }

    function paintPoints(context, at, up, x, t, alpha) {
      const looks = Diffusion.likelyClass(run.proc, run.mix, x, t);
      context.globalAlpha = alpha;
      for (let c = 0; c < run.mix.classes; c += 1) {
        context.fillStyle = Alive.colour(`class-${c}`);
        context.beginPath();
        looks.forEach((one, i) => {
          if (one === c) dot(context, at(x[2 * i]), up(x[2 * i + 1]), 2.2);
        });
        context.fill();
      }
      context.globalAlpha = 1;
    }

    /** The ways of a few points so far, in the colour of the class that they look like now. */
    function paintPaths(context, at, up, x, t) {
      const looks = Diffusion.likelyClass(run.proc, run.mix, x, t);
      context.lineWidth = 1.4;
      context.lineJoin = "round";
      for (let i = 0; i < TRACKED; i += 1) {
        context.strokeStyle = context.fillStyle = Alive.colour(`class-${looks[i]}`);
        context.beginPath();
        for (let k = 0; k <= Math.floor(place); k += 1) {
          const state = run.chain.state(k);
          context.lineTo(at(state[2 * i]), up(state[2 * i + 1]));
        }
        context.lineTo(at(x[2 * i]), up(x[2 * i + 1]));
        context.stroke();
        context.beginPath();
        dot(context, at(x[2 * i]), up(x[2 * i + 1]), 4);
        context.fill();
      }
    }

    // ---- controls ----------------------------------------------------------------------------

    const play = Alive.button({ name: "play", icon: "play", label: "Play", action: playOrPause });
    play.root.classList.add("alive-main");
    const step = Alive.button({
      name: "step", icon: "step", label: "Step", action: () => pauseAt(Math.floor(place) + 1),
    });
    const restart = Alive.button({
      name: "restart", icon: "restart", label: "Restart", action: () => pauseAt(0),
    });
    const along = position(() => pauseAt(along.value));
    const change = (name) => (value) => {
      settings[name] = value;
      if (name === "data") refill();
      guidance.enable(settings.class !== "none");
      renew();
    };
    const choices = Object.entries(Diffusion.mixtures).map(([key, one]) => [key, one.title]);
    const classes = () => [
      ["none", "none"], ["each", "each in turn"],
      ...COLOURS.slice(0, Math.max(...Diffusion.mixtures[settings.data].labels) + 1)
        .map((colour, c) => [String(c), colour]),
    ];

    /** Another data set has other classes; one that it lacks is no longer asked for. */
    function refill() {
      asked.fill(classes());
      if (!classes().some(([key]) => key === settings.class)) settings.class = "none";
      asked.set(settings.class);
    }

    const asked = Alive.choice({
      name: "class", label: "Class asked for", options: classes(), value: settings.class,
      change: change("class"),
    });
    const guidance = Alive.slider({
      name: "w", label: "Guidance weight w", min: 0, max: 8, step: 0.25, value: settings.w,
      change: change("w"),
    });
    const controls = {
      data: Alive.choice({
        name: "data", label: "Data", options: choices, value: settings.data, change: change("data"),
      }),
      schedule: Alive.choice({
        name: "schedule", label: "Noise schedule", value: settings.schedule,
        options: ["linear", "cosine", "sigmoid"].map((one) => [one, one]),
        change: change("schedule"),
      }),
      steps: Alive.slider({
        name: "steps", label: "Steps", values: STEPS, value: settings.steps,
        change: change("steps"),
      }),
      eta: Alive.slider({
        name: "eta", label: "η, the share of fresh noise", min: 0, max: 1, step: 0.05,
        value: settings.eta,
        show: (eta) => eta.toFixed(2) + ({ 0: " (DDIM)", 1: " (DDPM)" }[eta] || ""),
        change: change("eta"),
      }),
      class: asked,
      w: guidance,
      seed: Alive.slider({
        name: "seed", label: "Seed of the noise", min: 1, max: 50, step: 1, value: settings.seed,
        change: change("seed"),
      }),
    };
    guidance.enable(settings.class !== "none");
    const layers = ["density", "score", "paths"].map((name) => Alive.toggle({
      name, label: name[0].toUpperCase() + name.slice(1), value: shown.has(name),
      change: (on) => {
        shown[on ? "add" : "delete"](name);
        settle();
      },
    }));

    // ---- the page ----------------------------------------------------------------------------

    const spoken = element("p", { class: "alive-spoken", "aria-live": "polite" });
    const caption = element("p", { class: "alive-caption" });
    const table = numbers({ gap: "Gap to the data", spread: "Spread", share: "Look as asked" });
    const first = settings.first.map((name) => controls[name].root);
    const others = Object.keys(controls).filter((name) => !settings.first.includes(name));
    stage.append(element("div", { class: "alive-columns" },
      element("div", { class: "alive-column" },
        view.root,
        element("div", { class: "alive-row" }, play.root, step.root, restart.root),
        along.root, caption),
      element("div", { class: "alive-column" },
        ...first,
        element("div", { class: "alive-row", role: "group", "aria-label": "Show in the picture" },
          ...layers.map((one) => one.root)),
        element("details", { class: "alive-more" }, element("summary", {}, "More controls"),
          ...others.map((name) => controls[name].root)),
        table.root)),
    spoken);

    run = prepare();
    along.limit(run.chain.steps);
    place = Alive.calm || settings.start === "data" ? run.chain.steps : 0;
    settle();
    if (settings.autoplay && !Alive.calm) clock.play();
  }

  /** Distance from data, spread within a class, and the share that looks as asked. */
  function measure({ mix, proc, labels, data }, x, t) {
    const looks = Diffusion.likelyClass(proc, mix, x, t);
    const right = looks.reduce((n, one, i) => n + (one === labels[i]), 0);
    return {
      gap: Diffusion.slicedDistance(x, data),
      spread: Diffusion.spread(x, labels),
      share: right / labels.length,
    };
  }

  /** The slider along the chain; its text says the step and the time. */
  function position(moved) {
    const slider = Alive.slider({
      name: "place", label: "Step of the chain", min: 0, max: 1, step: 1, value: 0, change: moved,
    });
    const output = slider.root.querySelector("output");
    return {
      root: slider.root,
      get value() { return slider.value; },
      limit(steps) { slider.input.max = steps; },
      say(place, t) {
        slider.input.value = Math.floor(place);
        output.textContent = `${Math.floor(place)} of ${slider.input.max}, t = ${t}`;
        slider.input.setAttribute("aria-valuetext", output.textContent);
      },
    };
  }

  /** Numbers of the points, beside what fresh data get: rows {name: text}. */
  function numbers(rows) {
    const cells = { points: {}, data: {} };
    const cell = (column, name) => (cells[column][name] = element("td"));
    const line = ([name, text]) => element("tr", {},
      element("th", { scope: "row" }, text), cell("points", name), cell("data", name));
    const head = ["points", "data"].map((text) => element("th", { scope: "col" }, text));
    const root = element("div", { class: "alive-numbers" },
      element("table", {},
        element("thead", {}, element("tr", {}, element("td"), ...head)),
        element("tbody", {}, ...Object.entries(rows).map(line))),
      element("p", { class: "alive-caption" }, EXPLAINED));
    const say = (column, values) => {
      for (const [name, one] of Object.entries(cells[column])) {
        one.textContent = values[name];
        one.parentElement.hidden = values[name] === NONE;
      }
    };
    return { root, say };
  }

  function dot(context, x, y, radius) {
    context.moveTo(x + radius, y);
    context.arc(x, y, radius, 0, 2 * Math.PI);
  }

  function arrow(context, x, y, dx, dy) {
    const length = Math.hypot(dx, dy);
    if (length < 1) return;
    const [ux, uy] = [dx / length, dy / length], head = Math.min(4.5, length / 2);
    context.beginPath();
    context.moveTo(x, y);
    context.lineTo(x + dx, y + dy);
    context.stroke();
    context.beginPath();
    context.moveTo(x + dx, y + dy);
    context.lineTo(x + dx - head * (ux + uy / 2), y + dy - head * (uy - ux / 2));
    context.lineTo(x + dx - head * (ux - uy / 2), y + dy - head * (uy + ux / 2));
    context.fill();
  }

  /** "#0072b2" -> [0, 114, 178]. */
  function rgb(hex) {
    return [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));
  }

  Alive.register("playground", mount);
})();
