/* What every live widget shares: registration, labelled controls, colours of the theme, a picture
 * that is sharp on every screen, and a clock that stands still where nobody looks.
 *
 * A widget's script calls Alive.register(name, mount); mount(stage, preset) fills the element
 * `stage` of each place on the page. Everything is a classic script: it also runs from the disk.
 */
"use strict";

(function () {
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)");
  const SHARE_SEEN = 0.25; // of a stage: from then on it counts as on the screen
  let count = 0;

  /** Mount the widget at each of its places. Scripts are deferred: the page is already there. */
  function register(name, mount) {
    for (const stage of document.querySelectorAll(`[data-alive="${name}"]`)) {
      mount(stage, JSON.parse(stage.dataset.preset || "{}"));
      stage.dataset.ready = "true";
    }
  }

  /** An element with attributes and children: element("p", {class: "x"}, "text", other). */
  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== false && value != null) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  }

  // ---- controls: each has a visible label, and `name` becomes data-control -------------------

  /**
   * A slider. `values` lists what it can be, or give min, max and step. `show(value)` is its text.
   * Returns {root, input, value, set(value), enable(yes)}; change(value) is called on every move.
   */
  function slider({ name, label, values, min, max, step, value, show = String, change }) {
    const id = `alive-control-${(count += 1)}`;
    const range = values ? { min: 0, max: values.length - 1, step: 1 } : { min, max, step };
    const input = element("input", { type: "range", id, "data-control": name, ...range });
    const output = element("output", { for: id });
    const read = () => (values ? values[Number(input.value)] : Number(input.value));
    const tell = () => {
      output.textContent = show(read());
      input.setAttribute("aria-valuetext", show(read()));
    };
    const set = (wanted) => {
      input.value = values ? nearest(values, wanted) : wanted;
      tell();
    };
    set(value);
    input.addEventListener("input", () => {
      tell();
      change(read());
    });
    const root = element("div", { class: "alive-control" },
      element("label", { for: id }, label), output, input);
    return { root, input, set, enable: enabler(root, input), get value() { return read(); } };
  }

  function nearest(values, wanted) {
    const gaps = values.map((one) => Math.abs(one - wanted));
    return gaps.indexOf(Math.min(...gaps));
  }

  /** A drop-down list. options: [[value, text], ...]. Returns as `slider`, and fill(options). */
  function choice({ name, label, options, value, change }) {
    const id = `alive-control-${(count += 1)}`;
    const input = element("select", { id, "data-control": name });
    const fill = (pairs) =>
      input.replaceChildren(...pairs.map(([key, text]) => element("option", { value: key }, text)));
    const set = (wanted) => { input.value = wanted; };
    fill(options);
    set(value);
    input.addEventListener("change", () => change(input.value));
    const root = element("div", { class: "alive-control" },
      element("label", { for: id }, label), input);
    const enable = enabler(root, input);
    return { root, input, fill, set, enable, get value() { return input.value; } };
  }

  /** A box to tick. Returns as `slider`. */
  function toggle({ name, label, value, change }) {
    const id = `alive-control-${(count += 1)}`;
    const input = element("input", { type: "checkbox", id, "data-control": name });
    const set = (wanted) => { input.checked = Boolean(wanted); };
    set(value);
    input.addEventListener("change", () => change(input.checked));
    const root = element("div", { class: "alive-toggle" },
      input, element("label", { for: id }, label));
    const enable = enabler(root, input);
    return { root, input, set, enable, get value() { return input.checked; } };
  }

  /** A button with an icon of `ICONS` (or none) and a text. Returns {root, say(icon, label)}. */
  function button({ name, icon, label, action }) {
    const root = element("button", { type: "button", class: "alive-button", "data-control": name });
    const say = (newIcon, newLabel) => {
      root.replaceChildren(element("span", {}, newLabel));
      if (newIcon) root.prepend(drawing(newIcon));
    };
    say(icon, label);
    root.addEventListener("click", action);
    return { root, say };
  }

  const ICONS = {
    play: "M7 4.5v15l12-7.5z",
    pause: "M6.5 4.5h4v15h-4zM13.5 4.5h4v15h-4z",
    step: "M5 4.5v15l10-7.5zM16.5 4.5h3v15h-3z",
    restart: "M12 5V1L6.5 6.2 12 11.5V7.6a5.4 5.4 0 1 1-5.4 5.4H4a8 8 0 1 0 8-8z",
  };

  function drawing(icon) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    const path = document.createElementNS(space, "path");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    path.setAttribute("d", ICONS[icon]);
    svg.append(path);
    return svg;
  }

  function enabler(root, input) {
    return (yes) => {
      input.disabled = !yes;
      root.classList.toggle("alive-off", !yes);
    };
  }

  // ---- time ------------------------------------------------------------------------------------

  /**
   * A clock that calls frame(seconds since the last call) while it runs, a fair share of the stage
   * is on the screen and the page is in front. Returns {play(), pause(), playing}; changed() is
   * told of either.
   */
  function clock(stage, frame, changed = () => {}) {
    let playing = false, seen = false, request = 0, last = 0;
    const tick = (now) => {
      request = 0;
      const seconds = last ? Math.min((now - last) / 1000, 0.1) : 0;
      last = now;
      frame(seconds);
      wind();
    };
    const wind = () => {
      if (playing && seen && !document.hidden) request = request || requestAnimationFrame(tick);
      else last = 0;
    };
    new IntersectionObserver((entries) => {
      seen = entries[entries.length - 1].intersectionRatio >= SHARE_SEEN;
      stage.dataset.seen = seen;
      wind();
    }, { threshold: SHARE_SEEN }).observe(stage);
    document.addEventListener("visibilitychange", wind);
    const turn = (on) => {
      playing = on;
      stage.dataset.playing = on;
      changed();
      wind();
    };
    stage.dataset.playing = false;
    return { play: () => turn(true), pause: () => turn(false), get playing() { return playing; } };
  }

  // ---- pictures --------------------------------------------------------------------------------

  /**
   * A canvas as wide as its parent, `height / width` high, sharp on every screen. draw(context,
   * width) is called in CSS pixels on every change of size or theme, and by repaint().
   */
  function canvas({ label, shape = 1, draw }) {
    const root = element("canvas", { class: "alive-canvas", role: "img", "aria-label": label });
    const context = root.getContext("2d");
    const repaint = () => {
      const width = root.clientWidth, sharp = Math.min(window.devicePixelRatio || 1, 2);
      if (!width) return;
      const pixels = [Math.round(width * sharp), Math.round(width * shape * sharp)];
      if (root.width !== pixels[0] || root.height !== pixels[1]) [root.width, root.height] = pixels;
      context.setTransform(sharp, 0, 0, sharp, 0, 0);
      draw(context, width, width * shape);
    };
    new ResizeObserver(repaint).observe(root);
    onTheme(repaint);
    return { root, repaint };
  }

  /** The value of the custom property --alive-NAME, in the theme of the page. */
  function colour(name) {
    const place = document.querySelector(".alive");
    return getComputedStyle(place).getPropertyValue(`--alive-${name}`).trim();
  }

  /** Call when the reader changes between light and dark. */
  function onTheme(changed) {
    const options = { attributes: true, attributeFilter: ["data-theme"] };
    new MutationObserver(changed).observe(document.documentElement, options);
  }

  window.Alive = {
    register, element, slider, choice, toggle, button, clock, canvas, colour, onTheme,
    /** Whether the reader asked for less motion: nothing then starts by itself. */
    get calm() { return calm.matches; },
  };
})();
