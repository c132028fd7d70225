// Every film gets a button that pauses it. Where the browser can decode a film frame by frame, it is
// played on a canvas, pauses where it is, and rests while nobody sees it. Elsewhere the picture moves
// by itself and cannot be told to stop: a still of its beginning takes its place. Who asked the
// system for less motion sees the still first.
(() => {
  const PAUSE = "Pause the film";
  const PLAY = "Play the film";

  function still(film) {
    const canvas = document.createElement("canvas");
    canvas.width = film.naturalWidth;
    canvas.height = film.naturalHeight;
    canvas.className = "film";
    canvas.style.width = `${film.getBoundingClientRect().width}px`;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", film.alt);
    canvas.getContext("2d").drawImage(film, 0, 0);
    return canvas;
  }

  /** A decoder of the film's frames, or null where there is none. */
  async function decoder(film) {
    const [, type, data] = /^data:([^;,]+);base64,(.+)$/.exec(film.src) ?? [];
    if (!data || !window.ImageDecoder || !(await ImageDecoder.isTypeSupported(type))) return null;
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    const found = new ImageDecoder({ data: bytes, type });
    await found.completed;
    return found;
  }

  /** A film on a canvas: play(true) goes on from the frame where play(false) has stopped. */
  function onCanvas(film, frames) {
    const canvas = still(film), context = canvas.getContext("2d");
    let wanted = false, seen = false, next = 0, run = 0;

    async function show(own) {
      if (own !== run) return;
      const { image } = await frames.decode({ frameIndex: next });
      if (own === run) {
        context.drawImage(image, 0, 0);
        canvas.dataset.frame = next;
        next = (next + 1) % frames.tracks.selectedTrack.frameCount;
        setTimeout(show, image.duration / 1000, own);
      }
      image.close();
    }

    function refresh() {
      run += 1; // whatever was going on ends
      if (wanted && seen) show(run);
    }

    film.replaceWith(canvas);
    new IntersectionObserver((entries) => {
      seen = entries.at(-1).isIntersecting;
      refresh();
    }).observe(canvas);
    return (on) => {
      wanted = on;
      refresh();
    };
  }

  /** The same for a picture that moves by itself. */
  function swapped(film) {
    let shown = film;
    return (on) => {
      const next = on ? film : still(film);
      shown.replaceWith(next);
      shown = next;
    };
  }

  function control(play, moving) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "film-button";
    const say = () => { button.textContent = moving ? PAUSE : PLAY; };
    button.addEventListener("click", () => {
      moving = !moving;
      play(moving);
      say();
    });
    say();
    return button;
  }

  async function start() {
    const moving = !matchMedia("(prefers-reduced-motion: reduce)").matches;
    for (const film of document.querySelectorAll("img.film")) {
      await film.decode().catch(() => null);
      const frames = await decoder(film).catch(() => null);
      const button = control((on) => play(on), moving);
      film.after(button);
      const play = frames ? onCanvas(film, frames) : swapped(film);
      if (frames || !moving) play(moving);
    }
  }

  addEventListener("load", start);
})();
