// Every film gets a button that pauses it. A picture that moves by itself cannot be told to stop, so
// a still of it takes its place. Who asked the system for less motion sees the still first.
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

  function control(film) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "film-button";
    button.textContent = PAUSE;
    let shown = film;
    button.addEventListener("click", () => {
      const next = shown === film ? still(film) : film;
      shown.replaceWith(next);
      shown = next;
      button.textContent = shown === film ? PAUSE : PLAY;
    });
    return button;
  }

  async function start() {
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
    for (const film of document.querySelectorAll("img.film")) {
      const button = control(film);
      film.after(button);
      await film.decode().catch(() => null);
      if (calm) button.click();
    }
  }

  addEventListener("load", start);
})();
